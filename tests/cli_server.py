"""Runs command lines in forked children of one process that has fairseq imported.

A start of any fairseq command costs about four seconds of imports, and a second call in one process would find the
best score and the patience counter of the first (fairseq keeps them in function attributes). This process imports
once, never computes, and forks for each request: a line of JSON with ``module``, ``argv``, ``cwd``, ``env``, ``log``;
the answer is a line with the exit status.
"""

import importlib
import json
import os
import sys
import traceback

MODULES = ("fairseq_cli.preprocess", "fairseq_cli.train", "fairseq_cli.generate", "fairseq_cli.validate",
           "fairseq_cli.interactive", "vtlm_fairseq")  # fmt: skip


def child(request: dict) -> int:
    """Run one request; returns the exit status that a shell would see."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    null = os.open(request.get("stdin") or os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.argv = [request["module"], *request["argv"]]
    try:
        import torch

        torch.set_num_threads(1)
        module = importlib.import_module(request["module"])
        status = (module.cli_main if hasattr(module, "cli_main") else module.main)()
        return status if isinstance(status, int) else 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    """Serve requests until standard input closes."""
    for name in MODULES:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = child(request)
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


if __name__ == "__main__":
    main()
