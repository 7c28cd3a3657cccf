"""Pre-training through fairseq-train and fairseq-validate."""

import pytest
import torch

from harness import write_lines
from stores import make_store

METRICS = {"loss", "mlm_loss", "mlm_ppl", "mlm_accuracy", "mrc_loss", "mrc_accuracy", "accuracy"}


def parameters(checkpoint) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["model"]


def test_validation_logs_all_metrics_and_validate_prints_the_same(run, corpus, tmp_path):
    """PITFALLS 13: every metric at every validation; fairseq-validate of the checkpoint prints the same figures."""
    trained = run.pretrain(corpus.data, tmp_path, "--max-epoch", "2", "--max-update", "99", regions=corpus.regions)
    validations = trained.validations()
    assert len(validations) == 2
    for values in validations:
        assert values.keys() >= METRICS
        assert values["loss"] == pytest.approx(values["mlm_loss"] + values["mrc_loss"], abs=2e-3)
        assert values["mlm_ppl"] == pytest.approx(2 ** values["mlm_loss"], rel=2e-3)
    assert validations[0]["mlm_loss"] > validations[1]["mlm_loss"]
    validated = run.validate(corpus.data, tmp_path / "checkpoint_last.pt").validations()[-1]
    for name in METRICS:
        assert validated[name] == pytest.approx(validations[-1][name], rel=1e-5), name


def test_metrics_with_nothing_predicted(run, corpus, tmp_path):
    """PITFALLS 13, 15: counts of zero give finite metrics that can select checkpoints."""
    argv = ("--mask-prob", "0", "--region-mask-prob", "0", "--best-checkpoint-metric", "mrc_accuracy")
    trained = run.pretrain(corpus.data, tmp_path, *argv, regions=corpus.regions)
    values = trained.validations()[-1]
    assert values.keys() >= METRICS
    assert (values["mlm_loss"], values["mlm_accuracy"], values["mlm_ppl"]) == (0, 0, 1)
    assert (values["mrc_loss"], values["mrc_accuracy"]) == (0, 0)
    assert len(trained.updates()) == 3


def test_tlm_logs_region_metrics_as_zero(run, corpus, tmp_path):
    """PITFALLS 13: TLM has no regions and logs their metrics all the same."""
    trained = run.pretrain(corpus.data, tmp_path)
    values = trained.validations()[-1]
    assert values.keys() >= METRICS
    assert (values["mrc_loss"], values["mrc_accuracy"]) == (0, 0)
    assert values["accuracy"] == values["mlm_accuracy"]
    assert "no regions (text only)" in trained.output
    assert not [name for name in parameters(tmp_path / "checkpoint_last.pt") if "region" in name]


def test_a_byte_order_mark_is_no_part_of_a_word(run, tmp_path):
    """fairseq-preprocess would take it for one; a dictionary that has it already is told."""
    for lang in ("en", "de"):
        (tmp_path / f"train.{lang}").write_text("\ufeff" * (lang == "de") + "a b\n", encoding="utf-8")
    argv = ("-s", "en", "-t", "de", "--trainpref", tmp_path / "train", "--destdir", tmp_path / "bin")
    run.preprocess(*argv, ok=False).fault("train.de", "byte order mark")
    assert not list(tmp_path.glob("bin/dict*"))
    for lang in ("en", "de"):
        (tmp_path / f"dict.{lang}.txt").write_text("b 1\n\ufeffa 1\n", encoding="utf-8")
    assert "'\\ufeffa'" in run.preprocess(*argv, "--srcdict", tmp_path / "dict.en.txt").output


def test_paper_setting(run, tmp_path):
    """The paper's size: arch vtlm, 64 sentence pairs an update, Adam 1e-4, 36 regions of 1536 features."""
    sizes = {"train": 64, "valid": 2, "test": 2}
    for split, size in sizes.items():
        for lang in ("en", "de"):
            write_lines(tmp_path / f"raw/{split}.{lang}", (f"{lang}{i} {lang}{i % 7} {lang}" for i in range(size)))
        write_lines(tmp_path / f"bin/{split}.images", (f"img{i}.jpg" for i in range(size)))
        make_store(tmp_path / f"regions/{split}.h5", size, regions=40, feature_dim=1536, num_classes=601)
    run.preprocess("-s", "en", "-t", "de", "--destdir", tmp_path / "bin", "--trainpref", tmp_path / "raw/train",
                   "--validpref", tmp_path / "raw/valid", "--testpref", tmp_path / "raw/test")  # fmt: skip
    trained = run.pretrain(tmp_path / "bin", tmp_path / "ckpt", "--batch-size", "64", "--lr", "1e-4", "--no-save",
                           "--max-update", "1", "--disable-validation", arch="vtlm",
                           regions=tmp_path / "regions")  # fmt: skip
    (update,) = trained.updates()
    assert update["bsz"] == 64
    assert 5 < update["mlm_loss"] < 15 and 8 < update["mrc_loss"] < 12
    assert "at most 36 regions, 1536 x float16, 601 classes" in trained.output


@pytest.mark.parametrize(("task", "workers"), [("pretrain", 0), ("pretrain", 2), ("train", 2)])
def test_resume_in_mid_epoch_gives_the_same_weights(run, corpus, tmp_path, task, workers):
    """PITFALLS 20: stopped in the first epoch (six updates) and in the second, bit-equal to a run without a stop."""
    command = getattr(run, task)
    argv = ["--num-workers", workers, "--lr", "3e-3"]
    command(corpus.data, tmp_path / "whole", *argv, "--max-update", "15", regions=corpus.regions)
    for stop in (4, 9, 15):
        resumed = command(corpus.data, tmp_path / "parts", *argv, "--max-update", stop, regions=corpus.regions)
    assert [int(update["num_updates"]) for update in resumed.updates()] == list(range(10, 16))
    whole, parts = (parameters(tmp_path / name / "checkpoint_last.pt") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name


def test_start_up_line_and_regions_count(run, corpus, tmp_path):
    """PITFALLS 25: one line states store, shape, dtype and order; regions change the loss of the first update.

    All pairs are one batch, without dropout: nothing but the regions differs.
    """
    argv = ["--no-save", "--disable-validation", "--max-update", "1", "--dropout", "0", "--attention-dropout", "0"]
    argv += ["--batch-size", "64", "--required-batch-size-multiple", "1"]
    losses = {}
    for order in ("given", "shuffle", "none"):
        trained = run.pretrain(corpus.data, tmp_path, *argv, "--region-order", order, regions=corpus.regions)
        lines = [line for line in trained.output.splitlines() if "train: regions of 45 lines" in line]
        assert len(lines) == 1
        for part in (str(corpus.regions), "12 x float16", "7 classes", f"order {order}"):
            assert part in lines[0]
        losses[order] = trained.updates()[0]["mlm_loss"]
    assert len(set(losses.values())) == 3, losses
