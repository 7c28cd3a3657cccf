"""fairseq-train that ends itself by SIGKILL, with the workers of its loader, at the place that ``KILL_AT`` names.

``step:3``: within the third update, after the backward pass. ``validation:2``: in its second batch. ``saving:2``: when
half of the second checkpoint is written. ``copying:1``: when half of the first copy of one is.
"""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main


def killed(function: Callable, number: int, last_words: Callable) -> Callable:
    """A function whose call of that number does something else, and is the last."""
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            last_words(*args)
            os.killpg(0, signal.SIGKILL)
        return function(*args, **kwargs)

    return counted


def half_of_a_checkpoint(state: dict, file) -> None:
    """What a kill while saving leaves."""
    whole = io.BytesIO()
    torch.save(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()


def half_of_a_copy(source: str, target: str) -> None:
    """What a kill while copying leaves."""
    data = Path(source).read_bytes()
    Path(target).write_bytes(data[: len(data) // 2])


def nothing(*args) -> None:
    """Killed at once."""


if __name__ == "__main__":
    os.setpgid(0, 0)
    place, number = os.environ["KILL_AT"].split(":")
    owner, name, last_words = {
        "step": (Trainer, "clip_grad_norm", nothing),
        "validation": (Trainer, "valid_step", nothing),
        "saving": (checkpoint_utils, "_torch_persistent_save", half_of_a_checkpoint),
        "copying": (PathManager, "copy", half_of_a_copy),
    }[place]
    setattr(owner, name, killed(getattr(owner, name), int(number), last_words))
    cli_main()
