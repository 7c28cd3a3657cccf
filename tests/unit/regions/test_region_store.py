"""Region stores: what is written is read back, in any process; each fault is one line that names it."""

import fcntl
import os
import pickle
import shutil

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from stores import fault, make_store, write_pair
from vtlm_fairseq.regions import store as region_store
from vtlm_fairseq.regions.store import RegionStore

RAGGED = [3, 0, 50, 1, 36, 7, 0]


def assert_same(found, expected: dict[str, np.ndarray], limit: int | None = None) -> None:
    for name in ("features", "boxes", "labels", "scores"):
        np.testing.assert_array_equal(getattr(found, name), expected[name][:limit], err_msg=name)


# ---- reading back


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip_of_ragged_images(tmp_path, dtype):
    stored = make_store(tmp_path / "s.h5", 7, regions=RAGGED, dtype=dtype)
    store = RegionStore([str(tmp_path / "s.h5")], max_regions=None)
    assert (len(store), store.num_regions, store.feature_dim, store.num_classes) == (7, sum(RAGGED), 8, 5)
    assert store.class_names == ["class0", "class1", "class2", "class3", "class4"]
    assert (store.detector, store.dtype) == ("random", np.dtype(dtype))
    for row, image_id in enumerate(stored):
        regions = store[row]
        assert_same(regions, stored[image_id])
        assert [a.dtype for a in regions] == [np.dtype(d) for d in (dtype, "f4", "i8", "f4")]


def test_literal_values_sorted_by_score(tmp_path):
    write_pair(tmp_path / "s.h5", attributes={"note": "hello", "blocks": 3})
    store = RegionStore([str(tmp_path / "s.h5")])
    features, boxes, labels, scores = store[0]
    assert features.tolist() == [[3, 4], [1, 2]]
    assert boxes.tolist() == [[0.25, 0.5, 0.75, 1], [0, 0, 1, 1]]
    assert labels.tolist() == [0, 2]
    assert scores.tolist() == [0.75, 0.5]
    assert store.attributes["note"] == "hello" and store.attributes["blocks"] == 3
    assert store.attributes["created_by"] == "vtlm-fairseq"
    values = np.array([[0.1, 65504.0], [6e-8, -1 / 3]], np.float32)
    write_pair(tmp_path / "r.h5", features=values, scores=np.array([1.0, 0.5]))  # rounded once
    found = RegionStore([str(tmp_path / "r.h5")])[0].features
    np.testing.assert_array_equal(found, values.astype(np.float16))
    write_pair(tmp_path / "tie.h5", scores=np.array([0.5, 0.5]))
    assert RegionStore([str(tmp_path / "tie.h5")])[0].labels.tolist() == [2, 0]
    write_pair(tmp_path / "none.h5", scores=None)
    regions = RegionStore([str(tmp_path / "none.h5")])[0]
    assert (regions.labels.tolist(), regions.scores.tolist()) == ([2, 0], [1.0, 1.0])


def test_truncation_keeps_the_most_confident(tmp_path):
    stored = make_store(tmp_path / "s.h5", 7, regions=RAGGED)
    store = RegionStore([str(tmp_path / "s.h5")], max_regions=5)
    for row, image_id in enumerate(stored):
        assert_same(store[row], stored[image_id], limit=5)
    kept, cut = store[2].scores, stored["img2.jpg"]["scores"][5:]
    assert kept.min() > cut.max()
    assert store.counts(np.array([0, 1, 2, 3, 4, 2])).tolist() == [3, 0, 5, 1, 5, 5]
    assert RegionStore([str(tmp_path / "s.h5")], None).counts(np.arange(7)).tolist() == RAGGED
    assert RegionStore([str(tmp_path / "s.h5")]).counts(np.arange(7)).tolist() == [3, 0, 36, 1, 36, 7, 0]


