"""Data of the two tasks: regions joined to lines, masking, batches and datasets."""

from vtlm_fairseq import register

register()
