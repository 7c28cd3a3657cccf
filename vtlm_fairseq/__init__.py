"""VTLM for fairseq: visual translation language modelling and multimodal translation.

Loaded with ``--user-dir vtlm_fairseq`` (from a checkout) or ``--user-dir "$(python -m vtlm_fairseq)"`` (installed).

The package registers its tasks, models, criterion and optimizer with fairseq (:func:`register`) where fairseq is there
already, as when it loads a user-dir, as soon as it is imported, and with the first module that needs them. So what
needs no model starts without PyTorch and fairseq.
"""

# ruff: noqa: E402, I001

from vtlm_fairseq.stack import check_stack

check_stack()  # before anything that an unsupported version breaks

import importlib.util
import logging
import sys
import warnings
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

from vtlm_fairseq.version import __version__

PARTS = (
    "criterions.vtlm", "models.multimodal_transformer", "models.vtlm", "optim.fused_adam",
    "tasks.multimodal_translation", "tasks.visual_translation_lm", "compatibility",
)  # fmt: skip
"""Modules that register something, and the one that judges what is registered."""

__all__ = ["__version__", "compatibility", "criterions", "models", "optim", "register", "tasks"]

_registered = False


def register() -> None:
    """Import fairseq, and register the tasks, models, criterion and optimizer of this package with it.

    Leaves logging as it was, which fairseq would configure. Further calls do nothing.

    Raises:
        SystemExit: a command line of fairseq's that lacks an option.
    """
    global _registered
    if _registered:
        return
    _registered = True

    import argparse

    import torch

    # fairseq checkpoints of components configured the old way hold one argparse.Namespace. Allowing that class lets
    # torch.load keep its restricted (weights_only) mode, which fairseq itself does not ask for or provide.
    torch.serialization.add_safe_globals([argparse.Namespace])
    try:
        with _quietly():
            *_, compatibility = [importlib.import_module(f"{__name__}.{part}") for part in PARTS]
    except BaseException:
        _registered = False
        raise
    compatibility.check_command_line(sys.argv)


@contextmanager
def _quietly():
    """Importing fairseq sets the root logger to DEBUG, gives it a handler and advertises optional packages at INFO."""
    root = logging.root
    level, disabled, handlers = root.level, root.manager.disable, list(root.handlers)
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            # fairseq still uses it; from torch 2.14 on every command of this package would begin with the warning
            warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers


def __getattr__(name: str):
    """The rooms that register something, as attributes of the package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return sys.modules[f"{__name__}.{name}"]


class _AfterFairseq(MetaPathFinder):
    """Registers as soon as fairseq is imported: it does not load a user-dir whose module is there already."""

    def find_spec(self, fullname, path=None, target=None):
        """fairseq, with a registration at the end of its import, and what would begin that import half made."""
        if fullname in _BEHIND_FAIRSEQ:
            return _behind_fairseq(PathFinder.find_spec(fullname, path))
        if fullname != "fairseq":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                with _quietly():
                    execute(module)
                register()

            spec.loader.exec_module = execute_and_register
        return spec


_BEHIND_FAIRSEQ = {f"{__name__}.{name}" for name in ("compatibility", "health", "loading")}
"""Modules that import fairseq, and that those that register need whole."""


def _behind_fairseq(spec):
    """The module with fairseq imported before it: the registration loads it, and that one is taken."""

    def register_and_take(module):
        del sys.modules[module.__name__]
        register()
        importlib.import_module(module.__name__)

    spec.loader.exec_module = register_and_take
    return spec


if "fairseq" in sys.modules:
    register()
else:
    sys.meta_path.insert(0, _AfterFairseq())
