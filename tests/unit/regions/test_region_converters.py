"""`vtlm-regions convert` from pickles, bottom-up-attention TSV and COCO JSON; foreign pickles run nothing."""

import base64
import codecs
import json
import os
import pickle

import numpy as np
import pytest
from preparation import DATA, needs_data
from region_sources import coco, convert, fails

from stores import Call, fault
from vtlm_fairseq.cli.regions import main as regions_cli
from vtlm_fairseq.regions.formats.pickles import load_plain_pickle
from vtlm_fairseq.regions.store import RegionStore

# ---- the authors' pickles


def detections(regions: int = 2, dim: int = 3) -> dict:
    """What one of the authors' pickles holds; the second region has the higher score."""
    return {
        "detection_features": np.arange(regions * dim, dtype=np.float32).reshape(regions, dim),
        "detection_boxes": np.tile(np.array([0.125, 0.25, 0.5, 1.0], np.float32), (regions, 1)),
        "detection_classes": np.arange(regions, dtype=np.uint16) + 599,
        "detection_scores": np.linspace(0.25, 0.75, regions, dtype=np.float32),
        "num_detections": np.int64(regions),
    }


@pytest.mark.slow
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_all_protocols(tmp_path, protocol):
    """y comes first in the authors' boxes."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b.jpg.pkl").write_bytes(pickle.dumps(detections(), protocol))
    (folder / "a.png.pkl").write_bytes(pickle.dumps(detections(1), protocol))
    store = convert(tmp_path / "s.h5", "--vtlm-pickles", folder, "--dtype", "float32")
    assert store.ids() == ["a.png", "b.jpg"] and store.num_classes == 601
    assert store[1].features.tolist() == [[3, 4, 5], [0, 1, 2]] and store[1].labels.tolist() == [600, 599]
    assert store[1].boxes[0].tolist() == [0.25, 0.125, 1.0, 0.5] and store[1].scores.tolist() == [0.75, 0.25]
    assert convert(tmp_path / "t.h5", "--vtlm-pickles", folder, "--strip-extension").ids() == ["a", "b"]


def test_arrays_of_other_orders_and_types(tmp_path):
    given = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.array([1, 256], ">i4"),
        "nested": [np.array([True, False]), (np.float16(0.5), b"x", None, {1, 2})],
        "empty": np.zeros((0, 4), np.uint8),
    }
    for protocol in (2, 4, 5):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(given, protocol))
        found = load_plain_pickle(tmp_path / "x.pkl")
        assert found["fortran"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["big endian"].tolist() == [1, 256]
        assert found["nested"][0].tolist() == [True, False] and found["nested"][1] == (0.5, b"x", None, {1, 2})
        assert found["empty"].shape == (0, 4)


def by_name(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls a function by a name of which pickle.dumps knows nothing."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, argument)]
    return b"\x80\x04" + texts[0] + texts[1] + b"\x93" + texts[2] + b"\x85R."


def malicious(marker: str) -> dict[str, bytes]:
    """Pickles that would make the file `marker`, or get at something else than numbers."""
    command = f"touch {marker}"
    code = f"open({marker!r}, 'w').close()"
    reconstruct = np.array([1]).__reduce__()[0]
    raw = b"\x01" * 8

    def filled(*state) -> bytes:
        """An array with a shape, a dtype and data of one's own."""
        shape, dtype, data = state
        return pickle.dumps(Call(reconstruct, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, data)))

    return {
        "os.system": pickle.dumps(Call(os.system, command)),
        "protocol 0": pickle.dumps(Call(os.system, command), 0),
        "inside an array": pickle.dumps({"detection_features": np.array([Call(os.system, command)], dtype=object)}),
        "builtins.eval": pickle.dumps(Call(eval, code)),
        "builtins.exec": pickle.dumps(Call(exec, code)),
        "getattr": (
            b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'" + command.encode() + b"'\ntR."
        ),
        "getattr of an array": pickle.dumps(Call(getattr, np.array([1]), "tofile")),
        "dotted name": by_name("numpy", "ndarray.tofile", marker),
        "dotted name to os": by_name("numpy", "f2py.os.system", command),
        "numpy's own eval": by_name("numpy.testing._private.utils", "runstring", code),
        "numpy.load": by_name("numpy", "load", marker),
        "numpy.fromfile": by_name("numpy", "fromfile", "/etc/hostname"),
        "old instance opcode": b"(S'" + command.encode() + b"'\nios\nsystem\n.",
        "another codec": pickle.dumps(Call(codecs.encode, command, "rot13")),
        "class of its own": pickle.dumps(Call(reconstruct, np.matrix, (0,), b"b")),
        "object dtype with raw pointers": filled((1,), np.dtype("O"), raw),
        "more than its bytes": filled((1 << 40,), np.dtype("f4"), raw),
        "negative shape": filled((-1, -2), np.dtype("f4"), raw),
        "data that are no bytes": filled((1,), np.dtype("f4"), 3),
        "dtype with another state": filled((1,), Call(np.dtype, "f4", state={"x": 1}), b"1234"),
        "changes a function": b"\x80\x04cnumpy\ndtype\n}\x8c\x08__code__\x8c\x01xsb.",
        "sets an attribute": b"\x80\x04cnumpy\ndtype\nN}\x8c\x0c__defaults__\x8c\x01xs\x86b.",
        "never filled": pickle.dumps(Call(reconstruct, np.ndarray, (0,), b"b")),
        "a bare function": b"\x80\x04cnumpy\ndtype\n.",
        "numpy.ndarray itself": pickle.dumps(Call(np.ndarray, (1,))),
        "a number to encode": b"c_codecs\nencode\n(I1\ntR.",
        "dtype of objects": pickle.dumps(np.dtype("O")),
        "deep": b"\x80\x02" + b"]" * 25 + b"a" * 24 + b".",
        "persistent id": b"\x80\x04\x8c\x01xQ.",
        "cut off": pickle.dumps(detections())[:-20],
        "no pickle": b"hello",
        "empty": b"",
    }


