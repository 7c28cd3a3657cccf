"""Fuzz `vtlm-regions convert --layout`: files of every container, and the layouts themselves.

`layouts:lmdb` is the reader of one container alone (`PARTS`). One case in 25 runs the whole command, whose store must
then be valid; the others read and check the images. What Python reads alone is read in the fuzzer's process, too:
nothing but one line may come out of it there.
"""

import base64
import io
import json
import os
import pickle
import random
import shutil
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
from converters import _arrays, _name, _npy_header, _with_member
from fuzzing import Case
from hostile import hostile_pickle, never_executed
from mutations import damage, encoded, word
from region_sources import Here

from vtlm_fairseq.cli.regions import main as regions_command
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.formats import mapped, presets
from vtlm_fairseq.regions.formats.layout import read_layout
from vtlm_fairseq.regions.store import RegionStore, validate

NATIVE = ("h5", "lmdb", "torch", "parquet")
CLASSES = [f"class {number}" for number in range(5)]
SHORT = {"features": "f", "boxes": "b", "labels": "y", "scores": "s"}
BASE = {"features": "f", "shape": "regions", "boxes": "b", "box_units": "relative", "box_format": "xyxy", "labels": "y",
        "label_offset": 0, "scores": "s"}  # fmt: skip


def setup(folder: Path, part: str | None = None) -> Case:
    """A folder of inputs, made anew for each case, of all readers or of one."""
    makers = tuple(PARTS.values()) if part is None else (PARTS[part],)
    if part in (None, "torch", "presets"):
        import torch  # noqa: F401 - once, not in each child that reads
    work, mark, out = folder / "in", folder / "executed", folder / "out.h5"

    def case(rng: random.Random) -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for left in (out, folder / "out.h5.errors.tsv"):
            left.unlink(missing_ok=True)
        shutil.rmtree(folder / "out.h5.parts", ignore_errors=True)
        name, path, ids = _make(rng, rng.choice(makers), work, mark)
        try:
            with never_executed(mark):
                if rng.random() < 0.04:
                    argv = ["convert", "--layout", name, "--input", path, "--num-classes", 5, "--out", out,
                            "--overwrite", "--drop-empty", *(["--ids", ids] if ids else [])]  # fmt: skip
                    assert regions_command([str(a) for a in argv]) == 0
                    assert validate(str(out)) == [], "a converted store is not valid"
                    RegionStore([str(out)])
                else:
                    _read(name, path, ids)
        finally:
            left = [name for name in os.listdir(folder) if not name.startswith(("in", "out.h5"))]
            assert not left, f"left behind: {left}"

    return case


def _read(name: str, path: Path, ids: Path | None) -> None:
    layout = read_layout(name)
    options = {"ids": None if ids is None else str(ids), "class_names": CLASSES}
    if layout.container not in NATIVE:
        with mock.patch.object(mapped, "Child", Here), suppress(VTLMError):  # which it raises below, too
            list(mapped.MappedImages(layout, str(path), **options).images())
    source = mapped.MappedImages(layout, str(path), **options)
    seen = list(source.images())
    assert source.count() == len(seen), "counts and reads different numbers of images"
    for image in seen:
        _check(str(image) if isinstance(image, Exception) else image)


def _check(image) -> None:
    if isinstance(image, str):
        assert image.strip() and "\n" not in image, "a fault is no line"
        return
    assert isinstance(image.image_id, str) and image.features.ndim == 2, "no image"
    for part in image[3:6]:
        assert part is None or len(part) == len(image.features), "arrays of different lengths"
    if image.boxes is not None:
        assert image.boxes.shape == (len(image.features), 4) and np.isfinite(image.boxes).all(), "no boxes"


