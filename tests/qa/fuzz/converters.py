"""Fuzz the inputs of `vtlm-regions convert`: .npz, .npy, the authors' pickles, bottom-up TSV and COCO JSON.

One case in 25 runs the whole command, whose store must then be valid; the others read and check the images.
"""

import base64
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
from fuzzing import Case
from hostile import hostile_pickle, never_executed
from mutations import NUMBERS, damage, encoded, word
from text_json import _change

from vtlm_fairseq.cli.regions import build_parser
from vtlm_fairseq.cli.regions import main as regions_command
from vtlm_fairseq.regions.conversion import open_source
from vtlm_fairseq.regions.formats.image_sizes import to_relative_boxes
from vtlm_fairseq.regions.store import RegionStore, validate


def setup(folder: Path) -> Case:
    """A folder of inputs, made anew for each case."""
    work, mark, out = folder / "in", folder / "executed", folder / "out.h5"

    def case(rng: random.Random) -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        argv = rng.choice(MAKERS)(rng, work, mark)
        argv = ["convert", *map(str, argv), "--out", str(out)]
        if rng.random() < 0.8 and "--class-names" not in argv:
            argv += ["--num-classes", "5"]
        try:
            with never_executed(mark):
                if rng.random() < 0.04:
                    assert regions_command([*argv, "--overwrite"]) == 0
                    assert validate(str(out)) == [], "a converted store is not valid"
                    RegionStore([str(out)])
                else:
                    _read(argv)
        finally:
            left = [name for name in os.listdir(folder) if name not in ("in", "out.h5")]
            assert not left, f"left behind: {left}"

    return case


def _read(argv: list[str]) -> None:
    args = build_parser().parse_args(argv)
    images = open_source(args)
    for image in images:
        assert isinstance(image.image_id, str) and isinstance(image.features, np.ndarray), "no image"
        if image.boxes is not None:
            to_relative_boxes(image, yxyx=False, sizes=None)


def _arrays(rng: random.Random, count: int) -> dict[str, np.ndarray]:
    """Arrays of an image, sometimes of a wrong kind."""
    arrays = {
        "features": np.ones((count, 3), rng.choice(("f2", "f4", "f8", "i4"))),
        "boxes": np.tile(np.array([0.1, 0.2, 0.5, 0.6], "f4"), (count, 1)),
        "labels": np.arange(count) % 5,
        "scores": np.linspace(1, 0.5, count, dtype="f4"),
    }
    if rng.random() < 0.5:
        name = rng.choice(list(arrays))
        kind = rng.randrange(5)
        if kind == 0:
            del arrays[name]
        elif kind == 1:
            shape = tuple(rng.choice((0, 1, 2, 3, 4)) for _ in range(rng.randint(0, 3)))
            arrays[name] = np.zeros(shape, rng.choice(("f4", "i8", "u8", "?", "c8", "S3", "U2", "M8[s]", "V4")))
        elif arrays[name].size:
            values = arrays[name].astype(rng.choice(("f4", "f8", "i8", ">f4", "u1")))
            with np.errstate(all="ignore"):
                bad = np.array(rng.choice((-1, 5, 1e9, 0.99, np.nan, np.inf, -0.0, *NUMBERS)))
                values.reshape(-1)[rng.randrange(values.size)] = bad.astype(values.dtype)
            arrays[name] = values
    return arrays


def _npz(rng: random.Random, work: Path, mark: Path) -> list:
    for i in range(rng.randint(1, 2)):
        buffer = io.BytesIO()
        arrays = _arrays(rng, rng.randint(0, 3))
        if rng.random() < 0.05:
            arrays["features"] = np.array([{"a": 1}], object)
        rng.choice((np.savez, np.savez_compressed))(buffer, **arrays)
        data = buffer.getvalue()
        if rng.random() < 0.3:
            data = damage(rng, data)
        elif rng.random() < 0.1:
            data = _with_member(data, rng.choice(list(arrays) or ["x"]), _npy_header(rng))
        elif rng.random() < 0.05:
            data = hostile_pickle(rng, mark)
        (work / f"{_name(rng, i)}.npz").write_bytes(data)
    return ["--npz", work]


def _npy_header(rng: random.Random) -> bytes:
    """A .npy of few bytes that declares a large or odd array."""
    shapes = "(1000000000000, 3);(2, 3);(-1, 3);(2,);();(True, 3);(2.0, 3);[2, 3];x"
    shape = rng.choice(shapes.split(";"))
    descr = rng.choice(("'<f4'", "'|O'", "'<f16'", "[('a', '<f4')]", "'|V1000000000'", "'|S0'", "__import__('os')"))
    order = rng.choice(("False", "True", "None"))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(rng.choice((0, 24, 100)))


