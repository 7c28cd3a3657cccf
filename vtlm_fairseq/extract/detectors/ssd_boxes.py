"""Boxes of a Single Shot Detector (SSD): its anchors, how it encodes boxes, and suppression of duplicates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

FEATURE_MAPS = (19, 10, 5, 3, 2, 1)  # cells a side of the six maps of a 300 x 300 input
_SMALLEST, _LARGEST = 0.2, 0.95  # scales of the anchors of the first and last map
_POOL = 1000
_CENTRE_SCALE, _SIZE_SCALE = 10.0, 5.0


def make_anchors() -> np.ndarray:
    """Anchors of SSD MobileNet: three a cell of the first map, six of each other one.

    Returns:
        [A, 4] centre y, centre x, height, width as fractions of the image, in the order of the network's outputs
        (map, row, column, shape). A = 1,917 for the maps of a 300 x 300 input.
    """
    steps = len(FEATURE_MAPS) - 1
    scales = [_SMALLEST + (_LARGEST - _SMALLEST) * i / steps for i in range(steps + 1)] + [1.0]
    anchors = []
    for level, cells in enumerate(FEATURE_MAPS):
        scale = scales[level]
        if level == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            shapes = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 1.0 / 3.0)]
            shapes.append(((scale * scales[level + 1]) ** 0.5, 1.0))
        sizes = np.array([(s / ratio**0.5, s * ratio**0.5) for s, ratio in shapes])
        centres = (np.stack(np.mgrid[:cells, :cells], axis=-1).reshape(-1, 1, 2) + 0.5) / cells
        both = np.broadcast_arrays(centres, sizes[None])
        anchors.append(np.concatenate(both, axis=-1).reshape(-1, 4))
    return np.concatenate(anchors)


def decode_boxes(encodings: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Boxes [A, 4] as x1, y1, x2, y2, cut at the image's edge, from encodings [A, 4] of centre and size (y first)."""
    encodings = encodings.astype(np.float64)
    centre = anchors[:, :2] + encodings[:, :2] / _CENTRE_SCALE * anchors[:, 2:]
    half = np.exp(encodings[:, 2:] / _SIZE_SCALE) * anchors[:, 2:] / 2
    return np.clip(np.concatenate([centre - half, centre + half], axis=1)[:, [1, 0, 3, 2]], 0.0, 1.0)


def suppress(
    boxes: np.ndarray, scores: np.ndarray, *, max_overlap: float, max_regions: int, min_score: float
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy non-maximum suppression within each class; the best regions over all classes.

    Args:
        boxes: [A, 4] x1, y1, x2, y2.
        scores: [A, C].
        max_overlap: a box that covers a better one of its class by more than this (intersection over union) goes.
        max_regions: stop at so many.
        min_score: leave out what scores less.

    Returns:
        Rows of `boxes` [R] and classes [R], best first; equal scores in the order of boxes, then classes.
    """
    kept: list[int] = []
    classes: list[int] = []
    for pair in _best_first(scores.reshape(-1)):
        row, label = divmod(pair, scores.shape[1])
        if len(kept) == max_regions or scores[row, label] < min_score:
            break
        rivals = [k for k, c in zip(kept, classes, strict=True) if c == label]
        if rivals and overlaps(boxes[row], boxes[rivals]).max() > max_overlap:
            continue
        kept.append(row)
        classes.append(label)
    return np.array(kept, dtype=np.int64), np.array(classes, dtype=np.int64)


def _best_first(scores: np.ndarray) -> Iterator[int]:
    """Positions by falling score, equal ones in order; the few best are sorted first, since mostly they suffice."""
    if len(scores) > _POOL:
        least = np.partition(scores, -_POOL)[-_POOL]
        best = np.flatnonzero(scores >= least)
        yield from best[np.argsort(-scores[best], kind="stable")].tolist()
        rest = np.flatnonzero(scores < least)
    else:
        rest = np.arange(len(scores))
    yield from rest[np.argsort(-scores[rest], kind="stable")].tolist()


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] with others [R, 4]."""
    corners = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(corners[1] - corners[0], 0, None), axis=1)
    area = np.prod(box[2:] - box[:2]), np.prod(others[:, 2:] - others[:, :2], axis=1)
    return shared / np.maximum(area[0] + area[1] - shared, np.finfo(np.float64).tiny)


def pool_cells(feature_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Mean of the cells that each box touches.

    Args:
        feature_map: [rows, columns, D] over the whole image.
        boxes: [R, 4] x1, y1, x2, y2 within 0..1.

    Returns:
        [R, D] float32.
    """
    rows, columns, width = feature_map.shape
    scale = np.array([columns, rows])
    first = np.minimum(np.floor(boxes[:, :2] * scale), scale - 1).astype(int)
    last = np.maximum(np.ceil(boxes[:, 2:] * scale).astype(int), first + 1)
    pooled = np.empty((len(boxes), width), dtype=np.float32)
    for region, ((x1, y1), (x2, y2)) in enumerate(zip(first, last, strict=True)):
        pooled[region] = feature_map[y1:y2, x1:x2].mean(axis=(0, 1))
    return pooled
