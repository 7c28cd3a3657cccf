"""A training that goes on from a checkpoint: what it cannot take over, what it does not read, where it stands."""

import os
from argparse import Namespace
from collections.abc import Mapping

from fairseq import utils
from fairseq.data.iterators import EpochBatchIterator
from fairseq.optim import OPTIMIZER_REGISTRY
from omegaconf import DictConfig

from vtlm_fairseq.checkpoints import num_updates
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

BATCHES = {
    "dataset": ("batch_size", "max_tokens", "required_batch_size_multiple"),
    "distributed_training": ("distributed_world_size",),
    "common": ("seed",),
    "task": ("sampling_temperature",),
}
CORPORA = ("lang_pairs", "sampling_temperature")
KEEP_NO_BEST = ("fixed", "manual")  # schedulers of fairseq whose state has no best score


class Resumption:
    """The checkpoint that the trainer is about to restore, beside the command that goes on from it.

    Args:
        path: the checkpoint.
        state: what it holds.
        whole: the configuration of the command.
    """

    def __init__(self, path: str, state: Mapping, whole: DictConfig) -> None:
        self._path, self._whole, self._options = path, whole, whole.checkpoint
        self._config = _mapping(state.get("cfg"))
        history = state.get("optimizer_history")
        self._history = _mapping(history[-1] if isinstance(history, list) and history else None)
        self._position = _mapping(_mapping(state.get("extra_state")).get("train_iterator"))
        self._updates = num_updates(state)
        self._has_optimizer = state.get("last_optimizer_state") is not None
        self._examples = _mapping(state.get("task_state")).get("examples")

    def check(self, criterion) -> None:
        """Refuse what fairseq cannot restore, and warn of options of a first start, which a run that goes on ignores.

        Raises:
            VTLMError: optimizer, scheduler or criterion is another, and nothing says to begin it anew.
        """
        if self._options.reset_optimizer:
            pass
        elif not self._has_optimizer:
            logger.warning("%s holds no optimizer state: it begins anew, and updates are counted from 0", self._path)
        else:
            self._check_optimizer()
            found, ours = self._history.get("criterion_name"), type(criterion).__name__
            if found not in (None, ours):
                theirs, ours = self._saved("criterion").get("_name", found), self._whole.criterion._name
                raise VTLMError(
                    f"{self._path} was trained with criterion {theirs}, this command has {ours}; go on with "
                    f"--criterion {theirs}, or begin the optimizer anew with --reset-optimizer"
                )
            self._check_scheduler()
        self._warn_of_unread()

    def complete(self) -> bool:
        """Whether all updates are done; then none is trained. fairseq looks at ``--max-update`` after the next one.

        Raises:
            VTLMError: so it is, and the checkpoint belongs to another folder, where this training has nothing to write.
        """
        limit = self._whole.optimization.max_update
        if self._options.reset_optimizer or not self._has_optimizer or not 0 < limit <= self._updates:
            return False
        folders = [os.path.realpath(path) for path in (os.path.dirname(self._path), self._options.save_dir)]
        if folders[0] != folders[1]:
            raise VTLMError(
                f"{self._path}: holds {self._updates} updates of --max-update {limit}, none is left; "
                "raise --max-update, or count anew with --reset-optimizer, or with --finetune-from-model"
            )
        logger.warning("%s: complete, %d of --max-update %d; nothing is trained", self._path, self._updates, limit)
        return True

    def _saved(self, group: str) -> Mapping:
        """A group of the configuration that the checkpoint was trained with."""
        return _mapping(self._config.get(group))

    def _check_optimizer(self) -> None:
        common, name = self._whole.common, self._whole.optimizer._name
        wraps = "FP16Optimizer" if common.fp16 or common.bf16 else "AMPOptimizer" if common.amp else None
        if wraps and (common.memory_efficient_fp16 or common.memory_efficient_bf16):
            wraps = "MemoryEfficientFP16Optimizer"
        inner = getattr(OPTIMIZER_REGISTRY.get(name), "__name__", None)
        found, saved = self._history.get("optimizer_name"), self._saved("optimizer").get("_name")
        if inner is None or found is None or self._whole.optimization.use_bmuf:
            return
        if saved not in (None, name):
            theirs, ours, choice = f"optimizer {saved}", name, f"--optimizer {saved}"
        elif found != (wraps or inner):
            theirs, ours, choice = f"optimizer {found}", wraps or inner, "the same --fp16, --bf16, --amp"
        else:
            return
        raise VTLMError(
            f"{self._path} holds the state of {theirs}, this command has {ours}; go on with {choice}, or drop it with "
            "--reset-optimizer, which counts updates anew"
        )

    def _check_scheduler(self) -> None:
        if self._options.reset_lr_scheduler:
            return
        saved, ours = self._saved("lr_scheduler").get("_name"), self._whole.lr_scheduler._name
        if saved in (None, ours):
            return
        if ours == "reduce_lr_on_plateau" or (saved in KEEP_NO_BEST and ours not in KEEP_NO_BEST):
            raise VTLMError(
                f"{self._path} was trained with --lr-scheduler {saved}, whose state {ours} cannot take over; go on "
                f"with {saved}, or begin the schedule anew, at the same update, with --reset-lr-scheduler"
            )
        logger.warning("--lr-scheduler is %s from here on; %s was trained with %s", ours, self._path, saved)

    def _warn_of_unread(self) -> None:
        """Name what a used ``--save-dir`` or ``--restore-file`` makes this command ignore, with both names."""
        named, tuned = self._options.restore_file != "checkpoint_last.pt", self._options.finetune_from_model
        for option, ours, theirs in (
            ("--pretrained", self._whole.model.get("pretrained"), self._saved("model").get("pretrained")),
            ("--finetune-from-model", tuned, self._saved("checkpoint").get("finetune_from_model")),
        ):
            if ours and not _same_file(ours, theirs):
                began = f"began from {theirs}" if theirs else "did not begin from it"
                logger.warning(
                    "%s %s is not read: this training goes on from %s, which %s; to begin from %s %s",
                    option, ours, self._path, began, ours,
                    "leave out --restore-file" if named else "choose another --save-dir",
                )  # fmt: skip
        if named:
            return
        task, saved = self._whole.task, self._saved("task")
        for name, before, now in (("data", "on", "with"), ("regions", "with --regions", "with --regions")):
            ours, theirs = task.get(name), saved.get(name)
            if ours and theirs and not _same_file(ours, theirs):
                logger.warning(
                    "%s was trained %s %s, it goes on %s %s; for a run of its own choose another --save-dir",
                    self._path, before, theirs, now, ours,
                )  # fmt: skip
        for name in CORPORA if task.get("lang_pairs") and saved.get("lang_pairs") else CORPORA[:1]:
            ours, theirs = task.get(name), saved.get(name)
            if ours != theirs:
                logger.warning(
                    "%s was trained %s, it goes on %s; for a run of its own choose another --save-dir",
                    self._path, _with(name, theirs), _with(name, ours),
                )  # fmt: skip
        seed, theirs = self._whole.common.seed, self._saved("common").get("seed")
        if theirs not in (None, seed):
            logger.warning(
                "--seed %s: this training goes on from %s, which has seed %s; for a run of its own choose another "
                "--save-dir",
                seed, self._path, theirs,
            )  # fmt: skip

    def check_position(self, batches: EpochBatchIterator, examples: int) -> None:
        """Compare the place within an epoch, which fairseq keeps as a number of batches, with the epoch's batches.

        Args:
            batches: of the training set.
            examples: their number.

        Raises:
            VTLMError: the epoch has fewer batches than were trained on.
        """
        done = self._position.get("iterations_in_epoch", 0)
        if done == 0 or self._options.reset_dataloader:
            return
        changes = [
            f"--{name.replace('_', '-')} {self._saved(group)[name]} -> {self._whole[group][name]}"
            for group, names in BATCHES.items()
            for name in names
            if name in self._whole[group]
            and self._saved(group).get(name, self._whole[group][name]) != self._whole[group][name]
        ]
        if self._examples not in (None, examples):
            changes.append(f"{self._examples} -> {examples} examples")
        where = f"{self._path} stopped after {done} batches of an epoch"
        why = f" ({', '.join(changes)})" if changes else ""
        if done >= len(batches):
            raise VTLMError(
                f"{where}, which has {len(batches)} here{why}; go on with the batches of the first call, or begin the "
                "epochs anew with --reset-dataloader"
            )
        if changes:
            logger.warning(
                "%s, whose batches are others here%s: in this epoch some examples are trained on twice, others not at "
                "all; --reset-dataloader begins the epochs anew",
                where, why,
            )  # fmt: skip


def _mapping(found) -> Mapping:
    """A part of a checkpoint that should be a mapping, or (in older ones) a Namespace; empty if it is neither."""
    found = vars(found) if isinstance(found, Namespace) else found
    return found if isinstance(found, Mapping) else {}


def _with(name: str, value) -> str:
    flag = f"--{name.replace('_', '-')}"
    return f"without {flag}" if value is None else f"with {flag} {value}"


def _same_file(one: str, other: str | None) -> bool:
    """Whether two paths, or those of several corpora, are the same, or lead to the same files."""
    if other is None or one == other:
        return one == other
    ours, theirs = ([os.path.realpath(path) for path in utils.split_paths(paths)] for paths in (one, other))
    return ours == theirs
