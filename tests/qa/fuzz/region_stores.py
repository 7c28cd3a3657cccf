"""Fuzz region stores: HDF5 files of wrong types, shapes, links and values, cut off and with flipped bits.

Files on which HDF5 itself crashes or hangs must be named by `vtlm-regions validate`, which reads in a child process.
"""

import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from fuzzing import Case
from mutations import NUMBERS, damage, word

from stores import make_store
from vtlm_fairseq.cli.regions import main as regions_command
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions import validate as region_validate
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter, validate

NAMES = ("ids", "offsets", "features", "boxes", "labels", "scores", "class_names", "soft_labels", "soft_classes")
DTYPES = ("f2", "f4", "f8", ">f4", "i1", "i2", "u2", ">i2", "i4", "i8", "u8", "?", "S3", "c8", "V5")
EDIT_FAULTS = (ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError)
SECRET = 777.0  # the values of a file outside the store's folder, which must never be read
FILTERS = ({"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True, "compression": "gzip"},
           {"fletcher32": True}, {"scaleoffset": 0})  # fmt: skip


def setup(folder: Path) -> Case:
    """A plain store, a larger one in chunks, a virtual one; a file outside of their folder."""
    inside = folder / "stores"
    make_store(inside / "plain.h5", 3, regions=[2, 0, 4], feature_dim=3)
    make_store(inside / "odd.h5", ["\u00e4\u2028", "x" * 300, "a b"], regions=[1, 0, 1], feature_dim=2, dtype="float32")
    make_store(inside / "none.h5", 0, feature_dim=3)
    merge_stores([str(inside / "plain.h5"), str(inside / "none.h5")], str(inside / "virtual.h5"))
    for kept in (2, 5):
        write_soft(inside / f"soft{kept}.h5", kept)
    merge_stores([str(inside / "soft2.h5")], str(inside / "soft.h5"))
    names = ("plain", "odd", "none", "virtual", "soft2", "soft5", "soft")
    bases = [(inside / f"{name}.h5").read_bytes() for name in names]
    with h5py.File(folder / "secret.h5", "w") as file:
        file["features"] = np.full((6, 3), SECRET, "f2")
        file["boxes"] = np.full((6, 4), SECRET, "f4")
    (folder / "secret.bin").write_bytes(np.full(64, SECRET, "f4").tobytes())
    path = inside / "case.h5"
    region_validate.PATIENCE_SECONDS = 3.0

    def case(rng: random.Random) -> None:
        path.write_bytes(rng.choice(bases))
        kind = rng.random()
        if kind < 0.7:
            for _ in range(rng.randint(1, 3)):
                with h5py.File(path, "a", locking=False) as file:
                    try:
                        rng.choice(EDITS)(rng, file, folder)
                    except EDIT_FAULTS:
                        pass  # an edit that h5py itself refuses, for instance after another one
        if kind > 0.6:
            path.write_bytes(damage(rng, path.read_bytes(), most=3))
        faults = validate(str(path))
        assert all(isinstance(fault, str) and fault and "\n" not in fault for fault in faults), "no lines"
        if rng.random() < 0.1:
            assert regions_command(["validate", str(path)]) == bool(faults), "status and faults differ"
        if any(": HDF5 " in fault for fault in faults):
            return  # it hangs or crashes, which only `validate` survives
        try:
            store = RegionStore([str(path)], max_regions=None)
        except VTLMError:
            assert faults, "validate accepts what training refuses"
            raise
        check_store(store, sound=not faults)

    return case


def write_soft(path: Path, kept: int) -> None:
    """A store with class scores."""
    names = [f"class{k}" for k in range(5)]
    with RegionStoreWriter(path, feature_dim=3, class_names=names, detector="random", num_soft=kept) as writer:
        for name, count in (("a", 3), ("b", 0), ("c", 2)):
            scores = np.random.default_rng(count).dirichlet(np.ones(5), count)
            boxes = np.tile(np.array([0, 0, 1, 1]), (count, 1))
            labels = np.zeros(count, np.int16)
            writer.add(name, features=np.ones((count, 3)), boxes=boxes, labels=labels, soft_labels=scores)


def check_store(store: RegionStore, *, sound: bool) -> None:
    """What a store that opened must hold to; values too if `validate` found no fault."""
    counts = store.counts(np.arange(len(store)))
    assert counts.min(initial=0) >= 0 and counts.sum() == store.num_regions < 1000, "regions made up"
    assert len(store.class_names) == store.num_classes >= 1
    ids = store.ids()
    assert len(ids) == len(store) < 1000
    readable = 0
    for row in range(len(store)):
        try:
            regions = store[row]
        except VTLMError:
            assert not sound, "validate accepts what cannot be read"
            continue
        readable += 1
        n = int(counts[row])
        assert regions.features.shape == (n, store.feature_dim) and regions.features.dtype == store.dtype
        assert regions.boxes.shape == (n, 4) and regions.labels.shape == regions.scores.shape == (n,)
        assert not (regions.features == SECRET).any() and not (regions.boxes == SECRET).any(), "data from outside"
        if sound:
            assert np.isfinite(regions.features).all() and np.isfinite(regions.scores).all(), "not finite"
            assert ((regions.boxes >= 0) & (regions.boxes <= 1)).all(), "a box outside the image"
            assert ((regions.labels >= 0) & (regions.labels < store.num_classes)).all(), "a label outside the classes"
            assert (np.diff(regions.scores) <= 0).all(), "scores rise"
    if sound and store.num_soft:
        soft = store.read_soft(np.arange(len(store)))
        assert soft.probabilities.shape == (store.num_regions, store.num_soft)
        assert not any(bad.any() for bad in soft.faults(store.num_classes).values()), (
            "class scores that cannot be right"
        )
        dense = soft.dense(store.num_classes)
        assert dense.shape == (store.num_regions, store.num_classes) and np.isfinite(dense).all()
    if sound:
        assert all(ids) and store.rows(ids).tolist() == list(range(len(store))), "an id that does not lead to its row"
        assert readable == len(store)


def _read(file: h5py.File, name: str) -> np.ndarray:
    """The values of a dataset, unless an earlier edit made it endless."""
    dataset = file[name]
    if dataset.is_virtual or dataset.external or dataset.size > 1000:
        raise ValueError(name)
    return dataset[:]


def _value(rng: random.Random):
    odd = (float("nan"), "x", "", word(rng), b"\xff", [1, 2], np.int8(3), True, h5py.Empty("f4"))
    return rng.choice((*NUMBERS, -1, 0.5, *odd))


def _attribute(rng, file, folder):
    name = rng.choice(("schema_version", "feature_dim", "num_classes", "detector", "created_by", "note"))
    if rng.random() < 0.3:
        del file.attrs[name]
    else:
        file.attrs[name] = _value(rng)


def _replace(rng, file, folder):
    """Another type, shape or storage."""
    name = rng.choice(NAMES)
    old = _read(file, name)
    del file[name]
    kind = rng.randrange(5)
    if kind == 0:
        file.create_dataset(name, data=old.astype(rng.choice(DTYPES)))
    elif kind == 1:
        shape = tuple(rng.choice((0, 1, 2, 3, 4, 6, 7)) for _ in range(rng.randint(0, 3)))
        file.create_dataset(name, data=np.zeros(shape, rng.choice((*DTYPES, old.dtype))))
    elif kind == 2:
        file.create_dataset(name, data=old, chunks=tuple(max(1, n) for n in old.shape), **rng.choice(FILTERS))
    elif kind == 3:
        strings = [rng.choice((word(rng).replace("\0", ""), "img0.jpg", "x" * 70_000)) for _ in range(len(old))]
        file.create_dataset(name, data=strings, dtype=h5py.string_dtype("utf-8"))
    else:
        rows = rng.choice((10**6, 10**9, 10**12, 2**40))
        dtype = old.dtype if old.dtype != object else h5py.string_dtype()
        shape = (rows, *old.shape[1:])
        file.create_dataset(name, shape, dtype, **rng.choice(({}, {"chunks": (4096, *old.shape[1:])},
                            {"chunks": (4096, *old.shape[1:]), "compression": "gzip"})))  # fmt: skip


def _whole_of_nothing(rng, file, folder):
    """All datasets declare far more rows than are stored, in agreement with each other."""
    rows = rng.choice((10**7, 10**10, 2**40))
    small = {} if rng.random() < 0.5 else {"chunks": True, "compression": "gzip"}
    width = int(file.attrs["feature_dim"])
    for name, shape, dtype in (("features", (rows, width), "f2"), ("boxes", (rows, 4), "f4"),
                               ("labels", (rows,), "i2"), ("scores", (rows,), "f4")):  # fmt: skip
        del file[name]
        file.create_dataset(name, shape, dtype, **small)
    offsets = file["offsets"]
    offsets[-1] = rows


def _values(rng, file, folder):
    name = rng.choice(NAMES[1:6])
    values = _read(file, name)
    bad = rng.choice((-1, 0, 1, 2, 5, 6, 1e5, 0.5, -0.1, np.nan, np.inf, *NUMBERS))
    with np.errstate(all="ignore"):
        values.reshape(-1)[rng.randrange(values.size)] = np.array(bad).astype(values.dtype)
    file[name][...] = values


def _ids(rng, file, folder):
    ids = _read(file, "ids")
    ids[rng.randrange(len(ids))] = rng.choice((b"", b"img0.jpg", b"\xff\xfe", b"a\nb", b"a\0b", word(rng).encode()))
    file["ids"][...] = ids


def _link(rng, file, folder):
    name = rng.choice(NAMES)
    secret = rng.choice((str(folder / "secret.h5"), "../secret.h5", "../stores/../secret.h5"))
    link = rng.choice((
        h5py.ExternalLink(secret, name), h5py.ExternalLink("plain.h5", name), h5py.ExternalLink("gone.h5", name),
        h5py.ExternalLink("plain.h5", "/nothing"), h5py.ExternalLink("case.h5", name), h5py.SoftLink("/boxes"),
        h5py.SoftLink(f"/{name}"), h5py.ExternalLink("/dev/stdin", name), h5py.ExternalLink("", name),
    ))  # fmt: skip
    del file[name]
    file[name] = link


def _linked_away(rng, file, folder):
    """A link within the folder, to a file whose own dataset lies outside."""
    name = rng.choice(("features", "boxes"))
    shape = file[name].shape
    del file[name]
    with h5py.File(folder / "stores" / "between.h5", "w") as between:
        if rng.random() < 0.5:
            between[name] = h5py.ExternalLink("../secret.h5", name)
        else:
            between.create_dataset(name, shape, "f4", external=[(str(folder / "secret.bin"), 0, h5py.h5f.UNLIMITED)])
    target = h5py.ExternalLink("between.h5", name)
    if rng.random() < 0.5:
        file[name] = target
    else:
        layout = h5py.VirtualLayout(shape, "f2" if name == "features" else "f4")
        layout[:] = h5py.VirtualSource("between.h5", name, shape)
        file.create_virtual_dataset(name, layout)


def _virtual(rng, file, folder):
    name = rng.choice(("features", "boxes", "labels", "scores"))
    dataset = file[name]
    shape, dtype = dataset.shape, dataset.dtype
    del file[name]
    declared = (rng.choice((shape[0], shape[0], shape[0] + 1, 10**9)), *shape[1:])
    layout = h5py.VirtualLayout(declared, dtype)
    absolute = str(folder / "secret.h5")
    source = rng.choice(("plain.h5", ".", "../secret.h5", absolute, "gone.h5", "case.h5", "virtual.h5"))
    rows = rng.choice((shape[0], max(0, shape[0] - 1), 6))
    layout[:rows] = h5py.VirtualSource(source, rng.choice((name, name, "features")), (rows, *shape[1:]))
    file.create_virtual_dataset(name, layout)


def _external_raw(rng, file, folder):
    name = rng.choice(("features", "boxes", "scores"))
    dataset = file[name]
    shape, dtype = dataset.shape, dataset.dtype
    del file[name]
    raw = rng.choice((str(folder / "secret.bin"), "../secret.bin", "/dev/zero", "/etc/passwd"))
    file.create_dataset(name, shape, dtype, external=[(raw, 0, h5py.h5f.UNLIMITED)])


def _group(rng, file, folder):
    name = rng.choice(NAMES)
    del file[name]
    if rng.random() < 0.5:
        file.create_group(name)
    else:
        file[name] = np.dtype("f4")  # a named type


EDITS: tuple[Callable, ...] = (
    _attribute, _replace, _replace, _whole_of_nothing, _values, _values, _values, _ids, _link, _linked_away, _virtual,
    _virtual, _external_raw, _group,
)  # fmt: skip
