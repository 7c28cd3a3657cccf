"""Read a checkpoint of the paper's code (or of plain XLM) in torch's restricted mode."""

import argparse
import os
import pickle
import re
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vtlm_fairseq.errors import VTLMError

IMAGE_LANGUAGE = "img"
UNREADABLE = (
    OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError,
    MemoryError, struct.error, pickle.PickleError,
)  # fmt: skip
DICTIONARY = ("dico_id2word", "dico_counts")
# options of that code which change the function that the parameters compute, with the only value known here
ONLY = {"scale_emb": False, "asm": False, "visual_lnorm": False, "context_size": 0}


@dataclass
class OriginalCheckpoint:
    """What a file holds.

    Attributes:
        path: the file.
        parts: parameters by name: ``model`` of a pre-trained file, ``encoder`` and ``decoder`` of a translation file.
        params: the options of its training.
        words: the vocabulary by id.
        counts: of each word.
    """

    path: str
    parts: dict[str, dict[str, Tensor]]
    params: dict
    words: list[str]
    counts: list[int]

    @property
    def is_translation(self) -> bool:
        """Whether it is an encoder-decoder."""
        return "decoder" in self.parts

    @property
    def encoder(self) -> dict[str, Tensor]:
        """Parameters of the pre-trained model or of the encoder."""
        return self.parts["encoder" if self.is_translation else "model"]

    def languages(self) -> list[str]:
        """Names by row of the language table, ``img`` among them where the model has seen images.

        Raises:
            VTLMError: the file does not say.
        """
        ids = self.params.get("lang2id")
        if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
            raise VTLMError(f"{self.path}: params hold no 'lang2id' that numbers the languages")
        return sorted(ids, key=ids.get)

    def language_pair(self) -> tuple[str, str] | None:
        """Source and target of training; None where the options name no pair, or several."""
        steps = ("mmt_steps", "mt_steps") if self.is_translation else ("mlm_steps",)
        pairs = {tuple(pair) for step in steps for pair in self.params.get(step) or [] if None not in pair}
        if not pairs:
            names = [name for name in str(self.params.get("lgs", "")).split("-") if name != IMAGE_LANGUAGE]
            pairs = {tuple(names)} if len(names) == 2 else set()
        return pairs.pop() if len(pairs) == 1 else None


def read_original(path: str) -> OriginalCheckpoint:
    """Read a file and check that it is of a form known here.

    Raises:
        VTLMError: missing, cut off, holding foreign classes, not such a checkpoint, or of a model that this project
            does not have.
    """
    if not os.path.isfile(path):
        raise VTLMError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals(numpy_classes()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise VTLMError(f"{path}: refused, not a whole checkpoint of plain data ({_reason(error)})") from None
    if not isinstance(content, dict):
        raise VTLMError(f"{path}: not a checkpoint of the original code (no dictionary of parts)")
    names = ("encoder", "decoder") if "decoder" in content else ("model",)
    missing = [name for name in (*names, *DICTIONARY, "params") if not isinstance(_plain(content.get(name)), dict)]
    if missing:
        raise VTLMError(f"{path}: not a checkpoint of the original code (it lacks {', '.join(missing)})")
    id2word, counts = (content[name] for name in DICTIONARY)
    if set(id2word) != set(range(len(id2word))):
        raise VTLMError(f"{path}: dico_id2word does not number the words from 0 without a gap")
    words = [id2word[i] for i in range(len(id2word))]
    if not all(isinstance(word, str) and isinstance(counts.get(word, 0), int | np.integer) for word in words):
        raise VTLMError(f"{path}: dico_id2word and dico_counts hold other things than words and their numbers")
    checkpoint = OriginalCheckpoint(
        path=path,
        parts={name: _parameters(path, name, content[name]) for name in names},
        params=_plain(content["params"]),
        words=words,
        counts=[int(counts.get(word, 0)) for word in words],
    )
    for option, value in ONLY.items():
        if checkpoint.params.get(option, value) != value:
            raise VTLMError(f"{path}: trained with {option} {checkpoint.params[option]}, which has no counterpart here")
    return checkpoint


def numpy_classes() -> list:
    """What such files hold beside tensors and plain Python: numpy arrays and scalars of numbers."""
    kinds = ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    functions = [np._core.multiarray._reconstruct, np._core.multiarray.scalar]
    names = [(function, f"numpy.core.multiarray.{function.__name__}") for function in functions]  # until numpy 1.26
    return [np.ndarray, np.dtype, *functions, *names, *(type(np.dtype(kind)) for kind in kinds)]


def _parameters(path: str, part: str, tensors: dict) -> dict[str, Tensor]:
    """Parameters without the prefix of distributed training, in float32; tied ones stay equal."""
    wrapped = all(str(name).startswith("module.") for name in tensors)
    found = {str(name).removeprefix("module.") if wrapped else str(name): value for name, value in tensors.items()}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise VTLMError(f"{path}: {name} of {part} is a {type(value).__name__}, not a tensor")
        if not torch.isfinite(value).all():
            raise VTLMError(f"{path}: {name} of {part} has values that are not finite")
    return {name: value.float() for name, value in found.items()}


def _plain(value):
    return vars(value) if isinstance(value, argparse.Namespace) else value


def _reason(error: Exception) -> str:
    """What was wrong, without torch's advice to switch the restriction off."""
    text = str(error)
    found = re.search(r"GLOBAL ([\w.]+\w)", text)
    if found:
        return f"it holds {found[1]}"
    text = text.split("WeightsUnpickler error: ")[-1].strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
