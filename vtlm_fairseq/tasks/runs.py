"""A training run beside others: what a task sets up in fairseq before the trainer reads a checkpoint."""

import logging
import os
import sys

from fairseq.checkpoint_utils import save_checkpoint
from fairseq.logging import progress_bar
from omegaconf import DictConfig

from vtlm_fairseq.precision import warn_if_slow
from vtlm_fairseq.tasks.best_checkpoint import BestCheckpoints

LOGGERS = ("fairseq_cli.train", "fairseq.logging.progress_bar")  # that --log-file adds handlers to

_log_files: set[str] = set()  # of the trainings of this process


def whole_config(cfg) -> DictConfig | None:
    """The configuration of the whole command that a task's is a part of: the one that fairseq's trainer reads.

    It is where the task's fields find what they interpolate. None where a task was made by itself.
    """
    root = cfg._get_root() if isinstance(cfg, DictConfig) else None
    return root if root is not None and "checkpoint" in root and "distributed_training" in root else None


def start_run(cfg) -> BestCheckpoints | None:
    """Set up fairseq for the training that begins; returns what keeps its best checkpoints.

    Args:
        cfg: the task's configuration.
    """
    forget_last_run()
    keep_log(cfg)
    whole = whole_config(cfg)
    if whole is None:
        return None
    read_on_all_ranks(whole)
    return BestCheckpoints(whole)


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
    (``--multirun``, a notebook) would have no best checkpoint, stop early, and log into the first one's folder.
    """
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
