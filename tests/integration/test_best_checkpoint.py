"""The best checkpoint: metrics that do not exist, directions, another metric on resuming, and the best N."""

import pytest
import torch

from harness import pretraining

MINE = """
import vtlm_fairseq
from fairseq.criterions import register_criterion
from fairseq.logging import metrics
from vtlm_fairseq.criterions.vtlm import VTLMCriterion, VTLMCriterionConfig


@register_criterion("mine", dataclass=VTLMCriterionConfig)
class MineCriterion(VTLMCriterion):
    @classmethod
    def reduce_metrics(cls, logging_outputs):
        super().reduce_metrics(logging_outputs)
        metrics.log_scalar("mine", sum(log["mlm_count"] for log in logging_outputs))
"""
EPOCHS = ("--max-update", "99", "--max-epoch")


def extra(path) -> dict:
    return torch.load(path, weights_only=True)["extra_state"]


@pytest.mark.parametrize(
    "metric, criterion, names",
    [
        ("bleu", "label_smoothed_cross_entropy", ["--eval-bleu", "loss, nll_loss, ppl"]),
        ("accuracy", "label_smoothed_cross_entropy", ["--report-accuracy", "loss, nll_loss, ppl"]),
        ("nll_loss", "cross_entropy", ["one of loss, ppl"]),
    ],
)
def test_unknown(run, corpus, tmp_path, metric, criterion, names):
    """Refused before anything is trained, with the names that exist and the option that would make it exist."""
    argv = (*EPOCHS, "1", "--criterion", criterion, "--best-checkpoint-metric", metric)
    result = run.train(corpus.data, tmp_path, *argv, ok=False)
    result.fault(f"--best-checkpoint-metric {metric} ", *names)
    assert not result.updates()


def test_directions(run, corpus, tmp_path):
    """PITFALLS 13: each metric selects checkpoints; mlm_accuracy is the higher the better without being told."""
    argv = ("--best-checkpoint-metric", "mlm_accuracy", *EPOCHS, "5", "--lr", "1e-2", "--keep-best-checkpoints", "3")
    trained = run.pretrain(corpus.data, tmp_path / "a", *argv, regions=corpus.regions)
    found = [one["mlm_accuracy"] for one in trained.validations()]
    assert min(found) < max(found)
    assert extra(tmp_path / "a" / "checkpoint_best.pt")["val_loss"] == max(found)
    kept = [extra(path) for path in (tmp_path / "a").glob("checkpoint.best_mlm_accuracy_*.pt")]
    best = sorted(((value, epoch) for epoch, value in enumerate(found, start=1)), reverse=True)[:3]
    assert sorted((one["val_loss"], one["train_iterator"]["epoch"] - 1) for one in kept) == best[::-1]

    argv = ("--best-checkpoint-metric", "mlm_loss", "--maximize-best-checkpoint-metric", "--no-save")
    odd = run.pretrain(corpus.data, tmp_path / "b", *argv)
    assert "highest mlm_loss" in odd.output
    argv = ("--best-checkpoint-metric", "mrc_accuracy")
    run.pretrain(corpus.data, tmp_path / "b", *argv, ok=False).fault("mrc_accuracy stays 0 without --regions")

    # resumed with another metric, whose figures are all worse than the best of the old one
    argv = ("--best-checkpoint-metric", "mlm_ppl", *EPOCHS, "6", "--lr", "1e-9", "--validate-interval-updates", "4")
    resumed = run.pretrain(corpus.data, tmp_path / "a", *argv, regions=corpus.regions)
    last = resumed.validations()[-1]
    assert extra(tmp_path / "a" / "checkpoint_best.pt")["val_loss"] == last["mlm_ppl"] > max(found)
    assert "validated within an epoch" in resumed.output


def test_ties(run, corpus, tmp_path):
    """Of equal scores the newer are kept, and a worse one as long as there are fewer than asked for."""
    argv = (*EPOCHS, "4", "--lr", "1e-12", "--keep-best-checkpoints", "2")
    run.pretrain(corpus.data, tmp_path, *argv, regions=corpus.regions)
    kept = [extra(path) for path in tmp_path.glob("checkpoint.best_loss_*.pt")]
    assert len({one["val_loss"] for one in kept}) == 1
    assert sorted(one["train_iterator"]["epoch"] - 1 for one in kept) == [3, 4]


def test_own_criterion(run, corpus, tmp_path):
    """The metrics of a user's own criterion are not known at start: its own is taken, another ends in one line."""
    user_dir = tmp_path / "own_criterion"
    user_dir.mkdir()
    (user_dir / "__init__.py").write_text(MINE, encoding="utf-8")

    def line(metric):
        argv = ["--criterion", "mine", "--best-checkpoint-metric", metric, *EPOCHS, "1"]
        return pretraining(corpus.data, tmp_path / metric, *argv, user_dir=user_dir)

    run("fairseq_cli.train", *line("mine"))
    assert (tmp_path / "mine" / "checkpoint_best.pt").exists()
    run("fairseq_cli.train", *line("yours"), ok=False).fault("--best-checkpoint-metric", "yours", "mine, mlm_accuracy")
