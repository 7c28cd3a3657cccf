"""Faulty region stores and faulty input of the writer: one line that names file, image and what mends it."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from stores import fault, make_store, random_image, write_pair
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.regions import validate as full_check
from vtlm_fairseq.regions.schema import MAX_ID_BYTES
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter, validate


def replace(file: h5py.File, name: str, data, **options) -> None:
    del file[name]
    file.create_dataset(name, data=data, **options)


def virtual(file: h5py.File, name: str, path: str, source: str) -> None:
    """Make a dataset take its rows from another."""
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(path, source, shape=shape)
    file.create_virtual_dataset(name, layout)


def nest(file: h5py.File) -> None:
    """Features that take their rows from features that take theirs from ..., seven times."""
    for k in range(7):
        file.move("features", f"v{k}")
        file["features"] = np.zeros((18, 8), "f2")
        virtual(file, "features", ".", f"v{k}")


def in_raw_file(file: h5py.File) -> None:
    """Features outside the HDF5 file."""
    del file["features"]
    file.create_dataset("features", (18, 8), "f2", external=[("raw", 0, 288)])


def group(file: h5py.File) -> None:
    """A group in the place of the boxes."""
    del file["boxes"]
    file.create_group("boxes")


SCHEMA_FAULTS = [
    (lambda f: f.__delitem__("boxes"), "'boxes'"),
    (lambda f: f.attrs.__delitem__("detector"), "'detector'"),
    (lambda f: f.attrs.__setitem__("schema_version", 7), "schema_version 7"),
    (lambda f: f.attrs.__setitem__("feature_dim", 9), "feature_dim is 9"),
    (lambda f: f.attrs.__setitem__("feature_dim", "x"), "feature_dim is 'x'"),
    (lambda f: f.attrs.__setitem__("num_classes", 4), "num_classes is 4"),
    (lambda f: replace(f, "features", np.zeros((18, 8))), "features are float64"),
    (lambda f: replace(f, "features", np.zeros((18, 8, 1), "f2")), "(18, 8, 1)"),
    (lambda f: replace(f, "labels", np.zeros(18, "i8")), "labels are int64"),
    (lambda f: replace(f, "labels", np.zeros(17, "i2")), "17 labels but 18 features"),
    (lambda f: replace(f, "boxes", np.zeros((18, 5), "f4")), "boxes are 5"),
    (lambda f: replace(f, "ids", np.arange(3)), "ids are int64"),
    (lambda f: replace(f, "offsets", np.array([0, 6, 18])), "4 offsets"),
    (lambda f: replace(f, "offsets", np.array([0, 6, 12, 17])), "0 to 17"),
    (lambda f: f["offsets"].__setitem__(slice(1, 3), [9, 5]), "'img1.jpg'"),
    (lambda f: f["labels"].__setitem__(7, 5), "'img1.jpg' has label 5"),
    (lambda f: f["labels"].__setitem__(12, -1), "'img2.jpg' has label -1"),
    (lambda f: f["ids"].__setitem__(2, b"img0.jpg"), "'img0.jpg'"),
    (nest, "'features'"),
    (in_raw_file, "raw files"),
    (group, "'boxes' is a group"),
    (lambda f: virtual(f, "boxes", ".", "x"), "no dataset x"),
]


@pytest.mark.parametrize(("edit", "expected"), SCHEMA_FAULTS, ids=[e for _, e in SCHEMA_FAULTS])
def test_schema_faults_are_found_on_opening(tmp_path, edit, expected):
    path = str(tmp_path / "bad.h5")
    make_store(path, 3)
    with h5py.File(path, "a") as file:
        edit(file)
    message = fault(RegionStore, [path])
    assert expected in message and "bad.h5" in message
    assert expected in "\n".join(validate(path))


def test_files_that_are_no_stores(tmp_path):
    """Text, and stores that are cut off anywhere."""
    make_store(tmp_path / "cut.h5", 5, feature_dim=3)
    data = (tmp_path / "cut.h5").read_bytes()
    for content in (b"hello", *(data[:size] for size in (*range(0, len(data), 97), len(data) - 1))):
        (tmp_path / "cut.h5").write_bytes(content)
        message = fault(RegionStore, [str(tmp_path / "cut.h5")])
        assert "cut.h5" in message and "HDF5" in message
    assert "--max-regions is 0" in fault(RegionStore, [str(tmp_path / "cut.h5")], max_regions=0)
    assert "none.h5" in fault(RegionStore, [str(tmp_path / "none.h5")]) and "--regions" in fault(RegionStore, [])


def test_data_from_outside_the_folder_is_refused(tmp_path):
    outside = tmp_path / "outside.h5"
    make_store(outside, 3)
    folder = tmp_path / "stores"
    path = folder / "s.h5"

    def refused(edit, *args) -> str:
        make_store(path, 3)
        with h5py.File(path, "a") as file:
            edit(file, *args)
        return fault(RegionStore, [str(path)])

    def link(file, target) -> None:
        del file["features"]
        file["features"] = target

    for target in (str(outside), "../outside.h5"):
        assert "external link" in refused(link, h5py.ExternalLink(target, "features"))
        assert "outside the folder" in refused(virtual, "features", target, "features")
    assert "soft link" in refused(link, h5py.SoftLink("/boxes"))
    assert "gone.h5" in refused(virtual, "features", "gone.h5", "features")


def test_damage_that_is_met_while_rows_are_read(tmp_path):
    """A chunk whose compression is damaged, and a file that was cut after it was opened: the store is named."""
    path = str(tmp_path / "s.h5")
    make_store(path, 3)
    with h5py.File(path, "a") as file:
        replace(file, "features", np.ones((18, 8), "f2"), chunks=(18, 8), compression="gzip")
        chunk = file["features"].id.get_chunk_info(0)
    with open(path, "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    assert f"{path}: row 1" in fault(RegionStore([path]).__getitem__, 1)
    store = RegionStore([path])
    os.truncate(path, 3000)
    assert path in fault(store.__getitem__, 0)


# ---- the full check


def lines(capsys, *argv) -> list[str]:
    """What a `validate` that finds faults prints."""
    assert main(["validate", *map(str, argv)]) == 1
    return capsys.readouterr().out.splitlines()


def test_validate_names_each_faulty_image(tmp_path):
    """Beside a fault of the schema too, which hides nothing."""
    path = str(tmp_path / "s.h5")
    make_store(path, 6, regions=4)
    with h5py.File(path, "a") as file:
        file["features"][1, 3] = np.nan
        file["features"][2, 0] = np.inf
        file["boxes"][5] = [0.1, 0.2, 1.5, 0.9]
        file["boxes"][9] = [0.5, 0.2, 0.4, 0.9]
        file["boxes"][10, 0] = np.nan
        file["scores"][13] = 0.99
        file["scores"][16] = np.nan
        file["labels"][4], file["labels"][10] = 5, -1
        del file.attrs["detector"]
    calls = []
    faults = validate(path, on_progress=lambda done, total: calls.append((done, total)))
    expected = [
        ("'detector'", "vtlm-regions convert"),
        ("image 'img0.jpg', region 1: ", "features", "finite"),
        ("image 'img2.jpg', region 2: ", "box", "finite"),
        ("image 'img1.jpg', region 1: ", "box", "0..1"),
        ("image 'img2.jpg', region 1: ", "box", "x1 <= x2, y1 <= y2"),
        ("image 'img4.jpg', region 0: ", "score", "finite"),
        ("image 'img3.jpg', region 1: ", "score", "before"),
        ("image 'img1.jpg', region 0: ", "label", "0..4"),
        ("image 'img2.jpg', region 2: ", "label", "0..4"),
    ]
    for line, parts in zip(faults, expected, strict=True):
        assert line.startswith(f"{path}: ") and all(part in line for part in parts), line
    assert calls == [(24, 24)]


def test_validate_does_not_compare_scores_of_two_images_and_sees_block_borders(tmp_path, monkeypatch):
    path = str(tmp_path / "s.h5")
    make_store(path, 5, regions=[3, 0, 1, 5, 4])
    monkeypatch.setattr(full_check, "BLOCK_BYTES", 8 * 8 * 2)  # two regions a block
    assert validate(path) == []
    with h5py.File(path, "a") as file:
        file["scores"][6] = 0.95  # the first region of a block, the third of its image
    (line,) = validate(path)
    assert line.startswith(f"{path}: image 'img3.jpg', region 2: score ")


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


@pytest.mark.slow
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


@pytest.mark.slow
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


# ---- the writer


BOX = [[0, 0, 1, 1], [0, 0, 1, 1]]
INPUT_FAULTS = [
    ({"features": np.zeros((2, 3))}, "features have shape (2, 3)"),
    ({"features": np.zeros(2)}, "features have shape (2,)"),
    ({"features": np.array([[1, np.nan], [0, 0]])}, "features"),
    *(
        ({"features": np.array([[-65504, 65504], [0, bad]], np.float16)}, "features hold")
        for bad in (np.inf, -np.inf, np.nan, np.copysign(np.nan, -1))
    ),
    ({"features": np.array([[1, 1e5], [0, 0]])}, "--dtype float32"),
    ({"boxes": np.zeros((2, 5))}, "boxes have shape (2, 5)"),
    ({"boxes": np.array([[0, 0, 1, 1], [0, 0, 640, 1]])}, "boxes run from 0 to 640"),
    ({"boxes": np.array([[0, 0, 1, 1], [-0.1, 0, 1, 1]])}, "boxes run from -0.1 to 1"),
    ({"boxes": np.array([[0, 0, 1, 1], [0.5, 0, 0.25, 1]])}, "[0.5, 0.0, 0.25, 1.0]"),
    ({"labels": np.array([0, 3])}, "labels run from 0 to 3"),
    ({"labels": np.array([-1, 0])}, "labels run from -1 to 0"),
    ({"labels": np.array([0.0, 1.0])}, "labels are float64"),
    ({"labels": np.array([0])}, "labels have shape (1,)"),
    ({"scores": np.array([0.5])}, "scores have shape (1,)"),
    ({"scores": np.array([0.5, np.inf])}, "scores"),
]


@pytest.mark.parametrize(("overrides", "expected"), INPUT_FAULTS, ids=[e for _, e in INPUT_FAULTS])
def test_writer_refuses_bad_input_and_leaves_nothing(tmp_path, overrides, expected):
    message = fault(write_pair, tmp_path / "s.h5", **overrides)
    assert expected in message and "s.h5" in message and "image 'a'" in message
    assert os.listdir(tmp_path) == []


def test_the_largest_halves_are_numbers(tmp_path):
    features = np.array([[-65504, 65504], [-0.0, 6e-8]], np.float16)
    write_pair(tmp_path / "s.h5", features=features)
    store = RegionStore([str(tmp_path / "s.h5")])
    assert sorted(store[0].features.ravel().tolist()) == sorted(features.ravel().tolist())


def test_writer_refuses_bad_options(tmp_path):
    path = tmp_path / "s.h5"
    assert "/proc/s.h5" in fault(write_pair, "/proc/s.h5")
    assert "feature_dim is 0" in fault(write_pair, path, feature_dim=0)
    assert "0 class names" in fault(write_pair, path, class_names=[])
    assert "dtype 'int8'" in fault(write_pair, path, dtype="int8")
    assert "'detector'" in fault(write_pair, path, attributes={"detector": "x"})
    assert "does not exist" in fault(write_pair, tmp_path / "no" / "s.h5")
    assert os.listdir(tmp_path) == []


def test_ids_that_the_writer_refuses(tmp_path):
    """Given twice, of two lines, no text, or longer than a store may hold."""
    image = random_image(np.random.default_rng(0), 2)
    longest = "\u00e4" * (MAX_ID_BYTES // 2)
    with RegionStoreWriter(tmp_path / "s.h5", feature_dim=8, class_names="abcde", detector="x") as writer:
        writer.add("a", **image)
        assert "'a'" in fault(writer.add, "a", **image)
        for bad in ("", "a\nb", "a\rb", "a\0", "\udcff", longest + "\u00e4"):
            fault(writer.add, bad, **image)
        writer.add(longest, **image)
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["a", longest]
    with pytest.raises(RuntimeError):
        writer.add("c", **image)


def test_boxes_a_little_past_the_edge_are_cut_there(tmp_path):
    """As detectors round them, which pixel boxes are allowed, too; pixels, or another order, are further outside."""
    write_pair(tmp_path / "s.h5", boxes=np.array([[-1e-8, -0.004, 1, 1.004], [0, 0, 1.009, 1]]))
    assert RegionStore([str(tmp_path / "s.h5")])[0].boxes.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    for edge in (-0.02, 1.02):
        message = fault(
            write_pair, tmp_path / "t.h5", boxes=np.array([[0, 0, 1, 1], [min(edge, 0), 0, max(edge, 1), 1]])
        )
        assert "must be within 0..1" in message


@pytest.mark.parametrize("big", [False, True])
def test_a_crash_leaves_nothing_new_and_the_old_file_alone(tmp_path, big):
    image = random_image(np.random.default_rng(0), 300, feature_dim=2048)

    def crash(path: Path) -> None:
        with RegionStoreWriter(path, feature_dim=2048, class_names="abcde", detector="x") as writer:
            for i in range(5 if big else 1):
                writer.add(f"im{i}", **image)
            assert not path.exists() or path.stat().st_size == size
            raise KeyboardInterrupt

    size = None
    with pytest.raises(KeyboardInterrupt):
        crash(tmp_path / "new.h5")
    assert os.listdir(tmp_path) == []
    make_store(tmp_path / "old.h5", 2)
    size, before = (tmp_path / "old.h5").stat().st_size, (tmp_path / "old.h5").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        crash(tmp_path / "old.h5")
    assert os.listdir(tmp_path) == ["old.h5"] and (tmp_path / "old.h5").read_bytes() == before


# ---- errors


def test_exit_on_error_is_one_line_without_the_cause():
    with pytest.raises(SystemExit) as caught, exit_on_error():
        raise VTLMError("two\n  lines")
    assert caught.value.code == "error: two lines"
    assert caught.value.__suppress_context__
    with pytest.raises(KeyError), exit_on_error():
        raise KeyError("a bug keeps its traceback")
