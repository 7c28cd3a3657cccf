"""Objectives over a pair and its image as a whole."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtlm_fairseq.objectives.base import RegionObjective, full, register_region_objective


class Pooler(nn.Module):
    """n x d states of first tokens to [n] logits, through one layer with tanh.

    Args:
        dim: width d.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, 1)

    def forward(self, states: Tensor) -> Tensor:
        """n x d -> [n]."""
        return self.out(torch.tanh(self.dense(states))).squeeze(-1)


@register_region_objective("itm")
class ImageTextMatching(RegionObjective):
    """Image-text matching (UNITER, section 3.2): is the image that of the captions?

    Half of the pairs of a batch, by a draw of their own, have the regions of another pair of the batch whose image is
    another one; a pair without such a partner keeps its own. Binary cross-entropy on the first token's state. Masks are
    as in matching pairs, and words and regions of mismatched pairs are not predicted.
    """

    place = "first"
    mismatches = True

    def head(self, cfg: Any) -> nn.Module:
        """A pooler."""
        return Pooler(cfg.encoder_embed_dim)

    def target(self, predicted: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """[n], True where they match."""
        return predicted["matched"]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of [n] logits."""
        output = full(output)
        return F.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="sum")

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """A match has a logit above 0."""
        return ((output > 0) == target).sum()
