"""Read fairseq checkpoints in torch's restricted mode, with one line for what cannot be read."""

import os
import pickle
import re
import shutil
import struct
import sys
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from vtlm_fairseq import register
from vtlm_fairseq.checkpoint_guard import USER_DIR, check_parts, check_plain, derives, names
from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files import copy_file
from vtlm_fairseq.files.names import check_languages, check_name
from vtlm_fairseq.terminal import say

_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OverflowError, AssertionError,
    MemoryError, struct.error, pickle.UnpicklingError,
)  # fmt: skip


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
    register()  # the classes that checkpoints name
    try:
        state = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
        parameters = state.get("model") if isinstance(state, dict) else None
        if not isinstance(parameters, dict) or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in parameters.items()
        ):
            raise ValueError("no model in it")
        if not isinstance(state.get("cfg") or {}, dict) or not isinstance(model_config(state), dict):
            raise ValueError("no configuration of a model in it")
        check_plain(state, path)
        return state
    except VTLMError:
        raise
    except _UNREADABLE as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if isinstance(error, OSError) or type(error) is ValueError:
            why = reason(error)
        else:  # what PyTorch advises here is to read it without its checks
            why = f"it holds {foreign[1]}" if foreign else "damaged, cut off, or no file of PyTorch's"
        raise VTLMError(f"{path}: not a whole fairseq checkpoint ({why})") from None


def read_model_config(path: str) -> dict:
    """The model configuration of a checkpoint of this package, without reading its tensors.

    Raises:
        VTLMError: unreadable, or of another model.
    """
    return check_config(load_checkpoint(path, mmap=True), path)


def check_config(state: Mapping, path: str) -> dict:
    """The model configuration of a checkpoint that was read; its task and model must be of this package.

    Raises:
        VTLMError: of another task or model, or naming other parts that are not known to be harmless.
    """
    from fairseq.tasks import TASK_REGISTRY

    check_parts(state, path)
    config = model_config(state)
    for name in names("task", (state.get("cfg") or {}).get("task")):
        if not derives(TASK_REGISTRY.get(name)):
            raise VTLMError(f"{path}: task {name!r} is not one of this package{USER_DIR}")
    check_model_name(config, path)
    langs = config.get("langs")
    languages = langs.split(",") if isinstance(langs, str) else [langs]
    check_languages((*languages, config.get("source_lang"), config.get("target_lang")), path)
    return config


def check_model_name(config: Mapping | Namespace, path: str) -> None:
    """Refuse the configuration of a model that is neither of this package nor derived from one of its classes.

    A checkpoint names the class that is built from its configuration, and some of fairseq's evaluate strings of theirs
    as Python.

    Raises:
        VTLMError: it is another's.
    """
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY

    registry = {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}
    for name in names("model", config) or [None]:
        if not isinstance(name, str) or not derives(registry.get(name)):
            raise VTLMError(f"{path}: model {name!r} is not one of this package{USER_DIR}")


def model_config(state: dict) -> dict:
    """The model configuration in a loaded checkpoint, ``{}`` if there is none (fairseq's older models: a Namespace)."""
    config = (state.get("cfg") or {}).get("model") or {}
    return vars(config) if isinstance(config, Namespace) else config


@contextmanager
def advise_latest(path: str) -> Iterator[None]:
    """Add to the fault of a checkpoint that is cut off which command names a whole one."""
    try:
        yield
    except VTLMError as error:
        if not os.path.isfile(path) or zipfile.is_zipfile(path):
            raise
        folder = os.path.dirname(path) or "."
        raise VTLMError(f"{error}; if it is cut off, vtlm-convert latest {folder} names the newest whole one") from None


def find_latest(folder: str) -> str:
    """The newest whole checkpoint of a folder, by number of updates, then by time; says which are not whole.

    Raises:
        VTLMError: there is none.
    """
    if not os.path.isdir(folder):
        raise VTLMError(f"{folder}: no such folder")
    found = []
    for entry in os.scandir(folder):
        if entry.name.endswith(".pt") and entry.name.startswith("checkpoint"):
            try:
                check_name(entry.name, f"{folder}: file", hint="rename it")
                updates = num_updates(load_checkpoint(entry.path))
            except VTLMError as error:
                say(f"skipped: {error}", file=sys.stderr)
                continue
            found.append((updates, entry.stat().st_mtime, entry.path))
    if not found:
        raise VTLMError(f"{folder}: no whole checkpoint*.pt in that folder")
    return max(found)[2]


def num_updates(state: Mapping) -> int:
    """Updates that a loaded checkpoint has behind it."""
    history = state.get("optimizer_history") or [{}]
    return history[-1].get("num_updates", 0)


def complete_best(folder: str, restored: str, *, suffix: str = "") -> None:
    """Make ``checkpoint_best.pt`` again where a kill came before it was whole.

    fairseq writes the best checkpoint as a copy in place. A run that goes on from the file that it is a copy of would
    keep what is left of it until a better one comes.

    Args:
        folder: of the checkpoints.
        restored: the checkpoint that the run goes on from.
        suffix: ``--checkpoint-suffix``.
    """
    state = load_checkpoint(restored, mmap=True)
    extra, best = state.get("extra_state") or {}, os.path.join(folder, f"checkpoint_best{suffix}.pt")
    if extra.get("val_loss") is None or extra["val_loss"] != extra.get("best"):
        return
    if os.path.isfile(best):
        try:
            if num_updates(load_checkpoint(best, mmap=True)) >= num_updates(state):
                return
        except VTLMError:
            pass  # cut off
    copy_file(restored, best)


def check_room(folder: str, least: int, since: float) -> None:
    """Refuse to begin a checkpoint that cannot become whole, while those before it are.

    Args:
        folder: of the checkpoints.
        least: bytes that it takes at least.
        since: time from which on files of the folder are known to be of its kind; the newest says what it takes.

    Raises:
        VTLMError: there is not so much room.
    """
    written = [found.stat() for found in Path(folder).glob("checkpoint*.pt")]
    written = [(found.st_mtime, found.st_size) for found in written if found.st_mtime >= since]
    needed = max(least, max(written)[1] if written else 0)
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else needed
    if free < needed:
        raise VTLMError(
            f"--save-dir {folder}: {free / 2**20:,.1f} MiB are free, a checkpoint takes {needed / 2**20:,.1f}; make "
            "room and give the same command again, which goes on from the newest checkpoint"
        )
