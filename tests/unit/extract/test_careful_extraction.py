"""An image that a detector cannot take is listed and the run goes on; a detector that does not work ends it."""

import errno
import io
import struct
import zlib

import numpy as np
import pytest
from extraction import detectors, encoded, extract_regions, write_images
from PIL import Image

from stores import ends_with
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import RegionStore


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


class Picky(detectors.Detector):
    """One region an image; what it does with an image stands in the first pixel, where that is grey."""

    calls = 0

    def open(self, files):
        self.feature_dim, self.class_names, self.description = 2, ["image"], "picky"
        Picky.calls = 0

    def detect(self, inputs):
        Picky.calls += 1
        shapes = [pixels.shape[:2] for pixels in inputs]
        if any(max(shape) > 40 * min(shape) for shape in shapes):
            raise RuntimeError("Padding size should be less than the corresponding input dimension\nand more")
        marks = [int(pixels[0, 0, 0]) if len(set(pixels[0, 0].tolist())) == 1 else 0 for pixels in inputs]
        if 1 in marks or (2 in marks and len(marks) > 1):
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if 3 in marks or Picky.calls > 6 and 4 in marks:
            raise KeyboardInterrupt
        boxes = [np.array([[0.0, 0.0, 1.0, np.nan if mark == 5 else 1.0]]) for mark in marks]
        return [
            detectors.Detection(np.array([shape], float), box, np.zeros(1, int), np.ones(1))
            for shape, box in zip(shapes, boxes, strict=True)
        ]


class Broken(Picky):
    """Works for some images, and then never again, as after a fault of the device."""

    works_for = 0

    def detect(self, inputs):
        Broken.works_for -= len(inputs)
        if Broken.works_for < 0:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().detect(inputs)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """All by name."""
    detectors.register_detector("picky")(Picky)
    detectors.register_detector("broken")(Broken)
    detectors.register_detector("odd")(Odd)


def arguments(source, out, *argv, detector="picky"):
    return [str(a) for a in ("--images", source, "--detector", detector, "--out", out, "--workers", 0, *argv)]


def marked(path, mark, size=(9, 8)):
    pixels = np.full((size[1], size[0], 3), 200, np.uint8)
    pixels[0, 0] = mark
    Image.fromarray(pixels).save(path)


def listed(out):
    return {line.split("\t")[0]: line.split("\t")[2] for line in open(f"{out}.errors.tsv", encoding="utf-8")}


