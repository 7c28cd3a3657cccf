"""Read fairseq checkpoints in torch's restricted mode, with one line for what cannot be read."""

import os
import pickle

import torch

from vtlm_fairseq.errors import VTLMError

_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError)


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
        if not isinstance(state, dict) or "model" not in state:
            raise ValueError("no model in it")
        return state
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise VTLMError(f"{path}: not a whole fairseq checkpoint ({type(error).__name__}: {reason})") from None


def read_model_config(path: str) -> dict:
    """The model configuration of a checkpoint of this package, without reading its tensors.

    Raises:
        VTLMError: unreadable, or of another model.
    """
    config = model_config(load_checkpoint(path, mmap=True))
    if "langs" not in config:
        raise VTLMError(f"{path}: model {config.get('_name')!r} is not one of this package")
    return config


def model_config(state: dict) -> dict:
    """The model configuration in a loaded checkpoint, ``{}`` if there is none."""
    return (state.get("cfg") or {}).get("model") or {}
