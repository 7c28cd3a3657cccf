"""Which checkpoints of a training are its best: a metric that exists, the direction it has, and what is kept."""

import inspect
import math
import os
import re
from collections.abc import Mapping

from fairseq.checkpoint_utils import save_checkpoint
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.tasks import FairseqTask
from fairseq.tasks.translation import TranslationTask
from omegaconf import DictConfig

from vtlm_fairseq.checkpoints import load_checkpoint, num_updates
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import copy_file
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

HIGHER = {"accuracy", "acc", "bleu", "chrf", "meteor", "comet", "f1", "precision", "recall"}
LOWER = {"loss", "ppl", "perplexity", "nll", "error", "wer", "ter", "cer"}
ALWAYS = {"wps", "wpb", "bsz", "num_updates"}  # fairseq logs them with any criterion; no use as a criterion of quality


def higher_is_better(metric: str) -> bool | None:
    """Whether the best value of a metric is the highest, by its name; None where the name does not tell."""
    for word in reversed(re.split("[_:]", metric.lower())):
        if word in HIGHER or word in LOWER:
            return word in HIGHER
    return None


def logged_metrics(task, criterion) -> set[str] | None:
    """Names that a validation logs; None where a class of somebody else logs, whose names cannot be known."""
    owner = _owner(criterion, "reduce_metrics")
    sentences = getattr(criterion, "sentence_avg", False)
    if owner is VTLMCriterion:
        names = criterion.logged()
        names |= {f"{corpus.name}:{name}" for corpus in getattr(task, "corpora", ()) for name in names}
    elif owner is LabelSmoothedCrossEntropyCriterion:
        names = {"loss", "nll_loss", "ppl"}
        names |= {"accuracy", "total", "n_correct"} if criterion.report_accuracy else set()
    elif owner in (CrossEntropyCriterion, AdaptiveLoss):
        names = {"loss", "ppl"} | ({"nll_loss"} if sentences else set())
    else:
        return None
    for method in ("reduce_metrics", "valid_step"):
        owner = _owner(task, method)
        if owner not in (FairseqTask, TranslationTask) and not owner.__module__.startswith("vtlm_fairseq."):
            return None
    return names | ({"bleu"} if getattr(task.cfg, "eval_bleu", False) else set())


def _owner(of, method: str) -> type:
    """The class that defines a method of an object."""
    return next(kind for kind in inspect.getmro(type(of)) if method in vars(kind))