def huge_png(width, height):
    """A PNG that is only a header and no pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def hostile():
    """Twenty files by name: whether a store has them, and their bytes."""
    rng = np.random.default_rng(5)
    photo = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
    jpeg, png = encoded(photo, "JPEG"), encoded(photo, "PNG")
    frames = [Image.new("P", (30, 20), k) for k in range(3)]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    sixteen = Image.fromarray(rng.integers(0, 65_536, (20, 30), np.uint16))
    progressive = encoded(photo, "JPEG", progressive=True)
    return {
        "empty.jpg": (False, b""),
        "empty.png": (False, b""),
        "zeros.jpg": (False, bytes(3000)),
        "tall.png": (False, encoded(Image.new("RGB", (1, 5000)), "PNG")),
        "wide.gif": (False, encoded(Image.new("P", (1400, 1)), "GIF")),
        "thin.jpg": (False, encoded(Image.new("RGB", (2, 900)), "JPEG")),
        "cut.jpg": (False, jpeg[: len(jpeg) // 2]),
        "cut.png": (False, png[: len(png) // 2]),
        "cut-progressive.jpg": (False, progressive[: len(progressive) // 3]),
        "head.jpg": (False, jpeg[:20]),
        "page.jpg": (False, b"<!DOCTYPE html><title>404</title>"),
        "vast.png": (False, huge_png(15_000, 12_000)),
        "float.tif": (False, encoded(Image.fromarray(rng.random((9, 9)).astype("f4")), "TIFF")),
        "sixteen.png": (True, encoded(sixteen, "PNG")),
        "animated.gif": (True, animated.getvalue()),
        "cmyk.jpg": (True, encoded(photo.convert("CMYK"), "JPEG")),
        "png-by-nature.jpg": (True, png),
        "jpeg-by-nature.png": (True, jpeg),
        "grey-alpha.png": (True, encoded(photo.convert("LA"), "PNG")),
        "palette.bmp": (True, encoded(photo.convert("P"), "BMP")),
    }


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_hundred_images_of_which_twenty_are_hostile(tmp_path, workers, capsys):
    """Status 3; those that can be read are stored, the others listed, each with its reason."""
    ids = write_images(tmp_path / "in", 180)
    for name, (_, data) in hostile().items():
        (tmp_path / "in" / f"x-{name}").write_bytes(data)
    out = tmp_path / "s.h5"
    argv = arguments(tmp_path / "in", out, "--part-size", 64, "--workers", workers)
    # two of a name but for its ending
    (tmp_path / "in/x-empty.png").rename(tmp_path / "in/x-empty2.png")
    (tmp_path / "in/x-cut.png").rename(tmp_path / "in/x-cut2.png")
    assert extract_regions.main(argv) == 3
    sound = {f"x-{name.rpartition('.')[0]}" for name, (good, _) in hostile().items() if good}
    assert RegionStore([str(out)]).ids() == sorted([*ids, *sound])
    reasons = listed(out)
    assert len(reasons) == 13 and not set(reasons) & (sound | set(ids))
    assert "Padding size" in reasons["x-tall"] and "Padding size" in reasons["x-wide"]
    assert "15000 x 12000 pixels" in reasons["x-vast"]
    assert "187 images" in capsys.readouterr().out
    assert extract_regions.main(argv) == 3  # given again it tries them once more, and leaves the store as it is


def test_memory_of_the_device(tmp_path, caplog):
    """A batch that does not fit is tried image by image; an image that does not fit alone is listed."""
    write_images(tmp_path / "in", 6)
    marked(tmp_path / "in/a.png", 2)
    marked(tmp_path / "in/img0003.png", 1)
    assert extract_regions.main(arguments(tmp_path / "in", tmp_path / "s.h5", "--batch-size", 3)) == 3
    assert list(listed(tmp_path / "s.h5")) == ["img0003"] and "out of memory" in listed(tmp_path / "s.h5")["img0003"]
    assert len(RegionStore([str(tmp_path / "s.h5")])) == 6
    assert sum("--batch-size" in record.getMessage() for record in caplog.records) == 1
    for path in (tmp_path / "in").iterdir():
        marked(path, 1)
    assert "memory" in ends_with(extract_regions.main, arguments(tmp_path / "in", tmp_path / "t.h5"))


def test_values_that_no_store_holds(tmp_path):
    write_images(tmp_path / "in", 3)
    marked(tmp_path / "in/img0001.png", 5)
    assert extract_regions.main(arguments(tmp_path / "in", tmp_path / "s.h5")) == 3
    reason = listed(tmp_path / "s.h5")["img0001"]
    assert "boxes" in reason and "finite" in reason


@pytest.mark.slow
def test_a_detector_that_fails_on_every_image(tmp_path):
    """After the first batch, in one line; what was made stays where it worked before."""
    write_images(tmp_path / "in", 40)
    Broken.works_for = 0
    argv = arguments(tmp_path / "in", tmp_path / "s.h5", "--part-size", 8, "--batch-size", 8, detector="broken")
    message = ends_with(extract_regions.main, argv)
    assert "every image" in message and "img0007.png" in message and "--exclude" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    Broken.works_for = 18
    message = ends_with(extract_regions.main, argv)
    assert "img0015.png too" in message and "device-side assert" in message
    assert len(list((tmp_path / "s.h5.parts").glob("*.h5"))) == 2
    Broken.works_for = 1000
    assert extract_regions.main(argv) == 0 and len(RegionStore([str(tmp_path / "s.h5")])) == 40
    few = tmp_path / "few"
    write_images(few, 3)
    Broken.works_for = 0
    assert "every image" in ends_with(extract_regions.main, arguments(few, tmp_path / "t.h5", detector="broken"))


@pytest.mark.slow
def test_failures_alone_are_listed(tmp_path):
    """More of them than would end a run at its start, tried again by the same command."""
    write_images(tmp_path / "in", 3)
    for k in range(20):
        Image.new("RGB", (400, 1)).save(tmp_path / "in" / f"panorama{k}.png")
    argv = arguments(tmp_path / "in", tmp_path / "s.h5", "--batch-size", 4)
    assert [extract_regions.main(argv) for _ in range(2)] == [3, 3]
    assert len(listed(tmp_path / "s.h5")) == 20 and len(RegionStore([str(tmp_path / "s.h5")])) == 3


def test_files_that_are_gone(tmp_path, monkeypatch):
    """Some are listed; where what could be read before cannot any more, the disk has gone."""
    write_images(tmp_path / "in", 12)
    (tmp_path / "list").write_text("".join(f"{tmp_path}/in/img{k:04}.png\n" for k in range(12)))
    argv = arguments(tmp_path / "list", tmp_path / "s.h5", "--part-size", 4, "--batch-size", 2)
    read = detectors.Detector.read

    def unmounted(self, data):
        if len(seen) == 4:
            (tmp_path / "in").rename(tmp_path / "elsewhere")
        seen.append(data)
        return read(self, data)

    seen = []
    monkeypatch.setattr(Picky, "read", unmounted)
    assert "cannot any more" in ends_with(extract_regions.main, argv)
    monkeypatch.undo()
    assert len(list((tmp_path / "s.h5.parts").glob("*.h5"))) == 1
    (tmp_path / "elsewhere").rename(tmp_path / "in")
    for k in (4, 5, 9):
        (tmp_path / "in" / f"img{k:04}.png").unlink()
    assert extract_regions.main(argv) == 3 and set(listed(tmp_path / "s.h5")) == {"img0004", "img0005", "img0009"}


def test_interrupts_are_not_taken_for_failures(tmp_path):
    write_images(tmp_path / "in", 2)
    marked(tmp_path / "in/img0001.png", 3)
    with pytest.raises(SystemExit, match="130"):
        extract_regions.main(arguments(tmp_path / "in", tmp_path / "s.h5", "--batch-size", 1))


class Odd(Picky):
    """Goes wrong in a way of its own with the image in whose name it stands."""

    def read_file(self, file):
        if "unreadable" in file.path:
            raise ValueError("odd")
        if "stop" in file.path:
            raise VTLMError("an option is wrong")
        return file.path

    def detect(self, inputs):
        if any("fewer" in path for path in inputs):
            return []
        if any("full" in path for path in inputs):
            raise OSError(errno.ENOSPC, "no space left")
        found = detectors.Detection(np.ones((1, 2)), np.array([[0.0, 0.0, 1.0, 1.0]]), np.zeros(1, int), np.ones(1))
        return [None if "nothing" in path else found for path in inputs]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_faults_of_a_detectors_own_code(tmp_path, workers):
    """One that reads or gives nonsense for an image leaves it out; what no other image can escape ends the command."""
    for name in ("a", "nothing", "unreadable", "z"):
        marked(tmp_path / f"{name}.png", 9)
    argv = arguments(tmp_path, tmp_path / "s.h5", "--workers", workers, detector="odd")
    assert extract_regions.main(argv) == 3
    assert "gave no regions" in listed(tmp_path / "s.h5")["nothing"]
    assert "ValueError: odd" in listed(tmp_path / "s.h5")["unreadable"]
    for name, line in (("fewer", "0 results for"), ("stop", "an option is wrong"), ("full", "no space left")):
        folder = tmp_path / f"in-{name}"
        folder.mkdir()
        marked(folder / f"{name}.png", 9)
        assert line in ends_with(extract_regions.main, arguments(folder, tmp_path / f"{name}.h5", detector="odd"))
