"""Region features as the paper's authors keep them: one pickle an image, read without running anything in it.

`<image file name>.pkl` holds a dict: `detection_features` [R, D], `detection_boxes` [R, 4] as ymin, xmin, ymax,
xmax within 0..1, `detection_classes` [R], 0-based, and `detection_scores` [R].
"""

import codecs
import math
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions import numbered_classes
from vtlm_fairseq.regions.formats.input_image import ImageFiles, InputImage, check_no_pipe

NUM_CLASSES = 601
"""Classes of the authors' detector (Open Images V4)."""

_DTYPE = re.compile(r"[<>|=]?[biuf]\d{1,2}|[|]?O8?")
_KEYS = ("detection_features", "detection_boxes", "detection_classes", "detection_scores")


def load_plain_pickle(path: Path) -> Any:
    """Read a pickle that holds numpy arrays of numbers and plain containers, strings and numbers, and nothing else.

    No class or function that the pickle names is imported or called: the few names that numpy's own pickles use
    lead to stand-ins, which build arrays from bytes whose length must fit the shape.

    Raises:
        VTLMError: anything else is in it, it is cut off, or cannot be read.
    """
    check_no_pipe(path)
    try:
        with open(path, "rb") as file:
            return unpickle_plain(file, str(path))
    except OSError as error:
        raise VTLMError(f"{path}: cannot be read ({error.strerror})") from None


def unpickle_plain(file: BinaryIO, path: str) -> Any:
    """As `load_plain_pickle`, from an open file; ``path`` is for messages. An array of objects becomes their list.

    Raises:
        VTLMError: as `load_plain_pickle`.
        OSError: the file cannot be read.
    """
    try:
        return _finished(_PlainUnpickler(file, encoding="latin1").load(), {})
    except OSError:
        raise
    except Exception as error:  # a damaged or malicious pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VTLMError(
            f"{path}: refused, not a pickle of plain numpy arrays ({reason}); nothing in it was run"
        ) from None


class _Dtype:
    """Stand-in for a numpy dtype of numbers."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a dtype that is no plain number")
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stand-in for an array, empty until its state arrives."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, fortran=bool(fortran))


class _Name:
    """What a name in a pickle stands for: it can be called, and its attributes cannot be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"it sets {name!r} of a function")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _array(data: Any, dtype: Any, shape: Any, *, fortran: bool) -> Any:
    """The array; of objects, their list, or the object itself where the shape is ()."""
    if isinstance(dtype, _Dtype) and dtype.value.hasobject:
        if not isinstance(data, list) or shape not in ((), (len(data),)) or (shape == () and len(data) != 1):
            raise pickle.UnpicklingError("an array of objects that is no list of them")
        return data if shape else data[0]
    if isinstance(data, str):
        data = data.encode("latin1")
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array that does not hold plain numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("an array of no valid shape")
    if math.prod(shape) * dtype.value.itemsize != len(data):
        raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
    return np.frombuffer(bytes(data), dtype.value).reshape(shape, order="F" if fortran else "C")


def _make_dtype(spec: Any, *_: Any) -> _Dtype:
    if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
        raise pickle.UnpicklingError(f"dtype {spec!r}")
    return _Dtype(np.dtype(spec))


def _make_empty(kind: Any, *_: Any) -> _Array:
    if kind is not _NDARRAY:
        raise pickle.UnpicklingError("an array of a class of its own")
    return _Array()


def _make_scalar(dtype: Any, data: Any = b"") -> Any:
    return _array(data, dtype, (), fortran=False).item()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    return _array(data, dtype, shape, fortran=order == "F")


def _encode(text: Any, encoding: Any = None) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("_codecs.encode of something else than bytes")
    return codecs.latin_1_encode(text)[0]


def _no_array(*_: Any) -> Any:
    raise pickle.UnpicklingError("it calls numpy.ndarray")


_NDARRAY = _Name(_no_array)
_NAMES = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Name(_make_dtype),
    ("_codecs", "encode"): _Name(_encode),
}
for _builtins in ("builtins", "__builtin__"):
    _NAMES[_builtins, "bytes"] = _Name(lambda: b"")  # how protocols below 3 write no bytes
    _NAMES[_builtins, "set"] = _Name(set)
    _NAMES[_builtins, "frozenset"] = _Name(frozenset)
for _core in ("numpy.core", "numpy._core"):
    _NAMES[f"{_core}.multiarray", "_reconstruct"] = _Name(_make_empty)
    _NAMES[f"{_core}.multiarray", "scalar"] = _Name(_make_scalar)
    _NAMES[f"{_core}.numeric", "_frombuffer"] = _Name(_from_buffer)


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}") from None


def _finished(value: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """The value with arrays in place of their stand-ins; ``done`` has what is finished, by its stand-in's `id`."""
    if depth > 20:
        raise pickle.UnpicklingError("nested too deeply")
    if id(value) in done:
        return done[id(value)]
    if isinstance(value, _Array) and value.value is not None:
        finished = value.value if isinstance(value.value, np.ndarray) else _finished(value.value, done, depth + 1)
    elif isinstance(value, dict):
        finished = {_finished(k, done, depth + 1): _finished(v, done, depth + 1) for k, v in value.items()}
    elif type(value) in (list, tuple):
        finished = type(value)(_finished(v, done, depth + 1) for v in value)
    elif value is None or isinstance(value, np.ndarray | str | bytes | bytearray | int | float | set | frozenset):
        return value
    else:
        raise pickle.UnpicklingError("an array that is never filled" if isinstance(value, _Array) else "a function")
    done[id(value)] = finished
    return finished


class PickleImages(ImageFiles):
    """Images from a folder of the authors' pickles; ids are the names without `.pkl`.

    Raises:
        VTLMError: as `ImageFiles`.
    """

    option, ending = "--vtlm-pickles", ".pkl"
    class_names = numbered_classes(NUM_CLASSES)

    def read(self, path: Path) -> InputImage:
        """A dictionary of ``detection_features``, ...; boxes are turned from y, x to x, y."""
        content = load_plain_pickle(path)
        if not isinstance(content, dict):
            raise VTLMError(f"{path}: holds a {type(content).__name__}, must be a dict of detection_features, ...")
        missing = [key for key in _KEYS if not isinstance(content.get(key), np.ndarray)]
        if missing:
            raise VTLMError(
                f"{path}: array {missing[0]!r} is missing, the file holds {', '.join(map(str, content)) or 'nothing'}"
            )
        features, boxes, labels, scores = (content[key] for key in _KEYS)
        if features.ndim != 2 or boxes.ndim != 2 or boxes.shape[1] != 4:
            raise VTLMError(
                f"{path}: detection_features {features.shape} and detection_boxes {boxes.shape} must be "
                "[R, D] and [R, 4]"
            )
        return InputImage(
            path.name.removesuffix(self.ending), str(path), features, boxes[:, [1, 0, 3, 2]], labels, scores
        )
