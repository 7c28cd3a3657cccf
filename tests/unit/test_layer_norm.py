"""LayerNorm's epsilon, however LayerNorm is implemented."""

import pytest
import torch
import torch.nn.functional as F
from fairseq.modules import layer_norm
from torch import nn

from tiny import dictionary, translation_model, vtlm_model


class Fused(nn.Module):
    """What apex's is to us: another class than PyTorch's, with the same attributes."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True):
        super().__init__()
        self.normalized_shape, self.eps = (normalized_shape,), eps
        self.weight, self.bias = nn.Parameter(torch.ones(normalized_shape)), nn.Parameter(torch.zeros(normalized_shape))

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


@pytest.mark.parametrize("build", [vtlm_model, translation_model])
def test_fused_layer_norm_has_the_epsilon_that_was_asked_for(monkeypatch, build):
    """fairseq takes apex's on a machine with a GPU."""
    plain = build(layernorm_eps=0.25)
    with monkeypatch.context() as patch:
        patch.setattr(layer_norm, "has_fused_layernorm", True)
        patch.setattr(layer_norm, "FusedLayerNorm", Fused, raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        fused = build(layernorm_eps=0.25)
    assert any(isinstance(part, Fused) for part in fused.modules())
    tokens = torch.tensor([[2, 9, 10, 11, 2]])
    states = [model.encoder(tokens)["encoder_out"][0] for model in (plain, fused)]
    assert torch.equal(*states)
    if build is translation_model:
        assert torch.equal(*(model(tokens, torch.tensor([5]), tokens)[0] for model in (plain, fused)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_epsilon_of_1e_12_acts_in_half_precision(dtype):
    """1e-12 is 0 as a float16, but LayerNorm computes in float32: a row of equal values does not become NaN."""
    model = vtlm_model(dictionary())
    assert torch.tensor(1e-12, dtype=torch.float16) == 0
    norm = model.encoder.layernorm_embedding.to(dtype)
    assert norm.eps == 1e-12
    constant = torch.full((1, 32), 3.0, dtype=dtype)
    assert norm(constant).eq(0).all()
    small = (torch.linspace(-2, 2, 32) * 2e-6).to(dtype)
    expected = F.layer_norm(small.float(), (32,), eps=1e-12)
    torch.testing.assert_close(norm(small).float(), expected, atol=1e-2, rtol=1e-2)
    assert expected.std() > 0.8
