"""Makes torchvision usable beside a PyTorch build that its compiled operators do not load with, as a CPU-only one.

Imported (or given as `--detector-file`) before torchvision: registers Python stand-ins for the two operators that box
heads need, where the compiled ones cannot be had. Slow, for tests only.
"""

import importlib
import sys
from collections.abc import Callable

import torch


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Rows of boxes that greedy suppression keeps, best first."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    left = scores.argsort(descending=True, stable=True)
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        corners = torch.maximum(boxes[best, :2], boxes[left, :2]), torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (corners[1] - corners[0]).clamp(min=0).prod(dim=1)
        left = left[shared <= iou_threshold * (area[best] + area[left] - shared)]
    return torch.tensor(kept, dtype=torch.int64)


def roi_align(features, rois, spatial_scale, height, width, sampling_ratio, aligned) -> torch.Tensor:
    """torchvision's own Python version, not compiled."""
    function = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__
    return function(features, rois, spatial_scale, height, width, sampling_ratio, aligned)


def install() -> torch.library.Library | None:
    """Import torchvision, with stand-ins if it does not import without; None if it does."""
    try:
        importlib.import_module("torchvision")
        return None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define(
        "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, "
        "int sampling_ratio, bool aligned) -> Tensor"
    )
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CPU")
    register_fake = torch.library.register_fake

    def register_known(name: str, *args: object, **kwargs: object) -> Callable:
        if name.startswith("torchvision::"):
            return lambda function: function
        return register_fake(name, *args, **kwargs)

    torch.library.register_fake = register_known
    try:
        importlib.import_module("torchvision")
    finally:
        torch.library.register_fake = register_fake
    for name in ("boxes", "roi_align"):
        module = sys.modules[f"torchvision.ops.{name}"]
        module._assert_has_ops = lambda: None
        module._has_ops = lambda: True
    return library


LIBRARY = install()  # the registrations live as long as this object
