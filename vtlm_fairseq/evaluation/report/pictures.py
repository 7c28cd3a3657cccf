"""Pictures for the report: found by image id, made small, embedded."""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.report.page import Picture
from vtlm_fairseq.files.names import find_inside
from vtlm_fairseq.regions.image_reading import open_image, require_pillow
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
MAX_SIDE = 480
MAX_BYTES = 28_000
ATTEMPTS = ((480, 80), (480, 65), (480, 50), (360, 50), (240, 50), (120, 50))
"""Longer side in pixels and JPEG quality; the first that fits `MAX_BYTES` is taken."""


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
    return {image_id: small_picture(path) for image_id, path in paths.items() if path is not None}


def say_missing(folder: Path, missing: Sequence[str]) -> str:
    """A note on images without a picture: how many, the first, and what the folder has in its place."""
    hint = explain_missing(missing, (path.name for path in folder.iterdir()), BY_HAND)
    return f"{folder} has no picture of {len(missing)} images, first {missing[0]}{hint}"


def find_picture(folder: Path, image_id: str) -> Path | None:
    """The file of an image; an id that leads out of the folder has none."""
    return find_inside(folder, image_id, SUFFIXES)


def small_picture(path: Path) -> Picture:
    """A picture as JPEG of at most `MAX_SIDE` pixels a side and `MAX_BYTES` bytes, the right way up.

    Raises:
        VTLMError: not a picture, or too large to be one.
    """
    picture = open_image(str(path))
    for side, quality in ATTEMPTS:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(uri, *picture.size)
