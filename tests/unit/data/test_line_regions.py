"""Regions by line: given, shuffled (a derangement over images), hidden."""

import numpy as np
import pytest

from stores import fault
from tiny import line_regions
from vtlm_fairseq.data.line_regions import LineRegions

COUNTS = [3, 0, 2, 5, 1, 4]
ROWS = [4, 0, 0, 5, 2, 4, 3, 0]  # images 0 and 4 have several lines; image 1 has none in this split


def test_given_order_is_the_lines_own_image():
    regions = line_regions(COUNTS, ROWS)
    assert len(regions) == 8 and regions.counts().tolist() == [1, 3, 3, 4, 2, 1, 5, 3]
    for line, row in enumerate(ROWS):
        np.testing.assert_array_equal(regions[line].features, regions.store[row].features)


def test_shuffle_is_a_derangement_over_image_ids():
    """Every pair of images may meet."""
    met = set()
    for seed in range(60):
        regions = line_regions(COUNTS, ROWS, order="shuffle", seed=seed)
        given = dict(zip(ROWS, regions.line_rows.tolist(), strict=True))
        assert [given[row] for row in ROWS] == regions.line_rows.tolist()  # lines of one image get one other image
        assert all(given[row] != row for row in ROWS)
        assert sorted(given.values()) == sorted(given)  # each image of the split is given away once
        for line in range(8):
            np.testing.assert_array_equal(regions[line].features, regions.store[regions.line_rows[line]].features)
        assert regions.counts().tolist() == [COUNTS[row] for row in regions.line_rows]
        met |= set(given.items())
    assert len(met) == 5 * 4
    assert line_regions([1, 2], [0, 1, 1], order="shuffle").line_rows.tolist() == [1, 0, 0]


def test_shuffle_is_fixed_by_seed_and_split_and_redrawn_each_epoch_in_training_only():
    many = [1] * 50

    def rows(**options):
        return line_regions(many, order="shuffle", **options).line_rows.tolist()

    assert rows() == rows()
    assert rows(seed=2) != rows(seed=1)
    assert rows(split="valid") != rows(split="test")
    for redraw in (True, False):
        regions = line_regions(many, order="shuffle", redraw=redraw)
        first = regions.line_rows.tolist()
        regions.set_epoch(2)
        second = regions.line_rows.tolist()
        regions.set_epoch(1)
        assert regions.line_rows.tolist() == first
        assert (first == second) is not redraw
        assert all(row != line for line, row in enumerate(second))


def test_counts_of_a_redrawn_shuffle_hold_in_every_epoch():
    """Batches are made once; a line may get more regions later."""
    regions = line_regions(COUNTS, ROWS, order="shuffle", redraw=True)
    counts = regions.counts()
    for epoch in range(1, 20):
        regions.set_epoch(epoch)
        assert all(len(regions[line].labels) <= counts[line] for line in range(8))
    assert counts.tolist() == [5] * 8


def test_none_hides_all():
    regions = line_regions(COUNTS, ROWS, order="none")
    assert regions.counts().tolist() == [0] * 8
    for line in range(8):
        one = regions[line]
        assert (one.features.shape, one.boxes.shape, len(one.labels), len(one.scores)) == ((0, 4), (0, 4), 0, 0)
        assert one.features.dtype == regions.store.dtype
    padded = LineRegions(regions.store, regions.rows, order="none", seed=1, split="train", pad_to_multiple=8)
    assert padded.read([0, 6]).features.shape == (2, 1, 4)  # a place, whatever the others are multiples of


def test_shuffle_needs_a_second_image():
    message = fault(line_regions, COUNTS, [3, 3, 3], order="shuffle", split="valid")
    assert "valid" in message and "--region-order" in message
    line_regions(COUNTS, [3, 3], order="given")


@pytest.mark.parametrize("array", ["features", "boxes"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_the_image(array, value):
    regions = line_regions(COUNTS, ROWS)
    getattr(regions.store.images[5], array)[1, 2] = value
    message = fault(regions.__getitem__, 3)
    assert "'img5.jpg'" in message and "memory.h5" in message
    assert len(regions[0].labels) == 1


@pytest.mark.parametrize("value", [-0.1, 1.02, 640, 1e30])
def test_boxes_beyond_the_image_name_it_and_those_within_rounding_are_read(value):
    regions = line_regions(COUNTS, ROWS)
    regions.store.images[5].boxes[1, 2] = value
    for read in (lambda: regions[3], lambda: regions.read([0, 3, 5])):
        message = fault(read)
        assert "'img5.jpg'" in message and "memory.h5" in message and f"{value:g}" in message
        assert "vtlm-regions validate" in message and "0 to 1" in message
    assert len(regions.read([0, 5]).boxes) == 2
    regions.store.images[5].boxes[1] = [-0.01, 0, 1.004, 1.01]
    np.testing.assert_array_equal(regions[3].boxes[1], regions.read([3]).boxes[0, 1])
    assert regions[3].boxes[1, 2] == np.float32(1.004)
