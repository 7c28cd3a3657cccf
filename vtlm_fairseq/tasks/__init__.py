"""Tasks: pre-training (``visual_translation_lm``) and translation (``multimodal_translation``)."""

from vtlm_fairseq import register

register()
