"""Features in a table on the device: batches of places have, once gathered, what batches of features have."""

import numpy as np
import pytest
import torch
from equality import equal

from stores import make_store
from tiny import lm_dataset, pair_dataset, sentences
from vtlm_fairseq.data import device_regions
from vtlm_fairseq.data.device_regions import RegionTables
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import RegionStore

LINES = [4, 0, 9, 2, 5, 1]
RATES = MaskingRates(select=0.7, keep=0.2, random=0.4)


@pytest.fixture
def shards(tmp_path):
    """Two shards; images with 0 to 7 regions."""
    for k, counts in enumerate(([3, 0, 7], [1, 5, 2, 4])):
        names = [f"img{k}{i}.jpg" for i in range(len(counts))]
        make_store(tmp_path / f"{k}.h5", names, regions=counts, seed=k)
    return [str(tmp_path / f"{k}.h5") for k in range(2)]


def regions(paths, **options) -> LineRegions:
    """Ten lines of six images of the seven, at most five regions."""
    return LineRegions(
        RegionStore(paths, 5), np.array([6, 0, 2, 0, 4, 1, 1, 6, 2, 5]), split="train", seed=1, **options
    )


def tables(lines: LineRegions) -> RegionTables:
    made = RegionTables()
    made.add(lines)
    return made


@pytest.mark.parametrize("order", ["given", "shuffle", "none"])
@pytest.mark.parametrize("make", [lm_dataset, pair_dataset])
def test_a_gathered_batch_is_the_batch(shards, make, order):
    more = {"region_rates": RATES, "zero_masked_regions": True, "train": True} if make is lm_dataset else {}
    there, here = regions(shards, order=order, redraw=True), regions(shards, order=order, redraw=True)
    made = tables(there)
    for epoch in (1, 2):
        batches = []
        for lines in (there, here):
            dataset = make(sentences(10), sentences(10, seed=1), regions=lines, **more)
            dataset.set_epoch(epoch)
            for items in ([dataset[i] for i in LINES], getattr(dataset, "__getitems__", lambda _: [])(LINES)):
                batches.append(dataset.collater(items))
        places, together, expected, _ = batches
        assert places["net_input"]["features"].shape[2] == 1 and "train" in places.values()
        for batch in filter(None, (places, together)):
            assert equal(made.gather(batch), expected)


def test_the_precision_is_the_trainers(tmp_path):
    """Stored float32 becomes what --fp16 makes of boxes; float16 stays."""
    for dtype, expected in (("float32", torch.bfloat16), ("float16", torch.float16)):
        make_store(tmp_path / f"{dtype}.h5", 10, dtype=dtype)
        lines = LineRegions(
            RegionStore([str(tmp_path / f"{dtype}.h5")]), np.arange(10), split="s", seed=1, order="given"
        )
        made = tables(lines)
        dataset = pair_dataset(sentences(10), sentences(10), regions=lines)
        batch = dataset.collater([dataset[1]])
        batch["net_input"]["boxes"] = batch["net_input"]["boxes"].bfloat16()
        assert made.gather(batch)["net_input"]["features"].dtype == expected


def test_what_does_not_fit_is_refused(shards, monkeypatch):
    """Of 19 regions of 8 float16, and the row of zeros."""
    made = tables(regions(shards, order="given"))
    monkeypatch.setattr(device_regions, "free_bytes", lambda device: 319)
    with pytest.raises(VTLMError, match="train.*--regions-on-device"):
        made.load(torch.device("cpu"))
    monkeypatch.setattr(device_regions, "free_bytes", lambda device: 320)
    made.load(torch.device("cpu"))


@pytest.mark.parametrize("make", [lm_dataset, pair_dataset])
def test_features_that_a_dataset_changes_are_refused(shards, make):
    """Places are no features: their half would be another image's."""
    lines = regions(shards, order="given")
    made = tables(lines)
    dataset = make(sentences(10), sentences(10), regions=lines)

    class Halved(type(dataset)):
        def __getitem__(self, index):
            item = super().__getitem__(index)
            return {**item, "regions": item["regions"]._replace(features=item["regions"].features / 2)}

    dataset.__class__ = Halved
    with pytest.raises(VTLMError, match="of train .*--regions-on-device"):
        made.gather(dataset.collater([dataset[0], dataset[2]]))
