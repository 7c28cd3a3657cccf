"""For all tests."""

import gc
import multiprocessing.process
import signal
import sys
from collections.abc import Iterator

import pytest

# A runner that was itself started under nohup, or in the background of a shell, hands ignored signals down to commands.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "coverage" in sys.modules:  # a child that has answered and is ended for it may first write down what it has run
    _kill = multiprocessing.process.BaseProcess.kill

    def _kill_later(process: multiprocessing.process.BaseProcess) -> None:
        process.join(2)
        _kill(process)

    multiprocessing.process.BaseProcess.kill = _kill_later


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported is no garbage: later collections do not look through it, nor copy it in forked children."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
