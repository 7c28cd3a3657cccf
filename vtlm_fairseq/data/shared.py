"""Hand large arrays from a loader's worker to the training process."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info


def stack_padded(arrays: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """Arrays of one width below each other, each filled up with zeros; in a loader's worker in shared memory already.

    PyTorch would copy the batch there through a fresh memory map, a page fault every 4 kB, which takes longer than
    reading the features from a cached file. Writing to the map's file does not.

    Args:
        arrays: B arrays of [up to ``length``, D], contiguous, of one dtype.
        length: rows of each in the result.

    Returns:
        B x length x D.
    """
    width, dtype = arrays[0].shape[1], arrays[0].dtype
    shape = (len(arrays), length, width)
    descriptors = torch.multiprocessing.get_sharing_strategy() == "file_descriptor"
    if get_worker_info() is None or not descriptors:
        stacked = np.zeros(shape, dtype)
        for place, array in zip(stacked, arrays, strict=True):
            place[: len(array)] = array
        return torch.from_numpy(stacked)
    step = length * width * dtype.itemsize
    # Freeing a mapped block makes glibc keep freed memory up to twice its size. Otherwise the arrays of each batch
    # would go back to the system and come again page by page, which takes as long as reading them.
    np.empty(step * len(arrays), np.uint8)  # never touched
    storage = torch.UntypedStorage._new_shared(step * len(arrays))
    descriptor, _ = storage._share_fd_cpu_()  # the storage's own: not to be closed here
    for i, array in enumerate(arrays):
        _write(descriptor, array, i * step)
    return torch.empty(0, dtype=torch.from_numpy(arrays[0]).dtype).set_(storage, 0, shape)


def _write(descriptor: int, array: np.ndarray, place: int) -> None:
    left = memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b""
    while left:
        count = os.pwrite(descriptor, left, place)
        left, place = left[count:], place + count


_SMALL = 1 << 17
"""Bytes up to which a tensor is sent through the pipe between the processes."""


class _ByValue:
    """Becomes a tensor where it is unpickled."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._array = tensor.numpy()

    def __reduce__(self) -> tuple:
        return torch.from_numpy, (self._array,)


def send_small_by_value(batch: Any) -> Any:
    """A collated batch as a loader's worker should return it; elsewhere the batch itself.

    PyTorch sends each tensor as a file descriptor, which takes several messages between the processes and up to a
    millisecond, whatever its size. Small tensors arrive sooner as bytes.

    Args:
        batch: nested dicts, lists and tuples; what is no dense CPU tensor of up to 128 kB stays as it is.
    """
    if get_worker_info() is None:
        return batch
    if isinstance(batch, dict):
        return {key: send_small_by_value(value) for key, value in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(send_small_by_value(value) for value in batch)
    if isinstance(batch, torch.Tensor) and batch.device.type == "cpu" and batch.layout == torch.strided:
        if batch.nbytes <= _SMALL and batch.dtype != torch.bfloat16:  # numpy has no bfloat16
            return _ByValue(batch)
    return batch
