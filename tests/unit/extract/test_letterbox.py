"""Images on canvases of few shapes, and their boxes taken back."""

import numpy as np
import pytest
from extraction import encoded
from PIL import Image

from vtlm_fairseq.extract.detectors import Detection
from vtlm_fairseq.extract.detectors.letterbox import of_one_shape, read_letterboxed, relative_to_image

SIZES = [(30, 20), (400, 300), (20, 30), (64, 64), (500, 3)]  # width, height


@pytest.fixture(scope="module")
def boxed():
    images = [Image.new("RGB", size, (255, 0, 0)) for size in SIZES]
    return [read_letterboxed(encoded(image, "PNG"), 64) for image in images]


def test_canvases(boxed):
    """The image is in the upper left corner, its longer side is 64 pixels, and eighths of it are the shorter ones."""
    assert [image.pixels.shape[:2] for image in boxed] == [(48, 64), (48, 64), (64, 48), (64, 64), (8, 64)]
    assert [round(image.height * image.pixels.shape[0]) for image in boxed] == [43, 48, 64, 64, 1]
    assert [round(image.width * image.pixels.shape[1]) for image in boxed] == [64, 64, 43, 64, 64]
    for image in boxed:
        red = (image.pixels == (255, 0, 0)).all(axis=2)
        height, width = red.any(axis=1).sum(), red.any(axis=0).sum()
        assert red[:height, :width].all() and red.sum() == height * width
        assert height == round(image.height * len(red)) and width == round(image.width * len(red[0]))
    assert of_one_shape(boxed) == [[0, 1], [2], [3], [4]]


def test_boxes_are_those_of_the_image(boxed):
    """Divided by the image's share of the canvas; what lies beside the image is left out."""
    boxes = np.array([[0, 0, 43 / 96, 1], [0.9, 0, 1, 1], [0.5, 0.25, 1, 0.5]], np.float32)
    found = relative_to_image(Detection(np.arange(6).reshape(3, 2), boxes, np.arange(3), np.ones(3)), boxed[2])
    np.testing.assert_allclose(found.boxes, [[0, 0, 0.5, 1], [24 / 43, 0.25, 1, 0.5]], atol=1e-6)
    assert found.features.tolist() == [[0, 1], [4, 5]] and found.labels.tolist() == [0, 2] and len(found.scores) == 2


def test_images_stay_as_they_are_without():
    image = read_letterboxed(encoded(Image.new("RGB", (30, 20)), "PNG"), None)
    found = Detection(np.zeros((1, 2)), np.array([[0.5, 0.5, 0.5, 0.5]]), np.zeros(1), np.ones(1))
    assert image.pixels.shape == (20, 30, 3) and relative_to_image(found, image) is found
