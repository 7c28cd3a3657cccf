"""Cells of a grid, and the means of their features over boxes, against sums cell by cell."""

import numpy as np

from vtlm_fairseq.regions.cells import grid_boxes, pool_boxes


def slowly(grid, box, height=1.0, width=1.0):
    """The mean over a box, cell by cell."""
    rows, columns, _ = grid.shape
    total, area = 0.0, 0.0
    for row in range(rows):
        for column in range(columns):
            x1, x2 = max(box[0], column / columns * width), min(box[2], (column + 1) / columns * width)
            y1, y2 = max(box[1], row / rows * height), min(box[3], (row + 1) / rows * height)
            shared = max(x2 - x1, 0) * max(y2 - y1, 0)
            total, area = total + shared * grid[row, column], area + shared
    return total / area


def test_boxes_are_in_reading_order():
    """x and y are not mixed up, and a grid that ends before the image does has smaller cells."""
    boxes = grid_boxes(2, 3, height=0.8, width=0.6)
    np.testing.assert_allclose(boxes[1], [0.2, 0, 0.4, 0.4])
    np.testing.assert_allclose(boxes[3], [0, 0.4, 0.2, 0.8])


def test_means_are_weighted_by_area():
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(3, 5, 4))
    corners = np.sort(rng.random((20, 2, 2)) * 0.8, axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1)
    for height, width in ((1.0, 1.0), (0.9, 0.8)):
        expected = [slowly(grid, box, height, width) for box in boxes]
        np.testing.assert_allclose(pool_boxes(grid, boxes, height=height, width=width), expected, atol=1e-6)
    np.testing.assert_allclose(pool_boxes(grid, grid_boxes(3, 5)), grid.reshape(15, 4), atol=1e-6)
    halves = pool_boxes(grid, np.array([[0, 0, 0.3, 1]]))  # a column and a half
    np.testing.assert_allclose(halves[0], (grid[:, 0] + grid[:, 1] / 2).mean(axis=0) / 1.5, atol=1e-6)


def test_boxes_that_cover_no_cell_have_the_nearest():
    grid = np.arange(6.0).reshape(2, 3, 1)
    boxes = np.array([[0.5, 0.9, 0.5, 0.9], [1, 1, 1, 1], [0.95, 0, 1, 0.2], [0.1, 0.6, 0.2, 0.6]])
    assert pool_boxes(grid, boxes, width=0.9)[:, 0].tolist() == [4, 5, 2, 3]
    assert pool_boxes(grid, np.empty((0, 4))).shape == (0, 1)
