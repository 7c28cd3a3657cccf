"""The best checkpoint, in the configuration that fairseq's trainer and scheduler read."""

import math

import pytest
from fairseq import tasks
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.logging import metrics
from omegaconf import OmegaConf

from tiny import folder, pretraining_config, translation_task
from vtlm_fairseq.tasks.best_checkpoint import higher_is_better


def begun(cfg):
    """A task that has been set up as fairseq-train does it."""
    task = tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    task.build_criterion(cfg.criterion)
    return task


@pytest.mark.slow
@pytest.mark.parametrize("resolved", [False, True])
def test_direction_reaches_the_scheduler(tmp_path, resolved):
    """reduce_lr_on_plateau turns with the metric; fairseq-hydra-train resolves what refers to it beforehand."""
    argv = ("--lr-scheduler", "reduce_lr_on_plateau", "--lr", "0.1", "--best-checkpoint-metric", "accuracy")
    cfg = pretraining_config(folder(tmp_path / "data", {"train": 4}).path, *argv)
    if resolved:
        cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    begun(cfg)
    assert cfg.checkpoint.maximize_best_checkpoint_metric is True
    assert cfg.lr_scheduler.maximize_best_checkpoint_metric is True


@pytest.mark.parametrize("metric, worst", [("loss", math.inf), ("mlm_accuracy", -math.inf)])
def test_not_a_number(tmp_path, caplog, metric, worst):
    """A validation that is not a number is the worst of all, not the one that none is better than."""
    cfg = pretraining_config(folder(tmp_path / "data", {"train": 4}).path, "--best-checkpoint-metric", metric)
    task = begun(cfg)
    stats = {metric: math.nan, "ppl": math.nan}
    task.begin_valid_epoch(1, None)
    task.post_validate(None, stats, None)
    assert stats[metric] == worst
    assert "of this validation is not a number: it counts as the worst" in caplog.text


def test_names_that_tell():
    """The last word of a name that tells counts; others do not tell."""
    found = [higher_is_better(name) for name in ("nll_loss", "ppl", "bleu", "mrc_accuracy", "valid_acc", "mine")]
    assert found == [False, False, True, True, True, None]


def test_bleu_of_empty_translations(tmp_path):
    """PITFALLS 13: a model that says nothing yet has BLEU 0, and its training goes on."""
    task = translation_task(folder(tmp_path / "data", {"train": 4}).path, "--eval-bleu")
    criterion = CrossEntropyCriterion(task, sentence_avg=False)
    log = {"loss": 8.0, "ntokens": 4, "nsentences": 1, "sample_size": 4, "_bleu_sys_len": 0, "_bleu_ref_len": 3}
    log |= {f"_bleu_{kind}_{i}": 0 for kind in ("counts", "totals") for i in range(4)}
    with metrics.aggregate(new_root=True) as validation:
        task.reduce_metrics([log], criterion)
    assert validation.get_smoothed_values()["bleu"] == 0
    with metrics.aggregate(new_root=True) as training:
        task.reduce_metrics([{name: log[name] for name in ("loss", "ntokens", "nsentences", "sample_size")}], criterion)
    assert "bleu" not in training.get_smoothed_values()
