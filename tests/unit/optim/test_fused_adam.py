"""Optimizer ``fused_adam``."""

from copy import deepcopy

import pytest
import torch
from fairseq import optim
from fairseq.optim.adam import FairseqAdamConfig
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import MemoryEfficientFP16Optimizer
from omegaconf import OmegaConf

from vtlm_fairseq.optim.fused_adam import FusedAdam, FusedAdamConfig


def config(cls, **values):
    made = OmegaConf.structured(cls())
    OmegaConf.set_struct(made, False)
    made.update({"lr": [0.1], "tpu": False, **values})
    return made


def walk(optimizer, parameter, steps=5):
    for step in range(steps):
        parameter.grad = torch.tensor([0.5, -2.0, 1e-3]) * (step + 1)
        optimizer.step()
    return parameter.detach().clone()


def made(**values):
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    return FusedAdam(config(FusedAdamConfig, _name="fused_adam", **values), [parameter]), parameter


def test_first_step_by_hand():
    """In the first step the corrected moments are g and g^2: each weight decays, then moves by lr."""
    optimizer, parameter = made(weight_decay=0.1)
    parameter.grad = torch.tensor([0.5, -2.0, 4.0])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([1, 2, 3]) * 0.99 - torch.tensor([0.1, -0.1, 0.1]))


@pytest.mark.parametrize("betas", ["(0.9, 0.98)", (0.8, 0.99)])
def test_follows_fairseqs_adam(betas):
    ours, parameter = made(adam_betas=betas, weight_decay=0.01)
    reference = torch.nn.Parameter(parameter.detach().clone())
    cfg = config(FairseqAdamConfig, _name="adam", adam_betas=str(betas), weight_decay=0.01)
    stock = optim.build_optimizer(cfg, [reference])
    start = parameter.detach().clone()
    found, expected = walk(ours, parameter), walk(stock, reference)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - start).abs().min() > 0.3  # they did move


def test_amp_unscales_once_and_skips_overflows():
    """fairseq's AMPOptimizer with a scaler for the CPU: the step is that of the unscaled gradient."""
    optimizer, parameter = made(adam_eps=1.0)  # an epsilon that shows the size of gradients
    plain, reference = made(adam_eps=1.0)
    common = {"fp16_init_scale": 128, "amp_scale_window": None, "min_loss_scale": 1e-4}
    amp = AMPOptimizer(OmegaConf.create({"optimizer": {}, "common": common}), None, optimizer)
    amp._grad_scaler = torch.amp.GradScaler("cpu", init_scale=128)
    gradient = torch.tensor([0.5, -2.0, 4.0])
    amp.backward((parameter * gradient).sum())
    torch.testing.assert_close(parameter.grad, 128 * gradient)
    amp.clip_grad_norm(0)
    amp.step()
    reference.grad = gradient.clone()
    plain.step()
    torch.testing.assert_close(parameter.detach(), reference.detach())
    assert (parameter - torch.tensor([1.0, 2.0, 3.0])).abs().min() > 0.03
    before = parameter.detach().clone()
    parameter.grad = None
    amp.backward((parameter * torch.tensor([1.0, float("inf"), 1.0])).sum())
    amp.clip_grad_norm(0)
    amp.step()
    torch.testing.assert_close(parameter.detach(), before, atol=0, rtol=0)
    assert amp.scaler.get_scale() == 64


MEMORY_EFFICIENT = {
    "optimizer": {},
    "common": {"fp16_scale_window": 100, "fp16_init_scale": 128, "fp16_scale_tolerance": 0.0, "bf16": False,
               "threshold_loss_scale": None, "min_loss_scale": 1e-4},
}  # fmt: skip


def half_precision(dtype=torch.float16, **values):
    """fairseq's ``--memory-efficient-fp16`` around our optimizer, and its parameter."""
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
    ours = FusedAdam(config(FusedAdamConfig, _name="fused_adam", **values), [parameter])
    cfg = OmegaConf.create(MEMORY_EFFICIENT)
    cfg.common.bf16 = dtype is torch.bfloat16
    return MemoryEfficientFP16Optimizer(cfg, [parameter], ours), parameter


def half_steps(optimizer, parameter, count):
    for step in range(count):
        optimizer.zero_grad()
        gradient = torch.tensor([0.5, -2.0, 1e-6]) * (step + 1)
        optimizer.backward((parameter.float() * gradient).sum())
        optimizer.clip_grad_norm(0)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_memory_efficient_half_precision(dtype):
    """Moments in float32: small gradients, whose square is 0 in float16, move their weights as in float32."""
    optimizer, parameter = half_precision(dtype, adam_eps=1e-12)
    plain, reference = made(adam_eps=1e-12)
    half_steps(optimizer, parameter, 4)
    for step in range(4):
        reference.grad = torch.tensor([0.5, -2.0, 1e-6]) * (step + 1)
        plain.step()
    assert parameter.dtype == dtype
    torch.testing.assert_close(parameter.float().detach(), reference.detach(), atol=4e-3, rtol=1e-2)
    (state,) = optimizer.optimizer.state.values()
    assert state["exp_avg_sq"].dtype == torch.float32 and (state["exp_avg_sq"] > 0).all()
    torch.testing.assert_close(state["exp_avg_sq"], plain.optimizer.state[reference]["exp_avg_sq"], rtol=0.02, atol=0)


@pytest.mark.parametrize(("make", "go"), [(made, walk), (half_precision, half_steps)])
def test_a_restored_state_goes_on_exactly(make, go):
    """In half precision too, and with the new command's rate; schedulers set the rate."""
    ours, parameter = make()
    go(ours, parameter, 3)
    state, weights = deepcopy(ours.state_dict()), parameter.detach().clone()
    go(ours, parameter, 2)
    restored, copy = make()
    copy.data.copy_(weights)
    restored.load_state_dict(state, {"lr": 0.1})
    for rate in (0.1, 0.0):
        restored.set_lr(rate)
        assert restored.get_lr() == rate
        go(restored, copy, 2)
        torch.testing.assert_close(copy.detach(), parameter.detach(), atol=0, rtol=0)
