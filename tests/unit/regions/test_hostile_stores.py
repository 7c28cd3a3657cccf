"""Region stores made to mislead: more declared than stored, ids that pass for others, values nobody wrote."""

import shutil

import h5py
import numpy as np
import pytest

from stores import crash_in_children, fault, make_store
from vtlm_fairseq.regions import guard
from vtlm_fairseq.regions import validate as full_check
from vtlm_fairseq.regions.parts import Parts
from vtlm_fairseq.regions.rows import Rows
from vtlm_fairseq.regions.schema import MAX_ID_BYTES
from vtlm_fairseq.regions.store import RegionStore, validate

STORAGE = [{}, {"chunks": True}, {"chunks": True, "compression": "gzip"}]


@pytest.fixture
def path(tmp_path):
    """A store of three images with six regions each, feature width 8."""
    make_store(tmp_path / "s.h5", 3)
    return str(tmp_path / "s.h5")


def replace(path: str, name: str, *args, **options) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, *args, **options)


def refused(path: str) -> str:
    """The line with which opening ends; `validate` says the same first."""
    message = fault(RegionStore, [path])
    assert validate(path)[0] == message
    return message


@pytest.mark.parametrize("storage", STORAGE)
def test_rows_that_are_declared_and_not_stored(path, storage):
    """A file of 10 kB must not make anybody read labels for hours, or allocate 8 TB of offsets."""
    rows = 10**12
    for name, shape, dtype in (("features", (rows, 8), "f2"), ("boxes", (rows, 4), "f4"), ("labels", (rows,), "i2"),
                               ("scores", (rows,), "f4")):  # fmt: skip
        replace(path, name, shape, dtype, **storage)
    assert f"{rows * 8} values" in refused(path)


@pytest.mark.parametrize("storage", STORAGE)
@pytest.mark.parametrize(("name", "dtype"), [("ids", "S9"), ("offsets", "i8"), ("class_names", h5py.string_dtype())])
def test_what_is_read_whole_must_be_stored(path, name, dtype, storage):
    replace(path, name, (10**11,), dtype, **storage)
    assert f"{name} declares {10**11} values" in refused(path)


def virtual(path: str, shape, rows: int, source_shape) -> None:
    with h5py.File(path, "a") as file:
        del file["features"]
        layout, source = h5py.VirtualLayout(shape, "f2"), h5py.VirtualSource("data.h5", "features", source_shape)
        layout[:rows] = source if rows == source_shape[0] else source[:rows]
        file.create_virtual_dataset("features", layout)


def test_virtual_features_without_a_source_are_refused(path, tmp_path):
    """HDF5 fills rows without a source with zeros."""
    make_store(tmp_path / "data.h5", 3)
    virtual(path, (18, 8), 17, (18, 8))
    assert "only 136" in refused(path)
    make_store(tmp_path / "data.h5", 2)
    virtual(path, (18, 8), 18, (18, 8))
    assert "data.h5" in refused(path)
    virtual(path, (18, 8), 18, (20, 8))
    assert "data.h5" in refused(path)


def test_ids_that_numpy_takes_for_others_are_not_found(path):
    """numpy drops zeros at the end of byte strings."""
    store = RegionStore([path])
    assert "'img1.jpg\\x00'" in fault(store.rows, ["img0.jpg", "img1.jpg\0"])
    assert store.rows(["img1.jpg"]).tolist() == [1]


def test_one_long_id_does_not_multiply(path):
    """numpy gives every id the room of the longest."""
    long = "x" * (MAX_ID_BYTES + 1)
    assert "4096" in fault(RegionStore([path]).rows, ["img0.jpg", long])
    fault(RegionStore([path]).rows, ["\ud800"])
    replace(path, "ids", data=["a", long, "c"], dtype=h5py.string_dtype())
    assert "4096" in refused(path)
    replace(path, "ids", (3,), f"S{MAX_ID_BYTES + 1}", data=np.array([b"a", b"b", b"c"]))
    assert f"ids are {MAX_ID_BYTES + 1} bytes" in refused(path)


def test_ids_of_variable_length_are_read(path):
    replace(path, "ids", data=["\u00e4", "b" * 300, "\u2028"], dtype=h5py.string_dtype())
    store = RegionStore([path])
    assert validate(path) == [] and store.ids() == ["\u00e4", "b" * 300, "\u2028"]
    assert store.rows(["\u2028", "\u00e4"]).tolist() == [2, 0]


def test_ids_that_no_line_can_name(path):
    replace(path, "ids", data=np.array([b"a\nb", b"\xff\xfe", b""]).astype(h5py.string_dtype("utf-8", 3)))
    found = validate(path)
    assert len(found) == 3 and all(line.startswith(f"{path}: ") for line in found)
    assert "empty" in found[0] and "'a\\nb'" in found[1] and "'\ufffd\ufffd'" in found[2]


def test_attributes_that_h5py_cannot_read_end_with_one_line(path):
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5a.create(file.id, b"odd", h5py.h5t.UNIX_D32LE, space)  # a time, which numpy does not know
    assert "unreadable" in refused(path)


