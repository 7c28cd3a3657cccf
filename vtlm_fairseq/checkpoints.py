"""Read fairseq checkpoints in torch's restricted mode, with one line for what cannot be read."""

import os
import pickle
import struct
from argparse import Namespace
from collections.abc import Mapping

import torch

from vtlm_fairseq.errors import VTLMError

_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, AssertionError,
    MemoryError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
TASKS = ("visual_translation_lm", "multimodal_translation")


def load_checkpoint(path: str, *, mmap: bool = False) -> dict:
    """Read a checkpoint.

    Args:
        path: the file.
        mmap: leave tensors in the file until they are used.

    Raises:
        VTLMError: missing, cut off, holding foreign classes, or not a checkpoint of fairseq's.
    """
    if not os.path.isfile(path):
        raise VTLMError(f"{path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
        parameters = state.get("model") if isinstance(state, dict) else None
        if not isinstance(parameters, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in parameters.items()
        ):
            raise ValueError("no model in it")
        if not isinstance(state.get("cfg") or {}, dict) or not isinstance(model_config(state), dict):
            raise ValueError("no configuration of a model in it")
        return state
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise VTLMError(f"{path}: not a whole fairseq checkpoint ({type(error).__name__}: {reason})") from None


def read_model_config(path: str) -> dict:
    """The model configuration of a checkpoint of this package, without reading its tensors.

    Raises:
        VTLMError: unreadable, or of another model.
    """
    state = load_checkpoint(path, mmap=True)
    config, task = model_config(state), (state.get("cfg") or {}).get("task")
    name = task.get("_name") if isinstance(task, dict) else task
    if state.get("args") is not None or name not in (None, *TASKS):
        raise VTLMError(f"{path}: task {name!r} is not one of this package")
    check_model_name(config, path)
    return config


def check_model_name(config: Mapping, path: str) -> None:
    """Refuse the configuration of a model that is neither of this package nor derived from one of its classes.

    A checkpoint names the class that is built from its configuration, and some of fairseq's evaluate strings of theirs
    as Python.

    Raises:
        VTLMError: it is another's.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY

    name = config.get("_name")
    kind = {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}.get(name) if isinstance(name, str) else None
    if kind is None or not any(base.__module__.startswith("vtlm_fairseq.") for base in kind.__mro__):
        raise VTLMError(f"{path}: model {name!r} is not one of this package")


def model_config(state: dict) -> dict:
    """The model configuration in a loaded checkpoint, ``{}`` if there is none (fairseq's older models: a Namespace)."""
    config = (state.get("cfg") or {}).get("model") or {}
    return vars(config) if isinstance(config, Namespace) else config
