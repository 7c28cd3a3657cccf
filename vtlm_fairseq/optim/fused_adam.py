"""Optimizer ``fused_adam``: PyTorch's fused Adam under fairseq's schedulers, clipping and checkpoints."""

import ast
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, List

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II, OmegaConf

from vtlm_fairseq.optim.half_precision import AdamW
from vtlm_fairseq.options import setting


@dataclass
class FusedAdamConfig(FairseqDataclass):
    """Options, with the names and defaults of fairseq's ``adam``."""

    adam_betas: Any = setting((0.9, 0.999), "betas for Adam optimizer")
    adam_eps: float = setting(1e-8, "epsilon for Adam optimizer")
    weight_decay: float = setting(0.0, "weight decay, decoupled as in AdamW")
    lr: List[float] = II("optimization.lr")


@register_optimizer("fused_adam", dataclass=FusedAdamConfig)
class FusedAdam(FairseqOptimizer):
    """Adam in one pass over parameters, gradients and moments, on CPU and GPU.

    Equal to fairseq's ``adam`` to about 1e-4: there, epsilon is added before the second moment is bias-corrected.
    A run that was begun with ``adam`` goes on with ``adam``: fairseq compares the optimizer's name on resuming.
    """

    def __init__(self, cfg: FusedAdamConfig, params):
        super().__init__(cfg)
        self._optimizer = AdamW(list(params), fused=True, **self.optimizer_config)

    @property
    def optimizer_config(self) -> dict:
        """Arguments of the optimizer; on resuming they replace those of the checkpoint."""
        betas = self.cfg.adam_betas
        if isinstance(betas, str):
            betas = ast.literal_eval(betas)
        elif OmegaConf.is_config(betas):
            betas = OmegaConf.to_container(betas)
        return {
            "lr": self.cfg.lr[0] if isinstance(self.cfg.lr, Collection) else self.cfg.lr,
            "betas": tuple(betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def multiply_grads(self, c):
        """As fairseq's; by 1, which is what pre-training asks for, it takes no pass over the gradients."""
        if torch.is_tensor(c) or c != 1:
            super().multiply_grads(c)

    def clip_grad_norm(self, max_norm, aggregate_norm_fn=None):
        """As fairseq's, without a norm for each parameter by itself; the optimizer's pass does the clipping.

        Returns:
            the norm of all gradients, a scalar.
        """
        params = [parameter for parameter in self.params if parameter.grad is not None]
        grads = [parameter.grad.detach() for parameter in params]
        plain = type(self._optimizer) is AdamW and all(grad.dtype == torch.float32 for grad in grads)
        plain = plain and not any(hasattr(parameter, "expert") for parameter in params)
        self._optimizer.grad_scale = None  # of a step that was not taken
        if not grads or not plain or len({grad.device for grad in grads}) > 1 or any(grad.is_sparse for grad in grads):
            return super().clip_grad_norm(max_norm, aggregate_norm_fn)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if aggregate_norm_fn is not None:
            norm = aggregate_norm_fn(norm)
        if max_norm > 0:
            self._optimizer.grad_scale = ((norm + 1e-6) / max_norm).clamp_(min=1)  # gradients are divided by it
        return norm

    _step_supports_amp_scaling = True  # read by GradScaler; see step

    def step(self, closure=None, scale=1.0, groups=None):
        """One update; skipped where GradScaler found an overflow.

        fairseq's ``--amp`` unscales the gradients of the inner optimizer and then has the outer one stepped, which
        GradScaler takes for another that is not unscaled yet: it would divide them by the scale a second time, and
        small ones would vanish beside epsilon. So only its verdict on overflows is passed on.
        """
        self._optimizer.found_inf = getattr(self, "found_inf", None)
        super().step(closure, scale, groups)
        self._optimizer.grad_scale = None

    @property
    def supports_flat_params(self) -> bool:
        """Element-wise, so fairseq may train one flat copy (``--fp16``)."""
        return True

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """Parameters may be in half precision (``--memory-efficient-fp16``); see :class:`AdamW`."""
        return True
