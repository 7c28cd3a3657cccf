"""A training run beside others: what a task sets up in fairseq before the trainer reads a checkpoint."""

import logging

from omegaconf import DictConfig

logger = logging.getLogger(__name__)


def whole_config(cfg) -> DictConfig | None:
    """The configuration of the whole command that a task's is a part of: the one that fairseq's trainer reads.

    It is where the task's fields find what they interpolate. None where a task was made by itself.
    """
    root = cfg._get_root() if isinstance(cfg, DictConfig) else None
    return root if root is not None and "checkpoint" in root and "distributed_training" in root else None


def start_run(cfg) -> None:
    """Set up fairseq for the training that begins.

    Args:
        cfg: the task's configuration.
    """
    whole = whole_config(cfg)
    if whole is None:
        return
    read_on_all_ranks(whole)


def read_on_all_ranks(whole: DictConfig) -> None:
    """Let each rank read the checkpoint.

    fairseq's first rank sends what it has read to the others, who refuse the classes of omegaconf in it since torch
    loads in its restricted mode. To allow them would allow them in every checkpoint. fairseq needs the file on all
    ranks either way.
    """
    if whole.distributed_training.distributed_world_size > 1:
        whole.checkpoint.load_checkpoint_on_all_dp_ranks = True
