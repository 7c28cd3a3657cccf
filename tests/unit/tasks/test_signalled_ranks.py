"""A command that spawns ranks hands SIGTERM on to them, and ends after them with its status."""

import os
import signal
import threading
import time

import pytest
from forks import fork
from torch.multiprocessing import start_processes

from vtlm_fairseq.tasks.preemption import pass_on_to_ranks


def rank(number: int) -> None:
    """Asks for the end of the whole; ends when it is asked to."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if number == 0:
        time.sleep(0.1)
        os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)


def command(spawns: bool) -> int:
    """The process of a command."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    thread = threading.Thread(target=pass_on_to_ranks)  # changes nothing
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    pass_on_to_ranks()
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if not spawns:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    try:
        start_processes(rank, nprocs=2, start_method="fork")
    except SystemExit as end:
        return end.code
    return 1


@pytest.mark.parametrize(("spawns", "status"), [(True, 128 + signal.SIGTERM), (False, -signal.SIGTERM)])
def test_sigterm(spawns, status):
    """With ranks it waits for them; without it ends at once, as any process does."""
    _, ended = os.waitpid(fork(lambda: command(spawns)), 0)
    assert os.waitstatus_to_exitcode(ended) == status
