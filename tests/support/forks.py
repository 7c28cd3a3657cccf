"""Runs commands in forked children of one process that has imported what they take seconds to import.

A start of any fairseq command costs about four seconds of imports, and a second call in one process would find the
best score and the patience counter of the first (fairseq keeps them in function attributes). The process of
:class:`Forks` imports once, never computes, and forks. Nothing here imports more than Python's own library.
"""

import contextlib
import gc
import importlib
import json
import logging
import os
import runpy
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence


class Forks:
    """The process, and what is asked of it.

    A request is a dictionary with ``module`` (or a script's path), ``argv``, ``cwd``, ``env``, ``log``, ``stdin`` (a
    file or None) and ``timeout`` (seconds). Each command leads a process group of its own.

    Args:
        modules: what the process imports first.
        options: ``cwd`` and ``env`` of the process.

    Attributes:
        address: of an abstract socket, where programs may ask too (`main`).
    """

    def __init__(self, modules: Sequence[str], **options):
        self.address = f"forks-{secrets.token_hex(8)}"
        self.process = subprocess.Popen([sys.executable, __file__, self.address, *modules], bufsize=0,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        **options)  # fmt: skip

    def start(self, requests: list[dict]) -> list[int]:
        """Begin commands side by side; their process ids. Their statuses must be asked for before more are begun."""
        self.process.stdin.write(json.dumps(requests).encode() + b"\n")
        return self._answer()

    def statuses(self) -> list[int]:
        """Wait for the ends of what was begun; exit statuses, of a signal minus its number."""
        return self._answer()

    def _answer(self) -> list[int]:
        answer = self.process.stdout.readline()
        assert answer, "the process that forks has ended"
        return json.loads(answer)

    def close(self) -> None:
        """End the process. It is told so: another process may have inherited its standard input, and keep that open."""
        with contextlib.suppress(BrokenPipeError):  # it has ended
            self.process.stdin.write(b"null\n")
        self.process.stdin.close()
        self.process.wait()


def fork(function: Callable[[], int]) -> int:
    """Call a function in a child, which ends with the status that it returns; returns the child's process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return pid


def forked(module: str, argv: list[str], *, cwd: str = ".", env=(), first=lambda: None) -> tuple[int, str]:
    """Run a command, after ``first``, in a child of a test's process; its status and output, which pytest has not."""

    def child() -> int:
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        logging.basicConfig(level=logging.INFO, force=True)
        first()
        return run(request)

    with tempfile.NamedTemporaryFile("r") as log:
        request = {"module": module, "argv": argv, "cwd": cwd, "env": dict(env), "log": log.name, "stdin": None}
        request["timeout"] = 120
        return os.waitstatus_to_exitcode(os.waitpid(fork(child), 0)[1]), log.read()


def run(request: dict) -> int:
    """Run one command; returns the exit status that a shell would see."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    return run_with(request, os.open(request["stdin"] or os.devnull, os.O_RDONLY), log, log)


def run_with(request: dict, *streams: int) -> int:
    """As `run`, with three standard streams in place of ``log`` and ``stdin``."""
    os.setpgid(0, 0)
    signal.alarm(request["timeout"])  # ends the process: a command that hangs fails its test only
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.path.extend(filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep)))  # it is forked, not started
    sys.argv = [request["module"], *request["argv"]]
    try:
        status = call(request["module"])
        return status if isinstance(status, int) else 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stdout.flush()
        print(end.code, file=sys.stderr)
        return 1


def call(module: str):
    """Run a script by its path, or the entry point of a module."""
    if module.endswith(".py"):
        logging.getLogger("PIL").setLevel(logging.INFO)  # it would not have found fairseq imported, which sets DEBUG
        sys.path.insert(0, os.path.dirname(module))
        runpy.run_path(module, run_name="__main__")
        return 0
    module = importlib.import_module(module)
    return (module.cli_main if hasattr(module, "cli_main") else module.main)()


def answer(connection: socket.socket) -> int:
    """Read a program's request and run it."""
    text, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    os.environ.clear()
    return run_with(json.loads(text), *streams)


def main() -> None:
    """Serve requests until standard input closes or says so.

    Those of programs come one on a connection, with the whole environment as ``env``, and their standard streams in
    place of ``log`` and ``stdin``. Answers are the process id and, after its end, the status.
    """
    address, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # else each child's collections would copy and look through all that is imported
    with selectors.DefaultSelector() as waiting, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("\0" + address)
        listener.listen()
        waiting.register(listener, selectors.EVENT_READ)
        waiting.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    pid = fork(lambda connection=connection: answer(connection))
                    connection.send(str(pid).encode())
                    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, connection))
                elif key.data:
                    waiting.unregister(key.fileobj)
                    os.close(key.fd)
                    pid, connection = key.data
                    with connection:
                        connection.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                elif (requests := json.loads(sys.stdin.readline() or "null")) is not None:
                    pids = [fork(lambda request=request: run(request)) for request in requests]
                    print(json.dumps(pids), flush=True)
                    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
                    print(json.dumps(statuses), flush=True)
                else:
                    return


if __name__ == "__main__":
    main()
