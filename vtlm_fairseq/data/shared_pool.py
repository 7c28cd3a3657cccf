"""Buffers of shared memory that a loader's worker fills again and again.

A fresh page of shared memory costs the system 2 µs to find and clear, which for the features of an image takes as long
as reading them, and PyTorch opens a connection between the processes for every tensor that it sends. Here a worker
fills a buffer again once the training process has dropped the tensor in it, and the training process keeps the buffer
mapped: a batch is sent as the number of its buffer and a shape.

The first byte of a buffer says who uses it. The storage of a received tensor owns the buffer, so views and slices keep
it too; the byte is cleared when the storage is freed. The memory has no name: it goes with the last process or tensor
that has it.
"""

import math
import mmap
import multiprocessing
import os
import uuid
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

import numpy as np
import torch

MOST = 64
"""Buffers of a worker. It makes as many as are in use at once; batches beyond go PyTorch's way."""

_HEAD = mmap.PAGESIZE
_FREE, _SENT, _FORKED = 0, 1, 2


class _Buffer:
    """A buffer, in the worker that fills it.

    Args:
        number: its place in the list.
        nbytes: that it must hold. Pages that nobody writes take no memory.
    """

    def __init__(self, number: int, nbytes: int) -> None:
        self.number = number
        self.room = 1 << (nbytes - 1).bit_length()
        self._descriptor: int | None = os.memfd_create("batches")
        self._close = weakref.finalize(self, os.close, self._descriptor)
        os.ftruncate(self._descriptor, _HEAD + self.room)
        self.memory = mmap.mmap(self._descriptor, _HEAD + self.room)
        self._array: Callable[[], np.ndarray | None] = lambda: None
        self._promised = False

    def is_free(self) -> bool:
        """Whether neither this process nor another has its tensor."""
        return self.memory[0] == _FREE and self._array() is None

    def lend(self, nbytes: int) -> np.ndarray:
        """[nbytes] uint8, whatever was there before; its views keep it."""
        array = np.frombuffer(self.memory, np.uint8, nbytes, _HEAD)
        self._array, self._promised = weakref.ref(array), False
        return array

    def promise(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is to be sent as this buffer: once only, as it comes back once only."""
        array = self._array()
        if array is None or self._promised or not tensor.is_contiguous() or tensor.data_ptr() != array.ctypes.data:
            return False
        self._promised = True
        return True

    def send(self, tensor: torch.Tensor) -> tuple:
        """What to pickle for a tensor; the file descriptor goes with the first one only."""
        self.memory[0] = _SENT
        first = None if self._descriptor is None else reduction.DupFd(self._descriptor)
        self._descriptor = None
        self._close()
        return _receive, (_worker, os.getpid(), self.number, first, tuple(tensor.shape), tensor.dtype)


class InBuffer:
    """Becomes a tensor where it is unpickled."""

    def __init__(self, buffer: _Buffer, tensor: torch.Tensor) -> None:
        self._buffer = buffer
        self._tensor = tensor

    def __reduce__(self) -> tuple:
        return self._buffer.send(self._tensor)


_worker = uuid.uuid4().hex  # a process id may come again
_buffers: list[_Buffer] = []  # in a worker
_memories: dict[str, dict[int, mmap.mmap]] = {}  # in the training process, by worker and number


def take(nbytes: int) -> np.ndarray | None:
    """Memory for a batch, in a loader's worker.

    Args:
        nbytes: at least 1.

    Returns:
        [nbytes] uint8, whatever was there before; None where all buffers are in use.
    """
    fit = [buffer for buffer in _buffers if buffer.room >= nbytes and buffer.is_free()]
    if fit:
        return min(fit, key=lambda buffer: buffer.room).lend(nbytes)
    useless = (one.number for one in _buffers if one.is_free() or one.memory[0] == _FORKED)
    number = next(useless, len(_buffers))
    if number == MOST or not hasattr(os, "memfd_create"):
        return None
    _buffers[number : number + 1] = [_Buffer(number, nbytes)]
    return _buffers[number].lend(nbytes)


def in_buffer(tensor: torch.Tensor) -> InBuffer | None:
    """What a worker returns for a tensor that lies in one of its buffers; None for another tensor."""
    return next((InBuffer(buffer, tensor) for buffer in _buffers if buffer.promise(tensor)), None)


def _receive(worker: str, pid: int, number: int, first: Any, shape: tuple, dtype: torch.dtype) -> torch.Tensor:
    if worker not in _memories:
        _memories[worker] = {}
        for process in multiprocessing.active_children():
            if process.pid == pid:  # belongs to the loader and goes with it
                weakref.finalize(process, _memories.pop, worker, None).atexit = False
    if first is not None:
        descriptor = first.detach()
        try:
            _memories[worker][number] = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
    memory = _memories[worker][number]
    array = np.frombuffer(memory, np.uint8, math.prod(shape) * dtype.itemsize, _HEAD)
    weakref.finalize(array, _give_back, memory).atexit = False
    return torch.from_numpy(array).view(dtype).view(shape)


def _give_back(memory: mmap.mmap) -> None:
    if memory[0] == _SENT:
        memory[0] = _FREE


def _before_fork() -> None:
    """The new process has all tensors too, and nobody will hear when it drops them: their buffers never come back."""
    for memories in list(_memories.values()):
        for memory in list(memories.values()):
            if memory[0] == _SENT:
                memory[0] = _FORKED


def _after_fork() -> None:
    global _worker
    _worker = uuid.uuid4().hex
    _buffers.clear()
    _memories.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
