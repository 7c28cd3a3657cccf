"""Padding is not a region: counts, and rows of zeros and boxes without area in `convert`, `info` and `validate`."""

import numpy as np
import pytest
from region_sources import convert, fails

from vtlm_fairseq.cli.regions import main


def source(tmp_path, *, zeros=True, flat=True):
    """Two images of up to 3 regions; the second has one, and two rows of padding."""
    features = np.arange(1, 19, dtype=np.float32).reshape(2, 3, 3)
    boxes = np.tile(np.array([0.1, 0.2, 0.5, 0.6], np.float32), (2, 3, 1))
    if zeros:
        features[1, 1:] = 0
    if flat:
        boxes[1, 1:] = 0
    np.save(tmp_path / "f.npy", features)
    np.save(tmp_path / "b.npy", boxes)
    np.save(tmp_path / "n.npy", np.array([3, 1]))
    (tmp_path / "ids").write_text("a\nb\n")
    return ("--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--boxes", tmp_path / "b.npy")


def test_counts(tmp_path):
    store = convert(tmp_path / "s.h5", *source(tmp_path), "--counts", tmp_path / "n.npy")
    assert [len(store[row].labels) for row in range(2)] == [3, 1]
    assert store[1].features.tolist() == [[10, 11, 12]]


@pytest.mark.parametrize("counts", [[4, 1], [-1, 1], [1.0, 1.0], [1]])
def test_counts_that_cannot_be(tmp_path, counts):
    argv = source(tmp_path)
    np.save(tmp_path / "n.npy", np.array(counts))
    assert "--counts" in fails("convert", *argv, "--counts", tmp_path / "n.npy", "--out", tmp_path / "s.h5")


@pytest.mark.slow
@pytest.mark.parametrize("zeros, flat", [(True, False), (False, True)])
def test_padding_is_refused_kept_or_dropped(tmp_path, zeros, flat, capsys):
    argv = source(tmp_path, zeros=zeros, flat=flat)
    line = fails("convert", *argv, "--out", tmp_path / "s.h5")
    assert "'b'" in line and "region 1 of 3" in line and "--counts" in line and "--keep-empty" in line
    dropped = convert(tmp_path / "d.h5", *argv, "--drop-empty")
    assert [len(dropped[row].labels) for row in range(2)] == [3, 1]
    assert dropped[1].features.tolist() == [[10, 11, 12]]
    kept = convert(tmp_path / "k.h5", *argv, "--keep-empty")
    assert [len(kept[row].labels) for row in range(2)] == [3, 3]
    capsys.readouterr()
    assert main(["info", str(tmp_path / "k.h5")]) == 0
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("empty regions"))
    assert said.split(maxsplit=2)[2] == (
        "0 boxes without area; features all 0 in 2 of 6 regions in a sample" if zeros else
        "2 boxes without area; features all 0 in 0 of 6 regions in a sample"
    )  # fmt: skip
    assert main(["validate", str(tmp_path / "k.h5")]) == 0
    assert ("all 0 in 2" if zeros else "no area in 2") in capsys.readouterr().out


@pytest.mark.slow
def test_one_row_among_many(tmp_path, capsys):
    """`validate` reads all; its sample and that of `info` see some images."""
    features, boxes = np.ones((3000, 1, 2)), np.tile([0.0, 0, 0.5, 1], (3000, 1, 1))
    features[1234], boxes[2345, 0, 2] = 0, 0
    for name, array in (("f", features), ("b", boxes)):
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "ids").write_text("".join(f"{k}\n" for k in range(3000)))
    argv = ("--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--boxes", tmp_path / "b.npy", "--keep-empty")
    convert(tmp_path / "s.h5", *argv)
    out = capsys.readouterr().out
    assert "all 0 in 1 " in out and "no area in 1 " in out


def test_boxes_turned_inside_out_are_no_padding(tmp_path):
    argv = source(tmp_path, zeros=False, flat=False)
    boxes = np.load(tmp_path / "b.npy")
    boxes[0, 0] = [0.5, 0.2, 0.1, 0.6]
    np.save(tmp_path / "b.npy", boxes)
    assert "x1 <= x2" in fails("convert", *argv, "--drop-empty", "--out", tmp_path / "s.h5")


@pytest.mark.slow
def test_features_that_are_0_at_first_are_no_padding(tmp_path):
    """Of wide features one value far behind is enough, in half precision too."""
    features = np.zeros((1, 2, 300), np.float16)
    features[0, 0, 299], features[0, 1, 0] = 6e-8, -1
    np.save(tmp_path / "f.npy", features)
    (tmp_path / "ids").write_text("a\n")
    argv = ("--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids")
    assert convert(tmp_path / "s.h5", *argv)[0].features[0, 299] > 0
    np.save(tmp_path / "f.npy", np.where(features > 0, np.float16(-0.0), features))
    assert "region 0 of 2" in fails("convert", *argv, "--out", tmp_path / "t.h5")