def _make(rng: random.Random, maker, work: Path, mark: Path) -> tuple[str, Path, Path | None]:
    """Layout, input, and perhaps a file of ids."""
    changes = maker(rng, work, mark)
    path = work / changes.pop("path", ".")
    preset = changes.pop("preset", None)
    layout = {**BASE, **changes}
    ids = None
    if layout.get("arrangement") == "stacked" and "id" not in layout:
        ids = work.parent / "in.ids"
        ids.write_bytes(encoded(rng, "a\nb\nc\n" if rng.random() < 0.9 else "a\n"))
    if rng.random() < 0.3:
        options = {"shape": ("vector", "tokens", "chw", "hwc"), "box_units": ("pixels",), "box_extra": ("size",),
                   "box_format": ("yxyx", "xywh", "cxcywh"), "label_offset": (1, -1, 10**9), "counts": ("n", "f", "x?"),
                   "features": ("x", "f/y", "b", "/", "?"), "soft_labels": ("b", "f", "x?"), "labels": (None, "s"),
                   "background": ("first", "last"), "class_token": ("first", "last", "none"), "width": ("n",),
                   "height": ("n",), "feature_dim": (3, 1, 10**9), "arrangement": ("image", "stacked"),
                   "boxes": (None,), "drop_background": ("true",), "container": ("npz", "tsv", "h5", "pickle"),
                   "skip": ("[a]",), "id": ("x", "n"), "value": ("npz", "pickle", "msgpack")}  # fmt: skip
        for key in rng.sample(sorted(options), rng.randint(1, 3)):
            layout[key] = rng.choice(options[key])
    if preset is not None and rng.random() < 0.5:
        return preset, path, ids
    lines = [f"{key}: {value}\n" for key, value in layout.items() if value is not None]
    data = "".join(lines).encode()
    if rng.random() < 0.05:
        data = rng.choice((damage(rng, data), data + encoded(rng, word(rng)), b"a: &a [1]\nb: [*a, *a]\n", b"[" * 9999,
                           b"!!python/object/apply:os.system ['touch executed']", b"? [1]\n: 2\n"))  # fmt: skip
    name = work.parent / "in.yaml"
    name.write_bytes(data)
    return str(name), path, ids


def _record(rng: random.Random, count: int | None = None) -> dict[str, np.ndarray]:
    count = rng.randint(0, 3) if count is None else count
    found = {SHORT[name]: array for name, array in _arrays(rng, count).items()}
    return {**found, "n": np.array(rng.choice((count, count, count, 0, -1, 99)))}


def _numbers(record: dict) -> dict:
    return {name: array for name, array in record.items() if np.asarray(array).dtype.kind in "fiub"}


def _stacked(rng: random.Random) -> dict[str, np.ndarray]:
    """Arrays of three images, sometimes not so many."""
    count = rng.randint(0, 3)
    records = [_record(rng, count) for _ in range(rng.choice((3, 3, 3, 0, 2)))] or [{}]
    found = {}
    for name in set().union(*records):
        try:
            found[name] = np.stack([record[name] for record in records])
        except (KeyError, ValueError, TypeError):
            found[name] = np.zeros((3, count, 3))
    return found


def _maybe_damaged(rng: random.Random, data: bytes, share: float = 0.3) -> bytes:
    return damage(rng, data) if rng.random() < share else data


def _npz_bytes(rng: random.Random, mark: Path, record: dict) -> bytes:
    buffer = io.BytesIO()
    if rng.random() < 0.15:
        objects = ({"a": np.arange(3)}, [1, 2], {"x": {"y": [np.float32(1)]}}, {1, 2})
        record = {**record, rng.choice(sorted(record) or ["f"]): np.array(rng.choice(objects), object)}
    rng.choice((np.savez, np.savez_compressed))(buffer, **record)
    data = buffer.getvalue()
    if rng.random() < 0.1:
        data = _with_member(data, rng.choice(sorted(record) or ["f"]), _npy_header(rng))
    return _maybe_damaged(rng, data)


def _npz(rng: random.Random, work: Path, mark: Path) -> dict:
    if rng.random() < 0.3:
        (work / "x.npz").write_bytes(_npz_bytes(rng, mark, _stacked(rng)))
        return {"container": "npz", "arrangement": "stacked", "path": "x.npz"}
    for i in range(rng.randint(1, 2)):
        (work / f"{_name(rng, i)}.npz").write_bytes(_npz_bytes(rng, mark, _record(rng)))
    return {"container": "npz", "preset": "milvlg"}


