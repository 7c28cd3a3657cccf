"""Models: the VTLM encoder with its two heads, and the multimodal encoder-decoder."""

from vtlm_fairseq.models import multimodal_transformer, vtlm

__all__ = ["multimodal_transformer", "vtlm"]
