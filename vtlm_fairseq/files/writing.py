"""The one place that writes files and folders whole: they appear under their name when they are complete.

A file is written under a temporary name of its own beside the target, and renamed; a folder likewise. A symbolic link
stays a link and what it names is replaced. What is no file (`/dev/stdout`, a pipe) is written straight. A lock beside
the target keeps two runs apart; whoever holds it removes what killed runs left. Nothing is removed that was not made
here.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from filelock import FileLock, Timeout

from vtlm_fairseq.errors import FULL, VTLMError, reason

MARKER = ".vtlm-fairseq"
"""A file in every folder of ours that is not complete; a folder without it is another's."""

_TEMPORARY, _LOCK = ".vtlm-tmp", ".vtlm-lock"
_WAIT_SECONDS = 10.0  # for another run that writes the same file, where writing is all it does under the lock
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of some network disks
_LONGEST = 150  # bytes of a name that are repeated in temporary names
_DESCRIPTOR = re.compile(r"/proc/(\d+)(?:/task/\d+)?/fd/(\d+)")

PathLike = str | os.PathLike[str]
logging.getLogger("filelock").setLevel(logging.WARNING)  # fairseq sets the root logger to DEBUG
_held: set[tuple[int, str]] = set()  # process, and the target that it has locked
_living: set[str] = set()  # temporary names of this process


