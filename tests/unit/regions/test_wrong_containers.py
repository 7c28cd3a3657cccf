"""Files that are not what a layout says: each ends in one line that names the file and what is wrong in it."""

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from region_layouts import LABELS, NAMES, RELATIVE, SCORES, features, write_lmdb
from region_sources import fails

OWN = {"features": "x", "shape": "regions", "boxes": "b", "box_units": "relative", "box_format": "xyxy",
       "labels": "y", "label_offset": 0, "scores": "s"}  # fmt: skip
PARTS = {"x": features(6), "b": RELATIVE, "y": LABELS, "s": SCORES}
STACKED = {name: array[None] for name, array in PARTS.items()}
TSV = {"container": "tsv", "columns": "[i, n, x, b, y, s]", "counts": "n",
       "types": "{x: float32, b: float32, y: int64, s: float32}"}  # fmt: skip


def b64(array) -> str:
    return base64.b64encode(np.ascontiguousarray(array)).decode()


def tsv(**changes) -> str:
    row = {"i": "a", "n": "2", "x": b64(PARTS["x"]), "b": b64(RELATIVE), "y": b64(LABELS), "s": b64(SCORES), **changes}
    return "\t".join(part for part in row.values() if part is not None) + "\n"


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), **options)
    return buffer.getvalue()


