"""Figures of an update, brought from the device to the host without a wait of their own."""

import numpy as np
import torch
from torch import Tensor


def reads_numbers(criterion) -> bool:
    """Whether a criterion's logging outputs may be plain numbers: ours and fairseq's do not mind, a user's own may."""
    return type(criterion).__module__.partition(".")[0] in ("fairseq", "vtlm_fairseq")


class Readings:
    """Losses and logged sums of the micro-batches of an update.

    Their copy begins when a micro-batch has been computed, and is read where the trainer has waited for the whole
    update anyway, to look at the norm of its gradients.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[dict, dict[str, Tensor], np.ndarray, torch.cuda.Event | None]] = []

    def add(self, loss: Tensor, log: dict) -> np.ndarray:
        """Begin to copy.

        Args:
            loss: a scalar.
            log: a logging output; `settle` replaces scalar tensors in it.

        Returns:
            the loss, an array without dimensions that is filled when `settle` has returned.
        """
        scalars = {name: value for name, value in log.items() if _is_scalar(value) and value.device == loss.device}
        host = _stacked([loss, *scalars.values()]).to("cpu", non_blocking=True)
        copied = None
        if loss.device.type == "cuda":
            copied = torch.cuda.Event()
            copied.record()
        self._pending.append((log, scalars, host.numpy(), copied))
        return self._pending[-1][2][:1].reshape(())

    def settle(self) -> None:
        """Put plain numbers into the logging outputs, for the tensors that are still in them."""
        for log, scalars, values, copied in self._pending:
            if copied is not None:
                copied.synchronize()
            for (name, tensor), value in zip(scalars.items(), values[1:].tolist(), strict=True):
                if log.get(name) is tensor:
                    log[name] = _number(tensor, value)
        self._pending.clear()


def as_numbers(logs: list[dict]) -> list[dict]:
    """Logging outputs whose scalar tensors are plain numbers, all of a device fetched at once."""
    scalars: dict[torch.device, list[tuple[int, str]]] = {}
    for k, log in enumerate(logs):
        for name, value in log.items():
            if _is_scalar(value):
                scalars.setdefault(value.device, []).append((k, name))
    logs = [dict(log) for log in logs]
    for places in scalars.values():
        values = _stacked([logs[k][name] for k, name in places]).tolist()
        for (k, name), value in zip(places, values, strict=True):
            logs[k][name] = _number(logs[k][name], value)
    return logs


def _is_scalar(value) -> bool:
    """Whether it is a real number on a device, which float64 holds whole."""
    if not isinstance(value, Tensor) or value.dim() or value.layout != torch.strided:
        return False
    return value.dtype != torch.bool and not value.is_complex()


def _stacked(values: list[Tensor]) -> Tensor:
    return torch.stack([value.detach().double() for value in values])


def _number(tensor: Tensor, value: float) -> float | int:
    return value if tensor.is_floating_point() else int(value)
