"""Rows that are no regions: features of zeros and boxes without area, with which arrays are filled up."""

from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError

_FEW = 64
ZERO, FLAT = "features are all 0", "boxes have no area"


def zero_rows(features: np.ndarray) -> np.ndarray:
    """[R] whether all features [R, D] of a region are 0."""
    zero = ~features[:, :_FEW].any(axis=1)
    if zero.any():  # looks at all, which is slow in half precision, of these alone
        zero[zero] = ~features[zero].any(axis=1)
    return zero


def flat_boxes(boxes: np.ndarray) -> np.ndarray:
    """[R] whether a box [R, 4] has no area."""
    return (boxes[:, 2:] == boxes[:, :2]).any(axis=1)


def check_padding(arrays: dict[str, Any], where: str, *, keep: bool, drop: bool) -> dict[str, Any]:
    """The arrays of an image, of which one row is one region.

    Args:
        arrays: features [R, D], boxes [R, 4], and others [R] or None.
        where: file and image, for messages.
        keep: padding is taken as it is.
        drop: padding is left out.

    Raises:
        VTLMError: there is some, and neither is said.
    """
    features, boxes = (np.asarray(arrays[name]) for name in ("features", "boxes"))
    fits = features.ndim == boxes.ndim == 2 and len(features) == len(boxes) and boxes.shape[1] == 4
    fits = fits and all(value is None or np.shape(value)[:1] == (len(features),) for value in arrays.values())
    if keep or not fits or features.dtype.kind not in "fiu" or boxes.dtype.kind not in "fiu":
        return arrays  # what does not fit is refused by the store's rules
    zero, flat = zero_rows(features), flat_boxes(boxes)
    empty = zero | flat
    if not empty.any():
        return arrays
    if drop:
        return {name: None if value is None else np.asarray(value)[~empty] for name, value in arrays.items()}
    what = ZERO if zero[empty][0] else "the box has no area"
    raise VTLMError(
        f"{where}: {what} in region {int(np.flatnonzero(empty)[0])} of {len(empty)} ({empty.sum()} such): padding is "
        "no region; name the numbers of regions with --counts, leave these out with --drop-empty, or store them with "
        "--keep-empty"
    )
