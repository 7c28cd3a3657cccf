"""Read an image file as 8-bit RGB pixels the right way up, whatever its colours, depth and orientation."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from vtlm_fairseq.errors import VTLMError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
MAX_PIXELS = 89_478_485  # Pillow's own limit: 256 MiB of RGB
MAX_FILE_BYTES = 1 << 30
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_REDUCTIONS = (2, 4, 8)


class UnreadableImageError(Exception):
    """A file that holds no image this package can read; the message is the reason, without the file's name."""


def open_image(path: str) -> "Image.Image":
    """Read an image file for a command.

    Raises:
        VTLMError: it cannot be read (names the file and the reason).
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise UnreadableImageError(f"a file of more than {MAX_FILE_BYTES:,} bytes is taken for no image")
        return decode_image(data)
    except OSError as error:
        raise VTLMError(f"{path}: cannot be read ({error.strerror})") from None
    except UnreadableImageError as error:
        raise VTLMError(f"{path}: {error}") from None


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> "Image.Image":
    """The image in the bytes of a file, as RGB.

    The EXIF orientation is applied; grey, palette and CMYK colours are converted; transparent images are laid on
    white; 16-bit samples keep their high byte; of an animation the first frame is taken. A JPEG of more than
    `max_pixels` is decoded at 1/2, 1/4 or 1/8 of its width and height, whichever fits; one that has all its pixels and
    no end marker is read.

    Raises:
        UnreadableImageError: no image, a damaged or truncated one, one of more than `max_pixels`, or one whose
            samples have no known range (floating point).
        VTLMError: Pillow is not installed.
    """
    Image, ImageOps = require_pillow()
    try:
        return _decode(Image, ImageOps, data, max_pixels)
    except UnreadableImageError as error:
        if not data.startswith(_JPEG_START) or _JPEG_END in data[-64:]:
            raise
        whole = _without_end(Image, ImageOps, data, max_pixels)
        if whole is None:
            raise error from None
        return whole


def _without_end(image_module, image_ops, data: bytes, max_pixels: int) -> "Image.Image | None":
    """A JPEG without its end marker; None where pixels are missing too.

    A decoder makes up pixels where the data end. Where none are missing, it reads nothing between the last of them and
    the marker, so that what stands there changes no pixel.
    """
    data = data.rstrip(b"\xff")  # half of the marker
    random = np.random.default_rng(0)  # what is regular may be the code of no change
    try:
        image = _decode(image_module, image_ops, data + _JPEG_END, max_pixels)
        for _ in range(4):
            between = random.integers(1, 255, 64, np.uint8).tobytes()
            other = _decode(image_module, image_ops, data + between + _JPEG_END, max_pixels)
            if not np.array_equal(np.asarray(image), np.asarray(other)):
                return None
    except UnreadableImageError:
        return None
    return image


def _decode(Image, ImageOps, data: bytes, max_pixels: int) -> "Image.Image":  # noqa: N803
    try:
        with warnings.catch_warnings(), _without_pillow_limit(Image):
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                _limit_pixels(image, max_pixels)
                image.load()
                return _to_rgb(Image, _upright(ImageOps, image))
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's plugins raise a dozen types for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            reason = "no image, or not in a format that is read here"
        raise UnreadableImageError(reason) from None


def require_pillow() -> tuple[ModuleType, ModuleType]:
    """Pillow's modules `Image` and `ImageOps`.

    Raises:
        VTLMError: it is not installed (names the extra).
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise VTLMError(
            "images are read with Pillow, not installed here: pip install 'vtlm-fairseq[extract]'"
        ) from None
    return Image, ImageOps


@contextmanager
def _without_pillow_limit(image_module) -> Iterator[None]:
    """Pillow refuses some images that can be decoded reduced; `_limit_pixels` takes the place of its check."""
    saved = image_module.MAX_IMAGE_PIXELS
    image_module.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        image_module.MAX_IMAGE_PIXELS = saved


def _limit_pixels(image: "Image.Image", max_pixels: int) -> None:
    width, height = image.size
    if width * height <= max_pixels:
        return
    # a progressive JPEG is held in memory at full size whatever the reduction
    if image.format == "JPEG" and "progressive" not in image.info:
        for factor in _JPEG_REDUCTIONS:
            if width * height <= max_pixels * factor**2:
                image.draft(None, (width // factor, height // factor))
                break
    if image.size[0] * image.size[1] > max_pixels:
        raise UnreadableImageError(f"{width} x {height} pixels are more than {max_pixels:,}; shrink the image")


def _upright(image_ops, image: "Image.Image") -> "Image.Image":
    try:
        return image_ops.exif_transpose(image)
    except Exception:  # damaged EXIF data beside sound pixels, which `load` has read
        return image


def _to_rgb(image_module, image: "Image.Image") -> "Image.Image":
    if image.mode.startswith("I;16"):
        image = image_module.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode == "I":
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 0xFFFF:
            raise UnreadableImageError("32-bit samples beyond 0..65535; save it with 8 or 16 bits")
        image = image_module.fromarray((samples >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImageError("floating-point samples, whose range is not known; save it with 8 or 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return image_module.alpha_composite(image_module.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
