"""`vtlm-regions`: stores from a user's own arrays (PITFALLS 26), their summary and their full check."""

import os

import h5py
import numpy as np
import pytest
from region_sources import fails

from stores import make_store
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.regions.store import RegionStore


def save_npz(folder, image_id, regions, **overrides):
    folder.mkdir(exist_ok=True)
    arrays = {
        "features": np.arange(regions * 4, dtype=np.float32).reshape(regions, 4),
        "boxes": np.tile(np.array([0.0, 0.25, 0.5, 1.0]), (regions, 1)),
        "labels": np.arange(regions) % 3,
        "scores": np.linspace(0.5, 1, regions),
    }
    arrays.update(overrides)
    np.savez(folder / f"{image_id}.npz", **{k: v for k, v in arrays.items() if v is not None})


@pytest.mark.slow
def test_convert_npz(tmp_path, capsys):
    """PITFALLS 26."""
    save_npz(tmp_path / "in", "b.jpg", 3)
    save_npz(tmp_path / "in", "a.jpg", 2, scores=None)
    save_npz(tmp_path / "in", "c.jpg", 0)
    (tmp_path / "names").write_text("cat\ndog\ntree\n")
    argv = ["convert", "--npz", tmp_path / "in", "--class-names", tmp_path / "names", "--detector", "mine"]
    assert main([str(a) for a in [*argv, "--out", tmp_path / "s.h5"]]) == 0
    assert "3 images" in capsys.readouterr().out
    store = RegionStore([str(tmp_path / "s.h5")])
    assert (store.ids(), store.class_names) == (["a.jpg", "b.jpg", "c.jpg"], ["cat", "dog", "tree"])
    assert (store.detector, store.dtype) == ("mine", np.float16)
    a, b, c = (store[i] for i in range(3))
    assert a.features.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and a.scores.tolist() == [1, 1]
    assert b.labels.tolist() == [2, 1, 0] and b.scores.tolist() == [1, 0.75, 0.5]
    assert b.features[:, 0].tolist() == [8, 4, 0] and b.boxes[0].tolist() == [0, 0.25, 0.5, 1]
    assert c.features.shape == (0, 4)
    assert main(["validate", str(tmp_path / "s.h5")]) == 0
    assert main([str(a) for a in [*argv, "--out", tmp_path / "s.h5"]]) == 0  # the same again: nothing is left to do
    assert "complete already" in capsys.readouterr().out
    assert "--overwrite" in fails(*argv, "--dtype", "float32", "--out", tmp_path / "s.h5")
    (tmp_path / "names").write_text("cat\ndog\ncat\n")
    capsys.readouterr()
    assert main([str(a) for a in [*argv, "--out", tmp_path / "twice.h5"]]) == 0
    said = capsys.readouterr().out
    assert f"--class-names {tmp_path / 'names'}: lines 1 and 3" in said and "'cat'" in said
    (tmp_path / "names").write_text("cat\ndog\ntree\n")
    assert main([str(a) for a in [*argv, "--out", tmp_path / "s.h5", "--overwrite"]]) == 0


@pytest.mark.parametrize(
    ("first", "refused"),
    [("__background__", True), ("background", True), ("BG", True), ("[no object]", True), ("N/A", False),
     ("backgrounds", False), ("big", False)],
)  # fmt: skip
def test_class_names_that_begin_with_the_background(tmp_path, first, refused):
    """All labels would be off by one, unseen."""
    save_npz(tmp_path / "in", "a", 3)
    (tmp_path / "names").write_text(f"{first}\ncat\nbackground\n")
    argv = ["convert", "--npz", tmp_path / "in", "--class-names", tmp_path / "names", "--out", tmp_path / "s.h5"]
    if refused:
        message = fails(*argv)
        assert all(part in message for part in (repr(first), f"--class-names {tmp_path / 'names'}", "line 1"))
    else:
        assert main([str(a) for a in argv]) == 0


