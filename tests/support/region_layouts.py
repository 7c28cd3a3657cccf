"""Files in the layouts of other projects, written by their own ways, of one image with two regions."""

import base64
import csv
import json
import pickle
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 200, 100
PIXELS = np.array([[20, 10, 80, 90], [0, 0, 200, 50]], np.float32)
RELATIVE = np.array([[0.1, 0.1, 0.4, 0.9], [0, 0, 1, 0.5]], np.float32)
LABELS = np.array([3, 1])
SCORES = np.array([0.25, 0.5], np.float32)
NAMES = ["dog", "cat", "man", "tree", "bus"]


def features(dim: int, count: int = 2) -> np.ndarray:
    """[count, dim]: the first two values of a row tell it from the others."""
    found = np.zeros((count, dim), np.float32)
    found[:, 0], found[:, 1] = np.arange(1, count + 1), 10 * np.arange(1, count + 1)
    return found


def soft(background: str = "none") -> np.ndarray:
    """[2, C]: scores of all classes, of which those of `LABELS` are largest."""
    found = np.full((2, len(NAMES)), 0.01, np.float32)
    found[np.arange(2), LABELS] = SCORES
    column = np.full((2, 1), 0.9, np.float32)
    return {"none": found, "first": np.hstack([column, found]), "last": np.hstack([found, column])}[background]


def b64(array: np.ndarray, dtype: str) -> bytes:
    return base64.b64encode(np.ascontiguousarray(array.astype(dtype)))


