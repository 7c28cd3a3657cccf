"""For all tests."""

import gc
import signal

# A runner that was itself started under nohup, or in the background of a shell, hands ignored signals down to commands.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """What is imported stays: collections of garbage, and those of forked children, need not look through it."""
    gc.freeze()