def spoil_heap(path: str, size: int) -> None:
    """Damage the size of the first string in the heap of strings of variable length (attributes, class names)."""
    with open(path, "r+b") as file:
        at = file.read().index(b"GCOL")
        file.seek(at + 16 + 8)
        file.write(size.to_bytes(8, "little"))


@pytest.mark.slow
def test_validate_survives_files_from_which_hdf5_does_not_return(path, monkeypatch):
    """An object that ends within the heap's free space: HDF5 2.0 then steps by 0 bytes."""
    monkeypatch.setattr(full_check, "PATIENCE_SECONDS", 1.0)
    spoil_heap(path, 2000)
    (line,) = validate(path)
    assert path in line


@pytest.mark.slow
def test_training_does_not_wait_for_such_a_file(path, tmp_path, monkeypatch):
    """What `--regions` names is opened in a child first; here the second of two shards is damaged."""
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 1.0)
    for shard in ("train.0.h5", "train.1.h5"):
        make_store(tmp_path / shard, [shard])
    assert RegionStore.open(str(tmp_path), "train").num_images == 2
    spoil_heap(str(tmp_path / "train.1.h5"), 2000)
    message = fault(RegionStore.open, str(tmp_path), "train")
    assert message.startswith(f"{tmp_path / 'train.1.h5'}: ")


@pytest.mark.slow
def test_an_extraction_does_not_wait_for_such_a_file(path, tmp_path, monkeypatch):
    """What is there under --out is refused, a part is made again."""
    monkeypatch.setattr(guard, "PATIENCE_SECONDS", 1.0)
    spoil_heap(path, 2000)
    assert path in fault(Parts(path, {}, kind="extraction", overwrite=False).__enter__)
    with Parts(str(tmp_path / "new.h5"), {}, kind="extraction", overwrite=False) as parts:
        shutil.copy(path, tmp_path / "new.h5.parts/00000.h5")
        parts.write_failures(0, [])
        assert parts.whole() == {}


def test_crashes_name_the_file(path, monkeypatch):
    """Of HDF5, while training opens the file and while `validate` reads it."""
    crash_in_children(monkeypatch)
    assert f"{path}: HDF5 crashes" in fault(RegionStore.open, path, "train")
    (line,) = validate(path)
    assert f"{path}: HDF5 crashes (exit status -9)" in line


def test_a_fault_of_the_check_itself_is_no_fault_of_the_file(path, monkeypatch):
    monkeypatch.setattr(h5py, "File", lambda *args, **options: 1 / 0)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        validate(path)


def test_rows_are_read_where_the_file_keeps_them(path, tmp_path):
    """Links to data of another file, whose places would be looked up in the file that links to them."""
    make_store(tmp_path / "data.h5", 3, regions=[9, 4, 5])
    for link in (h5py.ExternalLink("data.h5", "features"), h5py.ExternalLink("s.h5", "boxes")):
        with h5py.File(path, "a") as file:
            del file["features"]
            file["features"] = link
        assert "'features'" in refused(path)
    virtual(path, (18, 8), 18, (18, 8))
    assert validate(path) == []
    for kind in (h5py.ExternalLink("other.h5", "/features"), h5py.SoftLink("/moved")):
        make_store(tmp_path / "other.h5", 3)
        with h5py.File(tmp_path / "data.h5", "a") as file:
            if "features" in file and "moved" not in file:
                file.move("features", "moved")
            else:
                del file["features"]
            file["features"] = kind
        assert "data.h5: 'features' is a" in refused(path)


def test_virtual_rows_with_two_sources_and_none(path, tmp_path):
    """Two sources for the first rows make up in number for the last, which HDF5 fills with zeros."""
    make_store(tmp_path / "data.h5", 3)
    with h5py.File(path, "a") as file:
        del file["features"]
        layout, source = h5py.VirtualLayout((18, 8), "f2"), h5py.VirtualSource("data.h5", "features", (18, 8))
        layout[:9], layout[0:9] = source[:9], source[9:]
        file.create_virtual_dataset("features", layout)
    assert "row 0" in refused(path)


def other_type(name: str) -> h5py.h5t.TypeID:
    """A type that HDF5 converts: bfloat16, and whole numbers in the upper bits of 16."""
    if name == "labels":
        kind = h5py.h5t.STD_I16LE.copy()
        kind.set_precision(8)
        kind.set_offset(4)
        return kind
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_precision(16)
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


@pytest.mark.parametrize("name", ["labels", "boxes"])
def test_types_that_numpy_does_not_have(path, name):
    """What is trained on is what h5py reads, and what `validate` looks at."""
    with h5py.File(path, "a") as file:
        values = file[name][:]
        del file[name]
        space = h5py.h5s.create_simple(values.shape)
        made = h5py.h5d.create(file.id, name.encode(), other_type(name), space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
        seen = file[name][:]
    found = np.concatenate([getattr(RegionStore([path])[row], name) for row in range(3)])
    np.testing.assert_array_equal(found, seen)
    assert validate(path) == [] and np.abs(found - values).max() < 0.01


def test_validate_reads_what_training_reads(path, monkeypatch):
    """The same reader: a fault of it is a fault of the file."""
    read = Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda self, span: read(self, span) * np.float32(2))
    assert f"{path}: image 'img0.jpg', region 0: box is not within 0..1" in validate(path)
