"""Dropout, and attention with it."""

import math

import pytest
import torch
from fairseq.modules import MultiheadAttention

from vtlm_fairseq.models.attention import SelfAttention, attention
from vtlm_fairseq.models.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_share_scale_and_gradient(p):
    """The share of zeros within 4 standard deviations, kept elements exactly scaled, the gradient of the same mask."""
    torch.manual_seed(0)
    x = torch.rand(300, 401, requires_grad=True) + 1
    x.retain_grad()
    y = dropout(x, p)
    dropped = y == 0
    assert abs(dropped.float().mean() - p) < 4 * math.sqrt(p * (1 - p) / x.numel())
    scale = 65536 / (65536 - round(p * 65536))
    assert scale == pytest.approx(1 / (1 - p), rel=2e-5)
    torch.testing.assert_close(y[~dropped], x[~dropped] * scale)
    y.backward(torch.full_like(x, 3.0))
    torch.testing.assert_close(x.grad, torch.where(dropped, 0.0, 3 * scale))


def test_every_element_is_drawn_by_itself():
    """No two of the four elements of a random number, and no neighbours, drop together more often than by chance."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(40_000, 8), 0.5) == 0).float() - 0.5
    correlations = (dropped.T @ dropped) / 10_000  # 1 on the diagonal
    assert (correlations - torch.eye(8)).abs().max() < 4 / math.sqrt(40_000) * 1.5


def test_edges():
    x = torch.ones(7)
    assert dropout(x, 0.0).tolist() == [1.0] * 7
    assert dropout(x, 1.0).tolist() == [0.0] * 7
    assert dropout(torch.ones(0, 3), 0.1).shape == (0, 3)
    part = Dropout(0.5)
    assert (part(torch.ones(1000)) == 0).any()
    assert part.eval()(x) is x
    part.make_generation_fast_(name="part", retain_dropout=True)
    assert (part(torch.ones(1000)) == 0).any()
    torch.manual_seed(5)
    first = dropout(torch.ones(9), 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropout(torch.ones(9), 0.5), first)


def test_self_attention_equals_fairseqs():
    """Values and gradients, with padding; queries that are not the keys; weights where they are asked for."""
    torch.manual_seed(0)
    ours = SelfAttention(8, 2, self_attention=True)
    stock = MultiheadAttention(8, 2, self_attention=True)
    stock.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3, 8)
    mask = torch.zeros(3, 5, dtype=torch.bool)
    mask[1, 2:] = True
    for query in (x, x[:2].clone()):
        for weights in (False, True):
            found = ours(query, x, x, key_padding_mask=mask, need_weights=weights)
            expected = stock(query, x, x, key_padding_mask=mask, need_weights=weights)
            torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
            assert (found[1] is None) == (expected[1] is None)
    for module in (ours, stock):
        module(x, x, x, key_padding_mask=mask, need_weights=False)[0].square().sum().backward()
    for (name, a), b in zip(ours.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_attention_with_dropout_is_right_on_average():
    """4,000 draws come to the attention without dropout, and no weight goes to a masked key."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 2, 4), torch.randn(1, 1, 3, 4)
    v = torch.eye(3)[None, None]  # the output is the weights
    mask = torch.tensor([True, False, True])[None, None, None]
    exact = attention(q, k, v, mask=mask)
    draws = attention(
        q.expand(4000, 1, 2, 4), k.expand(4000, 1, 3, 4), v.expand(4000, 1, 3, 3), mask=mask, dropout_p=0.4
    )
    assert (draws[..., 1] == 0).all()
    torch.testing.assert_close(draws.mean(0, keepdim=True), exact, atol=0.04, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_trains_in_half_precision_as_in_float32(masked):
    """On a CPU other operations are taken for it: their values and gradients are the formula's, to bf16's precision."""
    torch.manual_seed(3)
    inputs = torch.randn(3, 5, 2, 7, 4)
    mask = torch.zeros(5, 1, 1, 7).masked_fill_(torch.rand(5, 1, 1, 7) < 0.4, float("-inf")) if masked else None
    if masked:
        mask[..., 0] = 0
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = inputs.to(dtype).requires_grad_(True).unbind(0)
        x = attention(q, k, v, mask=None if mask is None else mask.to(dtype))
        found.append([x.detach(), *torch.autograd.grad((x.float() * torch.arange(4.0)).sum(), (q, k, v))])
    scores = inputs[0] @ inputs[1].transpose(-1, -2) / 2
    exact = (scores if mask is None else scores + mask).softmax(-1) @ inputs[2]
    torch.testing.assert_close(found[0][0], exact)
    for single, half in zip(*found, strict=True):
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), single, atol=0.06, rtol=0.03)
