"""vtlm-probe mrc on small models, against fairseq-validate."""

import numpy as np
import pytest

from toy import CLASSES
from vtlm_fairseq.regions.store import RegionStore

MASK_REGIONS = ("--region-mask-prob", "1", "--region-leave-unmasked-prob", "0", "--region-random-prob", "0")
MASK_WORDS = ("--mask-prob", "1", "--leave-unmasked-prob", "0", "--random-token-prob", "0")
KEYS, JSON = ("system", "text"), ("--format", "json")


@pytest.mark.parametrize("fill", ["mask", "zero"])
def test_equals_validation_where_an_image_has_one_region(run, corpus, tmp_path, fill):
    """With one region an image, fairseq-validate with every region masked does what the probe does."""
    learn = ("--max-update", "80", "--lr", "3e-3", "--dropout", "0", "--attention-dropout", "0", "--mask-prob", "0")
    options = ("--max-regions", "1", "--region-mask-fill", fill, *learn, *MASK_REGIONS, "--disable-validation")
    run.pretrain(corpus.data, tmp_path, *options, regions=corpus.regions)
    path = tmp_path / "checkpoint_last.pt"
    argv = ("--system", f"V={path}", "--regions", corpus.regions, "--subsets", "train")
    found = run.probe("mrc", corpus.data, *argv, *JSON).rows(*KEYS)
    for text, words in (("given", ("--mask-prob", "0")), ("hidden", MASK_WORDS)):
        argv = ("--regions", corpus.regions, "--valid-subset", "train", *MASK_REGIONS, *words)
        (record,) = run.validate(corpus.data, path, *argv).json_lines("train_mrc_accuracy")
        row = found["V", text]
        assert row["train"] == pytest.approx(float(record["train_mrc_accuracy"]), abs=0.005)
        assert row["train unique of"] == row["train of"] and row["train unique"] == row["train"]
    assert found["V", "given"]["train"] > 60 > found["V", "hidden"]["train"]  # learnt by heart, from the words


def test_mrc(run, corpus, vtlm, tlm, mmt, tmp_path):
    """Seeds, splits, counts and the rows without a model, recomputed from the stores; what has no region head."""
    argv = ("mrc", corpus.data, "--regions", corpus.regions)
    texts = ("--text", "given", "--text", "hidden", "--text", "shuffle")
    done = run.probe(*argv, "--system", f"V={vtlm},{vtlm}", *texts, *JSON)
    found = done.rows(*KEYS)
    models = [(f"V {seed}", text) for seed in (1, 2) for text in ("given", "hidden", "shuffle")]
    assert list(found) == [*models, ("commonest class", None), ("nearest prototype, own features", None)]
    train = RegionStore([corpus.store("train")])
    used = [train[int(row)] for row in train.rows(sorted(set(corpus.images("train"))))]
    labels = np.concatenate([image.labels for image in used])
    features = np.concatenate([image.features for image in used]).astype(np.float64)
    means = np.stack([features[labels == label].mean(axis=0) for label in range(CLASSES)])
    commonest = np.bincount(labels).argmax()
    for split in ("valid", "test"):
        store = RegionStore([corpus.store(split)])
        images = [store[int(row)] for row in store.rows(corpus.images(split))]
        own = [int((image.labels == label).sum()) for image in images for label in image.labels]
        for (_, text), row in found.items():
            if text != "shuffle":
                assert (row[f"{split} of"], row[f"{split} unique of"]) == (len(own), own.count(1))
        guessed = [label == commonest for image in images for label in image.labels]
        assert found["commonest class", None][split] == pytest.approx(100 * np.mean(guessed))
        nearest = [
            np.linalg.norm(means - feature, axis=1).argmin() == label
            for image in images
            for feature, label in zip(image.features.astype(np.float64), image.labels, strict=True)
        ]
        row = found["nearest prototype, own features", None]
        assert row[split] == pytest.approx(100 * np.mean(nearest))
        alone = [right for right, count in zip(nearest, own, strict=True) if count == 1]
        assert row[f"{split} unique"] == pytest.approx(100 * np.mean(alone))
    again = run.probe(*argv, "--system", f"V={vtlm}", "--batch-size", "5", "--no-references", *JSON).rows(*KEYS)
    assert list(again) == [("V", "given"), ("V", "hidden")]
    for text in ("given", "hidden"):
        for column in again["V", text].keys() - {"system"}:
            assert again["V", text][column] == found["V 1", text][column] == found["V 2", text][column]
    assert any('"random"' in note for note in done.table()["notes"])  # what made the regions
    run.probe(*argv, "--system", tlm, ok=False).fault(str(tlm), "text-only model (TLM)")
    run.probe(*argv, "--system", mmt, ok=False).fault(str(mmt), "translation model")
    argv = ("--regions", corpus.store("valid"), "--system", vtlm, "--subsets", "valid")
    alone = run.probe("mrc", corpus.data, *argv, *JSON).table()
    assert len(alone["rows"]) == 2 and any("no rows of commonest class" in note for note in alone["notes"])
