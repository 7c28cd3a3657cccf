"""VTLM for fairseq: visual translation language modelling and multimodal translation.

Loaded with ``--user-dir vtlm_fairseq`` (from a checkout) or ``--user-dir "$(python -m vtlm_fairseq)"`` (installed).
Importing the package registers its tasks, models and criterion with fairseq.
"""

# ruff: noqa: E402, I001

from vtlm_fairseq.stack import check_stack

check_stack()  # before anything that an unsupported version breaks

import argparse
import logging
import sys
import warnings

import torch

from vtlm_fairseq.version import __version__

# fairseq checkpoints of components configured the old way hold one argparse.Namespace. Allowing that class lets
# torch.load keep its restricted (weights_only) mode, which fairseq itself does not ask for or provide.
torch.serialization.add_safe_globals([argparse.Namespace])

# Importing fairseq sets the root logger to DEBUG, gives it a handler and advertises optional packages at INFO.
_root = logging.root
_before = (_root.level, _root.manager.disable, list(_root.handlers))
logging.disable(logging.INFO)
try:
    with warnings.catch_warnings():
        # fairseq still uses it; from torch 2.14 on every command of this package would begin with the warning
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)
        from vtlm_fairseq import compatibility, criterions, models, optim, tasks
finally:
    logging.disable(_before[1])
    _root.setLevel(_before[0])
    _root.handlers[:] = _before[2]

compatibility.check_command_line(sys.argv)

__all__ = ["__version__", "criterions", "models", "optim", "tasks"]