def _npy_bytes(rng: random.Random, array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return _npy_header(rng) if rng.random() < 0.05 else _maybe_damaged(rng, buffer.getvalue(), 0.2)


def _npy(rng: random.Random, work: Path, mark: Path) -> dict:
    if rng.random() < 0.4:
        for name, array in _stacked(rng).items():
            (work / f"{name}.npy").write_bytes(_npy_bytes(rng, array))
        files = {name: f"{name}.npy" for name in "bys"}
        return {
            "container": "npy",
            "arrangement": "stacked",
            "files": files,
            "path": "f.npy",
            "preset": "multi30k-res4",
        }
    for i in range(rng.randint(1, 2)):
        record, stem = _record(rng), _name(rng, i)
        (work / f"{stem}.npy").write_bytes(_npy_bytes(rng, record.pop("f", np.zeros(2))))
        info = rng.choice((record, record, record, [record], 3, "x"))
        data = _npy_bytes(rng, np.array(info, object))
        (work / f"{stem}_info.npy").write_bytes(hostile_pickle(rng, mark) if rng.random() < 0.05 else data)
    files = {"f": "{id}.npy", "i": rng.choice(("{id}_info.npy",) * 4 + ("../{id}.npy", "/etc/{id}", "x"))}
    quoted = "{" + ", ".join(f'{key}: "{value}"' for key, value in files.items()) + "}"
    return {"container": "npy", "files": quoted, "boxes": "i/b", "labels": "i/y", "scores": "i/s", "preset": "mmf"}


def _pickle(rng: random.Random, work: Path, mark: Path) -> dict:
    record = _record(rng)
    loop: list = []
    loop.append(loop)
    deep: list = []
    for _ in range(rng.choice((15, 25))):
        deep = [deep] * 9
    odd = ({"a": loop}, {"a": {"f": deep, "b": loop}}, {b"\xff": record}, {None: 1}, "x", {"a": record["n"]})
    content = rng.choice(({"a": record}, {"a": record, 3: _record(rng)}, _stacked(rng), [record], *odd))
    data = pickle.dumps(content, rng.randrange(6))
    kind = rng.random()
    data = damage(rng, data) if kind < 0.3 else hostile_pickle(rng, mark) if kind < 0.45 else data
    if rng.random() < 0.3:
        (work / f"{_name(rng, 0)}.pkl").write_bytes(data)
        return {"container": "pickle"}
    (work / "x").write_bytes(data)
    return {"container": "pickle", "path": "x", "arrangement": rng.choice(("image", "image", "stacked"))}


def _h5(rng: random.Random, work: Path, mark: Path) -> dict:
    stacked = rng.random() < 0.3
    with h5py.File(work / "x.h5", "w", libver=rng.choice(("earliest", "v110"))) as file:
        groups = {"": _stacked(rng)} if stacked else {_name(rng, i) or "a": _record(rng) for i in range(2)}
        for group, record in groups.items():
            for name, array in _numbers(record).items():
                options = {"compression": "gzip"} if array.ndim and array.size and rng.random() < 0.3 else {}
                file.create_dataset(f"{group}/{name}" if group else name, data=array, **options)
        kind = rng.randrange(12)
        if kind == 0:
            file["a"] = h5py.ExternalLink("/etc/passwd", "x")
        elif kind == 1:
            file["l/f"] = h5py.SoftLink("/nowhere")
        elif kind == 2:
            file.create_dataset("h/f", (1 << 40, 3), "f4", chunks=(1024, 3))
        elif kind == 3:
            file.create_dataset("e", data=h5py.Empty("f4"))
        elif kind == 4:
            file["t/f"] = ["text"]
    data = (work / "x.h5").read_bytes()
    (work / "x.h5").write_bytes(_maybe_damaged(rng, data, 0.4))
    return {"container": "h5", "path": "x.h5", "arrangement": "stacked" if stacked else "image", "preset": "vl-t5"}


def _packed(array: np.ndarray) -> dict:
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}