def header(text: str) -> bytes:
    """A .npy of version 1.0 with such a header and 8 bytes of values."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(8)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def h5(**content):
    """A file with a group ``a``: arrays, or functions that are called with group and name."""

    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            group = file.create_group("a")
            for name, value in {**PARTS, **content}.items():
                value(group, name) if callable(value) else group.create_dataset(name, data=value)

    return write


def outside(group, name):
    group.create_dataset(name, (2, 6), "f4", external=[("other.bin", 0, 48)])


def virtual(group, name):
    layout = h5py.VirtualLayout((2, 6), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 6))
    group.create_virtual_dataset(name, layout)


def parquet(**changes):
    def write(path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        from pyarrow import parquet as files

        columns = {name: [array.tolist()] for name, array in PARTS.items()} | {"id": ["a"]} | changes
        files.write_table(pyarrow.table({name: value for name, value in columns.items() if value}), path)

    return write


def lmdb(value: bytes):
    def write(path: Path) -> None:
        pytest.importorskip("lmdb", reason="lmdb is not installed")
        pytest.importorskip("msgpack", reason="msgpack is not installed")
        path.mkdir()
        write_lmdb(path, {"a": value}).rename(path.parent / "moved")
        for file in (path.parent / "moved").iterdir():
            file.rename(path / file.name)

    return write


def torch(content):
    def write(path: Path) -> None:
        from torch import save

        save(content() if callable(content) else content, path)

    return write


def sparse():
    from torch import eye, from_numpy

    return {"a": {name: from_numpy(array) for name, array in PARTS.items()} | {"x": eye(3).to_sparse()}}


def vinvl(features: str | None = None, predictions: str | None = None):
    objects = [{"rect": [0, 0, 9, 9], "class": "dog", "conf": 1.0}]
    good = {"features": f"a\t1\t{b64(np.ones(2054, np.float32))}\n",
            "predictions": f"a\t{json.dumps({'image_h': 9, 'image_w': 9, 'objects': objects})}\n"}  # fmt: skip

    def write(path: Path) -> None:
        path.mkdir()
        for name, text in {"features": features, "predictions": predictions}.items():
            if text != "":
                (path / f"{name}.tsv").write_text(good[name] if text is None else text)

    return write


IMAGE, ALL = {"arrangement": "image"}, {"arrangement": "stacked"}
# what is in the file, or in its folder (a name with /), the layout's own keys, and parts of the line
CASES = {
    "npz": {
        "no zip": ({"in/a.npz": b"PK nonsense"}, IMAGE, ["a.npz", "not a .npz"]),
        "cut off": ({"in/a.npz": npz(**PARTS)[:-30]}, IMAGE, ["a.npz", "not a .npz"]),
        "other names": ({"in/a.npz": npz(q=LABELS)}, IMAGE, ["a.npz", "none of x", "q"]),
        "no folder": ({}, IMAGE, ["in: no such file"]),
        "an empty folder": ({"in/readme": b""}, IMAGE, ["in: no .npz"]),
        "structured": ({"in/a.npz": zipped(x=npy(np.zeros(2, [("p", "f4")])))}, IMAGE, ["a.npz", "not of numbers"]),
        "version 3": ({"in/a.npz": zipped(x=npy(PARTS["x"], version=(3, 0)))}, IMAGE, ["a.npz", "version"]),
        "no .npy inside": ({"in/a.npz": zipped(x=b"nonsense")}, IMAGE, ["a.npz, x", "not a .npy"]),
        "declares too much": (
            {"in/a.npz": zipped(x=header("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9), }\n"))},
            IMAGE, ["a.npz, x", "[9, 9]"]),
        "a negative side": (
            {"in/a.npz": zipped(x=header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }\n"))},
            IMAGE, ["a.npz, x", "[-1, 2]"]),
        "text": ({"in/a.npz": npz(**{**PARTS, "x": np.array(["p", "q"])})}, IMAGE, ["a.npz", "x holds", "not numbers"]),
        "three axes": ({"in/a.npz": npz(**{**PARTS, "x": np.zeros((2, 2, 6))})}, IMAGE, ["[2, 2, 6]", "2 axes"]),
        "boxes of three": ({"in/a.npz": npz(**{**PARTS, "b": np.zeros((2, 3))})}, IMAGE, ["[2, 3]", "[R, 4]"]),
        "a box that is NaN": ({"in/a.npz": npz(**{**PARTS, "b": RELATIVE * np.nan})}, IMAGE, ["not finite"]),
        "halves of labels": ({"in/a.npz": npz(**{**PARTS, "y": LABELS + 0.5})}, IMAGE, ["y holds", "whole"]),
        "a count of two": ({"in/a.npz": npz(**PARTS, n=[1, 2])}, {**IMAGE, "counts": "n"}, ["n is no number"]),
        "half a count": ({"in/a.npz": npz(**PARTS, n=1.5)}, {**IMAGE, "counts": "n"}, ["n is 1.5"]),
        "an infinite count": ({"in/a.npz": npz(**PARTS, n=np.inf)}, {**IMAGE, "counts": "n"}, ["n is inf"]),
        "no width": ({"in/a.npz": npz(**PARTS, w=0, h=5)}, {**IMAGE, "width": "w", "height": "h"}, ["0 x 5"]),
        "scores of one region": (
            {"in/a.npz": npz(**PARTS, c=np.ones(5))}, {**IMAGE, "soft_labels": "c"}, ["[2, classes]"]),
        "no arrangement": ({"in/a.npz": npz(**PARTS)}, {"arrangement": "rows"}, ["arrangement"]),
        "a folder of all": ({"in/a.npz": npz(**STACKED)}, ALL, ["in: no such file"]),
        "all without features": ({"in": npz(y=LABELS)}, ALL, ["'x' is missing", "y"]),
        "features of no image": ({"in": npz(**{**STACKED, "x": np.float32(3)})}, ALL, ["x is no array over images"]),
        "fewer labels": ({"in": npz(**{**STACKED, "y": np.float32(3)})}, ALL, ["y is of 0 images", "1"]),
        "ids that are not there": ({"in": npz(**STACKED)}, {**ALL, "id": "i"}, ["'i'", "missing"]),
        "ids of half numbers": ({"in": npz(**STACKED, i=[0.5])}, {**ALL, "id": "i"}, ["image id"]),
    },
    "npy": {
        "files of other names": (
            {"in/x/a.npy": npy(PARTS["x"])}, {**IMAGE, "files": "{y: 'y/{id}.npy'}"}, ["files must name x"]),
        "another image's file": (
            {"in/x/a.npy": npy(PARTS["x"]), "in/y/A.npy": npy(LABELS)},
            {**IMAGE, "files": "{x: 'x/{id}.npy', y: 'y/{id}.npy'}", "boxes": None, "box_units": None,
             "box_format": None, "scores": None}, ["a.npy: no such file"]),
        "above the folder": (
            {"in/x/a.npy": npy(PARTS["x"])}, {**IMAGE, "files": "{x: 'x/{id}.npy', y: '../{id}.npy'}"}, ["files.y"]),
        "no array": ({"in": b"nonsense"}, ALL, ["in: not a .npy"]),
        "a .npz": ({"in": npz(**STACKED)}, ALL, ["in: a .npz"]),
    },
    "pickle": {
        "a list": ({"in": pickle.dumps([PARTS])}, IMAGE, ["in: neither a dictionary", "id="]),
        "a number": ({"in/a.pkl": pickle.dumps(3)}, IMAGE, ["a.pkl", "int", "dictionary"]),
        "cut off": ({"in": pickle.dumps({"a": PARTS})[:-9]}, IMAGE, ["in: "]),
        "ids of half numbers": ({"in": pickle.dumps({0.5: PARTS})}, IMAGE, ["image id", "float"]),
        "ids of other bytes": ({"in": pickle.dumps({b"\xff": PARTS})}, IMAGE, ["image id", "UTF-8"]),
        "a ragged list": ({"in": pickle.dumps({"a": {**PARTS, "x": [[1], [2, 3]]}})}, IMAGE, ["x is no array"]),
        "a field inside": ({"in": pickle.dumps({"a": {**PARTS, "x": 3}})}, {**IMAGE, "features": "x/y"}, ["x/y"]),
    },
    "h5": {
        "no HDF5": ({"in": b"nonsense"}, IMAGE, ["in: ", "HDF5"]),
        "a link to another file": (
            {"in": h5(x=lambda group, name: group.__setitem__(name, h5py.ExternalLink("other.h5", "x")))},
            IMAGE, ["'x' is a link"]),
        "no values": ({"in": h5(x=lambda group, name: group.create_group(name))}, IMAGE, ["'x' is no dataset"]),
        "values in another file": ({"in": h5(x=outside)}, IMAGE, ["'x' takes its data from other files"]),
        "virtual": ({"in": h5(x=virtual)}, IMAGE, ["'x' takes its data from other files"]),
        "more than it holds": (
            {"in": h5(x=lambda group, name: group.create_dataset(name, (1 << 20, 1 << 10), "f4", chunks=(1, 1 << 10)))},
            IMAGE, ["x declares 1073741824 values"]),
        "no groups": ({"in": h5()}, ALL, ["'x' is missing"]),
    },
    "torch": {
        "no tensors": ({"in": b"nonsense"}, IMAGE, ["in: refused"]),
        "a list": ({"in": torch([3])}, IMAGE, ["in: neither a dictionary"]),
        "a sparse tensor": ({"in": torch(sparse)}, IMAGE, ["a: ", "tensor"]),
    },
    "tsv": {
        "too few columns": ({"in": tsv(s=None)}, TSV, ["in, line 1", "5 columns"]),
        "no base64": ({"in": tsv(x="???")}, TSV, ["line 1, x", "base64"]),
        "half a number": ({"in": tsv(x="AAAA")}, TSV, ["line 1, x", "3 bytes"]),
        "an id that is no column": ({"in": tsv()}, {**TSV, "id": "q"}, ["'q'", "columns"]),
        "types that are not known": ({"in": tsv()}, {**TSV, "types": "{x: float8}"}, ["types.x", "float16"]),
        "types of no column": ({"in": tsv()}, {**TSV, "types": "{q: float32}"}, ["q"]),
        "values for three": ({"in": tsv(n="5")}, TSV, ["12 feature values", "5"]),
    },
    "parquet": {
        "no parquet": ({"in": b"nonsense"}, {"id": "id"}, ["in: ", "parquet"]),
        "ids that are not said": ({"in": parquet()}, {}, ["id=COLUMN", "--ids"]),
        "ids that are not there": ({"in": parquet()}, {"id": "key"}, ["'key' is missing"]),
        "an empty id": ({"in": parquet(id=[None])}, {"id": "id"}, ["row 1", "image id"]),
        "nothing in a field": ({"in": parquet(y=[None])}, {"id": "id"}, ["row 1", "y"]),
    },
    "lmdb": {
        "no LMDB": ({"in": b"nonsense"}, {"value": "pickle"}, ["in: not an LMDB"]),
        "no msgpack": ({"in": lmdb(b"\xc1")}, {"value": "msgpack"}, ["a: not msgpack"]),
        "objects": ({"in": lmdb(b"\x81\xc4\x01x\x83\xc4\x02nd\xc3\xc4\x04type\xc4\x02|O\xc4\x04data\xc4\x00")},
                    {"value": "msgpack"}, ["a: ", "msgpack", "plain"]),
        "a number": ({"in": lmdb(b"\x03")}, {"value": "msgpack"}, ["a: holds a int"]),
        "no zip": ({"in": lmdb(b"PK\3\4nonsense")}, {"value": "msgpack"}, ["a: not a .npz"]),
    },
    "vinvl": {
        "no folder": ({}, {}, ["in: no such file"]),
        "an empty folder": ({"in/readme": b""}, {}, ["features.tsv: no such file"]),
        "one file alone": ({"in": vinvl(predictions="")}, {}, ["predictions.tsv: no such file"]),
        "of another image": ({"in": vinvl(predictions="x\t{}\n")}, {}, ["predictions.tsv, line 1", "'x'", "'a'"]),
        "more features": (
            {"in": vinvl(features="a\t1\tAAAA\nb\t1\tAAAA\n")}, {}, ["predictions.tsv", "ends after line 1"]),
        "no features": ({"in": vinvl(features="a\t{}\n")}, {}, ["features.tsv, line 1", "num_boxes"]),
        "no JSON": ({"in": vinvl(predictions="a\t{\n")}, {}, ["predictions.tsv, line 1", "JSON"]),
        "no objects": ({"in": vinvl(predictions="a\t{}\n")}, {}, ["predictions.tsv, line 1", "objects"]),
    },
}  # fmt: skip


def place(content: dict, folder: Path) -> None:
    """Write the files of a case."""
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(data):
            data(path)
        else:
            path.write_bytes(data.encode() if isinstance(data, str) else data)


@pytest.mark.slow
@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize("container", CASES)
def test_each_is_one_line(tmp_path, container):
    missed = []
    for number, (case, (content, keys, parts)) in enumerate(CASES[container].items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        place(content, folder)
        if container == "vinvl":
            argv = ["--layout", "vinvl", "--class-names", folder / "names"]
            (folder / "names").write_text("".join(f"{name}\n" for name in NAMES))
        else:
            said = {**OWN, "container": container, **keys}
            lines = [f"{key}: {value}\n" for key, value in said.items() if value is not None]
            (folder / "own.yaml").write_text("".join(lines))
            argv = ["--layout", folder / "own.yaml", "--num-classes", 5]
        line = fails("convert", *argv, "--input", folder / "in", "--out", folder / "out.h5")
        if not all(part in line for part in parts):
            missed.append((case, line))
        assert not (folder / "out.h5").exists(), case
    assert missed == []
