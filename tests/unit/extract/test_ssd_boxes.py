"""Boxes of the SSD: anchors, decoding, suppression and pooling, against numbers worked out by hand."""

import numpy as np
import pytest
from extraction import ssd_boxes


def test_anchors():
    """1,917 of them; order: map, row, column, shape."""
    anchors = ssd_boxes.make_anchors()
    assert anchors.shape == (1917, 4)
    half = 0.5 / 19
    np.testing.assert_allclose(anchors[0], [half, half, 0.1, 0.1])
    np.testing.assert_allclose(anchors[1], [half, half, 0.2 / 2**0.5, 0.2 * 2**0.5])  # twice as wide as high
    np.testing.assert_allclose(anchors[3, :2], [half, 3 * half])  # the next column
    second = 19 * 19 * 3
    np.testing.assert_allclose(anchors[second], [0.05, 0.05, 0.35, 0.35])
    np.testing.assert_allclose(anchors[second + 4, 2:], [0.35 * 3**0.5, 0.35 / 3**0.5])  # three times as high as wide
    np.testing.assert_allclose(anchors[second + 5, 2:], [(0.35 * 0.5) ** 0.5] * 2)
    np.testing.assert_allclose(anchors[second + 6, :2], [0.05, 0.15])
    np.testing.assert_allclose(anchors[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5])


def test_decoding():
    """ty, tx are tenths of the anchor's height and width, th, tw logarithms times five."""
    anchors = np.array([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.5, 0.5]])
    encodings = np.array([[5.0, 10.0, 0.0, 5 * np.log(0.5)], [0, 0, 5 * np.log(4), 0]], np.float32)
    boxes = ssd_boxes.decode_boxes(encodings, anchors)
    # centre y 0.5 + 0.5 * 0.2 = 0.6, x 0.5 + 1 * 0.4 = 0.9; height 0.2, width 0.2
    np.testing.assert_allclose(boxes[0], [0.8, 0.5, 1.0, 0.7], atol=1e-6)
    np.testing.assert_allclose(boxes[1], [0.25, 0, 0.75, 1], atol=1e-6)  # twice the image's height: cut


BOXES = np.array([[0, 0, 0.4, 0.4], [0, 0, 0.4, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.4, 0.1]])
SCORES = np.array([[0.9, 0.3], [0.8, 0.6], [0.2, 0.7], [0.5, 0.1]])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        # boxes 0 and 1 share 0.16 of 0.2: 0.8; box 3 is a quarter of box 0
        ({}, [(0, 0), (2, 1), (1, 1), (3, 0), (2, 0), (3, 1)]),
        ({"max_overlap": 0.81}, [(0, 0), (1, 0), (2, 1), (1, 1), (3, 0), (0, 1), (2, 0), (3, 1)]),
        ({"max_overlap": 0.19}, [(0, 0), (2, 1), (1, 1), (2, 0)]),
        ({"max_regions": 2}, [(0, 0), (2, 1)]),
        ({"min_score": 0.6}, [(0, 0), (2, 1), (1, 1)]),
    ],
)
def test_suppression_is_within_a_class(options, kept):
    options = {"max_overlap": 0.5, "max_regions": 36, "min_score": 0.0, **options}
    rows, classes = ssd_boxes.suppress(BOXES, SCORES, **options)
    assert list(zip(rows.tolist(), classes.tolist(), strict=True)) == kept


@pytest.mark.slow
def test_many_candidates_are_taken_in_order():
    """More than are sorted at once, with ties, and all classes suppressed but for one box each."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, (800, 5)) / 40
    rows, classes = ssd_boxes.suppress(
        np.tile([0.0, 0, 1, 1], (800, 1)), scores, max_overlap=1, max_regions=4000, min_score=0
    )
    order = np.argsort(-scores, axis=None, kind="stable")
    assert (rows * 5 + classes).tolist() == order.tolist()
    rows, classes = ssd_boxes.suppress(
        np.tile([0.0, 0, 1, 1], (800, 1)), scores, max_overlap=0.5, max_regions=36, min_score=0
    )
    assert sorted(classes.tolist()) == [0, 1, 2, 3, 4]


def test_pooling_takes_the_cells_that_a_box_touches():
    """Rows are y, columns x; a box on an edge, and one without extent, still have a cell."""
    maps = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    boxes = np.array([[0, 0, 1, 1], [0.25, 0, 0.5, 0.34], [1, 1, 1, 1], [0.6, 0.1, 0.6, 0.1]])
    pooled = ssd_boxes.pool_cells(maps, boxes)[:, 0].tolist()
    assert pooled == [5.5, (1 + 5) / 2, 11, 2]