def _with_member(data: bytes, name: str, content: bytes) -> bytes:
    """A .npz with another content of one member, which may also lead out of the folder by its name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            new.writestr(member, content if member == f"{name}.npy" else old.read(member))
        new.writestr("../outside.npy", b"x")
    return buffer.getvalue()


def _name(rng: random.Random, number: int) -> str:
    odd = word(rng).replace("/", "").replace("\0", "")[:40] if rng.random() < 0.2 else ""
    return f"img{number}{odd}"


def _npy(rng: random.Random, work: Path, mark: Path) -> list:
    images, regions = rng.randint(0, 3), rng.randint(0, 2)
    parts = [_arrays(rng, regions) for _ in range(images)] or [_arrays(rng, 0)]
    argv: list = []
    for name in ("features", "boxes", "labels", "scores"):
        if name != "features" and rng.random() < 0.3:
            continue
        try:
            array = np.stack([part[name] for part in parts])
        except (KeyError, ValueError, TypeError):  # TypeError: numbers and dates
            array = np.zeros((images, regions, 3))
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        data = buffer.getvalue()
        if rng.random() < 0.2:
            data = rng.choice((damage(rng, data), _npy_header(rng), hostile_pickle(rng, mark)))
        (work / f"{name}.npy").write_bytes(data)
        argv += ["--npy" if name == "features" else f"--{name}", work / f"{name}.npy"]
    ids = "\n".join(_name(rng, i) for i in range(rng.choice((images, images, images, images + 1))))
    (work / "ids.txt").write_bytes(encoded(rng, ids))
    return [*argv, "--ids", work / "ids.txt"]


def _pickle(rng: random.Random, work: Path, mark: Path) -> list:
    names = {"features": "detection_features", "boxes": "detection_boxes", "labels": "detection_classes",
             "scores": "detection_scores"}  # fmt: skip
    for i in range(rng.randint(1, 2)):
        content = {names[name]: array for name, array in _arrays(rng, rng.randint(0, 3)).items()}
        if rng.random() < 0.1:
            other = (np.float32(1), [1, {2}], np.array([{}], object), b"x", 1j)
            content[rng.choice(("x", 3, None))] = rng.choice(other)
        data = pickle.dumps(rng.choice((content, content, content, [content], 3)), rng.randrange(6))
        if rng.random() < 0.4:
            data = damage(rng, data)
        elif rng.random() < 0.2:
            data = hostile_pickle(rng, mark)
        (work / f"{_name(rng, i)}.pkl").write_bytes(data)
    return ["--vtlm-pickles", work]


def _tsv(rng: random.Random, work: Path, mark: Path) -> list:
    lines = []
    for i in range(rng.randint(0, 3)):
        count = rng.randint(0, 3)
        arrays = _arrays(rng, count)

        def column(name: str, dtype: str, scale: float = 1, arrays=arrays) -> str:
            try:
                return base64.b64encode((arrays[name] * scale).astype(dtype).tobytes()).decode()
            except (KeyError, TypeError, ValueError):
                return "AAAA"

        sizes = [rng.choice((100, 100, 100, 0, -1, "nan", "1e400", "x", "\u0663")) for _ in range(2)]
        ends = [rng.choice((count, count, count, "x", -1)), column("boxes", "<f4", 100), column("features", "<f4")]
        start = [_name(rng, i), *sizes, column("labels", "<i8"), column("scores", "<f4")]
        fields = rng.choice(([*start, *ends], [*start, "x", "x", *ends], [_name(rng, i), *sizes, *ends]))
        if rng.random() < 0.1:
            fields[rng.randrange(len(fields))] = word(rng)
        lines.append("\t".join(map(str, fields)))
    data = encoded(rng, "\n".join(lines) + rng.choice(("", "\n", "\r\n")))
    (work / "f.tsv").write_bytes(damage(rng, data) if rng.random() < 0.2 else data)
    columns = ["--tsv-columns", rng.choice(("image_id,image_w,image_h,num_boxes,boxes,features", "x", ""))]
    return ["--bottom-up-tsv", work / "f.tsv", *(columns if rng.random() < 0.1 else ())]


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 50},
               {"id": 2, "file_name": "b/c.jpg", "width": 10, "height": 10}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 2, 30, 20]},
                    {"image_id": 1, "category_id": 7, "bbox": [5, 5, 5, 5], "score": 0.5}],
}  # fmt: skip


def _coco(rng: random.Random, work: Path, mark: Path) -> list:
    content = deepcopy(COCO)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        content = _change(rng, content)
    data = json.dumps(content).encode()
    if rng.random() < 0.1:  # what JSON can say and no file hold
        old, new = rng.choice(((b'"cat"', b'"\\ud800"'), (b'"a.jpg"', b'"a\\u0000.jpg"'), (b'"b/c.jpg"', b'"\\udfff"'),
                               (b"30", b"NaN"), (b"100", b"-Infinity"), (b"0.5", b"1e999"),
                               (b'"id": 1', b'"id": "../x"'), (b"[1, 2", b"[" * 2000)))  # fmt: skip
        data = data.replace(old, new)
    (work / "c.json").write_bytes(damage(rng, data) if rng.random() < 0.2 else data)
    features = work / "features"
    features.mkdir()
    buffer = io.BytesIO()
    np.save(buffer, np.ones((rng.choice((2, 2, 2, 1)), 3), rng.choice(("f4", "f4", "f8", "i2"))))
    data = buffer.getvalue()
    if rng.random() < 0.1:
        data = rng.choice((damage(rng, data), _npy_header(rng), hostile_pickle(rng, mark)))
    (features / "a.jpg.npy").write_bytes(data)
    return ["--coco-json", work / "c.json", "--features", features]


MAKERS = (_npz, _npy, _pickle, _tsv, _coco)
