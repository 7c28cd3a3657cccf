"""Hand large arrays from a loader's worker to the training process."""

import math
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from vtlm_fairseq.data import shared_pool

_SMALL = 1 << 17
"""Bytes up to which a tensor is sent through the pipe between the processes."""


def empty_batch(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with whatever was there before; in a loader's worker in shared memory already, if it is large."""
    nbytes = math.prod(shape) * dtype.itemsize
    memory = None
    if nbytes > _SMALL:
        _keep_freed(2 * nbytes)
        if get_worker_info() is not None and torch.multiprocessing.get_sharing_strategy() == "file_descriptor":
            memory = shared_pool.take(nbytes)
    return np.empty(shape, dtype) if memory is None else memory.view(dtype).reshape(shape)


_kept = 0


def _keep_freed(nbytes: int) -> None:
    """Make glibc keep freed memory, up to twice ``nbytes``: it does once a mapped block of that size was freed.

    Otherwise the arrays of each batch go back to the system and come again page by page, which takes as long as reading
    them. Blocks of 32 MB and more teach it nothing.
    """
    global _kept
    if nbytes > _kept:
        _kept = nbytes
        np.empty(min(nbytes, (1 << 25) - (1 << 16)), np.uint8)  # never touched


class _ByValue:
    """Becomes a tensor where it is unpickled."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._array = tensor.numpy()

    def __reduce__(self) -> tuple:
        return torch.from_numpy, (self._array,)


def send_small_by_value(batch: Any) -> Any:
    """A collated batch as a loader's worker should return it; elsewhere the batch itself.

    PyTorch sends each tensor as a file descriptor, which takes several messages between the processes and up to a
    millisecond, whatever its size. Small tensors arrive sooner as bytes, those of `empty_batch` as their buffer.

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
        return shared_pool.in_buffer(batch) or batch
    return batch
