"""Several objectives over regions: from fairseq-train on two ranks to an MMT, its translations, probes and reports."""

from pathlib import Path

import numpy as np
import pytest
import torch
from equality import equal

from harness import pretraining
from toy import CLASSES, DIM, spoil
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter

ALL = "mrc:1,mrfr:0.5,itm:2,mrc-kl:0.25"
WEIGHTS = {"mlm": 1, "mrc": 1, "mrfr": 0.5, "itm": 2, "mrc_kl": 0.25}
ARGV = ("--region-objectives", ALL, "--region-mask-prob", "0.5", "--dropout", "0", "--attention-dropout", "0",
        "--lr", "1e-3", "--max-update", "8", "--update-freq", "2", "--save-interval-updates", "3",
        "--keep-interval-updates", "-1")  # fmt: skip
SPEEDS = {"wall", "wps", "ups", "wpb", "bsz", "train_wall", "gb_free"}


def weights(folder: Path):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def figures(records) -> list[dict]:
    return [{name: value for name, value in record.items() if name not in SPEEDS} for record in records]


@pytest.fixture(scope="module")
def scored(corpus, tmp_path_factory):
    """The corpus with class scores of its regions, three of seven."""
    copy = corpus.copy(tmp_path_factory.mktemp("soft") / "toy")
    for split in ("train", "valid", "test"):
        store = RegionStore([str(corpus.store(split))], None)
        rng = np.random.default_rng(len(store))
        with RegionStoreWriter(copy.store(split), feature_dim=DIM, class_names=store.class_names,
                               detector=store.detector, num_soft=3) as writer:  # fmt: skip
            for row, image in enumerate(store.ids()):
                scores = rng.dirichlet(np.ones(CLASSES), len(store[row].labels))
                writer.add(image, **store[row]._asdict(), soft_labels=scores)
    return copy


@pytest.fixture(scope="module")
def trained(run, scored, tmp_path_factory):
    """On one rank with --update-freq 4, and on two with 2."""
    folder = tmp_path_factory.mktemp("objectives")
    one = run.pretrain(scored.data, folder / "one", *ARGV, "--update-freq", "4", regions=scored.regions)
    line = pretraining(scored.data, folder / "two", *ARGV, "--num-workers", "2", regions=scored.regions)
    two, _ = run.two_ranks(line)
    return folder, one, two


def test_two_ranks_are_one(trained):
    """Losses of each objective; with workers or without; ``loss`` is the weighted sum; all is logged at validation."""
    folder, one, two = trained
    ours, theirs = two.updates(), one.updates()
    assert len(ours) == len(theirs) == 8
    for mine, other in zip([*ours, *two.validations()], [*theirs, *one.validations()], strict=True):
        for key in WEIGHTS:
            assert mine[f"{key}_loss"] == pytest.approx(other[f"{key}_loss"], abs=4e-3), key
        assert mine["itm_accuracy"] == pytest.approx(other["itm_accuracy"], abs=0.02)
        total = sum(weight * mine[f"{key}_loss"] for key, weight in WEIGHTS.items())
        assert mine["loss"] == pytest.approx(total, abs=0.02)
        assert mine["mrfr_loss"] > 0 and "mrfr_accuracy" not in mine
    assert {"loss", "accuracy", "mlm_ppl", "mrc_accuracy", "mlm_accuracy"} < set(two.validations()[0])
    ours, theirs = weights(folder / "two"), weights(folder / "one")
    assert all(torch.allclose(ours[name], tensor, atol=1e-4) for name, tensor in theirs.items())
    assert {name.split(".")[1] for name in ours if name.startswith("objective_heads.")} == {"mrfr", "itm"}


def test_resumed_validated_and_on_the_device(run, scored, trained, tmp_path):
    """The same bits; with other weights a run goes on, with other heads it does not."""
    folder, one, _ = trained
    half = next((folder / "one").glob("checkpoint_*_3.pt"))
    more = ("--update-freq", "4", "--restore-file", half)
    resumed = run.pretrain(scored.data, tmp_path / "a", *ARGV[2:], *more, regions=scored.regions)
    assert figures(resumed.updates()) == figures(one.updates())[3:]
    there = run.pretrain(scored.data, tmp_path / "b", *ARGV, "--update-freq", "4", "--regions-on-device",
                         "--num-workers", "2", regions=scored.regions)  # fmt: skip
    assert figures(there.updates()) == figures(one.updates())
    assert all(equal(weights(tmp_path / name), weights(folder / "one")) for name in ("a", "b"))
    path = folder / "one" / "checkpoint_last.pt"
    (validated,) = run.validate(scored.data, path, "--regions", scored.regions).validations()
    last = one.validations()[-1]
    assert {name: last[name] for name in validated if name in last and name not in SPEEDS} == {
        name: value for name, value in validated.items() if name in last and name not in SPEEDS
    }
    assert {"itm_loss", "itm_accuracy", "mrfr_loss", "mrc_kl_loss", "mrc_kl_accuracy"} < set(validated)
    line = (scored.data, tmp_path / "c", "--restore-file", half, "--max-update", "5", "--no-save")
    run.pretrain(*line, "--region-objectives", "itm:7,mrc,mrfr,mrc-kl", regions=scored.regions)
    refused = run.pretrain(*line, "--region-objectives", "mrc,itm", regions=scored.regions, ok=False)
    refused.fault("--region-objectives", ALL, "mrc,itm")


