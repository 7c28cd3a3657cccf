"""`torchvision`: a detection model of torchvision with a box head (Faster, Mask or Keypoint R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.detectors.base import (
    Detection,
    Detector,
    import_package,
    need_model,
    register_detector,
)
from vtlm_fairseq.extract.detectors.letterbox import Letterboxed, of_one_shape, read_letterboxed, relative_to_image
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions import numbered_classes
from vtlm_fairseq.regions.image_reading import UnreadableImageError

if TYPE_CHECKING:
    import torch

_CLASS_ROWS = "roi_heads.box_predictor.cls_score.weight"


@register_detector("torchvision")
class TorchvisionBoxes(Detector):
    """`--model NAME` is a builder of `torchvision.models.detection`; features are the output of its box head.

    The box head sees the boxes that are kept, not the proposals. Without `--weights` torchvision's own weights are
    used (downloaded to its cache at the first use); with it, a state dict of the user's, whose number of classes
    (background included) the model takes.
    """

    uses = frozenset({"model", "weights", "class_names", "min_score", "device", "threads", "letterbox", "fp16"})

    def read(self, data: bytes) -> Letterboxed:
        """The image, on a canvas with `--letterbox`."""
        return read_letterboxed(data, self.options.letterbox)

    def open(self, files: Sequence[ImageFile]) -> None:
        """Build the model and load its weights."""
        import torch

        name = need_model(self.options, detector="torchvision", what="a model name such as fasterrcnn_resnet50_fpn_v2")
        detection = import_package("torchvision.models.detection", extra="torchvision", detector="torchvision")
        models = import_package("torchvision.models", extra="torchvision", detector="torchvision")
        if name not in models.list_models():
            known = ", ".join(models.list_models(module=detection))
            raise VTLMError(f"--model {name}: torchvision has no such model; for detection it has {known}")
        torch.set_num_threads(self.options.threads)
        names = self.options.class_names
        if self.options.weights is None:
            weights = models.get_model_weights(name).DEFAULT
            model = models.get_model(name, weights=weights)
            names = names or tuple(weights.meta["categories"][1:])
            source = str(weights)
        else:
            model, source = self._with_own_weights(models, name), "own weights"
        if not all(hasattr(getattr(model, "roi_heads", None), part) for part in ("box_roi_pool", "box_head")):
            raise VTLMError(f"--model {name}: has no box head; take one of the *rcnn models")
        classes = model.roi_heads.box_predictor.cls_score.out_features - 1
        self.class_names = list(names or numbered_classes(classes))
        if len(self.class_names) != classes:
            raise VTLMError(f"--model {name}: {classes} classes but {len(self.class_names)} names; mend --class-names")
        model.roi_heads.score_thresh = self.options.min_score
        model.roi_heads.detections_per_img = self.options.max_regions
        try:
            self._model = model.eval().to(self.options.device)
        except (RuntimeError, AssertionError) as error:
            raise VTLMError(f"--device {self.options.device}: {error}; use --device cpu") from None
        self.feature_dim = model.roi_heads.box_predictor.cls_score.in_features
        self.description = f"torchvision {name} {source}"

    def _with_own_weights(self, models, name: str) -> torch.nn.Module:
        import torch

        path = self.options.weights
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises what the file's first bytes suggest
            raise VTLMError(f"--weights {path}: not a state dict of tensors ({error})") from None
        rows = state.get(_CLASS_ROWS) if isinstance(state, dict) else None
        if rows is None:
            raise VTLMError(f"--weights {path}: has no {_CLASS_ROWS}; save model.state_dict() of a torchvision R-CNN")
        model = models.get_model(name, weights=None, weights_backbone=None, num_classes=len(rows))
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise VTLMError(f"--weights {path}: do not fit --model {name} ({error})") from None
        return model

    def detect(self, inputs: list[Letterboxed]) -> list[Detection | UnreadableImageError]:
        """Regions of each image; torchvision resizes the images, and pads those of several shapes to one batch."""
        found: dict[int, Detection] = {}
        for members in [list(range(len(inputs)))] if self.options.letterbox is None else of_one_shape(inputs):
            for at, regions in zip(members, self._detect([inputs[at].pixels for at in members]), strict=True):
                found[at] = relative_to_image(regions, inputs[at])
        return [found[at] for at in range(len(inputs))]

    def _detect(self, inputs: list[np.ndarray]) -> list[Detection]:
        import torch

        device = torch.device(self.options.device)
        half = torch.autocast(device.type, torch.float16, enabled=self.options.fp16)
        with torch.inference_mode(), half:
            tensors = [torch.tensor(pixels, device=device).permute(2, 0, 1) / 255 for pixels in inputs]
            images, _ = self._model.transform(tensors)
            maps = self._model.backbone(images.tensors)
            maps = {"0": maps} if isinstance(maps, torch.Tensor) else maps
            proposals, _ = self._model.rpn(images, maps)
            heads = self._model.roi_heads
            found, _ = heads(maps, proposals, images.image_sizes)
            boxes = [regions["boxes"] for regions in found]
            features = heads.box_head(heads.box_roi_pool(maps, boxes, images.image_sizes))
            return [
                Detection(
                    part.float().cpu().numpy(),
                    _relative(regions["boxes"], size),
                    regions["labels"].cpu().numpy() - 1,  # 0 is the background
                    regions["scores"].float().cpu().numpy(),
                )
                for part, regions, size in zip(
                    features.split([len(b) for b in boxes]), found, images.image_sizes, strict=True
                )
            ]


def _relative(boxes: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Boxes [R, 4] in pixels of an image of (height, width) as fractions of it."""
    height, width = size
    return np.clip(boxes.float().cpu().numpy() / np.array([width, height, width, height], dtype=np.float32), 0.0, 1.0)