def write_rows(path: Path, rows: list[list], *, as_bytes: bool = False) -> Path:
    """As Python's csv module writes them: bytes as ``b'...'`` where they are not decoded."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        for row in rows:
            writer.writerow([f.decode() if isinstance(f, bytes) and not as_bytes else f for f in row])
    return path


def lxmert(
    folder: Path, *, as_bytes: bool = False, boxes=PIXELS, labels=LABELS, dim: int = 2048, size=None, count: int = 2
) -> Path:
    width, height = size or (WIDTH, HEIGHT)
    arrays = [b64(labels, "<i8"), b64(SCORES, "<f4"), b64(labels, "<i8"), b64(SCORES, "<f4")]
    row = ["a", height, width, *arrays, count, b64(boxes, "<f4"), b64(features(dim), "<f4")]
    return write_rows(folder / "x.tsv", [row], as_bytes=as_bytes)


def bottom_up(folder: Path, *, boxes=PIXELS, size=None, count: int = 2, dim: int = 2048) -> Path:
    width, height = size or (WIDTH, HEIGHT)
    return write_rows(folder / "x.tsv", [["a", width, height, count, b64(boxes, "<f4"), b64(features(dim), "<f4")]])


def milvlg(folder: Path, *, labels=LABELS, boxes=PIXELS, count: int = 2, dim: int = 2048) -> Path:
    info = {"image_id": "a", "image_h": HEIGHT, "image_w": WIDTH, "num_boxes": 2, "objects_id": labels,
            "objects_conf": SCORES}  # fmt: skip
    np.savez_compressed(
        folder / "a", x=features(dim), bbox=boxes, num_bbox=count, image_h=HEIGHT, image_w=WIDTH, info=info
    )
    return folder


def packed(array: np.ndarray) -> dict:
    """An array as msgpack-numpy encodes it."""
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}


def write_lmdb(folder: Path, values: dict[str, bytes]) -> Path:
    import lmdb

    with lmdb.open(str(folder / "db"), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    return folder / "db"


def uniter(
    folder: Path,
    *,
    compressed: bool = False,
    boxes=RELATIVE,
    order=(0, 1, 2, 3),
    soft_labels=None,
    dim: int = 2048,
    rows: int = 2,
) -> Path:
    import io

    import msgpack

    sizes = boxes[:, 2:] - boxes[:, :2]
    record = {
        "features": features(dim, rows).astype(np.float16),
        "norm_bb": np.hstack([boxes[:, list(order)], sizes]).astype(np.float16),
        "conf": SCORES.astype(np.float16),
        "soft_labels": (soft("first") if soft_labels is None else soft_labels).astype(np.float16),
    }
    if compressed:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **record, allow_pickle=True)
        value = buffer.getvalue()
    else:
        value = msgpack.packb({name: packed(array) for name, array in record.items()}, use_bin_type=True)
    return write_lmdb(folder, {"a.npz": value, "__keys__": json.dumps(["a.npz"]).encode()})


def vinvl(
    folder: Path,
    *,
    columns: int = 3,
    sized: bool = True,
    rect=PIXELS,
    key: str = "a",
    index: int = 0,
    count: int = 2,
    names=NAMES,
) -> Path:
    data = b64(features(2054), "<f4").decode()
    row = ["a", count, data] if columns == 3 else ["a", json.dumps({"num_boxes": count, "features": data})]
    objects = [
        {"rect": box.tolist(), "bbox_id": k, "class": names[LABELS[k]], "conf": float(SCORES[k])}
        for k, box in enumerate(rect)
    ]
    size = {"image_h": HEIGHT, "image_w": WIDTH} if sized else {}
    (folder / "features.tsv").write_text("\t".join(map(str, row)) + "\n")
    (folder / "predictions.tsv").write_text(f"{key}\t{json.dumps({**size, 'objects': objects})}\n")
    for name in ("features", "predictions"):
        (folder / f"{name}.lineidx").write_text(f"{index}\n")
    return folder


def vl_t5(folder: Path, *, boxes=PIXELS, labels=LABELS, dim: int = 2048, rows: int = 2) -> Path:
    import h5py

    with h5py.File(folder / "x.h5", "w") as file:
        group = file.create_group("a")
        parts = {"features": features(dim, rows), "obj_id": labels, "obj_conf": SCORES, "attr_id": LABELS,
                 "attr_conf": SCORES, "boxes": boxes, "img_w": WIDTH, "img_h": HEIGHT}  # fmt: skip
        for name, value in parts.items():
            group[name] = value
    return folder / "x.h5"


def mmf(folder: Path, *, background: bool = False, labels=None, pad: int = 1, **changes) -> Path:
    info = {**mmf_info(background, labels, pad), **changes}
    np.save(folder / "a.npy", np.vstack([features(2048), np.zeros((pad, 2048), np.float32)]))
    np.save(folder / "a_info.npy", info)
    return folder


def mmf_info(background: bool = False, labels=None, pad: int = 1) -> dict:
    scores = soft("first" if background else "none")
    scores[:, 0] = 0 if background else scores[:, 0]
    scores = np.vstack([scores, np.zeros((pad, scores.shape[1]), np.float32)])
    return {
        "bbox": np.vstack([PIXELS, np.zeros((pad, 4), np.float32)]),
        "num_boxes": 2,
        "objects": scores.argmax(1) if labels is None else labels,
        "cls_prob": scores,
        "image_width": WIDTH,
        "image_height": HEIGHT,
    }


def mmf_lmdb(folder: Path, **changes) -> Path:
    info = mmf_info(pad=0)
    info.update(changes)
    record = {"feature_path": "a", "features": features(2048), **info}
    return write_lmdb(folder, {"a": pickle.dumps(record), "keys": pickle.dumps([b"a"])})


def vgamt_mdetr(folder: Path, *, boxes=RELATIVE, count: int = 2, rows: int = 2) -> Path:
    for name in ("features", "boxes_loc"):
        (folder / name).mkdir()
    centres = np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])[:count]
    # of one region alone its scripts keep a further axis
    np.save(folder / "features/a.jpg.npy", features(64)[:count][None] if count == 1 else features(64, rows))
    np.save(folder / "boxes_loc/a.jpg.npy", centres[None] if count == 1 else centres)
    return folder
