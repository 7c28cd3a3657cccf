"""Detectors by name: `--detector NAME` of ``vtlm-extract``."""

from vtlm_fairseq.extract.detectors import grid, litert_ssd, tf_saved_model, torchvision_boxes  # noqa: F401
from vtlm_fairseq.extract.detectors.base import (
    Detection,
    Detector,
    DetectorOptions,
    get_detector,
    list_detectors,
    register_detector,
)

__all__ = ["Detection", "Detector", "DetectorOptions", "get_detector", "list_detectors", "register_detector"]
