"""Objectives over the classes of regions."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from vtlm_fairseq.objectives.base import RegionObjective, full, highest, register_region_objective

_LEAST = 1e-6  # sum of the scores of a region without any


@register_region_objective("mrc")
class RegionClassification(RegionObjective):
    """Masked region classification: cross-entropy of the detector's class of a selected region (paper, section 2.2)."""

    own_head = False

    def target(self, predicted: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """[n] labels."""
        return predicted["regions"]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of n x C logits."""
        return F.cross_entropy(full(output), target, reduction="sum")

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """The class with the highest logit is the label."""
        return (highest(output) == target).sum()


@register_region_objective("mrc-kl")
class SoftRegionClassification(RegionClassification):
    """Masked region classification with soft labels (UNITER, section 3.2): KL divergence from the detector's.

    Class scores of a region that the store has are divided by their sum; classes that it has none of have 0. The head
    is that of ``mrc``. Right is a prediction whose best class is that of the scores.
    """

    reads = ("soft_labels",)

    def target(self, predicted: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """n x C."""
        scores = full(predicted["soft_labels"])
        if (classes := predicted.get("soft_classes")) is not None:
            whole = scores.new_zeros(len(scores), model.region_head.out_features)
            scores = whole.scatter(1, classes.long(), scores)
        return scores / scores.sum(dim=1, keepdim=True).clamp_min(_LEAST)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of n x C logits."""
        return F.kl_div(F.log_softmax(full(output), dim=-1), target, reduction="sum")

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """The best classes are the same."""
        return (highest(output) == highest(target)).sum()
