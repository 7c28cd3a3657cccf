"""Optimizer ``fused_adam``: PyTorch's fused Adam under fairseq's schedulers, clipping and checkpoints."""

import ast
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, List

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

    _step_supports_amp_scaling = True  # read by GradScaler; see step

    def step(self, closure=None, scale=1.0, groups=None):
        """One update; skipped where GradScaler found an overflow.

        fairseq's ``--amp`` unscales the gradients of the inner optimizer and then has the outer one stepped, which
        GradScaler takes for another that is not unscaled yet: it would divide them by the scale a second time, and
        small ones would vanish beside epsilon. So only its verdict on overflows is passed on.
        """
        self._optimizer.found_inf = getattr(self, "found_inf", None)
        super().step(closure, scale, groups)

    @property
    def supports_flat_params(self) -> bool:
        """Element-wise, so fairseq may train one flat copy (``--fp16``)."""
        return True

    @property
    def supports_memory_efficient_fp16(self) -> bool:
        """Parameters may be in half precision (``--memory-efficient-fp16``); see :class:`AdamW`."""
        return True