@pytest.mark.slow
def test_malicious_pickles_are_refused_without_running(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    marker = tmp_path / "run"
    pickles = malicious(str(marker))
    for name in ("os.system", "protocol 0", "builtins.eval", "getattr", "old instance opcode"):
        try:
            pickle.loads(pickles[name])
        except TypeError:  # the status of os.system, in place of an instance
            pass
        assert marker.exists(), name  # the payload works where pickle is trusted
        marker.unlink()
    for name, content in pickles.items():
        (folder / "x.jpg.pkl").write_bytes(content)
        message = fails("convert", "--vtlm-pickles", folder, "--out", tmp_path / "s.h5")
        assert "x.jpg.pkl: refused" in message, name
        assert not marker.exists(), name
    assert os.listdir(tmp_path) == ["in"]
    (folder / "x.jpg.pkl").write_bytes(pickle.dumps(detections()))  # what came before has changed nothing
    assert len(convert(tmp_path / "s.h5", "--vtlm-pickles", folder)) == 1


def write(path, content: bytes):
    """Write bytes; returns the path."""
    path.write_bytes(content)
    return path


PICKLE_FAULTS = [
    (None, (), "--vtlm-pickles"),
    ([1], (), "a.pkl: holds a list"),
    ({}, (), "a.pkl: array 'detection_features'"),
    ({k: v for k, v in detections().items() if k != "detection_scores"}, (), "a.pkl: array 'detection_scores'"),
    (detections() | {"detection_boxes": np.zeros(4)}, (), "a.pkl: detection_features (2, 3) and detection_boxes (4,)"),
    (detections(), ("--num-classes", 600), "599 to 600"),
]


@pytest.mark.parametrize(("content", "more", "expected"), PICKLE_FAULTS)
def test_faults_of_pickles(tmp_path, content, more, expected):
    folder = tmp_path / "in"
    argv = ("convert", "--vtlm-pickles", folder, "--out", tmp_path / "s.h5", *more)
    assert str(folder) in fails(*argv)
    for option, value in (("--box-format", "yxyx"), ("--features", "f")):
        assert option in fails(*argv, option, value)
    folder.mkdir()
    if content is not None:
        write(folder / "a.pkl", pickle.dumps(content))
    assert expected in fails(*argv)
    assert "none.pkl" in fault(load_plain_pickle, folder / "none.pkl")


@needs_data
def test_the_authors_sample_files(tmp_path):
    """Spot values, read from the files by numpy alone."""
    folder = DATA / "region_formats/vtlm_pickle"
    store = convert(tmp_path / "s.h5", "--vtlm-pickles", folder, "--dtype", "float32")
    assert store.ids() == ["img0.jpg", "img1.jpg", "img2.jpg"] and store.feature_dim == 1536
    data = pickle.loads((folder / "img1.jpg.pkl").read_bytes())
    order = np.argsort(-data["detection_scores"], kind="stable")
    np.testing.assert_array_equal(store[1].features, data["detection_features"][order])
    np.testing.assert_array_equal(store[1].labels, data["detection_classes"][order])
    np.testing.assert_array_equal(store[1].scores, data["detection_scores"][order])
    np.testing.assert_array_equal(store[1].boxes[:, 0], data["detection_boxes"][order, 1])
    np.testing.assert_array_equal(store[1].boxes[:, 3], data["detection_boxes"][order, 2])
    assert store[0].scores[0] == np.float32(0.9976487) and store[0].labels[0] == 128


# ---- bottom-up attention


def encoded(values, dtype) -> str:
    return base64.b64encode(np.array(values, dtype).tobytes()).decode()


def tsv_line(columns: int = 10, *, image="COCO_1", width=200, height=100, boxes=((20, 10, 100, 90), (0, 0, 201, 50))):
    """A line of one of the layouts."""
    count = len(boxes)
    features = np.arange(count * 3, dtype=np.float32)
    end = [str(count), encoded(boxes, "<f4"), encoded(features, "<f4")]
    objects = [encoded([7, 2][:count], "<i8"), encoded([0.25, 0.5][:count], "<f4")]
    attributes = [encoded([1] * count, "<i8"), encoded([1] * count, "<f4")]
    start = [image, str(width), str(height)] if columns == 6 else [image, str(height), str(width)]
    return "\t".join(
        {10: [*start, *objects, *attributes, *end], 8: [*start, *objects, *end], 6: [*start, *end]}[columns]
    )


@pytest.mark.slow
@pytest.mark.parametrize("columns", [10, 8])
def test_bottom_up_tsv(tmp_path, columns):
    """Height stands before width; pixels become fractions, one pixel over the edge is cut."""
    (tmp_path / "x.tsv").write_text(tsv_line(columns) + "\n" + tsv_line(columns, image="b", boxes=[(0, 0, 50, 50)]))
    store = convert(tmp_path / "s.h5", "--bottom-up-tsv", tmp_path / "x.tsv", "--num-classes", 8)
    assert store.ids() == ["COCO_1", "b"] and store.feature_dim == 3
    assert store[0].labels.tolist() == [2, 7] and store[0].scores.tolist() == [0.5, 0.25]
    assert store[0].features.tolist() == [[3, 4, 5], [0, 1, 2]]
    np.testing.assert_allclose(store[0].boxes, [[0, 0, 1, 0.5], [0.1, 0.1, 0.5, 0.9]])
    assert store[1].boxes.tolist() == [[0, 0, 0.25, 0.5]]


@pytest.mark.slow
def test_bottom_up_tsv_without_labels_and_of_named_columns(tmp_path):
    """The six-column layout has width before height."""
    (tmp_path / "x.tsv").write_text(tsv_line(6) + "\n")
    store = convert(tmp_path / "s.h5", "--bottom-up-tsv", tmp_path / "x.tsv")
    assert store.class_names == ["region"] and store[0].scores.tolist() == [1, 1]
    np.testing.assert_allclose(store[0].boxes[0], [0.1, 0.1, 0.5, 0.9])
    names = "objects_id,image_id,image_w,image_h,features,boxes"
    one = [encoded([1, 0], "<i4"), "x", "10", "10", encoded([1, 2], "<f4"), encoded([[0, 0, 5, 10]] * 2, "<f4")]
    (tmp_path / "y.tsv").write_text("\t".join(one))
    argv = ["--bottom-up-tsv", tmp_path / "y.tsv", "--tsv-columns", names, "--num-classes", 2]
    store = convert(tmp_path / "t.h5", *argv)
    assert store[0].labels.tolist() == [1, 0] and store[0].features.tolist() == [[1], [2]]
    assert "--tsv-columns image_id: lacks image_w" in fails(
        "convert", *argv[:3], "image_id", "--out", tmp_path / "u.h5"
    )


def tsv_fields(*end: str) -> str:
    """A line of image `x`, 9 x 9 pixels."""
    return "\t".join(("x", "9", "9", *end))


BOX = encoded([0, 0, 1, 1], "<f4")
TSV_FAULTS = [
    ("", "x.tsv"),
    ("a\tb\n", "x.tsv, line 1: 2 columns"),
    (tsv_line(boxes=[(0, 0, 150, 50)], width=100, height=200), "100 x 200 pixels"),
    (tsv_line().replace("\t2\t", "\t3\t"), "line 1: num_boxes is 3, but 2 boxes"),
    (tsv_line()[:-5], "line 1, features"),
    (tsv_line()[:-4], "line 1, features: 21 bytes"),
    (tsv_line(width="?"), "line 1"),
    (tsv_line(width=0), "line 1: image 'COCO_1' is 0 x 100 pixels"),
    (tsv_line() + "\n" + tsv_line(), "image 'COCO_1'"),
    (tsv_fields("2", BOX + BOX, encoded([1, 2, 3], "<f4")), "line 1, boxes"),
    (tsv_fields("2", encoded([0, 0, 1, 1] * 2, "<f4"), encoded([1, 2, 3], "<f4")), "3 feature values for 2 boxes"),
    (tsv_fields("0", "", ""), "x.tsv: empty"),
    (tsv_fields("0", "", encoded([1], "<f4")), "1 feature values for 0 boxes"),
    (tsv_fields("nan", BOX, encoded([1], "<f4")), "num_boxes is nan, but 1 boxes"),
    (tsv_fields(encoded([3], "<i8"), encoded([1, 2], "<f4"), "1", BOX, BOX), "2 values in objects_conf for 1 boxes"),
]


@pytest.mark.parametrize(("text", "expected"), TSV_FAULTS, ids=[e for _, e in TSV_FAULTS])
def test_faults_of_bottom_up_tsv(tmp_path, text, expected):
    (tmp_path / "x.tsv").write_text(text)
    argv = ("convert", "--out", tmp_path / "s.h5", "--bottom-up-tsv")
    assert expected in fails(*argv, tmp_path / "x.tsv", "--num-classes", 8)
    assert "y.tsv" in fails(*argv, tmp_path / "y.tsv")
    (tmp_path / "x.tsv").write_text(tsv_line())
    assert "--class-names" in fails(*argv, tmp_path / "x.tsv")  # labels need them
    assert os.listdir(tmp_path) == ["x.tsv"]


def test_bad_first_lines_of_bottom_up_tsv(tmp_path):
    """They are skipped as later ones are, up to where nothing may be right."""
    bad = tsv_line()[:-5] + "\n"
    argv = ("--bottom-up-tsv", tmp_path / "x.tsv", "--num-classes", 8, "--skip-bad")
    (tmp_path / "x.tsv").write_text(bad + tsv_fields(*["1"] * 7) + "\n" + tsv_line(image="b") + "\n")
    assert regions_cli([*map(str, ("convert", *argv, "--out", tmp_path / "s.h5"))]) == 3
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["b"]
    (tmp_path / "x.tsv").write_text(bad * 200 + tsv_line() + "\n")
    assert "line 1, features" in fails("convert", *argv, "--out", tmp_path / "t.h5")


@needs_data
def test_bottom_up_sample_file(tmp_path):
    """Of a published corpus; the layout by hand: test_bottom_up_tsv."""
    path = DATA / "region_formats/bottom_up_attention.tsv"
    argv = ("--bottom-up-tsv", path, "--num-classes", 1600, "--dtype", "float32")
    store = convert(tmp_path / "s.h5", *argv)
    assert len(store) == 10 and store.feature_dim == 2048 and store.num_regions == 360
    assert store.ids()[3] == "COCO_train2014_000000494628" and store[3].boxes.max() > 0.95


# ---- COCO


@pytest.mark.slow
def test_coco(tmp_path):
    """x, y, width, height in pixels; category ids become classes in their order."""
    content = coco(tmp_path)
    store = convert(tmp_path / "s.h5", "--coco-json", tmp_path / "coco.json", "--features", tmp_path / "f")
    assert (store.ids(), store.class_names) == (["cat.jpg", "none.jpg"], ["cat", "tree"])
    assert store[0].labels.tolist() == [0, 1] and store[0].features.tolist() == [[4, 5, 6], [1, 2, 3]]
    np.testing.assert_allclose(store[0].boxes, [[0, 0, 1, 0.5], [0.1, 0.1, 0.4, 0.9]])
    assert store[1].features.shape == (0, 3)

    (tmp_path / "results.json").write_text(json.dumps(content["annotations"]))
    (tmp_path / "f/cat.npy").rename(tmp_path / "f/9.npy")
    argv = ["--coco-json", tmp_path / "results.json", "--features", tmp_path / "f", "--strip-extension"]
    other = convert(tmp_path / "t.h5", *argv, "--coco-dataset", tmp_path / "coco.json")
    assert other.ids() == ["cat", "none"]
    np.testing.assert_array_equal(other[0].boxes, store[0].boxes)
    assert "--coco-dataset" in fails("convert", *argv, "--out", tmp_path / "u.h5")


def annotated(**changes) -> dict[str, list]:
    """Two annotations of image 9, changed."""
    return {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1], **changes}] * 2}


