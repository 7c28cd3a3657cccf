"""Read foreign files in a child process: libraries in C can crash on them, never come back, or fill the memory."""

import faulthandler
import mmap
import os
import pickle
import resource
import signal
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.interrupts import keep_memory

PATIENCE_SECONDS = 300.0  # for an answer
_MEMORY = 8 << 30  # bytes that the child may take beyond what it has at its start
_SHARED = 4 << 20  # bytes through which arrays come
_SMALL = 4096  # bytes of an array that takes as long either way
_ALIGNED = 64


class Child:
    """A process that answers one request after the other; each process that asks has its own, made when it asks first.

    Arrays of an answer come through memory that both processes see, as far as they fit, all else through a pipe.

    Args:
        make: called in the child; what it returns answers a request. Requests and answers must be picklable.
        where: the files, for messages.
        memory: bytes that the child may take beyond 8 GiB, such as the size of a file that it maps.
    """

    def __init__(self, make: Callable[[], Callable[[Any], Any]], where: str, *, memory: int = 0) -> None:
        self._make, self._where, self._memory = make, where, memory
        self._owner = self._pid = 0
        self._connection: Connection | None = None
        self._shared: mmap.mmap | None = None

    def ask(self, request: Any) -> Any:
        """The answer to a request.

        Raises:
            VTLMError: it is one in the child, which goes on; or the child crashes, or is silent for five minutes, and
                the next request begins another.
        """
        if self._connection is None or self._owner != os.getpid():
            self._start()
        assert self._connection is not None and self._shared is not None
        how = "crashes"
        try:
            self._connection.send(request)
            if not self._connection.poll(PATIENCE_SECONDS):
                how = f"does not come back within {PATIENCE_SECONDS:g} s"
                raise EOFError
            kind, content = _received(self._connection, self._shared)
        except (EOFError, ConnectionError):
            self.close()
            raise VTLMError(
                f"{self._where}: what reads the file {how}; it is damaged, write or copy it again"
            ) from None
        except BaseException:  # a signal: the answer is of no use to the next request
            self.close()
            raise
        if kind == "fault":
            raise VTLMError(content)
        if kind == "bug":
            raise RuntimeError(content)
        return content

    def close(self) -> None:
        """End the child of this process."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.close()
        if self._owner == os.getpid():
            os.kill(self._pid, signal.SIGKILL)  # it is there, or not yet waited for
            os.waitpid(self._pid, 0)

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def _start(self) -> None:
        self.close()
        ours, theirs = Pipe()
        self._shared = mmap.mmap(-1, _SHARED)  # not before a fork: each process that asks has its own
        with warnings.catch_warnings():  # the child starts no threads before its libraries do
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            ours.close()
            _serve(self._make, theirs, self._shared, self._memory)
        theirs.close()
        self._connection, self._owner, self._pid = ours, os.getpid(), pid


def _serve(make: Callable[[], Callable[[Any], Any]], connection: Connection, shared: mmap.mmap, memory: int) -> None:
    """In the child: answer until the other side has gone."""
    try:
        faulthandler.disable()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (1, 2):
            os.dup2(null, descriptor)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + _MEMORY + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        keep_memory()
        made: list[Callable[[Any], Any]] = []

        def answer(request: Any) -> Any:
            if not made:
                made.append(make())  # what is wrong with the files already here is the answer
            return made[0](request)

        while True:
            _send(connection, shared, _answer(answer, connection.recv()))
    finally:
        os._exit(0)


def _send(connection: Connection, shared: mmap.mmap, content: Any) -> None:
    """Write the arrays of an answer into the shared memory and send where they are, then the rest."""
    places: list[tuple[int, int]] = []
    end = 0

    def share(buffer: pickle.PickleBuffer) -> bool:
        nonlocal end
        raw = buffer.raw()
        if raw.nbytes < _SMALL or end + raw.nbytes > len(shared):
            return True  # it goes with the rest
        shared[end : end + raw.nbytes] = raw
        places.append((end, raw.nbytes))
        end += -(-raw.nbytes // _ALIGNED) * _ALIGNED
        return False

    rest = pickle.dumps(content, protocol=5, buffer_callback=share)
    connection.send((end, places))
    connection.send_bytes(rest)


def _received(connection: Connection, shared: mmap.mmap) -> Any:
    """What `_send` sent; its arrays share one copy of what was in the shared memory."""
    end, places = connection.recv()
    with memoryview(shared) as view:
        copy = memoryview(bytearray(view[:end]))
    return pickle.loads(connection.recv_bytes(), buffers=[copy[start : start + size] for start, size in places])


def _answer(answer: Callable[[Any], Any], request: Any) -> tuple[str, Any]:
    try:
        return "answer", answer(request)
    except VTLMError as error:
        return "fault", str(error)
    except MemoryError:
        return "fault", "the file holds more for an image than the memory takes; it is damaged, or not of this layout"
    except Exception:
        return "bug", traceback.format_exc()
