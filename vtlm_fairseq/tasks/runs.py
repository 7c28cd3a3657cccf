"""A training run beside others: what a task sets up in fairseq before the trainer reads a checkpoint."""

import logging
import os
import sys

from fairseq.checkpoint_utils import save_checkpoint
from fairseq.data.iterators import EpochBatchIterator
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import progress_bar
from omegaconf import DictConfig
from torch import distributed as dist

from vtlm_fairseq.checkpoints import load_checkpoint
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.precision import check_training, warn_if_slow
from vtlm_fairseq.tasks.best_checkpoint import BestCheckpoints
from vtlm_fairseq.tasks.folder_lock import lock_folder, open_folder
from vtlm_fairseq.tasks.preemption import StopOnSignal
from vtlm_fairseq.tasks.resume import Resumption
from vtlm_fairseq.tasks.time_left import TimeLeft

LOGGERS = ("fairseq_cli.train", "fairseq.logging.progress_bar")  # that --log-file adds handlers to

NO_EPOCHS = -1  # as ``--max-epoch``

_log_files: set[str] = set()  # of the trainings of this process
_without_epochs: list[tuple[DictConfig, int]] = []  # options of those that were complete, with what they had given


def whole_config(cfg) -> DictConfig | None:
    """The configuration of the whole command that a task's is a part of: the one that fairseq's trainer reads.

    It is where the task's fields find what they interpolate. None where a task was made by itself.
    """
    root = cfg._get_root() if isinstance(cfg, DictConfig) else None
    return root if root is not None and "checkpoint" in root and "distributed_training" in root else None


class TrainingRun:
    """The training that a task is made for: its best checkpoints, its folder, what it goes on from, its end.

    Args:
        whole: the configuration of the command.

    Raises:
        VTLMError: Python leaves out assert statements, the precision needs another device, or no ranks were started.
    """

    def __init__(self, whole: DictConfig) -> None:
        check_training(whole.common)
        if sys.flags.optimize and not whole.checkpoint.no_save:
            raise VTLMError(
                "python -O (PYTHONOPTIMIZE) leaves out the assert statements in which fairseq writes "
                "checkpoint_last.pt and checkpoint_best.pt; start without it, or with --no-save"
            )
        ranks = whole.distributed_training
        if ranks.distributed_world_size > 1 and ranks.distributed_port > 0 and not dist.is_initialized():
            raise VTLMError(
                f"--distributed-port {ranks.distributed_port}: with it fairseq-train starts no ranks, and none on "
                "a CPU; leave it out on GPUs, or start the ranks with torchrun (docs/scaling.md)"
            )
        self._whole = whole
        self.best = BestCheckpoints(whole)
        self.stop = StopOnSignal(whole)
        self.time_left = TimeLeft(whole)
        self._resumption: Resumption | None = None
        read_on_all_ranks(whole)

    @classmethod
    def start(cls, cfg) -> "TrainingRun | None":
        """Set up fairseq for the training that begins; None where a task was made by itself.

        Args:
            cfg: the task's configuration.
        """
        forget_last_run()
        keep_log(cfg)
        whole = whole_config(cfg)
        return None if whole is None else cls(whole)

    def lock(self, task) -> None:
        """Keep other trainings out of the folder of the checkpoints.

        Raises:
            VTLMError: there is one in it.
        """
        if not self._whole.checkpoint.no_save and distributed_utils.get_global_rank() == 0:
            lock_folder(self._whole.checkpoint.save_dir, task)

    def check(self, task, criterion) -> None:
        """Check the options that depend on the criterion, and on the checkpoint that the trainer is about to restore.

        Raises:
            VTLMError: they cannot work.
        """
        self.best.check(task, criterion)
        if restored := task.restored_checkpoint():
            self._resumption = Resumption(restored, load_checkpoint(restored, mmap=True), self._whole)
            self._resumption.check(criterion)
            if self._resumption.complete():
                _without_epochs.append((self._whole.optimization, self._whole.optimization.max_epoch))
                self._whole.optimization.max_epoch = NO_EPOCHS
                task.complete_best()

    def check_batches(self, batches: EpochBatchIterator, examples: int) -> None:
        """Check the place within the epoch that a training goes on from, when its first batches are made.

        Raises:
            VTLMError: these batches have no such place.
        """
        self.stop.follow(batches)
        self.time_left.follow(batches)
        resumption, self._resumption = self._resumption, None
        if resumption is not None:
            resumption.check_position(batches, examples)


def read_on_all_ranks(whole: DictConfig) -> None:
    """Let each rank read the checkpoint.

    fairseq's first rank sends what it has read to the others, who refuse the classes of omegaconf in it since torch
    loads in its restricted mode. To allow them would allow them in every checkpoint. fairseq needs the file on all
    ranks either way.
    """
    if whole.distributed_training.distributed_world_size > 1:
        whole.checkpoint.load_checkpoint_on_all_dp_ranks = True


def forget_last_run() -> None:
    """Forget what a training before this one, in the same process, has left in fairseq.

    fairseq keeps the best score, the count of ``--patience`` and the writers of TensorBoard for good: the next training
    (``--multirun``, a notebook) would have no best checkpoint, stop early, and log into the first one's folder. Of a
    training that was complete, the configuration is as given again, since it may be that of the next.
    """
    open_folder()
    for options, given in _without_epochs:
        if options.max_epoch == NO_EPOCHS:
            options.max_epoch = given
    _without_epochs.clear()
    functions = [save_checkpoint]
    if train := sys.modules.get("fairseq_cli.train"):
        functions.append(train.should_stop_early)
    for function in functions:
        for name in ("best", "num_runs"):
            if hasattr(function, name):
                delattr(function, name)
    writers = getattr(progress_bar, "_tensorboard_writers", {})
    for writer in writers.values():
        writer.close()
    writers.clear()
    warn_if_slow.cache_clear()


def keep_log(cfg) -> None:
    """Leave one handler of each of fairseq's loggers that writes to ``--log-file``, and none of earlier trainings.

    fairseq adds one at each training, and another at each epoch, and removes none.

    Args:
        cfg: the task's configuration.
    """
    whole = whole_config(cfg)
    current = os.path.abspath(whole.common.log_file) if whole is not None and whole.common.log_file else None
    _log_files.update({current} if current else ())
    for logger in map(logging.getLogger, LOGGERS):
        handlers = [one for one in logger.handlers if getattr(one, "baseFilename", None) in _log_files]
        newest = [one for one in handlers if one.baseFilename == current][-1:]
        for handler in handlers:
            if handler not in newest:
                logger.removeHandler(handler)
                handler.close()
