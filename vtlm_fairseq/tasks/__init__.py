"""Tasks: pre-training (``visual_translation_lm``) and translation (``multimodal_translation``)."""

from vtlm_fairseq.tasks import multimodal_translation, visual_translation_lm

__all__ = ["multimodal_translation", "visual_translation_lm"]
