"""Dropout whose mask is cheap to draw on a CPU."""

import torch
import torch.nn.functional as F
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor

_LEVELS = 1 << 16  # a mask is drawn in 16 bits an element, four to a random 64-bit number


class Dropout(FairseqDropout):
    """Zero elements with probability ``p``, scale the others by 1 / (1 - p); fairseq's ``--retain-dropout`` works.

    PyTorch draws masks on a CPU one element at a time in one thread, which costs 5 % of an update of pre-training.
    On a CPU ``p`` is rounded to a multiple of 2^-16, and the scale is that of the rounded value.

    Args:
        p: within 0..1.
        module_name: for ``--retain-dropout-modules``.
    """

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """x: any shape -> the same."""
        return dropout(x, self.p) if self.active else x

    @property
    def active(self) -> bool:
        """Whether elements are dropped: in training, and in decoding with ``--retain-dropout``."""
        return self.training or self.apply_during_inference

    def extra_repr(self) -> str:
        """``p``, in the model's printout."""
        return f"p={self.p}"


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout of ``x``; see :class:`Dropout`."""
    threshold = round(p * _LEVELS)
    if p == 0 or p == 1 or x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)
    return _Mask.apply(x, bits < threshold - _LEVELS // 2, _LEVELS / (_LEVELS - threshold))


class _Mask(torch.autograd.Function):
    """x * scale, 0 where dropped; keeps one byte an element for the backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, dropped: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(dropped)
        ctx.scale = scale
        return (x * scale).masked_fill_(dropped, 0)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (dropped,) = ctx.saved_tensors
        return (grad * ctx.scale).masked_fill_(dropped, 0), None, None
