"""Objectives over regions (``--region-objectives``): parts of the loss, one class each, ours and a user's own."""

from vtlm_fairseq.objectives import features, labels, matching  # noqa: F401  (they register)
from vtlm_fairseq.objectives.base import (
    Needs,
    RegionObjective,
    named,
    needs_of,
    read_objectives,
    register_region_objective,
)

__all__ = ["Needs", "RegionObjective", "named", "needs_of", "read_objectives", "register_region_objective"]
