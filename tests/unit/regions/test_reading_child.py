"""Files of others are read in a child process: what would end the command, or run, ends in one line."""

import multiprocessing
import os
import pickle
import signal
import time

import h5py
import numpy as np
import pytest
from region_sources import fails

from stores import ends_with
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.formats import child as child_module
from vtlm_fairseq.regions.formats.child import Child


def answer(request):
    if request == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if request == "fault":
        raise VTLMError("one line")
    if request == "memory":
        return len(bytearray(1 << 46))
    return os.getpid()


def test_a_child_that_ends_is_replaced():
    child = Child(lambda: answer, "x.h5")
    first = child.ask("pid")
    assert first != os.getpid()
    with pytest.raises(VTLMError, match="one line"):
        child.ask("fault")
    with pytest.raises(VTLMError, match="memory"):
        child.ask("memory")
    assert child.ask("pid") == first
    with pytest.raises(VTLMError, match=r"x\.h5: .* crashes"):
        child.ask("crash")
    assert child.ask("pid") not in (first, os.getpid())
    last = child.ask("pid")
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_arrays_of_any_size_and_order():
    """Through the shared memory or beside it; they stay as they are when the next ones come."""
    given = [np.arange(n, dtype=np.float32) for n in (0, 3, 2000, 700_000, 900_000, 2000)]
    given += [np.arange(4000.0).reshape(40, 100)[:, ::2], np.arange(4000, dtype=np.int16).reshape(40, 100).T]
    child = Child(lambda: lambda k: given[k:] + given[:k], "x")
    first, second = child.ask(0), child.ask(3)
    child.close()
    for found, wanted in zip(first + second, given + given[3:] + given[:3], strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.slow
def test_processes_do_not_share_what_they_are_answered(tmp_path):
    """Two that were forked from one which has asked already, each with a child of its own."""

    def make():
        own = os.getpid()
        return lambda request: np.full(200_000, own)

    child = Child(make, "x")
    child.ask(0)

    def ask_often(sender):
        answers = [child.ask(0) for _ in range(60)]
        sender.send(len({int(value) for answer in answers for value in np.unique(answer)}))

    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(3)]
    processes = [fork.Process(target=ask_often, args=(sender,)) for _, sender in pipes]
    for process in processes:
        process.start()
    assert [receiver.recv() for receiver, _ in pipes] == [1, 1, 1]
    for process in processes:
        process.join()
    child.close()


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def argv(tmp_path, container, path):
    (tmp_path / "l.yaml").write_text(f"container: {container}\nfeatures: f\nshape: regions\n")
    return ("convert", "--layout", tmp_path / "l.yaml", "--input", path, "--out", tmp_path / "s.h5")


@pytest.mark.parametrize("container", ["npz", "npy", "pickle", pytest.param("torch", marks=pytest.mark.slow), "lmdb"])
def test_nothing_in_a_file_is_run(tmp_path, container):
    """Pickles within arrays, files of PyTorch and values of an LMDB."""
    mark, path = tmp_path / "mark", tmp_path / "in"
    path.mkdir()
    record = {"f": Evil(mark)}
    if container == "npz":
        np.savez(path / "a.npz", f=np.array(Evil(mark), object))
    elif container == "npy":
        np.save(path / "a.npy", np.array(Evil(mark), object))
    elif container == "pickle":
        (path / "a.pkl").write_bytes(pickle.dumps(record))
    elif container == "torch":
        import torch

        torch.save({"a": record}, path / "a.pth")
        path = path / "a.pth"
    else:
        lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
        with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
            transaction.put(b"a", pickle.dumps(record))
    line = [str(a) for a in argv(tmp_path, container, path)]
    line += ["--layout-set", "value=pickle"] if container == "lmdb" else []
    assert "refused" in ends_with(main, line)
    assert not mark.exists()


def test_a_child_that_is_silent(monkeypatch):
    monkeypatch.setattr(child_module, "PATIENCE_SECONDS", 0.05)
    child = Child(lambda: lambda request: time.sleep(60), "x.h5")
    with pytest.raises(VTLMError, match=r"x\.h5: .* does not come back within 0.05 s"):
        child.ask("pid")


def test_files_that_declare_more_than_they_hold(tmp_path):
    """A packed array of 2 GB, an HDF5 dataset of a terabyte, and one that lies in another file."""
    (tmp_path / "in").mkdir()
    np.savez_compressed(tmp_path / "in/a.npz", f=np.zeros((3, 3), np.float32))
    data = bytearray((tmp_path / "in/a.npz").read_bytes())
    at = data.index(b"PK\1\2") + 24  # where the list of members says how large one is, unpacked
    data[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "in/a.npz").write_bytes(data)
    assert "larger" in fails(*argv(tmp_path, "npz", tmp_path / "in"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a/f", (1 << 38, 4), "f4", chunks=(1024, 4))
    assert "declares" in fails(*argv(tmp_path, "h5", tmp_path / "x.h5"))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a/f", (10, 4), "f4", external=[(str(tmp_path / "secret"), 0, 160)])
    (tmp_path / "secret").write_bytes(bytes(160))
    assert "other files" in fails(*argv(tmp_path, "h5", tmp_path / "x.h5"))


def test_damage_that_hdf5_meets_at_the_values(tmp_path):
    """A chunk that cannot be unpacked, of arrays over images."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("f", data=np.random.default_rng(0).random((2, 3, 4)), compression="gzip", chunks=(1, 3, 4))
        at = file["f"].id.get_chunk_info(1).byte_offset
    with open(tmp_path / "x.h5", "r+b") as file:
        file.seek(at)
        file.write(bytes(40))
    (tmp_path / "ids").write_text("a\nb\n")
    line = fails(
        *argv(tmp_path, "h5", tmp_path / "x.h5"), "--layout-set", "arrangement=stacked", "--ids", tmp_path / "ids"
    )
    assert "x.h5" in line and "row 1" in line
