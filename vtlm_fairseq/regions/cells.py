"""Cells of a grid that lies over an image: their boxes, and means of their features over boxes."""

import numpy as np


def grid_boxes(rows: int, columns: int, *, height: float = 1.0, width: float = 1.0) -> np.ndarray:
    """Boxes of the cells in reading order.

    Args:
        height: of the grid, which begins at the image's upper left corner, as a share of the image's.
        width: the same.

    Returns:
        [rows * columns, 4] float64, x1, y1, x2, y2, relative to the image.
    """
    y, x = (axis.reshape(-1) for axis in np.mgrid[:rows, :columns])
    boxes = np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1)
    return boxes * [width, height, width, height]


def pool_boxes(grid: np.ndarray, boxes: np.ndarray, *, height: float = 1.0, width: float = 1.0) -> np.ndarray:
    """The mean of the cells in each box, weighted by the area of a cell that the box covers.

    A box without area, or beyond the grid, has the cell that is nearest to its upper left corner.

    Args:
        grid: [rows, columns, D].
        boxes: [R, 4] x1, y1, x2, y2, relative to the image.
        height: of the grid, as in `grid_boxes`.
        width: the same.

    Returns:
        [R, D] float32.
    """
    rows, columns, dim = grid.shape
    down = _shares(boxes[:, 1] * rows / height, boxes[:, 3] * rows / height, rows)
    across = _shares(boxes[:, 0] * columns / width, boxes[:, 2] * columns / width, columns)
    weights = (down[:, :, None] * across[:, None, :]).reshape(len(boxes), rows * columns)
    return weights.astype(np.float32) @ grid.reshape(rows * columns, dim).astype(np.float32, copy=False)


def _shares(first: np.ndarray, last: np.ndarray, cells: int) -> np.ndarray:
    """[R, cells]: the share of each interval, `first` [R] to `last` [R] in cells, that lies in each cell."""
    edges = np.arange(cells)
    lengths = np.minimum(last[:, None], edges + 1.0) - np.maximum(first[:, None], edges)
    lengths = np.maximum(lengths, 0.0)
    empty = np.flatnonzero(lengths.sum(axis=1) == 0)
    lengths[empty, np.clip(first[empty], 0, cells - 1).astype(int)] = 1.0
    return lengths / lengths.sum(axis=1, keepdims=True)
