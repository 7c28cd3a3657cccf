"""`vtlm-regions validate`: several faults at once, shards of a split together, ids that a split needs."""

import h5py
import numpy as np
import pytest

from stores import make_store
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.regions.store import validate


def lines(capsys, *argv) -> list[str]:
    """What a `validate` that finds faults prints."""
    assert main(["validate", *map(str, argv)]) == 1
    return capsys.readouterr().out.splitlines()


def test_values_are_checked_beside_a_fault_of_the_schema(tmp_path):
    """Labels out of range are all named, and a missing attribute hides nothing."""
    path = str(tmp_path / "s.h5")
    make_store(path, 4, regions=3)
    with h5py.File(path, "a") as file:
        file["labels"][4], file["labels"][10] = 5, -1
        file["features"][0, 0] = np.nan
        del file.attrs["detector"]
    faults = validate(path)
    assert faults[0].startswith(f"{path}: no region store, root attribute 'detector' is missing")
    assert faults[1:] == [
        f"{path}: image 'img0.jpg', region 0: features are not finite",
        f"{path}: image 'img1.jpg', region 1: label is not within 0..4 (no background class)",
        f"{path}: image 'img3.jpg', region 1: label is not within 0..4 (no background class)",
    ]


@pytest.mark.parametrize(
    ("name", "data"), [("offsets", [0, 3, 2, 9]), ("scores", np.zeros(8, "f4")), ("labels", np.zeros((9, 1), "i2"))]
)
def test_values_without_a_sound_schema_are_left_alone(tmp_path, name, data):
    path = str(tmp_path / "s.h5")
    make_store(path, 3, regions=3)
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = np.array(data)
        file["features"][0, 0] = np.nan
    assert len(validate(path)) == 1


def test_shards_are_checked_together(tmp_path, capsys):
    make_store(tmp_path / "train.0.h5", ["a", "b"])
    make_store(tmp_path / "train.1.h5", ["c", "b"])
    make_store(tmp_path / "valid.h5", ["a"])  # another split may hold the same image
    found = lines(capsys, tmp_path)
    assert len(found) == 2 and "train.0.h5" in found[0] and "image 'b' is there twice" in found[0]
    make_store(tmp_path / "train.1.h5", ["c"], num_classes=6)
    assert "class_names differ" in lines(capsys, tmp_path)[0]
    make_store(tmp_path / "train.1.h5", ["c"])
    assert main(["validate", str(tmp_path)]) == 0
    capsys.readouterr()
    make_store(tmp_path / "train.h5", ["c"])
    assert "holds both train.h5 and shards" in lines(capsys, tmp_path)[0]


def test_ids_that_a_split_needs(tmp_path, capsys):
    make_store(tmp_path / "s.h5", ["a", "b"])
    (tmp_path / "x.images").write_text("b\nc\na\nc\nd\n")
    (tmp_path / "y.images").write_text("b\nb\n")
    images = ["--images", tmp_path / "y.images"]
    assert main(["validate", str(tmp_path / "s.h5"), *map(str, images)]) == 0
    capsys.readouterr()
    found = lines(capsys, tmp_path / "s.h5", *images, "--images", tmp_path / "x.images")
    assert found[0].endswith("'c' (line 2), 'd' (line 5)")
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    for name in ("none", "latin"):
        with pytest.raises(SystemExit, match=f"--images .*{name}"):
            main(["validate", str(tmp_path / "s.h5"), "--images", str(tmp_path / name)])
