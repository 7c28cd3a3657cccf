"""Which file a path names: one that is remade under a running command is refused, or said, and never read for the old.

Rows and offsets are taken from a file once, at start-up; loader workers open it again, by its path, in each epoch.
"""

import multiprocessing
import os
from collections.abc import Iterable
from typing import NamedTuple

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)


class FileIdentity(NamedTuple):
    """What changes when a file is replaced, or written to: device, inode, bytes, and time of change in ns."""

    device: int
    inode: int
    size: int
    mtime: int


def identify(file: str | int) -> FileIdentity:
    """Identity of the file under a path, or of an open one by its descriptor.

    Raises:
        VTLMError: no such file any more.
    """
    try:
        found = os.stat(file)
    except OSError as error:
        raise VTLMError(f"{file}: is gone ({error.strerror}) while a command reads it; put it back") from None
    return FileIdentity(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def check_unchanged(path: str, known: FileIdentity, found: FileIdentity, *, same: bool = True) -> None:
    """Compare a file with what it was when it was first opened.

    Some network file systems number their files anew: another device or inode alone is no change, unless the caller
    knows better.

    Args:
        path: the file.
        known: its identity then.
        found: its identity now.
        same: whether what is in it is the same, as far as the caller knows.

    Raises:
        VTLMError: it is another file, or was written to.
    """
    if is_changed(known, found) or not same:
        how = "replaced" if is_other(known, found) else "written to"
        raise VTLMError(
            f"{path}: was {how} since this command opened it, and may hold other data in the same places; leave files "
            "alone while they are read, and give the same command again"
        )


def is_other(known: FileIdentity, found: FileIdentity) -> bool:
    """Whether a path seems to name another file now."""
    return (found.device, found.inode) != (known.device, known.inode)


def is_changed(known: FileIdentity, found: FileIdentity) -> bool:
    """Whether a file has other bytes, or was written to."""
    return (found.size, found.mtime) != (known.size, known.mtime)


class WatchedFiles:
    """Files of text that stay mapped into memory while a command runs, and lists that are read anew with them."""

    def __init__(self) -> None:
        self._known: dict[str, FileIdentity] = {}
        self._mapped: set[str] = set()

    def note(self, paths: Iterable[str], *, mapped: bool) -> None:
        """Remember files that are about to be read.

        Args:
            paths: the files; those that do not exist are passed over.
            mapped: they stay open, and `check` looks at them.

        Raises:
            VTLMError: one was read before, and has changed since.
        """
        for path in map(os.path.abspath, paths):
            if os.path.exists(path):
                found = identify(path)
                check_unchanged(path, self._known.setdefault(path, found), found)
                if mapped:
                    self._mapped.add(path)

    def check(self) -> None:
        """Look at the mapped files again.

        One that was replaced stays mapped as it was, in forked loader workers too; a resumed run reads the new one, of
        which a warning tells once.

        Raises:
            VTLMError: one was written to, or was replaced and workers open it anew.
        """
        for path in sorted(self._mapped):
            known = self._known[path]
            found = identify(path) if os.path.exists(path) else None
            replaced = found is None or (is_other(known, found) and is_changed(known, found))
            if replaced and multiprocessing.get_start_method() == "fork":
                logger.warning(
                    "%s was replaced or removed: this run goes on with the file that it opened, a resumed run does not",
                    path,
                )
                self._mapped.remove(path)
            else:
                check_unchanged(path, known, identify(path))
