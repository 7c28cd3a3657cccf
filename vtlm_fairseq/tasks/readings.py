"""Figures of an update, brought from the device to the host without a wait of their own."""

import numpy as np
import torch
from torch import Tensor


class Readings:
    """Losses and logged sums of the micro-batches of an update.

    Their copy begins when a micro-batch has been computed, and is read where the trainer has waited for the whole
    update anyway, to look at the norm of its gradients.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[dict, list[str], np.ndarray, torch.cuda.Event | None]] = []

    def add(self, loss: Tensor, log: dict) -> np.ndarray:
        """Begin to copy.

        Args:
            loss: a scalar.
            log: a logging output; `settle` replaces its tensors.

        Returns:
            the loss, an array without dimensions that is filled when `settle` has returned.
        """
        names = [name for name, value in log.items() if isinstance(value, Tensor) and value.numel() == 1]
        values = [value.detach().reshape(()) for value in (loss, *(log[name] for name in names))]
        host = torch.stack(values).to("cpu", non_blocking=True)
        copied = None
        if loss.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
        self._pending.append((log, names, host.numpy(), copied))
        return self._pending[-1][2][:1].reshape(())

    def settle(self) -> None:
        """Put the plain numbers into the logging outputs."""
        for log, names, values, copied in self._pending:
            if copied is not None:
                copied.synchronize()
            log.update(zip(names, values[1:].tolist(), strict=True))
        self._pending.clear()


def as_numbers(logs: list[dict]) -> list[dict]:
    """Logging outputs whose scalar tensors are plain numbers, fetched all at once."""
    keys = [(k, name) for k, log in enumerate(logs) for name, value in log.items() if isinstance(value, Tensor)]
    keys = [(k, name) for k, name in keys if logs[k][name].numel() == 1]
    if not keys:
        return logs
    values = torch.stack([logs[k][name].detach().reshape(()).double() for k, name in keys]).tolist()
    logs = [dict(log) for log in logs]
    for (k, name), value in zip(keys, values, strict=True):
        logs[k][name] = value
    return logs
