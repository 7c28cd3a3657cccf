"""One image of the input of a conversion, whatever its format."""

from typing import NamedTuple

import numpy as np


class InputImage(NamedTuple):
    """Features [R, D], boxes [R, 4], labels [R], scores [R] of an image; None where not given.

    Attributes:
        image_id: its id in the store.
        source: file (and line), for messages.
        features: [R, D].
        boxes: [R, 4], x1, y1, x2, y2 unless the command says otherwise.
        labels: [R], 0-based.
        scores: [R].
        size: width and height in pixels, where the boxes are in pixels and the format gives it.
    """

    image_id: str
    source: str
    features: np.ndarray
    boxes: np.ndarray | None
    labels: np.ndarray | None
    scores: np.ndarray | None
    size: tuple[float, float] | None = None