def check_writable(path: PathLike, *, label: str | None = None, parents: bool = False, streams: bool = True) -> None:
    """Find out before the work that a file cannot be written.

    Args:
        path: of the file.
        label: what messages call it, such as ``--out FILE``; default: the path.
        parents: its folder will be made.
        streams: it may be a device or a pipe.

    Raises:
        VTLMError: it is a folder, its folder is missing or cannot be written, or it may not be replaced itself.
    """
    label = label or os.fspath(path)
    if not os.fspath(path):
        raise VTLMError(f"{label}: the name is empty; name a file")
    if os.path.isdir(path):
        raise VTLMError(f"{label}: is a folder; name a file in it")
    if os.path.exists(path):
        if not os.access(path, os.W_OK):
            raise VTLMError(f"{label}: cannot be written ({_why_not(path)})")
        if is_stream(path):
            if streams:
                return
            raise VTLMError(f"{label}: is no regular file, and what is written cannot be a stream; name a file")
    folder = os.path.dirname(os.path.realpath(path))
    while parents and not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise VTLMError(f"{label}: cannot be written ({os.strerror(errno.ENOTDIR)})")
        raise VTLMError(
            f"{label}: cannot be written ({os.strerror(errno.ENOENT)}): folder {folder} does not exist; make it first"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise VTLMError(f"{label}: cannot be written ({_why_not(folder)}): no right to write in {folder}")
    try:  # rights are not all: of some file systems nobody may make a file
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if error.errno not in FULL:  # what is replaced may make room
            raise VTLMError(f"{label}: cannot be written ({reason(error)}): no file can be made in {folder}") from None


def _why_not(path: PathLike) -> str:
    read_only = os.statvfs(path).f_flag & os.ST_RDONLY
    return os.strerror(errno.EROFS if read_only else errno.EACCES)


def is_stream(path: PathLike) -> bool:
    """Whether a path is written straight: a device, a pipe, a socket, or a descriptor such as ``/dev/stdout``."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) or _descriptor(path) is not None


def _descriptor(path: PathLike) -> tuple[int, int] | None:
    """Process and number where a path names an open descriptor, through links too."""
    current = os.path.abspath(path)
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(current)
        current = os.path.join(os.path.realpath(folder), name)
        if found := _DESCRIPTOR.fullmatch(current):
            return int(found[1]), int(found[2])
        if not os.path.islink(current):
            return None
        current = os.path.normpath(os.path.join(os.path.dirname(current), os.readlink(current)))
    return None


def _open_stream(path: PathLike, mode: str, **options: str) -> IO:
    found = _descriptor(path)
    if found is None or found[0] != os.getpid():
        return open(path, mode, **options)
    sys.stdout.flush()  # what was printed there comes before
    return open(os.dup(found[1]), mode, **options)  # opened anew, a file behind it would be begun again


@contextmanager
def locked(path: PathLike, *, label: str | None = None, wait: float = 0.0) -> Iterator[bool]:
    """Keep other runs from writing a file or folder at the same time; remove what killed ones left of it.

    The lock ends with the process, also with one that is killed. Within a process it may be taken again.

    Args:
        path: what is to be written; its folder must exist.
        label: what messages call it; default: the path.
        wait: seconds to wait for another run.

    Yields:
        Whether it is locked: some network disks have no locks.

    Raises:
        VTLMError: another run has it (its process is named), or the folder cannot be written.
    """
    label, target = label or os.fspath(path), os.path.realpath(path)
    key = (os.getpid(), target)
    if key in _held:
        yield True
        return
    folder, name = os.path.split(target)
    file = os.path.join(folder, f".{_short(name)}{_LOCK}")
    lock = FileLock(file, timeout=wait, mode=0o666, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        if not os.path.exists(file):  # of a folder in which nothing can be made, such as /proc
            raise cannot_be_written(label, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))) from None
        raise VTLMError(
            f"{label}: another process is writing it ({_holder(file)}); wait for its end or choose another name"
        ) from None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise cannot_be_written(label, error) from None
    if not lock.is_locked:
        yield False
        return
    _held.add(key)
    try:
        with suppress(OSError):
            Path(file).write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        _remove_leftovers(folder, name)
        yield True
    finally:
        _held.discard(key)
        with suppress(OSError):
            os.unlink(file)
        lock.release()


def _holder(lock: str) -> str:
    try:
        text = Path(lock).read_text(encoding="utf-8", errors="replace")[:200].strip()
    except OSError:
        text = ""
    return f"{text or 'its number is not known'}, lock {lock}"


def _short(name: str) -> str:
    """A name that leaves room for what is put around it."""
    raw = os.fsencode(name)
    return name if len(raw) <= _LONGEST else f"{hashlib.sha256(raw).hexdigest()[:40]}"


def _new_name(target: str) -> str:
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{_short(name)}.{secrets.token_hex(6)}{_TEMPORARY}")


def _remove_leftovers(folder: str, name: str) -> None:
    """Under the lock of a target: no living run has a temporary name of it."""
    ours = re.compile(rf"\.{re.escape(_short(name))}\.[0-9a-f]{{12}}{re.escape(_TEMPORARY)}")
    with os.scandir(folder) as entries:
        found = [entry.path for entry in entries if ours.fullmatch(entry.name)]
    for path in found:
        if path in _living:
            continue
        with suppress(OSError):
            if not os.path.isdir(path) or os.path.islink(path):
                os.unlink(path)
            elif os.path.isfile(os.path.join(path, MARKER)):
                remove_folder(path)
            else:
                os.rmdir(path)  # killed before it was marked; only if it is empty


def remove_folder(path: PathLike) -> None:
    """Remove a folder that bears our marker, which goes last: what is left of a killed removal is known for ours."""
    if not os.path.isfile(os.path.join(path, MARKER)):
        raise FileNotFoundError(errno.ENOENT, "not a folder of vtlm-fairseq", os.fspath(path))
    for entry in list(os.scandir(path)):
        if entry.name != MARKER:
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
    shutil.rmtree(path)


class WholeFile:
    """A temporary name beside a file that becomes the file when the block ends without an exception.

    For writers that need a name; others take `whole_file`.

    Args:
        path: the file to make or to replace.
        label: what messages call it; default: the path.
        parents: make its folder.
        wait: seconds to wait for another run that writes it.

    Attributes:
        temporary: where to write.

    Raises:
        VTLMError: it cannot be written, or another run is at it.
    """

    def __init__(
        self, path: PathLike, *, label: str | None = None, parents: bool = False, wait: float = _WAIT_SECONDS
    ) -> None:
        self.path, self.label = os.fspath(path), label or os.fspath(path)
        self.temporary = ""
        self._parents, self._wait = parents, wait
        self._target = os.path.realpath(path)
        self._stack = ExitStack()

    def __enter__(self) -> WholeFile:
        check_writable(self.path, label=self.label, parents=self._parents, streams=False)
        try:
            if self._parents:
                os.makedirs(os.path.dirname(self._target), exist_ok=True)
            self._stack.enter_context(locked(self._target, label=self.label, wait=self._wait))
            self.temporary = _new_name(self._target)
            _living.add(self.temporary)
            self._stack.callback(self._remove)
            descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask, as open()
            try:
                self._adopt(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as error:
            self._stack.close()
            if isinstance(error, OSError):
                raise cannot_be_written(self.label, error) from None
            raise
        return self

    def _adopt(self, descriptor: int) -> None:
        """Owner and rights of the file that is replaced."""
        with suppress(OSError):
            before = os.stat(self._target)
            with suppress(OSError):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                with faults_of_writing(self.label, self.temporary):
                    _to_disk(self.temporary)
                    os.replace(self.temporary, self._target)
                _to_disk(os.path.dirname(self._target), required=False)

    def _remove(self) -> None:
        with suppress(OSError):
            os.unlink(self.temporary)
        _living.discard(self.temporary)


@contextmanager
def whole_file(
    path: PathLike, mode: str = "w", *, label: str | None = None, parents: bool = False, wait: float = _WAIT_SECONDS
) -> Iterator[IO]:
    r"""Open a file that appears whole or not at all; a stream is opened as it is. Text is UTF-8, with ``\n``.

    Args:
        path: the file to make or to replace.
        mode: ``w`` or ``wb``.
        label: what messages call it; default: the path.
        parents: make its folder.
        wait: seconds to wait for another run that writes it.

    Raises:
        VTLMError: it cannot be written, or another run is at it.
    """
    label = label or os.fspath(path)
    options = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    if is_stream(path):
        with faults_of_writing(label, os.fspath(path)), _open_stream(path, mode, **options) as file:
            yield file
        return
    with WholeFile(path, label=label, parents=parents, wait=wait) as whole:
        with faults_of_writing(label, whole.temporary), open(whole.temporary, mode, **options) as file:
            yield file


def write_text(path: PathLike, text: str, *, label: str | None = None, parents: bool = False) -> None:
    """Write a text file whole.

    Raises:
        VTLMError: it cannot be written.
    """
    with whole_file(path, label=label, parents=parents) as file:
        file.write(text)


def write_lines(path: PathLike, lines: Iterable[str], *, label: str | None = None) -> None:
    r"""Write lines in UTF-8, each ended by ``\n``, whole.

    Raises:
        VTLMError: it cannot be written.
    """
    with whole_file(path, label=label) as file:
        file.writelines(f"{line}\n" for line in lines)


def copy_file(source: PathLike, target: PathLike, *, label: str | None = None, parents: bool = False) -> None:
    """Copy a file's content whole.

    Raises:
        VTLMError: it cannot be written.
    """
    with open(source, "rb") as file, whole_file(target, "wb", label=label, parents=parents) as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def check_new_folder(path: PathLike) -> None:
    """Find out before the work that a folder cannot be made.

    Raises:
        VTLMError: it exists, or may not be made.
    """
    if os.path.lexists(os.path.realpath(path)):
        raise VTLMError(f"{path}: exists already; remove it or choose another --out")
    check_writable(path, parents=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder whole or not at all: the block fills a folder beside it, which becomes `path` at its end.

    Raises:
        VTLMError: `path` exists, cannot be made, or another run makes it; a full disk in the block.
    """
    target = Path(os.path.realpath(path))
    check_new_folder(path)
    with ExitStack() as stack:
        temporary = _new_name(os.fspath(target))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(target))
            check_new_folder(path)
            _living.add(temporary)
            stack.callback(_living.discard, temporary)
            os.mkdir(temporary)
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            Path(temporary, MARKER).touch()
        except OSError as error:
            raise VTLMError(f"{path}: cannot be made ({reason(error)}); choose another --out") from None
        try:
            yield Path(temporary)
        except OSError as error:
            if error.errno in FULL and os.fsdecode(error.filename or temporary).startswith(temporary):
                raise cannot_be_written(os.fspath(path), error) from None
            raise
        except VTLMError as error:  # of a file in it, under the name that is asked for
            raise VTLMError(str(error).replace(temporary, os.fspath(path))) from None
        for folder, _, names in os.walk(temporary):
            for name in names:
                _to_disk(os.path.join(folder, name), required=False)
        os.rename(temporary, target)
        os.unlink(target / MARKER)
        _to_disk(os.fspath(target.parent), required=False)