class BestCheckpoints:
    """fairseq's ``--best-checkpoint-metric`` and ``--keep-best-checkpoints`` in one training.

    Args:
        whole: the configuration of the command.
    """

    def __init__(self, whole: DictConfig) -> None:
        self._whole, self._options = whole, whole.checkpoint
        self.metric: str = self._options.best_checkpoint_metric
        self._keep = 0
        self._score: float | None = None

    # -- before training ---------------------------------------------------------------------------------------

    def check(self, task, criterion) -> None:
        """Compare the metric with what is logged, and set the direction that its name tells.

        Raises:
            VTLMError: no such metric, or one that stays 0.
        """
        if self._whole.dataset.disable_validation:
            return
        names = logged_metrics(task, criterion)
        if names is not None and self.metric not in names | ALWAYS:
            options = {"bleu": (task.cfg, "eval_bleu"), "accuracy": (criterion, "report_accuracy")}
            of, name = options.get(self.metric, (None, ""))
            raise self._missing(names, f"--{name.replace('_', '-')}" if hasattr(of, name) else None)
        if names is not None and self.metric.rpartition(":")[2].startswith("mrc_"):
            lacks = "" if any(one.key == "mrc" for one in task.objectives) else "mrc in --region-objectives"
            if lacks := lacks if task.has_regions else "--regions":
                raise VTLMError(f"--best-checkpoint-metric {self.metric} stays 0 without {lacks}; choose another")
        self._direct()
        if self._whole.dataset.validate_interval_updates > 0 and not self._options.save_interval_updates > 0:
            logger.warning(
                "--validate-interval-updates without --save-interval-updates: what is validated within an epoch is "
                "logged, but not saved, and cannot become checkpoint_best.pt"
            )

    def _missing(self, names: set[str], add: str | None = None) -> VTLMError:
        choice = f"{f'add {add}, or ' if add else ''}choose one of {', '.join(sorted(names))}"
        return VTLMError(f"--best-checkpoint-metric {self.metric} is not logged by this training; {choice}")

    def _direct(self) -> None:
        asked, better = self._options.maximize_best_checkpoint_metric, higher_is_better(self.metric)
        if better is False and asked:
            logger.warning(
                "--maximize-best-checkpoint-metric keeps that with the highest %s, which is the worst; leave it out",
                self.metric,
            )
        if better and not asked:
            self._options.maximize_best_checkpoint_metric = True
            if "maximize_best_checkpoint_metric" in (self._whole.lr_scheduler or {}):
                self._whole.lr_scheduler.maximize_best_checkpoint_metric = True
            logger.info(
                "the best checkpoint is that of the highest %s: --maximize-best-checkpoint-metric is set", self.metric
            )

    def begin(self, restored: Mapping | None, *, keeps: bool) -> None:
        """Take over when the trainer has read its checkpoint.

        Args:
            restored: the checkpoint's state, if the training goes on from one.
            keeps: the task calls `keep`.
        """
        saved = ((restored or {}).get("cfg") or {}).get("checkpoint") or {}
        ours = (self.metric, self._options.maximize_best_checkpoint_metric)
        theirs = (saved.get("best_checkpoint_metric"), saved.get("maximize_best_checkpoint_metric"))
        if saved and ours != theirs and hasattr(save_checkpoint, "best"):
            logger.warning(
                "the best checkpoint was that of the %s %s, from here on it is that of the %s %s, counted anew",
                "highest" if theirs[1] else "lowest", theirs[0], "highest" if ours[1] else "lowest", ours[0],
            )  # fmt: skip
            del save_checkpoint.best
        plain = not self._options.checkpoint_suffix and not self._options.write_checkpoints_asynchronously
        if keeps and plain and not self._options.no_last_checkpoints and not self._options.no_save:
            # fairseq drops what is worse than all that it has, also where it has fewer than N, and draws lots in ties
            self._keep, self._options.keep_best_checkpoints = self._options.keep_best_checkpoints, -1

    # -- in training -------------------------------------------------------------------------------------------

    def begin_validation(self) -> None:
        """Expect the figures of the first validation set, which counts."""
        self._score = None

    def validated(self, stats: dict) -> None:
        """Note the figures of a validation set, before fairseq looks up the metric.

        Raises:
            VTLMError: the metric is not among them.
        """
        if self.metric not in stats:
            raise self._missing({name for name in stats if name not in ALWAYS and not name.startswith("best_")})
        if self._score is None:
            self._score = float(stats[self.metric])
            if math.isnan(self._score):
                # fairseq compares with it for ever after, and no checkpoint is better than nan
                self._score = -math.inf if self._options.maximize_best_checkpoint_metric else math.inf
                stats[self.metric] = self._score
                logger.warning("%s of this validation is not a number: it counts as the worst", self.metric)

    def keep(self, path: str) -> None:
        """Keep a copy of a checkpoint that was just saved, if it is one of the best, and remove what no longer is.

        Of equal scores the newer are kept. Names are fairseq's: the score, with one digit more that tells equal ones
        apart.

        Args:
            path: the checkpoint.
        """
        score, self._score = self._score, None
        if self._keep < 1 or score is None or not math.isfinite(score):
            return
        sign = 1 if self._options.maximize_best_checkpoint_metric else -1
        kept = {}
        pattern = re.compile(rf"checkpoint\.best_{re.escape(self.metric)}_-?\d+\.?\d*\.pt")
        for name in filter(pattern.fullmatch, os.listdir(self._options.save_dir)):
            kept[name] = self._rank(os.path.join(self._options.save_dir, name), sign)
        stem = f"checkpoint.best_{self.metric}_{score:.3f}"
        new = next(name for name in (f"{stem}{k}.pt" for k in range(len(kept) + 1)) if name not in kept)
        kept[new] = (sign * score, num_updates(load_checkpoint(path, mmap=True)))
        best = sorted(kept, key=kept.get, reverse=True)[: self._keep]
        if new in best:
            copy_file(path, os.path.join(self._options.save_dir, new))
        for name in kept:
            if name not in best and name != new:
                os.remove(os.path.join(self._options.save_dir, name))

    @staticmethod
    def _rank(path: str, sign: int) -> tuple[float, int]:
        """(goodness, updates) of a kept checkpoint; the least for one that was cut off."""
        try:
            state = load_checkpoint(path, mmap=True)
            return sign * float(state["extra_state"]["val_loss"]), num_updates(state)
        except (VTLMError, KeyError, TypeError, ValueError):
            return -math.inf, -1
