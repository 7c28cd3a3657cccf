"""One training at a time in a folder of checkpoints."""

import atexit
import os
import socket
import time
import weakref

from filelock import FileLock, Timeout

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

NAME = ".training.lock"
WAIT_SECONDS = 30.0

_held: list["FolderLock"] = []  # of this process, which trains once at a time


class FolderLock:
    """A lock on a folder, which says who holds it. The system opens it when its process ends, however it ends.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: str) -> None:
        self._path, self._process = os.path.join(os.path.abspath(folder), NAME), os.getpid()
        try:
            # where a file system has no locks, a mark in their place would outlive a killed run
            self._lock = FileLock(self._path, thread_local=False, fallback_to_soft=False)
        except TypeError:  # an older filelock
            self._lock = FileLock(self._path, thread_local=False)

    def acquire(self, wait: float = WAIT_SECONDS) -> None:
        """Take the lock.

        Args:
            wait: seconds to wait for the loader workers of a training that was killed, which still have its files open.

        Raises:
            VTLMError: another training has it.
        """
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        deadline = time.monotonic() + wait
        while True:
            owner = self._owner()  # before it is tried: filelock used to empty the file
            try:
                self._lock.acquire(timeout=0)
                break
            except Timeout:
                if _is_alive(owner):
                    raise VTLMError(
                        f"--save-dir {os.path.dirname(self._path)}: another training is in it ({owner or 'unknown'}), "
                        "whose checkpoints would mix with this one's; end it, or choose another --save-dir"
                    ) from None
                if time.monotonic() > deadline:
                    logger.warning("%s is held by what is left of a killed training (%s)", self._path, owner)
                    return
                time.sleep(0.5)
            except (OSError, NotImplementedError) as error:
                logger.warning(
                    "%s: no lock (%s): nothing keeps a second training out of this folder", self._path, reason(error)
                )
                return
        with open(self._path, "w", encoding="utf-8") as file:
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')}\n")

    def release(self) -> None:
        """Give the lock back; in a forked child, which shares it, do nothing."""
        if os.getpid() == self._process:
            self._lock.release()

    def _owner(self) -> str:
        try:
            with open(self._path, encoding="utf-8", errors="replace") as file:
                return file.read(200).strip()
        except OSError:
            return ""


def _is_alive(owner: str) -> bool:
    """Whether the process that wrote its name may still run; True where one cannot tell."""
    words = owner.split()
    if len(words) < 4 or not words[1].isdigit() or words[3].rstrip(",") != socket.gethostname():
        return True
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def lock_folder(folder: str, task) -> None:
    """Lock a folder for a training of this process, until the next one, or until its task is gone.

    Args:
        folder: of the checkpoints.
        task: the training's.

    Raises:
        VTLMError: another process trains in it.
    """
    open_folder()
    lock = FolderLock(folder)
    lock.acquire()
    _held.append(lock)
    weakref.finalize(task, lock.release).atexit = False


@atexit.register
def open_folder() -> None:
    """Give back the lock of the last training of this process."""
    while _held:
        _held.pop().release()