def test_large_store_is_written_in_several_pieces(tmp_path):
    counts = [40, 0, 90, 33] * 20
    stored = make_store(tmp_path / "s.h5", 80, regions=counts, feature_dim=2048)
    with h5py.File(tmp_path / "s.h5") as file:
        assert file["features"].chunks == (1024, 2048) and file["features"].shape == (sum(counts), 2048)
    store = RegionStore([str(tmp_path / "s.h5")], max_regions=None)
    for row, image_id in enumerate(stored):
        assert_same(store[row], stored[image_id])


# ---- ids


def test_ids_are_sorted_once_for_those_who_ask_again(tmp_path):
    make_store(tmp_path / "s.h5", 9)
    store = RegionStore([str(tmp_path / "s.h5")])
    os.remove(tmp_path / "s.h5")  # nor are they read again
    for number in (4, 1, 8):
        assert store.rows([f"img{number}.jpg"], again=True).tolist() == [number]


def test_missing_ids_count_and_first_five(tmp_path):
    """PITFALLS 24."""
    make_store(tmp_path / "s.h5", 3)
    store = RegionStore([str(tmp_path / "s.h5")])
    lines = ["img1.jpg", *(f"no{i}" for i in (7, 3, 3, 9, 1, 2, 5)), "img", "img1.jpg.png"]
    message = fault(store.rows, lines)
    assert "8 image ids are missing from the store: 'no7', 'no3', 'no9', 'no1', 'no2', ..." in message
    assert "s.h5" in message and "--regions" in message
    assert store.rows(["img2.jpg"]).tolist() == [2]
    for row in (-1, 3):
        with pytest.raises(IndexError):
            store[row]
        with pytest.raises(IndexError):
            store.counts(np.array([0, row]))
    make_store(tmp_path / "empty.h5", 0)
    store = RegionStore([str(tmp_path / "empty.h5")])
    assert (len(store), store.rows([]).tolist(), store.ids()) == (0, [], [])
    assert "missing from the store: 'x'" in fault(store.rows, ["x"])
    for wrong in (1, np.int64(1), 1.0, None):
        message = fault(store.rows, ["x", wrong])
        assert type(wrong).__name__ in message and "must be text" in message and repr(str(wrong)) in message


# ---- shards and folders


@pytest.mark.slow
def test_shards(tmp_path):
    first = make_store(tmp_path / "train.0.h5", ["a", "b"], regions=[2, 40], seed=1)
    make_store(tmp_path / "train.1.h5", [], seed=2)
    last = make_store(tmp_path / "train.2.h5", ["c", "d", "e"], regions=[0, 5, 1], seed=3)
    make_store(tmp_path / "valid.h5", ["v"])
    store = RegionStore.open(str(tmp_path), "train")
    assert [os.path.basename(p) for p in store.paths] == ["train.0.h5", "train.1.h5", "train.2.h5"]
    assert (store.ids(), store.num_images, store.num_regions) == (list("abcde"), 5, 48)
    assert store.rows(["e", "a", "d"]).tolist() == [4, 0, 3]
    assert store.counts(np.array([4, 0, 3, 2, 1])).tolist() == [1, 2, 5, 0, 36]
    assert [store.beyond(np.array(rows, int)) for rows in (range(5), [1, 1], [4, 0], [])] == [
        (4, 48), (4, 40), (0, 3), (0, 0)]  # fmt: skip
    assert store.beyond(np.arange(5), 4) == (36 + 1, 48)
    stored = {**first, **last}
    for row, image_id in enumerate("abcde"):
        assert_same(store[row], stored[image_id], limit=36)
        assert store.image_id(row) == image_id
    assert RegionStore.open(str(tmp_path), "valid").ids() == ["v"]
    assert RegionStore.open(str(tmp_path / "valid.h5"), "train").ids() == ["v"]
    (tmp_path / "train.d.h5").mkdir()  # a folder is no store, whatever its name
    (tmp_path / "loop.h5").symlink_to(".")
    assert RegionStore.open(str(tmp_path), None).num_images == 6 and len(RegionStore.open(str(tmp_path), "train")) == 5
    assert "train.d.h5: a folder" in fault(RegionStore, [str(tmp_path / "train.d.h5")])


