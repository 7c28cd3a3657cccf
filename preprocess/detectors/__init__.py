"""Detectors by name: `--detector NAME` of `extract_regions.py`."""

from detectors import grid, litert_ssd, tf_saved_model, torchvision_boxes  # noqa: F401  (they register themselves)
from detectors.base import Detection, Detector, DetectorOptions, get_detector, list_detectors, register_detector

__all__ = ["Detection", "Detector", "DetectorOptions", "get_detector", "list_detectors", "register_detector"]