@pytest.mark.slow
def test_convert_npy_in_pixels_and_yxyx(tmp_path):
    """PITFALLS 26: width and height, and x and y, are not mixed up."""
    np.save(tmp_path / "f.npy", np.arange(12, dtype=np.float32).reshape(2, 2, 3))
    boxes = [[[10, 40, 50, 80], [0, 0, 101, 201]], [[0, 5, 10, 20], [2, 4, 4, 8]]]  # y1, x1, y2, x2
    np.save(tmp_path / "b.npy", np.array(boxes))
    np.save(tmp_path / "l.npy", np.array([[0, 1], [1, 0]]))
    np.save(tmp_path / "s.npy", np.array([[0.5, 0.25], [0.25, 0.5]]))
    (tmp_path / "ids").write_text("x\ny\n")
    (tmp_path / "sizes").write_text("y\t20\t10\nx\t200\t100\nother\t1\t1\n")
    base = ["convert", "--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--boxes", tmp_path / "b.npy"]
    base += ["--labels", tmp_path / "l.npy", "--scores", tmp_path / "s.npy", "--num-classes", 2]
    pixels = ["--box-units", "pixels", "--image-sizes", tmp_path / "sizes", "--box-format", "yxyx"]
    main([str(a) for a in [*base, *pixels, "--dtype", "float32", "--out", tmp_path / "s.h5"]])
    store = RegionStore([str(tmp_path / "s.h5")])
    x, y = store[0], store[1]
    np.testing.assert_allclose(x.boxes, [[0.2, 0.1, 0.4, 0.5], [0, 0, 1, 1]])
    np.testing.assert_allclose(y.boxes, [[0.2, 0.2, 0.4, 0.4], [0.25, 0, 1, 1]])
    assert x.features.tolist() == [[0, 1, 2], [3, 4, 5]] and y.features.tolist() == [[9, 10, 11], [6, 7, 8]]
    assert (y.labels.tolist(), store.dtype, store.class_names) == ([0, 1], np.float32, ["class 0", "class 1"])
    out = ["--out", tmp_path / "no.h5"]
    assert "boxes run from 0 to 201" in fails(*base, *out)
    assert "--box-units" in fails(*base, "--image-sizes", tmp_path / "sizes", *out)
    xyxy = [*pixels[:-1], "xyxy"]
    assert "image 'x': box [0.0, 0.0, 101.0, 201.0]" in fails(*base, *xyxy, *out)
    (tmp_path / "sizes").write_text("x\t200\t100\n")
    assert "'y'" in fails(*base, *pixels, *out)
    for line in ("y 1 2", "y\t2\t3\t4", "y\t2\t0"):
        (tmp_path / "sizes").write_text(f"x\t200\t100\n{line}\n")
        assert f"sizes: line 2 is {line!r}" in fails(*base, *pixels, *out)
    assert not os.path.exists(tmp_path / "no.h5")


def test_convert_npy_of_features_alone(tmp_path):
    np.save(tmp_path / "f.npy", np.ones((2, 3, 4), np.float16))
    (tmp_path / "ids").write_text("x\ny")
    argv = ["convert", "--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--out", tmp_path / "s.h5"]
    main([str(a) for a in argv])
    store = RegionStore([str(tmp_path / "s.h5")])
    assert store.class_names == ["region"] and store[1].boxes.tolist() == [[0, 0, 1, 1]] * 3
    assert store[0].labels.tolist() == [0, 0, 0] and store[0].scores.tolist() == [1, 1, 1]


NPY, NPZ = ("--npy", "f.npy"), ("--npz", "in", "--num-classes", 3)
IDS, LABELS = ("--ids", "ids"), ("--labels", "flat.npy")
CONVERT_FAULTS = [
    (NPY, "--ids"),
    ((*NPY, "--ids", "one"), "one: 1 lines"),
    ((*NPY, "--ids", "twice"), "'x'"),
    ((*NPY, "--ids", "gap"), "gap: line 2"),
    ((*NPY, "--ids", "none"), "--ids none"),
    ((*NPY, "--ids", "latin"), "--ids latin"),
    ((*NPY, *IDS, *LABELS), "--class-names"),
    ((*NPY, *IDS, *LABELS, "--num-classes", 2), "float64"),
    ((*NPY, *IDS, "--boxes", "flat.npy"), "(2, 3, 4)"),
    ((*NPY, *IDS, "--box-units", "pixels"), "--image-sizes"),
    (("--npy", "flat.npy", *IDS), "--npy flat.npy: shape (2, 3)"),
    (("--npy", "objects.npy", *IDS), "objects.npy"),
    (("--npy", "none.npy", *IDS), "none.npy"),
    (("--npy", "in/a.npz", *IDS), "--npz"),
    (("--npz", "none"), "--npz none"),
    (("--npz", "empty"), ".npz"),
    ((*NPZ, *IDS), "--ids"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "words"), CONVERT_FAULTS)
