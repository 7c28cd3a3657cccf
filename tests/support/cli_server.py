"""Runs command lines in forked children of one process that has fairseq imported.

A start of any fairseq command costs about four seconds of imports, and a second call in one process would find the
best score and the patience counter of the first (fairseq keeps them in function attributes). This process imports
once, never computes, and forks. A request is a line of JSON, a list of commands to run side by side, each with
``module`` (or a script's path), ``argv``, ``cwd``, ``env``, ``log``, ``stdin`` and ``timeout``; the answer is a line
with the list of their exit statuses.
"""

import gc
import importlib
import json
import logging
import os
import runpy
import signal
import sys
import traceback

# torch imports _dynamo, for three seconds, with the first optimizer
MODULES = ("torch._dynamo", "fairseq_cli.preprocess", "fairseq_cli.train", "fairseq_cli.hydra_train",
           "fairseq_cli.generate", "fairseq_cli.validate", "fairseq_cli.interactive", "vtlm_fairseq",
           "vtlm_fairseq.cli.translate", "vtlm_fairseq.cli.convert")  # fmt: skip


def child(request: dict) -> int:
    """Run one command; returns the exit status that a shell would see."""
    signal.alarm(request["timeout"])  # ends the process: a command that hangs fails its test only
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    null = os.open(request["stdin"] or os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.path.extend(filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep)))  # it is forked, not started
    sys.argv = [request["module"], *request["argv"]]
    try:
        import torch

        torch.set_num_threads(1)
        status = run(request["module"])
        return status if isinstance(status, int) else 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stdout.flush()
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run(module: str):
    """Run a script by its path, or the entry point of a module."""
    if module.endswith(".py"):
        logging.getLogger("PIL").setLevel(logging.INFO)  # it would not have found fairseq imported, which sets DEBUG
        sys.path.insert(0, os.path.dirname(module))
        runpy.run_path(module, run_name="__main__")
        return 0
    module = importlib.import_module(module)
    return (module.cli_main if hasattr(module, "cli_main") else module.main)()


def start(request: dict) -> int:
    """Fork a child for a command; returns its process id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = child(request)
        finally:
            os._exit(status)
    return pid


def warm_up() -> None:
    """Fill the caches of hydra's parser, which are empty in each new process."""
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf

    line = ["data", "--task", "multimodal_translation", "--arch", "multimodal_transformer_tiny"]
    convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))


def main() -> None:
    """Serve requests until standard input closes."""
    for name in MODULES:
        importlib.import_module(name)
    warm_up()
    gc.freeze()  # else each child's collections would copy and look through all that is imported
    for line in sys.stdin:
        pids = [start(request) for request in json.loads(line)]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    main()
