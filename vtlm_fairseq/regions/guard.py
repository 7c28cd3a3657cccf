"""Find store files on which HDF5 crashes, or from which it does not come back, before a process opens them itself."""

import os
import select
import signal
import warnings
from collections.abc import Sequence

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.schema import read_strings

PATIENCE_SECONDS = 300.0  # for one file


def check_openable(paths: Sequence[str]) -> None:
    """Open store files in a child process and read all that is text in them, which is where damage stops HDF5.

    Any other fault of a file is left to the caller, who meets it too. Costs a fork and little reading.

    Raises:
        VTLMError: HDF5 ends the child or is not done with a file after five minutes (named).
    """
    receiver, sender = os.pipe()
    with warnings.catch_warnings():  # the child starts no threads and needs none; Python 3.12 warns of any fork
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _read_all(paths, sender)
    os.close(sender)
    done, how = 0, ""
    try:
        while done < len(paths):
            if not select.select([receiver], [], [], PATIENCE_SECONDS)[0]:
                how = f"does not come back within {PATIENCE_SECONDS:g} s"
                break
            if not (read := len(os.read(receiver, 1 << 16))):
                how = "crashes"
                break
            done += read
    finally:
        os.close(receiver)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if how:
        raise VTLMError(
            f"{paths[done]}: HDF5 {how} while it opens the file; the file is damaged, write or copy it again"
        )


def _read_all(paths: Sequence[str], sender: int) -> None:
    """In the child: a byte for each file that has been read, then its end."""
    try:
        for path in paths:
            try:
                read_strings(path)
            except Exception:
                pass  # a line for the user, in the parent
            os.write(sender, b".")
    finally:
        os._exit(0)