def mark_folder(path: Path) -> None:
    """Make a folder that bears our marker, or take one that does.

    Raises:
        VTLMError: it is there without the marker: another's.
        OSError: it cannot be made.
    """
    if not path.is_dir():
        path.mkdir()
        (path / MARKER).touch()
    elif not (path / MARKER).is_file():
        if any(path.iterdir()):
            raise VTLMError(
                f"{path}: is a folder of something else (no {MARKER} in it); move it, or choose another --out"
            )
        (path / MARKER).touch()


def _to_disk(path: str, *, required: bool = True) -> None:
    """What a power cut would lose is written: else the name may outlive the content."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if required and error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


@contextmanager
def faults_of_writing(label: str, path: str) -> Iterator[None]:
    """Turn the system's error on writing `path` into one line; errors on other files pass, and closed pipes.

    Raises:
        VTLMError: it cannot be written.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename not in (None, path):
            raise
        raise cannot_be_written(label, error) from None
    except RuntimeError as error:
        if not isinstance(error.__context__, OSError):
            raise
        # torch says how far it came, the system why no further
        raise cannot_be_written(label, error.__context__) from None


def cannot_be_written(label: str, error: OSError) -> VTLMError:
    """The one line for what the system says."""
    more = "; make room and give the same command again" if error.errno in FULL else ""
    return VTLMError(f"{label}: cannot be written ({reason(error)}){more}")