@pytest.mark.slow
def test_more_shards_than_files_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr(region_store, "MAX_OPEN_FILES", 8)
    stored = {}
    for i in range(20):
        stored.update(make_store(tmp_path / f"train.{i:02}.h5", [f"im{i}"], seed=i))
    store = RegionStore.open(str(tmp_path), "train")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for row in [*range(20), *reversed(range(20))]:
        assert_same(store[row], stored[f"im{row}"])
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) - before <= 16  # two a file


def test_folder_without_the_split_names_what_there_is(tmp_path):
    make_store(tmp_path / "train.0.h5", 1)
    make_store(tmp_path / "valid.h5", 1)
    (tmp_path / ".x.h5").write_text("half of a copy")
    message = fault(RegionStore.open, str(tmp_path), "test")
    assert "neither test.h5 nor test.*.h5" in message and "splits there: train, valid" in message
    assert "nowhere" in fault(RegionStore.open, str(tmp_path / "nowhere"), "test")
    make_store(tmp_path / "train.h5", ["other"])
    message = fault(RegionStore.open, str(tmp_path), "train")
    assert "train.h5" in message and "train.*.h5" in message


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"feature_dim": 4}, "4 and 8"),
        ({"dtype": "float32"}, "float32 and float16"),
        ({"num_classes": 6}, "class_names"),
        ({"images": ["img1.jpg"]}, "'img1.jpg'"),
    ],
)
def test_shards_that_do_not_fit(tmp_path, other, expected):
    make_store(tmp_path / "train.0.h5", 2)
    make_store(tmp_path / "train.1.h5", **{"images": ["x"], **other})
    message = fault(RegionStore.open, str(tmp_path), "train")
    assert expected in message and "train.0.h5" in message and "train.1.h5" in message


def test_an_image_in_several_files_of_a_folder(tmp_path):
    """Without a split: one image, unless it is asked for and its regions differ, or one file holds it twice."""
    stored = make_store(tmp_path / "test.h5", ["a", "b"], regions=[3, 5])
    shutil.copyfile(tmp_path / "test.h5", tmp_path / "test_swapped.h5")
    make_store(tmp_path / "train.h5", ["c", "b", "d"], seed=1)
    store = RegionStore.open(str(tmp_path), None)
    assert store.image_id(int(store.rows(["d", "a", "c"])[0])) == "d"
    assert_same(store[int(store.rows(["a", "a"])[1])], stored["a"])
    message = fault(store.rows, ["a", "b"])
    assert "test.h5 and " in message and "train.h5: image 'b' has other regions in each" in message
    assert "is there twice" in fault(RegionStore, [str(tmp_path / "test.h5"), str(tmp_path / "test_swapped.h5")])
    store.close()
    with h5py.File(tmp_path / "train.h5", "a") as file:
        file["ids"][0] = "d"
    assert "train.h5: image 'd' is there twice" in fault(RegionStore.open, str(tmp_path), None)


# ---- processes


class StoreDataset(Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return len(self.store)

    def __getitem__(self, row):
        return row, os.getpid(), tuple(self.store[row])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "start", "read_before"),
    [(0, None, True), (4, "fork", False), (4, "fork", True), pytest.param(1, "spawn", True, marks=pytest.mark.slow)],
)
def test_workers_read_what_a_direct_read_gives(tmp_path, workers, start, read_before):
    """PITFALLS 20: three epochs, handles opened in the parent or not; also when two shards are open."""
    stored = make_store(tmp_path / "t.0.h5", [f"a{i}" for i in range(15)], regions=[i % 5 for i in range(15)])
    stored |= make_store(tmp_path / "t.1.h5", [f"b{i}" for i in range(15)], regions=9, seed=4)
    store = RegionStore.open(str(tmp_path), "t")
    if read_before:
        store[0], store[29]
    loader = DataLoader(
        StoreDataset(store),
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=start,
        persistent_workers=start == "spawn",  # spawning them anew each epoch is slow
    )
    expected = list(stored.values())
    for _ in range(3):
        items = list(loader)
        assert [row for row, _, _ in items] == list(range(30))
        assert (os.getpid() in {pid for _, pid, _ in items}) == (workers == 0)
        for row, _, arrays in items:
            for found, name in zip(arrays, ("features", "boxes", "labels", "scores"), strict=True):
                np.testing.assert_array_equal(found, expected[row][name])
        if read_before:
            assert_same(store[29], expected[29])  # the parent's handle survives the workers


