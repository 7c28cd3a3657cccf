"""Criterion ``vtlm``. fairseq does not import criterions of a user-dir by itself (PITFALLS 3)."""

from vtlm_fairseq import register

register()
