"""Draw the regions of an image on it: boxes, labels and scores."""

import colorsys
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.files import whole_file
from vtlm_fairseq.regions.store import Regions

if TYPE_CHECKING:
    from PIL import Image

_GOLDEN = 0.618034  # neighbouring labels get distant hues
_SMALLEST_SIDE = 640
_LONGEST_NAME = 80
_FORMATS = {".png": "PNG", ".jpg": "JPEG"}


def draw_regions(image: "Image.Image", regions: Regions, class_names: Sequence[str]) -> "Image.Image":
    """A copy of the image with a box, the label and the score of each region, the best on top.

    Small images are enlarged, so that the text stays legible; a label has the same colour in every image.

    Args:
        image: RGB.
        regions: boxes are fractions of width and height.
        class_names: names of the labels.

    Raises:
        VTLMError: a box outside the image, or a value that is not finite.
    """
    if not (np.isfinite(regions.scores).all() and ((regions.boxes >= 0) & (regions.boxes <= 1)).all()):
        raise VTLMError(
            "a box or a score of the image cannot be drawn: not finite, or outside the image; vtlm-regions validate "
            "lists the faults of a store"
        )
    from PIL import ImageDraw, ImageFont

    enlarge = max(1, -(-_SMALLEST_SIDE // max(image.size)))
    canvas = image.resize((image.width * enlarge, image.height * enlarge))
    unit = max(canvas.size) / _SMALLEST_SIDE
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=round(12 * unit))
    line = max(1, round(2 * unit))
    for box, label, score in list(zip(regions.boxes, regions.labels, regions.scores, strict=True))[::-1]:
        left, top, right, bottom = (float(fraction) * side for fraction, side in zip(box, canvas.size * 2, strict=True))
        colour = _colour(int(label))
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        text = f"{printable(class_names[label][:_LONGEST_NAME])} {score:.2f}"
        x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font)
        x = min(max(left, 0), max(canvas.width - (x2 - x1) - 2 * line, 0))
        y = max(top - (y2 - y1) - 2 * line, 0)
        draw.rectangle((x, y, x + (x2 - x1) + 2 * line, y + (y2 - y1) + 2 * line), fill=colour)
        draw.text((x + line - x1, y + line - y1), text, fill="white", font=font)
    return canvas


def save_drawing(drawing: "Image.Image", path: str) -> None:
    """Write a drawing whole.

    Raises:
        VTLMError: the name ends in neither .png nor .jpg, or the folder cannot be written.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _FORMATS:
        raise VTLMError(f"--out {path}: must end in {' or '.join(_FORMATS)}")
    with whole_file(path, "wb", label=f"--out {path}") as file:
        drawing.save(file, format=_FORMATS[suffix], quality=90)


def _colour(label: int) -> tuple[int, int, int]:
    """A strong colour on which white text can be read."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1.0, 0.9, 0.65)
    return round(red * 255), round(green * 255), round(blue * 255)
