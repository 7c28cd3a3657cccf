"""What is checked of the regions of an image before a store takes them."""

from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.padding import zero_rows
from vtlm_fairseq.regions.soft_labels import SoftLabels

SLACK, PIXEL_SLACK = 0.01, 2.0
"""How far boxes may end outside the image, as a share of it and in pixels: detectors round them, or count pixels from 1
or to the last one inclusive. They are cut at its edge."""


_LARGEST_RELATIVE, _SMALLEST_IMAGE = 1.5, 4  # pixels: boxes all within the one are none, of an image beyond the other
_KINDS = {"b": "true or false", "c": "complex numbers", "U": "text", "S": "text", "O": "objects", "M": "dates"}
FIND_ALL = "find all such images with: vtlm-regions validate"
_INFINITY, _SIGN = 0x7C00, 0x8000  # bits of a half


class Rules(NamedTuple):
    """What all regions of a store have in common.

    Attributes:
        feature_dim: D.
        num_classes: C.
        dtype: of the features as they are stored.
        num_soft: class scores that are kept of a region, the best ones.
    """

    feature_dim: int
    num_classes: int
    dtype: np.dtype
    num_soft: int = 0

    def check(
        self,
        *,
        features: Any,
        boxes: Any,
        labels: Any,
        scores: Any = None,
        soft_labels: Any = None,
        images: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The arrays of an image as a store keeps them, best score first (equal scores keep their order).

        Args:
            features: [R, D] numbers; R may be 0.
            boxes: [R, 4], x1, y1, x2, y2 divided by image width and height, within 0..1.
            labels: [R] whole numbers in 0..C-1.
            scores: [R] detector confidence; None is 1.0.
            soft_labels: [R, C] class scores, where some are kept.
            images: [R] ascending numbers of the images of the regions, where there are several.

        Raises:
            VTLMError: a shape, or a value that is not finite or out of range; the image is not named.
        """
        features, boxes, labels = np.asarray(features), np.asarray(boxes), np.asarray(labels)
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise VTLMError(f"features have shape {features.shape}, must be [R, {self.feature_dim}]")
        regions = len(features)
        scores = np.ones(regions, dtype=np.float32) if scores is None else np.asarray(scores)
        for name, values, shape in (
            ("boxes", boxes, (regions, 4)),
            ("labels", labels, (regions,)),
            ("scores", scores, (regions,)),
        ):
            if values.shape != shape:
                raise VTLMError(f"{name} have shape {values.shape}, must be {list(shape)} as the features")
        numbers = features.dtype.kind in "fiu"
        with np.errstate(over="ignore"):
            stored = features.astype(self.dtype, copy=False) if numbers else features
        sound = numbers and all_finite(stored)
        for name, values in (("boxes", boxes), ("scores", scores), *(() if sound else (("features", features),))):
            if values.dtype.kind not in "fiu":
                raise VTLMError(f"{name} are {_KINDS.get(values.dtype.kind, values.dtype)}, must be real numbers")
            if not np.isfinite(values).all():
                raise VTLMError(f"{name} hold a value that is not finite (NaN or infinite); mend the input")
        if not sound:
            raise VTLMError(f"a feature is too large for {self.dtype}; use --dtype float32")
        if features.dtype != self.dtype and (lost := zero_rows(stored)).any() and features[lost].any():
            raise VTLMError(
                f"all features of a region are too small for {self.dtype}, which makes them 0; use --dtype float32"
            )
        if labels.dtype.kind not in "iu" and regions:
            raise VTLMError(f"labels are {labels.dtype}, must be whole numbers")
        if regions and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise VTLMError(
                f"labels run from {labels.min()} to {labels.max()}, must be in "
                f"0..{self.num_classes - 1}; check --class-names or --num-classes (no background class)"
            )
        order = np.argsort(-scores.astype(np.float32), kind="stable")
        if images is not None:
            order = order[np.argsort(images[order], kind="stable")]
        arrays = {
            "features": stored,
            "boxes": _checked_boxes(boxes),
            "labels": labels.astype(np.int16),
            "scores": scores.astype(np.float32),
        }
        if self.num_soft:
            arrays |= self._soft(soft_labels, regions)
        return {name: values[order] for name, values in arrays.items()}  # copies: the caller's may change

    def _soft(self, soft_labels: Any, regions: int) -> dict[str, np.ndarray]:
        """``soft_labels``, and ``soft_classes`` where not all are kept."""
        if soft_labels is None:
            raise VTLMError("class scores (soft labels) are missing; leave --soft-labels out, or mend the input")
        values = np.asarray(soft_labels)
        if values.shape != (regions, self.num_classes) or values.dtype.kind not in "fiu":
            raise VTLMError(
                f"class scores are {values.dtype} {list(values.shape)}, must be numbers [{regions}, {self.num_classes}]"
            )
        made = SoftLabels.of(values, self.num_soft)
        for what, bad in made.faults(self.num_classes).items():
            if bad.any():
                raise VTLMError(f"{what} in region {int(np.flatnonzero(bad)[0])}; are they probabilities (softmax)?")
        return {
            name: part
            for name, part in (("soft_labels", made.probabilities), ("soft_classes", made.classes))
            if part is not None
        }


def all_finite(values: np.ndarray) -> bool:
    """Whether there is neither an infinity nor a NaN among numbers."""
    if values.dtype == np.float16 and values.flags.c_contiguous:  # numpy looks at halves one by one
        # the bits of infinities and NaNs are the largest numbers with their sign, and of all without one
        infinite = _INFINITY <= values.view(np.int16).max(initial=0)
        return not (infinite or _INFINITY | _SIGN <= values.view(np.uint16).max(initial=0))
    return bool(np.isfinite(values).all())


def within_image(boxes: np.ndarray) -> bool:
    """Whether boxes [..., 4] that are relative to their image are finite and end at most `SLACK` outside it."""
    return not boxes.size or bool(boxes.min() >= -SLACK and boxes.max() <= 1 + SLACK)  # NaN is neither


def beyond_image(boxes: np.ndarray) -> np.ndarray:
    """[R] where a box of [R, 4] is not `within_image`."""
    return ~((boxes >= -SLACK) & (boxes <= 1 + SLACK)).all(axis=1)


def bad_boxes(where: str, boxes: np.ndarray) -> VTLMError:
    """What to say of the boxes [R, 4] of an image of a store that are not `within_image`.

    Args:
        where: store and image, for messages.
        boxes: all or some of the image's.
    """
    if not np.isfinite(boxes).all():
        return not_finite(where)
    return VTLMError(
        f"{where} has boxes from {boxes.min():g} to {boxes.max():g}, beyond the image: boxes are relative to it, 0 to "
        f"1; divide pixels by its width and height (vtlm-regions convert); {FIND_ALL}"
    )


def not_finite(where: str) -> VTLMError:
    """What to say of an image of a store with a value that is not finite; `where` as for `bad_boxes`."""
    return VTLMError(f"{where} holds a feature or box that is not finite (NaN or infinite); {FIND_ALL}")


def look_relative(boxes: np.ndarray, size: tuple[float, float] | None) -> bool:
    """Whether boxes that are said to be in pixels are fractions of the image: none is larger than a pixel.

    Whole numbers are pixels.

    Args:
        boxes: [R, 4], corners.
        size: width and height of the image in pixels, where known.
    """
    if not len(boxes) or boxes.max() > _LARGEST_RELATIVE or (size is not None and min(size) <= _SMALLEST_IMAGE):
        return False
    return bool((boxes % 1 != 0).any())


def _checked_boxes(boxes: np.ndarray) -> np.ndarray:
    """Boxes as float32 within 0..1."""
    if len(boxes) == 0:
        return boxes.astype(np.float32)
    if not within_image(boxes):
        raise VTLMError(
            f"boxes run from {boxes.min():g} to {boxes.max():g}, must be within 0..1; divide "
            "them by image width and height (vtlm-regions convert: --box-units pixels --image-sizes FILE)"
        )
    if (boxes[:, :2] > boxes[:, 2:]).any():
        region = int(np.flatnonzero((boxes[:, :2] > boxes[:, 2:]).any(axis=1))[0])
        raise VTLMError(
            f"box {boxes[region].tolist()} is not x1 <= x2, y1 <= y2; boxes are x1, y1, x2, y2 "
            "(vtlm-regions convert: --box-format yxyx)"
        )
    return np.clip(boxes.astype(np.float32), 0.0, 1.0)
