"""Pictures for the report: found by image id, made small, embedded."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.report_page import Picture

SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp")
MAX_SIDE = 480
MAX_BYTES = 28_000
ATTEMPTS = ((480, 80), (480, 65), (480, 50), (360, 50), (240, 50), (120, 50))
"""Longer side in pixels and JPEG quality; the first that fits `MAX_BYTES` is taken."""


def load_pictures(folder: Path, ids: Iterable[str]) -> dict[str, Picture]:
    """Pictures of images, by id; an image that the folder does not hold is left out.

    Args:
        folder: holds ``ID``, ``ID.jpg``, ``ID.jpeg``, ``ID.png`` or ``ID.webp``.
        ids: image ids.

    Raises:
        VTLMError: no such folder, Pillow is missing, or a file is not a picture.
    """
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise VTLMError("--images needs Pillow: pip install 'vtlm-fairseq[extract]'") from None
    if not folder.is_dir():
        raise VTLMError(f"--images {folder}: no such folder")
    found = {}
    for image_id in dict.fromkeys(ids):
        path = find_picture(folder, image_id)
        if path is not None:
            found[image_id] = small_picture(path)
    return found


def find_picture(folder: Path, image_id: str) -> Path | None:
    """The file of an image; an id that names another folder has none."""
    if "/" in image_id or "\\" in image_id or "\0" in image_id or image_id in ("", ".", ".."):
        return None
    paths = (folder / f"{image_id}{suffix}" for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def small_picture(path: Path) -> Picture:
    """A picture as JPEG of at most `MAX_SIDE` pixels a side and `MAX_BYTES` bytes.

    Raises:
        VTLMError: not a picture, or too large to be one.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (MAX_SIDE, MAX_SIDE))
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VTLMError(f"{path}: not a readable picture ({error}); see --images") from None
    for side, quality in ATTEMPTS:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MAX_BYTES:
            break
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(uri, *picture.size)
