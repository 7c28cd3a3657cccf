"""Fields of one image, as containers of other projects hold them: what cannot be read is one line."""

import io
import os

import numpy as np
import pytest

from stores import fault, make_store
from vtlm_fairseq.regions.formats.child import Child
from vtlm_fairseq.regions.formats.containers import record
from vtlm_fairseq.regions.store import RegionStore


def test_files_and_libraries_that_are_not_there(tmp_path):
    assert "missing_library is not installed" in fault(record.library, "missing_library.part")
    assert "a: cannot be read" in fault(record.read_bytes, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"1234")
    assert "4 bytes for one image, at most 3 are read" in fault(lambda: record.read_bytes(tmp_path / "a", most=3))
    assert record.read_bytes(tmp_path / "a", most=4) == b"1234"
    assert "place: cannot be read" in fault(record.npz_arrays, str(tmp_path / "none.npz"), "place", None)


def test_arrays_in_memory():
    """One that is larger than allowed, an impossible shape, pickles that are cut off."""
    file = io.BytesIO()
    np.savez(file, x=np.ones(100))
    assert "'x' is larger than 800 bytes" in fault(lambda: record.npz_arrays(file, "place", None, most=800))
    assert record.npz_arrays(file, "place", ["x", "y"], most=1000)["x"].sum() == 100
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4611686018427387904, 8), }\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    assert "a shape that cannot be" in fault(record.npy_array, data, "place")
    assert "place" in fault(record.unpickled, b"\x80\x04nonsense", "place")


@pytest.mark.parametrize("value", ["a1", b"a1", np.array(["a1"]), np.array([[b"a1"]])])
def test_ids(value):
    assert record.text_id(value, "place") == "a1"
    assert record.text_id(np.int64(7), "place") == "7"
    assert "bool" in fault(record.text_id, True, "place")


def test_a_fault_of_the_reader_itself_is_no_fault_of_the_file():
    child = Child(lambda: lambda request: {}[request], "x")
    with pytest.raises(RuntimeError, match="KeyError: 'none'"):
        child.ask("none")
    child.close()


def test_folders_of_stores(tmp_path, monkeypatch):
    """A split of a folder that is not there has no stores; a folder that cannot be read is said."""
    make_store(tmp_path / "train.h5", 2)
    assert "other/train" in fault(RegionStore.open, str(tmp_path), "other/train")

    def listdir(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", listdir)
    assert "cannot be read (Permission denied)" in fault(RegionStore.open, str(tmp_path), "train")