COCO_FAULTS = [
    ({"images": None}, "'images'"),
    ({"categories": [{"id": 3}]}, "categories: record 0 lacks 'name'"),
    ({"annotations": []}, "coco.json"),
    (annotated(image_id=5), "annotation 0 is of image 5"),
    (annotated(category_id=1), "category_id 1"),
    (annotated(image_id=[9]), "image_id [9]"),
    ({"annotations": annotated()["annotations"][:1]}, "cat.npy: shape (2, 3)"),
    (annotated(bbox=[0, 0, 1]), "image 9"),
    (annotated(bbox=[150, 0, 100, 50]), "200 x 100 pixels"),
    ({"images": [{"id": 9, "width": 0, "height": 5, "file_name": "cat.jpg"}]}, "image 9: size 0 x 5 pixels"),
    ({"images": [{"id": 9, "width": 200 + k, "height": 100, "file_name": "cat.jpg"} for k in (0, 0, 1)]},
     "images: records 0 and 2 "),
    ({"categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "tree"}, {"id": 3, "name": "dog"}]},
     "categories: records 0 and 2 "),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), COCO_FAULTS, ids=[e for _, e in COCO_FAULTS])
def test_faults_of_coco(tmp_path, changes, expected):
    coco(tmp_path, **changes)
    argv = ("convert", "--coco-json", tmp_path / "coco.json", "--out", tmp_path / "s.h5")
    assert expected in fails(*argv, "--features", tmp_path / "f")
    assert "--features" in fails(*argv)
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.slow
def test_coco_features_of_images_of_the_same_name_in_two_folders(tmp_path):
    """Each has its own, in folders as the images are; a file that would be that of both is refused."""
    content = coco(tmp_path)
    for image, folder in zip(content["images"], ("train", "val ü"), strict=True):
        image["file_name"] = f"{folder}/cat.jpg"
    content["annotations"][1]["image_id"] = 4
    content["annotations"][1]["bbox"] = [0, 0, 50, 50]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    np.save(tmp_path / "f/cat.npy", np.array([[1, 2, 3]], np.float32))
    argv = ("--coco-json", tmp_path / "coco.json", "--features", tmp_path / "f")
    line = fails("convert", *argv, "--out", tmp_path / "s.h5")
    assert all(part in line for part in ("'train/cat.jpg'", "'val ü/cat.jpg'", str(tmp_path / "f/cat.npy")))
    (tmp_path / "f/val ü").mkdir()
    np.save(tmp_path / "f/val ü/cat.npy", np.array([[4, 5, 6]], np.float32))
    store = convert(tmp_path / "s.h5", *argv)
    found = {image_id: store[row].features.tolist() for row, image_id in enumerate(store.ids())}
    assert found == {"train/cat.jpg": [[1, 2, 3]], "val ü/cat.jpg": [[4, 5, 6]]}
    np.save(tmp_path / "f/val ü/cat.npy", np.array([[7, 8, 9]], np.float32))
    assert f"{tmp_path / 'f'} has changed" in fails("convert", *argv, "--out", tmp_path / "s.h5")


def test_coco_features_that_are_not_there(tmp_path):
    coco(tmp_path)
    (tmp_path / "f/cat.npy").unlink()
    argv = ("convert", "--coco-json", tmp_path / "coco.json", "--out", tmp_path / "s.h5", "--features")
    message = fails(*argv, tmp_path / "f")
    assert all(name in message for name in ("cat.jpg.npy", "cat.npy", "9.npy"))
    np.save(tmp_path / "f/cat.npy", np.array([{}]), allow_pickle=True)
    assert "cat.npy" in (message := fails(*argv, tmp_path / "f")) and "allow_pickle" not in message
    assert "--features " in fails(*argv, tmp_path / "none")
    (tmp_path / "coco.json").write_text("[1,")
    assert "coco.json" in fails(*argv, tmp_path / "f")
