"""fairseq-train, leader of its process group, that is killed or gets signals at moments that the environment names.

``KILL_AT``: SIGKILL, also to the workers of its loader. ``step:3``: within the third update, after the backward pass.
``validation:2``: in its second batch. ``saving:2``: when half of the second checkpoint is written. ``copying:1``: when
half of the first copy of one is.
``SIGNAL_AT=7:TERM:group``: from another process, as from a scheduler of jobs, within the seventh update, after its
backward pass, to this process and all that it has started; ``...:self``: to this process only; more, separated by
spaces. ``7:TERM:self:2.5``: 2.5 seconds later. ``SIGNAL_RANK``: the rank that does so. ``RANKS=2`` lets fairseq spawn
two ranks on the CPU, and sends to the process that waits for them (``:self``), or to that and the ranks. ``NOHUP=1``:
SIGHUP is ignored.
"""

import atexit
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.multiprocessing
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

RANK = int(os.environ.get("SIGNAL_RANK", 0))


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


def kill_at(place: str, number: str) -> None:
    """Make the call of that number the last."""
    owner, name, last_words = {
        "step": (Trainer, "clip_grad_norm", lambda *args: None),
        "validation": (Trainer, "valid_step", lambda *args: None),
        "saving": (checkpoint_utils, "_torch_persistent_save", half_of_a_checkpoint),
        "copying": (PathManager, "copy", half_of_a_copy),
    }[place]
    setattr(owner, name, killed(getattr(owner, name), int(number), last_words))


def deliver(name: str, whom: str, delay: str = "0") -> None:
    """Send a signal, and wait until it has come."""
    time.sleep(float(delay))
    starter = os.getppid() if "RANKS" in os.environ else os.getpid()
    target = -os.getpgid(0) if whom == "group" else starter
    subprocess.run(["kill", f"-{name}", "--", str(target)], start_new_session=True, check=True)
    time.sleep(0.3)  # a launcher may pass it on


def listen() -> None:
    """Send at the updates that ``SIGNAL_AT`` names."""
    clip = Trainer.clip_grad_norm

    def counted(self, *args):
        for moment in os.environ.get("SIGNAL_AT", "").split():
            update, *rest = moment.split(":")
            if (int(update), RANK) == (self.get_num_updates() + 1, self.cfg.distributed_training.distributed_rank):
                deliver(*rest)
        return clip(self, *args)

    Trainer.clip_grad_norm = counted


listen()  # in spawned ranks, too
if "RANKS" in os.environ:
    torch.cuda.device_count = lambda: int(os.environ["RANKS"])
    torch.multiprocessing.spawn = partial(torch.multiprocessing.start_processes, start_method="fork")  # no imports
if __name__ == "__main__":
    if "KILL_AT" in os.environ:
        kill_at(*os.environ["KILL_AT"].split(":"))
    if "NOHUP" in os.environ:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cli_main()
    sys.stdout.flush()
    atexit._run_exitfuncs()  # forked children leave without
