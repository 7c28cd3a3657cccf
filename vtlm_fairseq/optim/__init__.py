"""Optimizers."""

from vtlm_fairseq.optim import fused_adam

__all__ = ["fused_adam"]
