"""Extraction with the grid detector: what is stored, listed, resumed and shared."""

import os
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from extraction import contents, detectors, extract_regions, region_parts, write_grids, write_images
from PIL import Image

from stores import ends_with, fault
from vtlm_fairseq.cli.regions import main as regions_main
from vtlm_fairseq.regions.store import RegionStore


def extract(source, out, *argv, status=0):
    fixed = ["--images", source, "--out", out, "--workers", 0]
    fixed += [] if "--detector" in argv else ["--detector", "grid"]
    assert extract_regions.main([str(a) for a in (*fixed, *argv)]) == status
    return out


@pytest.fixture
def grids(tmp_path):
    """Ten images of 2 x 2 cells."""
    write_grids(tmp_path / "in", 10)
    return tmp_path / "in"


def test_grid(tmp_path, capsys):
    """PITFALLS 26: [rows, columns, D] and [g * g, D], x and y not mixed up."""
    (tmp_path / "in").mkdir()
    wide = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    np.save(tmp_path / "in" / "wide.npy", wide)
    np.save(tmp_path / "in" / "square.npy", np.arange(16).reshape(4, 4))
    store = RegionStore([str(extract(tmp_path / "in", tmp_path / "s.h5", "--dtype", "float32"))])
    assert "2 images, 10 regions" in capsys.readouterr().out
    assert (store.ids(), store.class_names, store.detector) == (["square", "wide"], ["cell"], "grid of 2 x 2")
    square, wide = store[0], store[1]
    np.testing.assert_allclose(wide.boxes[1], [1 / 3, 0, 2 / 3, 0.5])
    np.testing.assert_allclose(wide.boxes[3], [0, 0.5, 1 / 3, 1])
    assert wide.features[3].tolist() == [12, 13, 14, 15] and square.features[2].tolist() == [8, 9, 10, 11]
    assert wide.scores.tolist() == [1] * 6 and wide.labels.tolist() == [0] * 6
    assert regions_main(["validate", str(tmp_path / "s.h5")]) == 0


def test_labels_are_no_grid(tmp_path):
    """36 of them would make one of 6 x 6."""
    write_grids(tmp_path / "in", 2, side=6)
    np.save(tmp_path / "in/a-labels.npy", np.arange(36)[:, None])
    np.save(tmp_path / "in/b-labels.npy", np.arange(36))
    store = RegionStore([str(extract(tmp_path / "in", tmp_path / "s.h5", status=3))])
    assert store.ids() == ["img0000", "img0001"] and store.feature_dim == 3
    listed = [line.split("\t")[0] for line in (tmp_path / "s.h5.errors.tsv").read_text().splitlines()]
    assert listed == ["a-labels", "b-labels"]


