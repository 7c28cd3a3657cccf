"""fairseq-train that gets signals at an update, from another process, as from a scheduler of jobs.

``SIGNAL_AT=7:TERM:group``: within the seventh update, after its backward pass, to this process and all that
it has started; ``...:self``: to this process only; more, separated by spaces. ``7:TERM:self:2.5``: 2.5 seconds later.
``SIGNAL_RANK``: the rank that does so. ``RANKS=2`` lets fairseq spawn two ranks on the CPU, and sends to the process
that waits for them (``:self``), or to that and the ranks. ``NOHUP=1``: SIGHUP is ignored.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from functools import partial

import torch
import torch.multiprocessing
from fairseq.trainer import Trainer
from fairseq_cli.train import cli_main

RANK = int(os.environ.get("SIGNAL_RANK", 0))


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
    os.setpgid(0, 0)
    if "NOHUP" in os.environ:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    cli_main()
    sys.stdout.flush()
    atexit._run_exitfuncs()  # the command server's children leave without
