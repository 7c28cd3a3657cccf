"""Runs pytest on a copy of the code, sure that it is the copy, in forked children of one process.

``run_tests.py FOLDER MODULE...`` imports the modules once (those of fairseq take most of a test's time). A request is a
line of JSON with ``module`` (imported before the tests), ``argv`` of pytest, ``log`` and ``timeout``; the answer is a
line with the child's exit status: pytest's, 90 if the package is not the folder's or ``module`` cannot be imported, or
minus the number of a signal.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import pytest

WRONG_IMPORT = 90


def child(folder: str, request: dict) -> int:
    """Import the module from the folder, then run the tests; returns the exit status."""
    signal.alarm(request["timeout"])  # ends the process
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        found = Path(importlib.import_module("vtlm_fairseq").__file__ or "")
        assert found.is_relative_to(folder), f"vtlm_fairseq is {found}, not the copy in {folder}"
        importlib.import_module(request["module"])
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return WRONG_IMPORT
    return int(pytest.main(request["argv"]))


def main() -> None:
    """Serve requests until standard input closes."""
    folder, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(name)
    assert "vtlm_fairseq" not in sys.modules
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = child(folder, json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
