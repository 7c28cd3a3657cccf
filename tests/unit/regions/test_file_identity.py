"""Files that change while they are read: never other data in silence."""

import logging
import os
import pickle

import numpy as np
import pytest
import torch

from stores import fault, make_store
from tiny import folder, pretraining_task, sentences, translation_task
from vtlm_fairseq.data.batching import raise_fault
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.store import RegionStore

NAMES = [f"img{i}.jpg" for i in range(4)]
MODEL = torch.nn.Linear(1, 1)


@pytest.fixture
def data(tmp_path):
    """A folder of 9 pairs of 4 images, and their store."""
    made = folder(tmp_path / "bin", {"train": 9, "train1": 4, "valid": 3})
    make_store(tmp_path / "r.h5", NAMES)
    return made


def write_in_place(path: str) -> None:
    """Change a byte and nothing else, as a program does that opens the file for writing."""
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(1, 1))


def epoch(task, number: int, workers: int) -> list[dict]:
    """The batches of an epoch; a fault ends it as a step of the task does."""
    options = {"max_sentences": 4, "num_workers": workers, "epoch": number, "disable_iterator_cache": True}
    batches = task.get_batch_iterator(task.dataset("train"), **options).next_epoch_itr(shuffle=False)
    found = list(batches)
    vars(batches).clear()  # it holds itself; workers that end with the garbage collector are waited for, 5 s each
    for sample in found:
        raise_fault(sample)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_written_to_between_two_epochs(data, tmp_path, workers):
    """Loader workers open it anew; without workers the open file is looked at again."""
    task = pretraining_task(data.path, "--regions", tmp_path / "r.h5")
    task.load_dataset("train")
    before = epoch(task, 1, workers)
    write_in_place(str(tmp_path / "r.h5"))
    with pytest.raises(SystemExit, match=r"^error: .*r\.h5: was written to"):
        epoch(task, 2, workers)
    assert len(before) == 3


def test_a_store_replaced_between_two_epochs(data, tmp_path):
    """Workers refuse it. Who has the old file open still reads what it read before."""
    task = translation_task(data.path, "--regions", tmp_path / "r.h5")
    task.load_dataset("train")
    old = [batch["net_input"]["features"] for batch in epoch(task, 1, 0)]
    make_store(tmp_path / "r.h5", NAMES[::-1], seed=5)
    again = [batch["net_input"]["features"] for batch in epoch(task, 2, 0)]
    assert all(torch.equal(a, b) for a, b in zip(old, again, strict=True))
    with pytest.raises(SystemExit, match=r"^error: .*r\.h5: was replaced"):
        epoch(task, 3, 2)


def replace_with_times_kept(path, other) -> None:
    """Put a file in the place of another, with its time of change, as rsync does."""
    at = path.stat()
    assert other.stat().st_size == at.st_size
    os.utime(other, ns=(at.st_atime_ns, at.st_mtime_ns))
    os.replace(other, path)


def test_another_file_of_the_same_size_and_time(tmp_path):
    """It is the images that count: network file systems number files anew, and a moved copy is the same store."""
    path, other = tmp_path / "r.h5", tmp_path / "other.h5"
    make_store(path, NAMES)
    store = RegionStore([str(path)])
    sent = pickle.dumps(store)
    os.link(path, tmp_path / "kept.h5")  # else its inode may be given to another file
    other.write_bytes(path.read_bytes())
    replace_with_times_kept(path, other)
    np.testing.assert_array_equal(store[3].features, pickle.loads(sent)[3].features)
    make_store(other, NAMES[::-1])
    replace_with_times_kept(path, other)
    store.close()
    assert "was replaced" in fault(store.__getitem__, 0)
    assert "was replaced" in fault(pickle.loads(sent).rows, NAMES)
    os.unlink(path)
    assert str(path) in fault(store.__getitem__, 0)


def test_a_part_of_a_merged_store_is_remade(tmp_path):
    """The features lie in the parts, which HDF5 opens by itself; the merged store is the same file as before."""
    for part in "ab":
        make_store(tmp_path / f"{part}.h5", [part])
    merge_stores([str(tmp_path / f"{part}.h5") for part in "ab"], str(tmp_path / "m.h5"))
    store = RegionStore([str(tmp_path / "m.h5")])
    np.testing.assert_array_equal(store[1].features, RegionStore([str(tmp_path / "b.h5")])[0].features)
    make_store(tmp_path / "b.h5", ["b"], seed=8)
    store.close()
    message = fault(store.__getitem__, 1)
    assert "b.h5: was replaced" in message and "m.h5: was" not in message
    os.unlink(tmp_path / "b.h5")
    store.close()
    assert "b.h5" in fault(store.__getitem__, 0)


def test_text_that_changes_under_a_run(data, caplog):
    """Replaced: the run keeps the lines it opened, and says once that a resumed run does not. Written to: it is mapped
    into memory, so a run would train on what another program writes there."""
    task = translation_task(data.path)
    task.load_dataset("train", combine=True)
    task.begin_epoch(1, MODEL)
    lines = task.dataset("train")
    before = [lines[i]["source"].tolist() for i in range(len(lines))]
    name = f"{data.path}/train1.en-de.en.bin"
    with open(name, "rb") as file:
        content = file.read()
    os.unlink(name)
    with open(name, "wb") as file:
        file.write(content[::-1])
    with caplog.at_level(logging.WARNING):
        task.begin_epoch(2, MODEL)
        task.begin_epoch(3, MODEL)
    said = [record.getMessage() for record in caplog.records if "was replaced" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"{name} "), said
    assert [lines[i]["source"].tolist() for i in range(len(lines))] == before
    write_in_place(f"{data.path}/train.en-de.de.bin")
    with pytest.raises(SystemExit, match=r"^error: .*train\.en-de\.de\.bin: was written to"):
        task.begin_epoch(4, MODEL)


def test_a_list_of_images_that_changes_between_two_readings(data, tmp_path):
    """With ``a:b`` text and images of a folder are read anew every second epoch."""
    folder(tmp_path / "other", {"train": 5})
    task = pretraining_task(f"{data.path}:{tmp_path / 'other'}", "--regions", tmp_path / "r.h5")
    for number in (1, 2, 3):
        task.load_dataset("train", epoch=number)
    (data.path / "train.images").write_text("".join(f"img{i % 2}.jpg\n" for i in range(9)))
    task.load_dataset("train", epoch=4)
    with pytest.raises(SystemExit, match=r"^error: .*bin/train\.images: was written to"):
        task.load_dataset("train", epoch=5)
    data.write("train", sentences(9, seed=7), sentences(9, seed=8), [NAMES[0]] * 9)
    with pytest.raises(SystemExit, match=r"^error: .*train\.en-de\.en\.bin: was written to"):
        task.load_dataset("train", epoch=5)