def test_what_is_made_of_it(run, scored, vtlm, trained, tmp_path):
    """An MMT takes the encoder and no head, probes see each pair's own image, an old checkpoint may gain objectives."""
    folder, _, _ = trained
    path = folder / "two" / "checkpoint_last.pt"
    mmt = run.train(scored.data, tmp_path / "mmt", "--pretrained", path, "--disable-validation", regions=scored.regions)
    assert "objective_heads.itm.out.bias" in mmt.output.split("unused of the pre-trained model")[1].splitlines()[0]
    ours, theirs = weights(tmp_path / "mmt"), weights(folder / "two")
    assert not [name for name in ours if "heads" in name] and ours.keys() & theirs.keys()
    decoded = run.generate(scored.data, tmp_path / "mmt/checkpoint_last.pt", "--max-len-b", "5", regions=scored.regions)
    assert decoded.ids() == list(range(13))
    for name in ("mrc", "last-word"):
        argv = (name, scored.data, "--system", f"a={path}", "--regions", scored.regions, "--subsets", "valid")
        assert run.probe(*argv, "--format", "json").table()["rows"]
    run("vtlm_fairseq.cli.report", scored.data, "--path", path, "--out", tmp_path / "r.html", "--lines", "1,2",
        "--regions", scored.regions, "--cpu")  # fmt: skip
    more = run.pretrain(scored.data, tmp_path / "more", "--pretrained", vtlm, "--region-objectives", "mrc,itm",
                        "--max-update", "1", regions=scored.regions)  # fmt: skip
    assert "objective_heads.itm.out.bias" in more.output.split("left random")[1].splitlines()[0]
    line = (scored.data, tmp_path / "back", "--pretrained", path, "--max-update", "1")
    back = run.pretrain(*line, regions=scored.regions)
    assert "itm_loss" not in back.validations()[0]


def test_faults(run, corpus, scored, tmp_path):
    """One line, before the first update where that can be."""
    damaged = scored.copy(tmp_path / "damaged")
    spoil(damaged.store("train"), "soft_labels", lambda values: values + 2)
    line = (damaged.data, tmp_path / "x", "--region-objectives", "mrc-kl", "--num-workers", "2")
    run.pretrain(*line, regions=damaged.regions, ok=False).fault("train.h5", "image 'train-0-", "0..1", "validate")
    line = (corpus.data, tmp_path / "x", "--region-objectives", "mrc-kl")
    refused = run.pretrain(*line, regions=corpus.regions, ok=False)
    refused.fault("mrc-kl", f"--regions {corpus.regions}", "convert --soft-labels")
    for argv, parts in (
        (("--region-objectives", "mrc,other"), ("other", "mrfr", "--user-dir")),
        (("--region-objectives", "mrc:2", "--mrc-weight", "3"), ("--mrc-weight", "mrc:2")),
        (("--region-objectives", "itm", "--region-order", "shuffle"), ("itm", "--region-order")),
        (("--best-checkpoint-metric", "itm_loss"), ("itm_loss", "mrc_loss")),
        (("--region-objectives", "itm", "--best-checkpoint-metric", "mrc_loss"), ("mrc_loss", "--region-objectives")),
    ):
        run.pretrain(corpus.data, tmp_path / "x", *argv, regions=corpus.regions, ok=False).fault(*parts)
    refused = run.pretrain(corpus.data, tmp_path / "x", "--region-objectives", "itm", ok=False)
    refused.fault("--region-objectives", "--regions")
    line = (corpus.data, tmp_path / "y", "--region-objectives", "mrfr", "--max-update", "1")
    run.pretrain(*line, regions=corpus.regions)
    probed = run.probe("mrc", corpus.data, "--system", tmp_path / "y", "--regions", corpus.regions, ok=False)
    probed.fault("mrfr", "no labels")
