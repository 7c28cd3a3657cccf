"""`vtlm-regions show`: what is drawn where."""

import numpy as np
import pytest
from PIL import Image

from stores import write_pair
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.regions.drawing import draw_regions
from vtlm_fairseq.regions.store import Regions

NAMES = ["cat", "dog"]


def regions(*boxes, labels):
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return Regions(np.zeros((len(boxes), 1)), np.array(boxes, np.float32), np.array(labels), scores)


def test_boxes():
    """Edges where the box says, x from the left and y from the top, in the colour of the label."""
    image = Image.new("RGB", (800, 400), "white")
    drawn = np.asarray(draw_regions(image, regions([0.25, 0.5, 0.5, 0.75], labels=[1]), NAMES)).astype(int)
    assert drawn.shape == (400, 800, 3) and np.asarray(image).min() == 255  # the image itself stays
    colour = drawn[250, 200].tolist()
    assert colour != [255, 255, 255]
    for y, x in ((200, 300), (300, 300), (250, 400), (250, 201), (200, 200), (300, 400)):
        assert drawn[y, x].tolist() == colour, (y, x)
    for y, x in ((250, 300), (205, 380), (310, 300), (250, 420), (250, 190), (100, 600)):
        assert drawn[y, x].tolist() == [255, 255, 255], (y, x)
    label = drawn[178:199, 200:300]  # above the box: white text on the colour
    assert (label == colour).all(axis=2).mean() > 0.2 and (label.min(axis=2) > 230).any()


def test_the_best_is_on_top_and_labels_keep_their_colour():
    whole = [0.1, 0.1, 0.9, 0.9]
    image = Image.new("RGB", (640, 640))
    both, first, second = (
        np.asarray(draw_regions(image, regions(*[whole] * len(labels), labels=labels), NAMES))[300, 64].tolist()
        for labels in ([0, 1], [0], [1])
    )
    assert both == first != second


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 10)])
def test_small_and_odd_images(size):
    """Enlarged, with every label inside; boxes at the edges."""
    drawn = draw_regions(Image.new("RGB", size), regions([0, 0, 1, 1], [1, 1, 1, 1], labels=[0, 1]), NAMES)
    assert max(drawn.size) >= 640 and drawn.size[0] * size[1] == drawn.size[1] * size[0]


@pytest.mark.slow
def test_command(tmp_path, capsys):
    write_pair(tmp_path / "s.h5")
    Image.new("L", (640, 480), 255).save(tmp_path / "a.jpg")
    base = ["show", str(tmp_path / "s.h5"), "a", "--image", str(tmp_path / "a.jpg"), "--out"]
    out = tmp_path / "look.png"
    assert main([*base, str(out), "--max-regions", "1"]) == 0
    assert "look.png: 1 regions" in capsys.readouterr().out
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (480, 640, 3)
    assert pixels[300, 160].min() < 200 and pixels[470, 0].min() > 250  # only the best box, 0.25 0.5 0.75 1
    assert main([*base, str(tmp_path / "look.jpg")]) == 0
    for argv, reason in (
        ([*base, str(out)], "exists"),
        ([*base, str(tmp_path / "look.svg")], "must end in .png or .jpg"),
        ([*base, str(tmp_path / "no" / "look.png")], "cannot be written"),
        ([*base[:2], "b.jpg", *base[3:], str(out), "--overwrite"], "s.h5: no image 'b.jpg' is there$"),
        ([*base[:2], "a.jpg", *base[3:], str(out), "--overwrite"], "'a.jpg' is there as 'a': .*extension; write"),
        ([*base[:4], str(tmp_path / "s.h5"), "--out", str(out), "--overwrite"], "s.h5: no image"),
    ):
        with pytest.raises(SystemExit, match=reason):
            main(argv)
