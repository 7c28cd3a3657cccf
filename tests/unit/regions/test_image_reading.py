"""Images of every kind become upright 8-bit RGB, and what is none is refused with the reason."""

import numpy as np
import pytest
from extraction import encoded
from PIL import Image

from stores import fault
from vtlm_fairseq.regions import image_reading
from vtlm_fairseq.regions.image_reading import UnreadableImageError, decode_image, open_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(data: bytes, **options) -> np.ndarray:
    image = decode_image(data, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def quarters() -> Image.Image:
    """3 x 2 pixels: red, green, blue; white, red, green."""
    return Image.fromarray(np.array([[RED, GREEN, BLUE], [WHITE, RED, GREEN]], np.uint8))


@pytest.mark.parametrize(
    ("orientation", "first_row"),
    [(1, [RED, GREEN, BLUE]), (3, [GREEN, RED, WHITE]), (6, [WHITE, RED]), (8, [BLUE, GREEN])],
)
def test_exif_orientation(orientation, first_row):
    """6: the camera was turned so that the stored left column is the top row, read upwards."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = pixels(encoded(quarters(), "PNG", exif=exif))
    assert read.shape == ((2, 3, 3) if orientation < 5 else (3, 2, 3))
    assert read[0].tolist() == [list(colour) for colour in first_row]


def test_cmyk():
    """No ink is white, full cyan has no red."""
    cmyk = Image.fromarray(np.array([[[0, 0, 0, 0]] * 8, [[255, 0, 0, 0]] * 8] * 4, np.uint8), mode=None)
    image = Image.merge("CMYK", [band for band in cmyk.split()])
    read = pixels(encoded(image, "TIFF"))
    assert read[0, 0].tolist() == [255, 255, 255] and read[1, 0].tolist() == [0, 255, 255]
    plain = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    red, green, blue = pixels(encoded(plain, "JPEG"))[8, 8].tolist()
    assert red < 10 and green > 245 and blue > 245


@pytest.mark.parametrize("mode", ["L", "1"])
def test_greyscale(mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), 255)
    assert pixels(encoded(image, "PNG")).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize(("kind", "dtype"), [("PNG", "uint16"), ("TIFF", "uint16"), ("TIFF", ">u2"), ("TIFF", "int32")])
def test_sixteen_bits_keep_their_high_byte(kind, dtype):
    """Not clipped at 255, as a plain conversion does."""
    samples = np.array([[0, 255, 256, 0x8001, 0xFFFF]]).astype(dtype)
    assert pixels(encoded(Image.fromarray(samples), kind))[0, :, 0].tolist() == [0, 0, 1, 128, 255]


def test_transparency_is_laid_on_white():
    rgba = Image.fromarray(np.array([[[*RED, 255], [*RED, 0], [0, 0, 0, 128]]], np.uint8))
    assert pixels(encoded(rgba, "PNG")).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]
    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), mode=None)
    assert pixels(encoded(grey, "PNG"))[0, :, 0].tolist() == [9, 255]
    palette = quarters().convert("P", palette=Image.Palette.ADAPTIVE)
    clear = palette.getpixel((0, 0))
    read = pixels(encoded(palette, "PNG", transparency=clear))
    assert read[0, 0].tolist() == list(WHITE) and read[0, 1].tolist() == list(GREEN)


def test_damaged_exif_one_pixel_and_animation():
    data = encoded(quarters().resize((30, 20)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff\x12\x01")
    assert pixels(data).shape == (20, 30, 3)
    assert pixels(encoded(Image.new("RGB", (1, 1), GREEN), "PNG")).tolist() == [[list(GREEN)]]
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == list(RED)


def test_huge_images_are_reduced_or_refused():
    """A JPEG is decoded reduced; others, and progressive ones, would need the memory of all pixels."""
    large = Image.new("RGB", (400, 300), BLUE)
    limit = {"max_pixels": 12_000}
    assert pixels(encoded(large, "JPEG"), **limit).shape == (75, 100, 3)
    assert pixels(encoded(large, "JPEG"), max_pixels=120_000).shape == (300, 400, 3)
    for data in (encoded(large, "PNG"), encoded(large, "JPEG", progressive=True)):
        with pytest.raises(UnreadableImageError, match="400 x 300 .*12,000"):
            decode_image(data, **limit)


def test_a_bomb_is_refused_before_it_is_unpacked():
    """Twice the size at which Pillow raises, from 9 kB; its own limit is back afterwards."""
    side = 20_000
    header = b"P5 %d %d 255\n" % (side, side)
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImageError, match="20000 x 20000"):
        decode_image(header + bytes(100))
    assert Image.MAX_IMAGE_PIXELS == limit is not None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no image"),
        (b"<html>404 not found</html>", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),  # Pillow would start Ghostscript
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-400], "truncated"),
        (encoded(Image.effect_noise((64, 64), 50), "PNG")[:300], "truncated"),
        (encoded(Image.fromarray(np.array([[0.5, 2.0]], np.float32)), "TIFF"), "floating-point samples"),
        (encoded(Image.fromarray(np.array([[-1, 70_000]], np.int32)), "TIFF"), "beyond 0..65535"),
    ],
)
def test_what_is_no_readable_image(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(data)


def jpeg(**options) -> bytes:
    """A JPEG of soft colours; its last bytes are the end marker."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    return encoded(Image.fromarray(noise).resize((133, 87), Image.Resampling.BICUBIC), "JPEG", **options)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}], ids=str
)
def test_a_jpeg_without_its_end_marker(options):
    """All pixels are there; where some are missing, if only of the last block, it is none to be read."""
    data = jpeg(**options)
    assert data[-2:] == b"\xff\xd9"
    whole = pixels(data)
    for end in (1, 2):
        np.testing.assert_array_equal(pixels(data[:-end]), whole)
    for end in (*range(4, 12), 30, len(data) // 3):
        with pytest.raises(UnreadableImageError, match="truncated"):
            decode_image(data[:-end])


def test_open_image_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(b"no")
    assert "a.jpg: no image" in fault(open_image, str(tmp_path / "a.jpg"))
    assert "b.jpg: cannot be read (No such file" in fault(open_image, str(tmp_path / "b.jpg"))
    monkeypatch.setattr(image_reading, "MAX_FILE_BYTES", 1000)
    assert "/dev/zero: a file of more than 1,000 bytes" in fault(open_image, "/dev/zero")
