"""Pictures for the report: found by image id, made small, embedded."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.names import find_inside
from vtlm_fairseq.regions.image_reading import open_image, require_pillow
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
MAX_BYTES, ALL_BYTES = 28_000, 750_000
"""Of a picture, and of all pictures of a page together."""
ATTEMPTS = (
    (480, 80), (480, 65), (480, 50), (360, 50), (300, 45), (240, 45), (200, 40), (160, 40), (120, 40), (96, 30),
    (64, 30),
)  # fmt: skip
"""Longer side in pixels and quality; the first that fits is taken, or the last."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def load_pictures(folder: Path, ids: Iterable[str]) -> dict[str, Picture]:
    """Pictures of images, by id; an image that the folder does not hold is left out.

    Args:
        folder: holds ``ID``, ``ID.jpg``, ``ID.jpeg``, ``ID.png`` or ``ID.webp``.
        ids: image ids; one that leads out of the folder has no picture.

    Raises:
        VTLMError: no such folder, Pillow is missing, or a file is not a picture.
    """
    require_pillow()
    if not folder.is_dir():
        raise VTLMError(f"--images {folder}: no such folder")
    paths = {image_id: find_picture(folder, image_id) for image_id in dict.fromkeys(ids)}
    found = {image_id: path for image_id, path in paths.items() if path is not None}
    most = min(MAX_BYTES, ALL_BYTES // max(len(found), 1))
    return {image_id: small_picture(path, most) for image_id, path in found.items()}


def say_missing(folder: Path, missing: Sequence[str]) -> str:
    """A note on images without a picture: how many, the first, and what the folder has in its place."""
    hint = explain_missing(missing, (path.name for path in folder.iterdir()), BY_HAND)
    return f"{folder} has no picture of {len(missing)} images, first {missing[0]}{hint}"


def find_picture(folder: Path, image_id: str) -> Path | None:
    """The file of an image; an id that leads out of the folder has none."""
    return find_inside(folder, image_id, SUFFIXES)


def small_picture(path: Path, most: int = MAX_BYTES) -> Picture:
    """A picture as WebP (JPEG where Pillow lacks it), the right way up.

    Args:
        path: of the file.
        most: bytes, unless the smallest of `ATTEMPTS` takes more.

    Raises:
        VTLMError: not a picture, or too large to be one.
    """
    from PIL import features

    picture = open_image(str(path))
    kind = "WEBP" if features.check("webp") else "JPEG"
    for side, quality in ATTEMPTS:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, kind, quality=quality)
        if buffer.tell() <= most:
            break
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(uri, *picture.size)
