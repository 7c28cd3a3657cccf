"""Optimizers."""

from vtlm_fairseq import register

register()