def _lmdb(rng: random.Random, work: Path, mark: Path) -> dict:
    import lmdb
    import msgpack

    form = rng.choice(("msgpack", "npz", "pickle"))
    with lmdb.open(str(work), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for i in range(rng.randint(0, 3)):
            record = _record(rng)
            if form == "msgpack":
                packed = {name: _packed(array) for name, array in record.items()}
                if rng.random() < 0.2:
                    one = packed[rng.choice(sorted(packed))]
                    odd = (
                        "<O8",
                        "<f4",
                        "M8",
                        b"<f2",
                        3,
                        "<f16",
                        "|V9",
                        ",",
                        "<f8,<f8",
                        (-1,),
                        (1 << 60, 3),
                        b"",
                        False,
                    )
                    one[rng.choice((b"type", b"shape", b"data", b"nd"))] = rng.choice(odd)
                value = msgpack.packb(rng.choice((packed, packed, packed, [packed], 3)), use_bin_type=True)
            elif form == "npz":
                value = _npz_bytes(rng, mark, record)
            else:
                value = hostile_pickle(rng, mark) if rng.random() < 0.2 else pickle.dumps(record, rng.randrange(6))
            transaction.put((_name(rng, i) or "a").encode()[:500], _maybe_damaged(rng, value, 0.2))
    if rng.random() < 0.3:
        data = (work / "data.mdb").read_bytes()
        (work / "data.mdb").write_bytes(damage(rng, data))
    return {"container": "lmdb", "value": form, "preset": rng.choice(("uniter", "mmf-lmdb"))}


def _torch(rng: random.Random, work: Path, mark: Path) -> dict:
    import torch

    stacked = rng.random() < 0.5
    record = _numbers(_stacked(rng) if stacked else _record(rng))
    tensors = {name: torch.tensor(array.astype(array.dtype.newbyteorder("="))) for name, array in record.items()}
    extra = (torch.zeros(1).expand(1 << 40), torch.zeros(3, 2, 3).to_sparse(), torch.zeros(2, dtype=torch.bfloat16),
             torch.zeros(2, 2, 2, device="meta"), "x", [1], torch.zeros(3, dtype=torch.complex64))  # fmt: skip
    if rng.random() < 0.3:
        tensors[rng.choice(("f", "b", "n"))] = rng.choice(extra)
    content = tensors if stacked and rng.random() < 0.7 else {"a": tensors} if not stacked else tensors.get("f")
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    data = hostile_pickle(rng, mark) if rng.random() < 0.1 else _maybe_damaged(rng, buffer.getvalue(), 0.3)
    (work / "x.pth").write_bytes(data)
    arrangement = "stacked" if stacked else "image"
    return {"container": "torch", "path": "x.pth", "arrangement": arrangement, "preset": "fairseq-mmt"}


def _b64(rng: random.Random, array: np.ndarray, dtype: str) -> str:
    try:
        text = base64.b64encode(array.astype(dtype).tobytes()).decode()
    except (TypeError, ValueError):
        text = "AAAA"
    return rng.choice((text, text, text, f"b'{text}'", text[:-1], word(rng)) if rng.random() < 0.3 else (text,))


def _tsv(rng: random.Random, work: Path, mark: Path) -> dict:
    lines = []
    for i in range(rng.randint(0, 3)):
        record = _record(rng)
        fields = [_name(rng, i), record["n"], *(_b64(rng, record.get(name, np.zeros(1)), kind)
                  for name, kind in (("b", "<f4"), ("y", "<i8"), ("s", "<f4"), ("f", "<f4")))]  # fmt: skip
        lines.append("\t".join(map(str, fields[: rng.choice((6, 6, 6, 6, 5))])))
    data = encoded(rng, "\n".join(lines) + "\n")
    (work / "x.tsv").write_bytes(_maybe_damaged(rng, data, 0.15))
    types = "{b: float32, y: int64, s: float32, f: " + rng.choice(("float32", "float32", "float16", "x")) + "}"
    return {"container": "tsv", "path": "x.tsv", "columns": "[i, n, b, y, s, f]", "types": types, "id": "i",
            "counts": rng.choice((None, "n")), "preset": rng.choice(("lxmert", "bottom-up"))}  # fmt: skip


def _parquet(rng: random.Random, work: Path, mark: Path) -> dict:
    import pyarrow
    from pyarrow import parquet

    records = [_numbers(_record(rng)) for _ in range(rng.randint(0, 3))]
    columns: dict = {"i": [_name(rng, k) for k in range(len(records))]}
    for name in "fbysn":
        columns[name] = [np.asarray(record.get(name, np.zeros(0))).tolist() for record in records]
    if rng.random() < 0.2:
        columns[rng.choice("ifbys")] = [rng.choice((None, "x", b"x", [[1], [1, 2]], {"a": 1}, [None])) for _ in records]
    try:
        table = pyarrow.table(columns)
        parquet.write_table(table, work / "x.parquet", compression=rng.choice(("none", "snappy", "zstd")))
        data = (work / "x.parquet").read_bytes()
    except (pyarrow.ArrowException, TypeError):
        data = b"PAR1"
    (work / "x.parquet").write_bytes(_maybe_damaged(rng, data, 0.3))
    return {"container": "parquet", "path": "x.parquet", "id": "i"}


def _vinvl(rng: random.Random, work: Path, mark: Path) -> dict:
    features, predictions = [], []
    for i in range(rng.randint(0, 3)):
        record, name = _record(rng), _name(rng, i)
        data = _b64(rng, record.get("f", np.zeros(1)), "<f4")
        packed = json.dumps({"num_boxes": int(record["n"]), "features": data})
        features.append(f"{name}\t{record['n']}\t{data}" if rng.random() < 0.5 else f"{name}\t{packed}")
        rows = np.asarray(record.get("b", np.zeros((1, 4))))
        count = len(rows) if rows.ndim else 0
        rects = [[1, 2, 30, 40]] * count
        if count and rng.random() < 0.2:
            rects[0] = rng.choice((rows[0].tolist() if rows.dtype.kind in "fiu" else "x", "x", [1], None))
        objects = [{"rect": rect, "class": "class 1", "conf": 0.5} for rect in rects]
        content = {"objects": objects, "image_w": 100, "image_h": rng.choice((100, 100, 0, "x", None, [1]))}
        predictions.append(f"{rng.choice((name, name, name, name, 'z'))}\t{json.dumps(content)}")
    for name, lines in (("features", features), ("predictions", predictions[: rng.choice((9, 9, 9, 1))])):
        data = encoded(rng, "".join(f"{line}\n" for line in lines))
        (work / f"{name}.tsv").write_bytes(_maybe_damaged(rng, data, 0.15))
        if rng.random() < 0.3:
            starts = np.cumsum([0, *(len(line.encode("utf-8", "replace")) + 1 for line in lines)])[:-1]
            (work / f"{name}.lineidx").write_bytes(_maybe_damaged(rng, "".join(f"{s}\n" for s in starts).encode(), 0.2))
    fields = {"features": "features", "boxes": "rect", "scores": "conf", "labels": "class", "counts": "num_boxes"}
    sizes = {"box_units": "pixels", "width": "image_w", "height": "image_h"}
    return {"container": "vinvl", "preset": "vinvl", **fields, **sizes}


def _presets(rng: random.Random, work: Path, mark: Path) -> dict:
    """A layout of the package, on whatever another maker writes."""
    makers = [maker for name, maker in PARTS.items() if name != "presets"]
    return {**rng.choice(makers)(rng, work, mark), "preset": rng.choice(presets())}


PARTS = {"npz": _npz, "npy": _npy, "pickle": _pickle, "h5": _h5, "lmdb": _lmdb, "torch": _torch, "tsv": _tsv,
         "parquet": _parquet, "vinvl": _vinvl, "presets": _presets}  # fmt: skip
for _part, _libraries in {"lmdb": ("lmdb", "msgpack"), "parquet": ("pyarrow",)}.items():
    if not all(map(find_spec, _libraries)):
        del PARTS[_part]
