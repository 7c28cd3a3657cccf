"""--region-standardise: figures of the training store, kept in the checkpoint and taken over."""

import shutil

import numpy as np
import pytest
import torch

from toy import spoil
from vtlm_fairseq.regions.store import RegionStore

FEATURES = "encoder.embed_regions.feature_"


def test_moved_and_stretched_features_are_the_same(run, corpus, tmp_path):
    """Losses do not change with the scale of the features; the model of the first store reads the second wrongly."""
    other = tmp_path / "regions"
    shutil.copytree(corpus.regions, other)
    for split in ("train", "valid", "test"):
        spoil(other / f"{split}.h5", "features", lambda values: values * np.float16(4) + np.float16(32))
    argv = ("--dropout", "0", "--attention-dropout", "0", "--lr", "3e-3", "--max-update", "8", "--region-mask-prob",
            "0.5", "--region-leave-unmasked-prob", "1", "--region-random-prob", "0")  # fmt: skip
    losses, option = {}, ("--region-standardise",)
    trained = {"a": (corpus.regions, option), "b": (other, option), "plain": (corpus.regions, ()), "far": (other, ())}
    for name, (regions, more) in trained.items():
        done = run.pretrain(corpus.data, tmp_path / name, *argv, *more, regions=regions)
        losses[name] = [update["mrc_loss"] for update in done.updates()]
    assert losses["a"] == pytest.approx(losses["b"], rel=0.02)
    assert abs(losses["far"][-1] - losses["plain"][-1]) > 0.05
    state = torch.load(tmp_path / "a" / "checkpoint_last.pt", weights_only=True)["model"]
    store = RegionStore.open(str(corpus.regions), "train")
    features = np.concatenate([store[row].features for row in range(len(store))]).astype(np.float64)
    assert state[FEATURES + "mean"].numpy() == pytest.approx(features.mean(axis=0), abs=1e-5)
    assert state[FEATURES + "deviation"].numpy() == pytest.approx(features.std(axis=0), rel=1e-4)


def test_the_checkpoint_keeps_them(run, corpus, tmp_path):
    """Resumed and fine-tuned without the option, beside another training store: the first store's; never without."""
    argv = ("--region-standardise", "--max-update", "2")
    run.pretrain(corpus.data, tmp_path / "a", *argv, regions=corpus.regions)
    other = tmp_path / "regions"
    shutil.copytree(corpus.regions, other)
    spoil(other / "train.h5", "features", lambda values: values + np.float16(1))
    path = tmp_path / "a" / "checkpoint_last.pt"
    first = torch.load(path, weights_only=True)["model"]
    run.train(corpus.data, tmp_path / "m", "--pretrained", path, "--max-update", "2", regions=other)
    run.pretrain(corpus.data, tmp_path / "a", "--max-update", "3", regions=other)
    for folder in ("a", "m"):
        state = torch.load(tmp_path / folder / "checkpoint_last.pt", weights_only=True)["model"]
        assert all(torch.equal(state[FEATURES + name], first[FEATURES + name]) for name in ("mean", "deviation"))
    run.train(corpus.data, tmp_path / "f", "--pretrained", path, "--fresh-regions", "--region-standardise",
              "--max-update", "1", regions=other)  # fmt: skip
    fresh = torch.load(tmp_path / "f" / "checkpoint_last.pt", weights_only=True)["model"]
    assert (fresh[FEATURES + "mean"] - first[FEATURES + "mean"]).numpy() == pytest.approx(1, abs=0.01)
    decoded = run.generate(
        corpus.data, tmp_path / "m" / "checkpoint_last.pt", "--max-len-b", "5", regions=corpus.regions
    )
    assert len(decoded.ids()) == 13