@pytest.mark.slow
def test_unreadable_files_are_listed(grids, tmp_path, capsys):
    """Exit status 3; the others are stored in order."""
    np.save(grids / "img0003.npy", np.zeros((5, 3)))
    np.save(grids / "img0004.npy", np.zeros((4, 2)))
    np.save(grids / "img0005.npy", np.full((4, 3), np.nan))
    np.save(grids / "img0006.npy", np.full((4, 3), 1e6))
    np.save(grids / "img0007.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    (grids / "img0008.npy").write_bytes(b"")
    np.save(grids / "img0009.npy", np.array([["text"]]))
    np.save(grids / "img0010.npy", np.zeros((49, 3)))
    np.save(grids / "img0011.npy", np.zeros((4, 3)))
    os.mkfifo(grids / "pipe.npy")  # nothing comes out of it
    listing = tmp_path / "list"
    names = sorted(path.name for path in grids.iterdir())
    listing.write_text("".join(f"{grids / name}\n" for name in [*names, "gone.npy"]))
    out = extract(listing, tmp_path / "s.h5", "--part-size", 3, "--batch-size", 2, status=3)
    lines = [line.split("\t") for line in (tmp_path / "s.h5.errors.tsv").read_text().splitlines()]
    bad = [*(f"img{i:04}" for i in range(3, 11)), "pipe", "gone"]
    assert [line[:2] for line in lines] == [[name, str(grids / f"{name}.npy")] for name in bad]
    reasons = [line[2] for line in lines]
    words = ("5 features", "2 wide", "not finite", "--dtype float32", ".npy", ".npy", "not numbers", "--max-regions 36")
    assert all(word in reason for word, reason in zip(words, reasons, strict=False))
    assert "class token" in reasons[0] and "allow_pickle" not in reasons[4]
    assert reasons[8:] == ["a pipe, a device or a folder holds no image", "No such file or directory"]
    assert RegionStore([str(out)]).ids() == ["img0000", "img0001", "img0002", "img0011"]
    assert "10 images" in capsys.readouterr().out
    assert extract(listing, out, "--part-size", 3, status=3)  # complete already, and still says so
    assert "complete already, errors in " in capsys.readouterr().out


@pytest.mark.slow
def test_images_that_come_go_and_are_mended_between_calls(grids, tmp_path, crash_at, capsys):
    """Parts that are finished stay; the end is that of one run over the images there are."""
    out, options = tmp_path / "s.h5", ("--part-size", 3, "--batch-size", 2)
    sound = (grids / "img0001.npy").read_bytes()
    for name in ("img0001", "img0002"):
        (grids / f"{name}.npy").write_bytes(b"")
    crash_at.update(left=5)  # within the third part
    with pytest.raises(Crash):
        extract(grids, out, *options)
    crash_at.update(left=-1)
    parts = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s.h5.parts").glob("*.h5")}
    assert len(parts) == 2
    (grids / "img0001.npy").write_bytes(sound)
    (grids / "img0004.npy").unlink()
    np.save(grids / "a-new.npy", np.full((4, 3), 7.0))
    crash_at.update(left=8, done=True)  # after all parts, before the end
    with pytest.raises(Crash):
        extract(grids, out, *options)
    crash_at.update(left=-1)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s.h5.parts").glob("*.h5")}
    assert parts.items() < kept.items()
    extract(grids, out, *options, status=3)
    whole = extract(grids, tmp_path / "whole.h5", *options, status=3)
    assert contents(out) == contents(whole)
    assert RegionStore([str(out)]).ids() == ["a-new", "img0000", "img0001", *(f"img{k:04}" for k in (3, *range(5, 10)))]
    assert [line.split("\t")[0] for line in (tmp_path / "s.h5.errors.tsv").read_text().splitlines()] == ["img0002"]
    # the store that is complete takes what is mended, or new, and loses what is gone
    (grids / "img0002.npy").write_bytes(sound)
    (grids / "img0009.npy").unlink()
    capsys.readouterr()
    extract(grids, out, *options)
    assert RegionStore([str(out)]).ids() == ["a-new", *(f"img{k:04}" for k in (0, 1, 2, 3, 5, 6, 7, 8))]
    assert "9 images" in capsys.readouterr().out and not (tmp_path / "s.h5.errors.tsv").exists()
    extract(grids, out, *options)
    assert "complete already" in capsys.readouterr().out
    (tmp_path / "not").write_text(f"img0003\n{grids}/img0000.npy\tx\nnone\nimg1.jpg\na-new.jpg\n")
    extract(grids, tmp_path / "t.h5", "--exclude", tmp_path / "not")
    assert RegionStore([str(tmp_path / "t.h5")]).ids() == ["a-new", *(f"img{k:04}" for k in (1, 2, 5, 6, 7, 8))]
    told = capsys.readouterr().out
    assert "3 lines name no image of this run, the first 'a-new.jpg'" in told
    assert "'a-new.jpg' is there as 'a-new'" in told and "extension" in told and "1 of 3" in told


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def crash_at(monkeypatch):
    """Make the n-th change of the disk by the extraction the last, done or not."""
    count = {"left": -1, "done": False}

    def wrap(function):
        def wrapped(*args, **kwargs):
            if count["left"] == 0 and not count["done"]:
                raise Crash
            result = function(*args, **kwargs)
            if count["left"] == 0:
                raise Crash
            count["left"] -= 1
            return result

        return wrapped

    monkeypatch.setattr(os, "replace", wrap(os.replace))
    monkeypatch.setattr(shutil, "rmtree", wrap(shutil.rmtree))
    return count


@pytest.mark.slow
@pytest.mark.parametrize("done", [False, True])
def test_resumed_wherever_it_ended(grids, tmp_path, crash_at, done):
    """Before and after each file appears, in parts and in joining, a restart gives the same arrays."""
    (grids / "img0004.npy").write_bytes(b"")
    options = ("--part-size", 4, "--batch-size", 3)
    expected = contents(extract(grids, tmp_path / "whole.h5", *options, status=3))
    errors = (tmp_path / "whole.h5.errors.tsv").read_text()
    steps = 0
    while True:
        out = tmp_path / f"{steps}.h5"
        crash_at.update(left=steps, done=done)
        try:
            extract(grids, out, *options, status=3)
            break
        except Crash:
            steps += 1
            crash_at.update(left=-1)
            extract(grids, out, *options, status=3)
        assert contents(out) == expected
        assert (tmp_path / f"{out.name}.errors.tsv").read_text() == errors
        assert not (tmp_path / f"{out.name}.parts").exists()
    assert steps == 1 + 2 * 3 + 3  # plan; errors and store of each part; errors, store, end of parts


@pytest.mark.slow
def test_parts_that_are_damaged_or_of_another_extraction(grids, tmp_path, crash_at):
    """The former are made again; the latter are not mixed."""
    whole, out = contents(extract(grids, tmp_path / "whole.h5", "--part-size", 4)), tmp_path / "s.h5"
    crash_at.update(left=6)
    with pytest.raises(Crash):
        extract(grids, out, "--part-size", 4)
    crash_at.update(left=-1)
    shutil.copytree(f"{out}.parts", kept := tmp_path / "kept")
    part = tmp_path / "s.h5.parts" / "00000.h5"
    part.write_bytes(part.read_bytes()[:2000])
    (tmp_path / "s.h5.parts" / ".00001.h5.0123456789ab.vtlm-tmp").write_bytes(b"left over")
    assert contents(extract(grids, out, "--part-size", 4)) == whole
    out.unlink()
    kept.rename(f"{out}.parts")
    assert "dtype was 'float16' and is 'float32'" in ends_with(
        extract, grids, out, "--part-size", 4, "--dtype", "float32"
    )
    assert "part_size was 4 and is 5" in ends_with(extract, grids, out, "--part-size", 5)
    assert len(RegionStore([str(extract(grids, out, "--part-size", 5, "--overwrite"))])) == 10
    before = (tmp_path / "s.h5").read_bytes()
    assert "--overwrite" in ends_with(extract, grids, tmp_path / "s.h5", "--dtype", "float32")
    assert (tmp_path / "s.h5").read_bytes() == before and not (tmp_path / "s.h5.parts").exists()
    assert "no" in ends_with(extract, grids, tmp_path / "no" / "s.h5")


def test_two_processes_do_not_write_one_store(grids, tmp_path):
    """PITFALLS 22: the second is refused while the first runs, whose workers hold no lock of their own."""
    with region_parts.Parts(str(tmp_path / "s.h5"), {}, kind="extraction", overwrite=False):
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            assert "another process" in pool.submit(ends_with, extract, grids, tmp_path / "s.h5").result()


@pytest.mark.slow
def test_shards_merged_equal_one_run(tmp_path):
    """Folder of 13 images in four shards: arrays of the merged store, virtual or copied, are those of one run."""
    write_grids(tmp_path / "in", 13)
    whole = contents(extract(tmp_path / "in", tmp_path / "whole.h5"))
    shards = [extract(tmp_path / "in", tmp_path / f"s.{i}.h5", "--num-shards", 4, "--shard-id", i) for i in range(4)]
    for argv in ([], ["--copy"]):
        out = tmp_path / f"merged{len(argv)}.h5"
        assert regions_main(["merge", *map(str, shards), "--out", str(out), *argv]) == 0
        merged = contents(out)
        attributes = [{k: str(v) for k, v in c.pop("attributes").items()} for c in (merged, dict(whole))]
        whole_attributes = {k: v for k, v in attributes[1].items() if k != "extraction"}
        assert attributes[0] == whole_attributes
        assert merged == {name: value for name, value in whole.items() if name != "attributes"}


def test_options(grids, tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.h5"
    photos, latin, none = tmp_path / "photos", tmp_path / "latin", tmp_path / "none"
    background = tmp_path / "background"
    background.write_text("__background__\nperson\n")
    write_images(photos, 1)
    latin.write_bytes(b"\xe9")
    for source, argv, words in (
        (grids, ("--max-regions", 3), "--max-regions 4"),
        (grids, ("--model", "x"), "--model"),
        (grids, ("--detector", "x"), "grid, litert-ssd, "),
        (grids, ("--detector-file", none), "--detector-file "),
        (grids, ("--num-shards", 2, "--shard-id", 2), "--shard-id 2"),
        (photos, ("--detector", "litert-ssd"), "needs --model"),
        (photos, ("--detector", "tf-saved-model"), "needs --model"),
        (photos, ("--detector", "torchvision"), "needs --model"),
        (photos, ("--detector", "litert-ssd", "--class-names", none), "--class-names "),
        (photos, ("--detector", "litert-ssd", "--class-names", latin), "--class-names "),
        (photos, ("--detector", "litert-ssd", "--class-names", background), "background class"),
    ):
        assert words in ends_with(extract, source, out, *argv)
    for option, value in (("--batch-size", 0), ("--part-size", 0), ("--workers", -1)):
        with pytest.raises(SystemExit, match="2"):
            extract(grids, out, option, value)
        assert f"argument {option}: " in capsys.readouterr().err
    for path in grids.iterdir():
        path.write_bytes(b"text")
    assert "img0009.npy" in ends_with(extract, grids, out)  # no file can be read
    shutil.rmtree(f"{out}.parts", ignore_errors=True)

    def closed(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", closed)
    assert f"{grids} cannot be read (Permission denied)" in ends_with(extract, grids, out)
    assert "two detectors" in fault(detectors.register_detector("grid"), Sizes)


def test_without_pillow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="pip install 'vtlm-fairseq\\[extract\\]'"):
        detectors.get_detector("litert-ssd")(detectors.DetectorOptions())
    assert detectors.get_detector("grid")(detectors.DetectorOptions())  # reads no images


class Sizes(detectors.Detector):
    """One region an image with its width and height, best score first for the last."""

    def open(self, files):
        self.feature_dim, self.class_names, self.description = 2, ["image"], "sizes"

    def detect(self, inputs):
        boxes, labels = np.tile([0.0, 0, 1, 1], (3, 1)), np.zeros(3, int)
        return [
            detectors.Detection(np.array([pixels.shape[:2]] * 3) + [[0], [1], [2]], boxes, labels, np.array([1, 3, 2]))
            for pixels in inputs
        ]


@pytest.fixture(scope="module", autouse=True)
def sizes():
    """A detector of one's own."""
    detectors.register_detector("sizes")(Sizes)


class Killed(Sizes):
    """Its readers are killed, as by a system without memory."""

    def read(self, data):
        os.kill(os.getpid(), signal.SIGKILL)


def test_readers_that_are_killed(tmp_path):
    write_images(tmp_path / "in", 2)
    detectors.register_detector("killed")(Killed)
    argv = ("--detector", "killed", "--workers", 1)
    assert "--workers" in ends_with(extract, tmp_path / "in", tmp_path / "s.h5", *argv)


@pytest.mark.slow
def test_images_of_all_kinds(tmp_path):
    """Decoded in worker processes: the result does not depend on their number; --max-regions keeps the best."""
    folder = tmp_path / "in"
    write_images(folder, 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(folder / "turned.jpg", exif=exif)
    Image.new("CMYK", (8, 9)).save(folder / "cmyk.jpg")
    Image.new("L", (1, 1)).save(folder / "one.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    argv = ["--detector", "sizes", "--max-regions", 2, "--batch-size", 3, "--part-size", 4]
    stores = [contents(extract(folder, tmp_path / f"{n}.h5", *argv, "--workers", n, status=3)) for n in (0, 1, 3)]
    assert stores[0] == stores[1] == stores[2]
    store = RegionStore([str(tmp_path / "0.h5")])
    sizes = {image_id: store[row].features[0].tolist() for row, image_id in enumerate(store.ids())}
    assert "broken" not in sizes
    assert (sizes["turned"], sizes["cmyk"], sizes["one"]) == ([21, 11], [10, 9], [2, 2])
    assert store[0].scores.tolist() == [3, 2]
