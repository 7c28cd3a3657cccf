"""Models: the VTLM encoder with its two heads, and the multimodal encoder-decoder."""

from vtlm_fairseq import register

register()
