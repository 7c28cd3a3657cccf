"""Images of different sizes in one batch: scaled to one longer side, and laid on canvases of few shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vtlm_fairseq.extract.detectors.base import Detection
from vtlm_fairseq.regions.image_reading import decode_image

STEPS = 8
"""Shorter sides of canvases are so many, in equal steps up to the longer side."""

_FILL = (124, 116, 104)  # the mean that detectors take off, so that there is about 0 behind the image's edge


class Letterboxed(NamedTuple):
    """An image in the upper left corner of a canvas.

    Attributes:
        pixels: [height, width, 3] uint8, of the canvas.
        height: of the image, as a share of the canvas's.
        width: the same.
    """

    pixels: np.ndarray
    height: float = 1.0
    width: float = 1.0


def read_letterboxed(data: bytes, side: int | None) -> Letterboxed:
    """An image as it is, or scaled.

    Args:
        data: of its file.
        side: the longer side of the scaled image, a multiple of `STEPS`; None: the canvas is the image.

    Raises:
        UnreadableImageError: it is none.
    """
    image = decode_image(data)
    if side is None:
        return Letterboxed(np.asarray(image))
    scale, step = side / max(image.size), side // STEPS
    width, height = (max(1, round(pixels * scale)) for pixels in image.size)
    canvas = np.empty((-(-height // step) * step, -(-width // step) * step, 3), np.uint8)
    canvas[:] = _FILL
    canvas[:height, :width] = np.asarray(image.resize((width, height), resample=2))  # bilinear
    return Letterboxed(canvas, height / canvas.shape[0], width / canvas.shape[1])


def of_one_shape(inputs: Sequence[Letterboxed]) -> list[list[int]]:
    """Places of the inputs that can be stacked, in groups."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, image in enumerate(inputs):
        groups.setdefault(image.pixels.shape, []).append(at)
    return list(groups.values())


def relative_to_image(found: Detection, image: Letterboxed) -> Detection:
    """Regions whose boxes are relative to the canvas, relative to the image; those beside it are left out."""
    if image.height == image.width == 1:
        return found
    boxes = np.clip(found.boxes / np.array([image.width, image.height] * 2, np.float32), 0.0, 1.0)
    inside = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
    return Detection(*(values[inside] for values in found._replace(boxes=boxes)))