def test_forked_child_does_not_share_the_parents_file(tmp_path):
    """PITFALLS 20: what the child does to its open files, such as to move in them, is not seen by the parent."""
    path = str(tmp_path / "t.h5")
    make_store(path, 3)
    store = RegionStore([path])
    store[0]

    def opened() -> list[int]:
        numbers = (int(name) for name in os.listdir("/proc/self/fd"))
        return [number for number in numbers if os.path.realpath(f"/proc/self/fd/{number}") == os.path.realpath(path)]

    places = {number: os.lseek(number, 0, os.SEEK_CUR) for number in opened()}
    child = os.fork()
    if not child:
        store[1]
        found = opened()
        for number in found:
            os.lseek(number, 12345, os.SEEK_SET)
        os._exit(0 if found else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert places == {number: os.lseek(number, 0, os.SEEK_CUR) for number in opened()} != {}


def test_pickles_before_and_after_the_first_access(tmp_path):
    """PITFALLS 21."""
    stored = make_store(tmp_path / "s.h5", 5, regions=[1, 2, 3, 4, 5])
    store = RegionStore([str(tmp_path / "s.h5")])
    before = pickle.loads(pickle.dumps(store))
    store[3], store.rows(["img1.jpg"])
    after = pickle.loads(pickle.dumps(store))
    for copy in (before, after):
        assert copy.rows(["img4.jpg", "img0.jpg"]).tolist() == [4, 0]
        assert_same(copy[4], stored["img4.jpg"])
        assert copy.counts(np.arange(5)).tolist() == [1, 2, 3, 4, 5]
    # and a pickle carries no ids
    make_store(tmp_path / "s.h5", [f"a-rather-long-image-name-{i:04}" for i in range(500)], regions=0)
    data = pickle.dumps(RegionStore([str(tmp_path / "s.h5")]))
    assert b"rather-long" not in data and len(data) < 500 * 8 + 2000


def test_working_directory_may_change(tmp_path, monkeypatch):
    stored = make_store(tmp_path / "here" / "s.h5", 2)
    monkeypatch.chdir(tmp_path)
    store = RegionStore.open("here/s.h5", "train")
    monkeypatch.chdir("/")
    assert_same(store[1], stored["img1.jpg"])


def test_readers_neither_take_nor_need_a_lock(tmp_path):
    """PITFALLS 22: another process may lock the file while it is read, and read it while it is locked."""
    stored = make_store(tmp_path / "s.h5", 2)
    reader = RegionStore([str(tmp_path / "s.h5")])
    assert_same(reader[0], stored["img0.jpg"])
    with open(tmp_path / "s.h5", "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError if the reader held one
        reader.close()
        assert_same(RegionStore([str(tmp_path / "s.h5")])[1], stored["img1.jpg"])


def test_two_readers_and_a_writer_that_replaces_the_file(tmp_path):
    """PITFALLS 22: readers keep the old data of a file that is replaced."""
    path = tmp_path / "s.h5"
    old = make_store(path, 2, seed=1)
    readers = [RegionStore([str(path)]) for _ in range(2)]
    readers[0][0], readers[1][0]
    new = make_store(path, 2, seed=2)
    assert_same(readers[0][1], old["img1.jpg"])
    assert_same(RegionStore([str(path)])[1], new["img1.jpg"])
