"""Detectors by name: `--detector NAME` of ``vtlm-extract``."""

from vtlm_fairseq.extract.detectors import (  # noqa: F401
    clip_regions,
    grid,
    litert_ssd,
    patches,
    tf_saved_model,
    torchvision_boxes,
)
from vtlm_fairseq.extract.detectors.base import (
    Detection,
    Detector,
    DetectorOptions,
    get_detector,
    list_detectors,
    register_detector,
)

__all__ = ["Detection", "Detector", "DetectorOptions", "get_detector", "list_detectors", "register_detector"]
