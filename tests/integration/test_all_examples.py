"""No example is lost, whatever the size of a split; corpora are joined or alternate."""

import shutil

import pytest

from toy import make_corpus


@pytest.fixture(scope="module")
def odd(run, tmp_path_factory):
    """Splits of 13 examples."""
    return make_corpus(run, tmp_path_factory.mktemp("odd") / "toy", dict.fromkeys(("train", "valid", "test"), 13))


def test_pretraining(run, odd, tmp_path):
    """PITFALLS 32: each example is trained on and validated once, by number and by tokens."""
    trained = run.pretrain(odd.data, tmp_path, "--batch-size", "32", "--max-epoch", "1", "--max-update", "99",
                           "--region-random-prob", "0", regions=odd.regions)  # fmt: skip
    assert sum(update["bsz"] for update in trained.updates()) == 13
    assert sum(update["wpb"] for update in trained.updates()) == odd.tokens("train")
    expected = trained.validations()[-1]
    path = tmp_path / "checkpoint_last.pt"
    whole = run.validate(odd.data, path, "--batch-size", "500", "--required-batch-size-multiple", "1")
    for name in ("mlm_loss", "mrc_loss", "mlm_accuracy", "mrc_accuracy"):
        assert expected[name] == pytest.approx(whole.validations()[-1][name], abs=2e-3), name


def test_translation(run, odd, tmp_path):
    """PITFALLS 32: each example is trained on, validated and decoded once, with default options."""
    trained = run.train(odd.data, tmp_path, "--batch-size", "32", "--max-epoch", "1", "--max-update", "99",
                        regions=odd.regions)  # fmt: skip
    assert sum(update["bsz"] for update in trained.updates()) == 13
    words = sum(len(line.split()) + 1 for line in odd.lines("train", "de"))
    assert sum(update["wpb"] for update in trained.updates()) == words
    path = tmp_path / "checkpoint_last.pt"
    whole = run.validate(odd.data, path, "--batch-size", "500", "--required-batch-size-multiple", "1",
                         task="multimodal_translation")  # fmt: skip
    assert trained.validations()[-1]["loss"] == pytest.approx(whole.validations()[-1]["loss"], abs=2e-3)
    decoded = run.generate(odd.data, path, "--max-len-b", "3", "--beam", "1", regions=odd.regions)
    assert decoded.ids() == list(range(13))


@pytest.mark.parametrize("argv", [("--batch-size", "1"), ("--batch-size", "4"), ("--max-tokens", "60")])
def test_decoding_in_other_batches(run, corpus, nmt, argv):
    """PITFALLS 32: nor does the kind of batches matter."""
    decoded = run.generate(corpus.data, nmt, "--max-len-b", "3", "--gen-subset", "test1", *argv)
    assert decoded.ids() == list(range(21))


@pytest.fixture(scope="module")
def joined(corpus, second, tmp_path_factory):
    """One folder with ``train`` and ``train1``, their ``.images``, and stores of both as shards."""
    both = corpus.copy(tmp_path_factory.mktemp("joined") / "toy")
    for path in second.data.glob("train.*"):
        shutil.copy(path, both.data / path.name.replace("train.", "train1."))
    both.store("train").rename(both.regions / "train.0.h5")
    shutil.copy(second.store("train"), both.regions / "train.1.h5")
    return both


@pytest.mark.parametrize(("upsample", "lines"), [(None, 45 + 21), (2, 2 * 45 + 21)])
def test_training_on_a_concatenation(run, corpus, second, joined, tmp_path, upsample, lines):
    """``train`` and ``train1`` in one folder, in both tasks; ``--upsample-primary`` repeats the first."""
    argv = ["--max-epoch", "1", "--max-update", "99", "--disable-validation", "--no-save"]
    argv += ["--upsample-primary", upsample] if upsample else []
    for train in (run.pretrain, run.train):
        trained = train(joined.data, tmp_path, *argv, regions=joined.regions)
        assert f"train: regions of {lines} lines" in trained.output
        assert sum(update["bsz"] for update in trained.updates()) == lines
    words = ((upsample or 1) * corpus.tokens("train") + second.tokens("train")) / 2 - lines
    assert sum(update["wpb"] for update in trained.updates()) == words


def test_folders_alternate_over_epochs(run, corpus, second, tmp_path):
    """``a:b``: epochs alternate, dictionary and validation come from the first."""
    folder = tmp_path / "regions"
    shutil.copytree(corpus.regions, folder)
    (folder / "train.h5").rename(folder / "train.0.h5")
    shutil.copy(second.store("train"), folder / "train.1.h5")
    for train in (run.pretrain, run.train):
        trained = train(f"{corpus.data}:{second.data}", tmp_path, "--max-epoch", "3", "--max-update", "99",
                        "--no-save", regions=folder)  # fmt: skip
        sizes = {1: 0, 2: 0, 3: 0}
        for update in trained.updates():
            sizes[int(update["epoch"])] += update["bsz"]
        assert sizes == {1: 45, 2: 21, 3: 45}
        assert trained.output.count("valid: regions of 13 lines") == 1
