"""Objectives over the features of regions."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from vtlm_fairseq.objectives.base import RegionObjective, full, register_region_objective


@register_region_objective("mrfr")
class RegionFeatureRegression(RegionObjective):
    """Masked region feature regression (UNITER, section 3.2): a linear head gives the features of a selected region.

    The loss of a region is the mean over dimensions of the squared difference to the features that the image has there:
    with ``--region-standardise`` to the standardised ones, as the model reads them, otherwise to those of the store.
    """

    reads = ("features",)

    def head(self, cfg: Any) -> nn.Module:
        """d to D."""
        return nn.Linear(cfg.encoder_embed_dim, cfg.region_dim)

    def target(self, predicted: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """n x D, before anything was masked or replaced."""
        return model.encoder.embed_regions.standardised(predicted["features"])

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of n x D."""
        return (full(output) - full(target)).square().mean(dim=1).sum()
