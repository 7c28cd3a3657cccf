"""Faults of what `vtlm-regions convert` is given: one line that says what, where, and which option mends it."""

import numpy as np
import pytest
import region_layouts as made
from region_sources import convert, fails

BOXES = np.array([[0, 0, 0.5, 0.5], [0.25, 0, 1, 1]])


def npz(folder, **changes):
    folder.mkdir(exist_ok=True)
    arrays = {"features": np.arange(1.0, 7).reshape(2, 3), "boxes": BOXES, "labels": np.array([0, 1])}
    np.savez(folder / "i1.npz", **{**arrays, **changes})
    return ("convert", "--npz", folder, "--out", folder.with_suffix(".h5"))


@pytest.mark.parametrize(
    ("lines", "more", "same"),
    [
        ("i1\t100\t100\nx\t5\t5\ni1\t200\t200\n", (), False),
        ("i1\t100\t100\nx\t5\t5\nI/i1\t200\t200\n", ("--id-rule", "basename"), False),
        ("i1\t200\t100\nx\t5\t5\ni1\t200\t100\n", (), True),
    ],
)
def test_two_sizes_of_an_image(tmp_path, lines, more, same):
    argv = npz(tmp_path / "in", boxes=BOXES * 100)
    (tmp_path / "sizes").write_text(lines)
    argv = (*argv[1:3], "--num-classes", 2, "--box-units", "pixels", "--image-sizes", tmp_path / "sizes", *more)
    if same:
        assert convert(tmp_path / "s.h5", *argv)[0].boxes[0].tolist() == [0, 0, 0.25, 0.5]
    else:
        line = fails("convert", *argv, "--out", tmp_path / "s.h5")
        assert str(tmp_path / "sizes") in line and "1 and 3" in line and "'i1'" in line


def test_an_image_without_size(tmp_path):
    argv = npz(tmp_path / "in", boxes=BOXES * 100)
    (tmp_path / "sizes").write_text("i2\t5\t5\n")
    argv += ("--num-classes", 2, "--box-units", "pixels", "--image-sizes", tmp_path / "sizes")
    assert f"--image-sizes {tmp_path / 'sizes'}" in fails(*argv)


@pytest.mark.slow
def test_features_that_half_precision_makes_0(tmp_path):
    """As those that it makes infinite: refused with the option, unless they were 0."""
    argv = npz(tmp_path / "in", features=np.array([[1, 2, 3], [1e-9, 0, 1e-8]]))
    argv += ("--num-classes", 2)
    assert "--dtype float32" in fails(*argv)
    assert "--dtype float32" in fails(*argv, "--keep-empty")
    store = convert(tmp_path / "s.h5", *argv[1:3], "--num-classes", 2, "--dtype", "float32")
    assert store[0].features[1, 2] == np.float32(1e-8)
    npz(tmp_path / "in", features=np.array([[1, 2, 3], [0, 0, 0]]))
    assert not convert(tmp_path / "t.h5", *argv[1:3], "--num-classes", 2, "--keep-empty")[0].features[1].any()


@pytest.mark.parametrize("kind", [bool, complex, "U5"])
@pytest.mark.parametrize("name", ["features", "scores"])
def test_arrays_that_are_no_numbers(tmp_path, kind, name):
    values = {"features": np.ones((2, 3)), "scores": np.ones(2)}[name].astype(kind)
    line = fails(*npz(tmp_path / "in", **{name: values}), "--num-classes", 2)
    assert "i1.npz" in line and f"{name} are" in line and "finite" not in line


def test_more_classes_than_a_store_has(tmp_path):
    (tmp_path / "names").write_text("".join(f"{number}\n" for number in range(40_000)))
    line = fails(*npz(tmp_path / "in"), "--class-names", tmp_path / "names")
    assert "--class-names" in line and "32,767" in line and ".parts" not in line


def test_names_that_are_there_again(tmp_path, capsys):
    """One line, however many."""
    (tmp_path / "names").write_text("cat\n" + "object\n" * 1_600)
    convert(tmp_path / "s.h5", *npz(tmp_path / "in")[1:3], "--class-names", tmp_path / "names")
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if "--class-names" in line]
    assert "lines 2 and 3" in line and "1,598" in line


def test_names_that_begin_with_a_background(tmp_path):
    """The way out is one that the source has."""
    (tmp_path / "names").write_text("background\ncat\ndog\n")
    line = fails(*npz(tmp_path / "in"), "--class-names", tmp_path / "names")
    assert "line 1" in line and "--layout-set" not in line and "in the files" in line
    path = made.lxmert(tmp_path)
    argv = ("convert", "--layout", "lxmert", "--input", path, "--out", tmp_path / "s.h5")
    assert "--layout-set label_offset=1" in fails(*argv, "--class-names", tmp_path / "names")


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "layout"), [((2, 4, 3, 3), "multi30k-res4"), ((2, 4), "multi30k-avgpool")])
def test_stacked_features_of_another_form(tmp_path, shape, layout):
    np.save(tmp_path / "f.npy", np.ones(shape))
    (tmp_path / "ids").write_text("a\nb\n")
    argv = ("--ids", tmp_path / "ids", "--out", tmp_path / "s.h5")
    assert f"--layout {layout}" in fails("convert", "--npy", tmp_path / "f.npy", *argv)
    argv = ("--layout", layout, "--layout-set", "feature_dim=4", "--input", tmp_path / "f.npy", *argv[:2])
    assert convert(tmp_path / "t.h5", *argv).feature_dim == 4  # the advice is good


def test_a_layout_file_that_is_not_there(tmp_path):
    line = fails("convert", "--layout", tmp_path / "nix.yaml", "--input", tmp_path, "--out", tmp_path / "s.h5")
    assert "No such file" in line and "readable YAML" not in line


NAMES = "img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features".split()


@pytest.mark.slow
@pytest.mark.parametrize("source", [("--layout", "lxmert", "--input"), ("--bottom-up-tsv",)])
def test_a_tsv_whose_first_line_names_the_columns(tmp_path, source):
    """They are read by these names, in any order and beside others; a name that is missing is said."""
    path = made.lxmert(tmp_path)
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    rows.append(["b", "400", *rows[0][2:]])
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    plain = convert(tmp_path / "plain.h5", *source, path, "--num-classes", 5)
    order = [9, 2, 1, 0, 7, 8, 3, 4]
    names = [NAMES[k] for k in order]
    table = [[*names, "url"], *([*(row[k] for k in order), "http://x"] for row in rows)]
    path.write_text("".join("\t".join(row) + "\n" for row in table))
    store = convert(tmp_path / "s.h5", *source, path, "--num-classes", 5)
    assert store.ids() == plain.ids() == ["a", "b"]
    for name in ("features", "boxes", "labels", "scores"):
        for row in range(len(store)):
            np.testing.assert_array_equal(getattr(store[row], name), getattr(plain[row], name))
    path.write_text("".join("\t".join(row[1:]) + "\n" for row in table))
    line = fails("convert", *source, path, "--num-classes", 5, "--out", tmp_path / "t.h5")
    assert f"{path}, line 1" in line and "features" in line
