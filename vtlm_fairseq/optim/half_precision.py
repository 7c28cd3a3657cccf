"""AdamW for parameters in half precision (``--memory-efficient-fp16``, ``-bf16``), with moments in float32."""

import torch
from torch import Tensor
from torch.optim.adamw import adamw

HALF = (torch.float16, torch.bfloat16)


class AdamW(torch.optim.AdamW):
    """PyTorch's, fused, for parameters of any floating type.

    PyTorch's keeps the moments of a half-precision parameter in its own type, where the square of a gradient of 1e-4
    is 0. Here they are float32, and each parameter is updated in float32 and rounded once: one at a time, so that no
    second copy of the model is needed.
    """

    @property
    def supports_step_with_scale(self) -> bool:
        """Read by fairseq: gradients in half precision are unscaled here, in float32, where none of them becomes 0."""
        return any(p.dtype in HALF for group in self.param_groups for p in group["params"])

    @torch.no_grad()
    def step(self, closure=None, scale: float | Tensor = 1.0):
        """One update; gradients are divided by ``scale`` (1 for parameters in float32)."""
        if not self.supports_step_with_scale:
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, scale)
        return loss

    def _update(self, parameter: Tensor, group: dict, scale: float | Tensor) -> None:
        state, device = self.state[parameter], parameter.device
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros_like(parameter, dtype=torch.float32, memory_format=torch.preserve_format) for _ in range(2)
            )
        for name, value in state.items():  # fairseq puts them back as they lie in the checkpoint, on the CPU
            state[name] = value.to(device=device, dtype=torch.float32)
        value = parameter.float()
        adamw(
            [value],
            [parameter.grad.float() / scale],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        parameter.copy_(value)