def test_convert_faults_are_one_line(tmp_path, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path)
    np.save("f.npy", np.ones((2, 3, 4), np.float16))
    np.save("flat.npy", np.ones((2, 3)))
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    files = {"ids": b"x\ny\n", "one": b"x\n", "twice": b"x\nx\n", "gap": b"x\n\ny\n", "latin": b"\xe9\n"}
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "empty").mkdir()
    save_npz(tmp_path / "in", "a", 2)
    before = sorted(os.listdir(tmp_path))
    assert words in fails("convert", *argv, "--out", "s.h5")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": None}, "'labels'"),
        ({"features": np.ones((2, 5))}, "image 'b': features have shape (2, 5)"),
        ({"features": np.ones(2)}, "(2,)"),
        ({"boxes": np.ones((2, 3))}, "boxes are float64 (2, 3)"),
        ({"labels": np.array([{}, {}], dtype=object)}, "b.npz"),
        (b"PK nonsense", "b.npz"),
        (b"some text", "b.npz"),
        (np.ones(2), "--npy"),
    ],
)
def test_faults_of_npz_files(tmp_path, arrays, words):
    """The file or its image is named; an array that `numpy.save` wrote belongs to another option."""
    save_npz(tmp_path / "in", "a", 2)
    if isinstance(arrays, bytes):
        (tmp_path / "in" / "b.npz").write_bytes(arrays)
    elif isinstance(arrays, np.ndarray):
        with open(tmp_path / "in" / "b.npz", "wb") as file:
            np.save(file, arrays)
    else:
        save_npz(tmp_path / "in", "b", 2, **arrays)
    message = fails("convert", "--num-classes", 3, "--npz", tmp_path / "in", "--out", tmp_path / "s.h5")
    assert words in message and "allow_pickle" not in message  # numpy's advice, which no option follows
    assert os.listdir(tmp_path) == ["in"]


def test_info(tmp_path, capsys):
    path = tmp_path / "s.h5"
    make_store(path, 4, regions=[2, 0, 7, 3])
    with h5py.File(path, "a") as file:
        file["labels"][:] = [3] * 6 + [1] * 4 + [0] * 2
        file.attrs["recipe"] = "by hand"
    assert main(["info", str(path)]) == 0
    text = {line[:20].strip(): line[20:] for line in capsys.readouterr().out.splitlines()}
    assert (text["images"], text["regions"], text["images without any"]) == ("4", "12", "1")
    assert text["regions per image"] == "min 0, median 2.5, max 7"
    assert text["features"] == "8 x float16" and text["classes"] == "5, 3 in use"
    assert text["commonest"] == "class3 6, class1 4, class0 2"
    assert (text["detector"], text["recipe"]) == ("random", "by hand")


@pytest.mark.slow
def test_info_and_validate_of_a_folder_and_of_nothing(tmp_path, capsys):
    make_store(tmp_path / "train.0.h5", 1)
    make_store(tmp_path / "valid.h5", 1)
    main(["info", str(tmp_path)])
    out = capsys.readouterr().out
    assert "train.0.h5" in out and "valid.h5" in out
    assert main(["validate", str(tmp_path)]) == 0
    assert "none" in fails("info", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "empty" in fails("validate", tmp_path / "empty")


def test_validate_lists_twenty_faults_and_counts_the_rest(tmp_path, capsys):
    path = tmp_path / "s.h5"
    make_store(path, 30, regions=2)
    with h5py.File(path, "a") as file:
        file["features"][::2, 0] = np.nan
    assert main(["validate", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 22 and lines[0].startswith(f"{path}: image 'img0.jpg', region 0: features")
    assert lines[20:] == ["... and 10 more", f"{path}: 30 faults"]


def test_regions_beyond_the_limit_are_counted(tmp_path, capsys):
    """`convert` and `info` say what training leaves out by default."""
    for name, regions in (("a", 50), ("b", 36), ("c", 40)):
        save_npz(tmp_path / "in", name, regions)
    out = str(tmp_path / "s.h5")
    assert main(["convert", "--npz", str(tmp_path / "in"), "--num-classes", "3", "--out", out]) == 0
    assert "18 of 126 regions (14 %) lie beyond --max-regions 36" in capsys.readouterr().out
    assert main(["info", out]) == 0
    assert "18 of 126 regions (14 %) lie beyond --max-regions 36" in capsys.readouterr().out
