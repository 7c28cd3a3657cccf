"""Sizes of images in pixels (``--image-sizes``), and boxes divided by them."""

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.checks import PIXEL_SLACK, look_relative
from vtlm_fairseq.regions.formats.input_image import InputImage
from vtlm_fairseq.text.id_rules import IdRule, explain_missing


class ImageSizes(dict[str, tuple[float, float]]):
    """Width and height in pixels of each image id; ``label`` is how messages call the file."""

    label = "--image-sizes"


def read_sizes(path: str, rule: IdRule = IdRule()) -> ImageSizes:  # noqa: B008
    """Width and height in pixels of each image id, from lines of id, width, height between tabs.

    Args:
        path: the file.
        rule: changes the ids.

    Raises:
        VTLMError: a line that is not so (named), a size that is not positive, or two sizes of an id.
    """
    sizes, lines = ImageSizes(), {}
    sizes.label = f"--image-sizes {path}"
    for number, line in enumerate(read_lines(path, label=sizes.label), start=1):
        fields = line.split("\t")
        try:
            image_id, width, height = fields[0].strip(), *map(float, fields[1:])
            if not (0 < width < np.inf and 0 < height < np.inf):
                raise ValueError
        except ValueError:
            raise VTLMError(
                f"{sizes.label}: line {number} is {line!r}, not id, width, height (above 0) between tabs"
            ) from None
        image_id = rule(image_id)
        first = lines.setdefault(image_id, number)
        if sizes.setdefault(image_id, (width, height)) != (width, height):
            by_rule = f" (by --id-rule {rule})" if rule.names else ""
            raise VTLMError(
                f"{sizes.label}: lines {first} and {number} give image {image_id!r}{by_rule} two sizes; "
                "keep one of them"
            )
    return sizes


def to_relative_boxes(image: InputImage, *, yxyx: bool, sizes: ImageSizes | None) -> np.ndarray:
    """Boxes [R, 4] of an image as x1, y1, x2, y2 divided by width and height (of the image itself, or `sizes`).

    Pixel boxes that end up to two pixels outside the image are cut at its edge.

    Raises:
        VTLMError: boxes of another shape, an image without a size, a box that ends further outside.
    """
    assert image.boxes is not None
    boxes = np.asarray(image.boxes)
    if boxes.shape != (len(image.features), 4) or boxes.dtype.kind not in "fiu":
        raise VTLMError(
            f"{image.source}: image {image.image_id!r}: boxes are {boxes.dtype} {boxes.shape}, "
            f"must be numbers [{len(image.features)}, 4]"
        )
    boxes = boxes.astype(np.float64)
    if yxyx:
        boxes = boxes[:, [1, 0, 3, 2]]
    if sizes is None and image.size is None:
        return boxes
    if image.size is None and image.image_id not in sizes:
        hint = explain_missing([image.image_id], sizes)
        raise VTLMError(f"{sizes.label}: has no line for image {image.image_id!r}{hint}")
    width, height = image.size or sizes[image.image_id]
    if look_relative(boxes, (width, height)):
        raise VTLMError(
            f"{image.source}: image {image.image_id!r}: no box is larger than a pixel; are they relative? "
            + ("leave out --box-units and --image-sizes" if image.size is None else "mend the file")
        )
    edge = np.array([width, height, width, height])
    outside = (boxes < -PIXEL_SLACK) | (boxes > edge + PIXEL_SLACK)
    if outside.any():
        region = int(np.flatnonzero(outside.any(axis=1))[0])
        hint = "check --image-sizes, --box-units and --box-format"
        if image.size is not None:
            hint = "mend the width and height in the file (are they in the order that its columns have?)"
        raise VTLMError(
            f"{image.source}: image {image.image_id!r}: box {boxes[region].tolist()} is outside the image of "
            f"{width:g} x {height:g} pixels; {hint}"
        )
    return np.clip(boxes, 0, edge) / edge
