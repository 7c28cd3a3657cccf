"""`vtlm-regions merge`: shards joined to one store, by reference or by copy."""

import errno
import os
import shutil

import h5py
import numpy as np
import pytest
from extraction import contents

from stores import fault, make_store, write_pair
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.regions.merge import copy_rows, merge_stores, writer_like
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter, validate


@pytest.fixture
def shards(tmp_path):
    """Three shards of 5, 0 and 3 images, some without regions, and what was stored."""
    ids = [[f"a{i}" for i in range(5)], [], ["b", "ü", "c"]]
    counts = [[3, 0, 4, 1, 2], [], [0, 5, 2]]
    stored = {}
    for number, (names, regions) in enumerate(zip(ids, counts, strict=True)):
        path = tmp_path / "parts" / f"s.{number}.h5"
        stored.update(make_store(path, names, regions=regions, seed=number))
    return [str(tmp_path / "parts" / f"s.{n}.h5") for n in range(3)], stored


def check(path, stored):
    store = RegionStore([str(path)])
    assert store.ids() == list(stored)
    for row, image in enumerate(stored.values()):
        for name, values in store[row]._asdict().items():
            np.testing.assert_array_equal(values, image[name])
    assert validate(str(path)) == []


@pytest.mark.parametrize("copy", [False, True])
def test_merge(shards, tmp_path, copy):
    """In the order given, not that of the names; every value arrives."""
    paths, stored = shards
    merge_stores([paths[2], paths[1], paths[0]], str(tmp_path / "m.h5"), copy=copy)
    check(tmp_path / "m.h5", {name: stored[name] for name in [*list(stored)[5:], *list(stored)[:5]]})
    with h5py.File(tmp_path / "m.h5", locking=False) as file:
        assert file["features"].is_virtual != copy
        # HDF5 reads 64 kB of contiguous data to give away a row: a virtual store would be slower than one file
        assert copy or all(file[name].chunks for name in ("boxes", "labels", "scores"))
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_virtual_store_moves_with_its_shards(shards, tmp_path, monkeypatch):
    """Paths are relative to the store, not to the working directory; without the shards it is refused, not zero."""
    paths, stored = shards
    (tmp_path / "set").mkdir()
    shutil.move(tmp_path / "parts", tmp_path / "set" / "parts")
    monkeypatch.chdir(tmp_path / "set" / "parts")
    merge_stores([f"s.{n}.h5" for n in range(3)], "../m.h5")
    monkeypatch.chdir("/")
    os.rename(tmp_path / "set", tmp_path / "moved")
    check(tmp_path / "moved" / "m.h5", stored)
    os.unlink(tmp_path / "moved" / "parts" / "s.2.h5")
    assert "s.2.h5" in fault(RegionStore, [str(tmp_path / "moved" / "m.h5")])


def test_a_merged_store_merges_again(shards, tmp_path):
    paths, stored = shards
    merge_stores(paths[:2], str(tmp_path / "m.h5"))
    merge_stores([str(tmp_path / "m.h5"), paths[2]], str(tmp_path / "n.h5"))
    check(tmp_path / "n.h5", stored)


def test_shards_elsewhere_are_copied_or_refused(shards, tmp_path):
    paths, stored = shards
    (tmp_path / "other").mkdir()
    out = str(tmp_path / "other" / "m.h5")
    assert "s.0.h5 lies outside its folder" in (message := fault(merge_stores, paths, out))
    assert "--copy" in message and os.listdir(tmp_path / "other") == []
    merge_stores(paths, out, copy=True)
    check(out, stored)


def test_shards_that_do_not_fit(shards, tmp_path):
    """An id in two of them; stores of two detectors."""
    paths, _ = shards
    make_store(tmp_path / "parts" / "t.h5", ["x", "a3"])
    message = fault(merge_stores, [*paths, str(tmp_path / "parts" / "t.h5")], str(tmp_path / "m.h5"))
    assert "s.0.h5 and " in message and "t.h5: image 'a3' is there twice" in message
    assert not (tmp_path / "m.h5").exists()
    write_pair(tmp_path / "a.h5")
    for options, reason in (({"detector": "another"}, "'another'"), ({"dtype": "float32"}, "float32")):
        write_pair(tmp_path / "b.h5", **options)
        assert reason in fault(merge_stores, [str(tmp_path / f"{n}.h5") for n in "ab"], str(tmp_path / "m.h5"))


@pytest.mark.slow
def test_a_long_id_does_not_make_all_others_long(tmp_path):
    """10,000 ids of which one has 2 kB, alone and merged: 20 MB where each takes the room of the longest."""
    ids = [f"{k:012}.jpg" for k in range(10_000)]
    ids[777] = "https://example.org/" + "x" * 2000
    sizes = {}
    for name, some in (("s", ids), ("t", [i for i in ids if len(i) < 100])):
        make_store(tmp_path / f"{name}.h5", some, regions=0)
        sizes[name] = os.path.getsize(tmp_path / f"{name}.h5")
    assert sizes["s"] < 4e6 and sizes["t"] < 1.1e6
    make_store(tmp_path / "u.h5", ["u0", "u1"])
    stores = [str(tmp_path / f"{name}.h5") for name in "su"]
    for copy in (False, True):
        merge_stores(stores, str(tmp_path / "m.h5"), copy=copy)
        assert os.path.getsize(tmp_path / "m.h5") < 4e6
        merged = RegionStore([str(tmp_path / "m.h5")])
        assert merged.ids() == [*ids, "u0", "u1"] and merged.image_id(777) == ids[777]
        assert merged.rows(["u1", ids[777], ids[0]]).tolist() == [10_001, 777, 0]
        merged[10_001]
        assert validate(str(tmp_path / "m.h5")) == []
    assert "'none'" in fault(merged.rows, ["none"])
    make_store(tmp_path / "v.h5", [*ids[700:800], ids[777]][:100], regions=0)
    assert "is there twice" in fault(RegionStore, [str(tmp_path / f"{name}.h5") for name in "sv"])


def test_attributes_on_which_all_agree_are_kept(tmp_path):
    for name, size in (("a", 300), ("b", 400)):
        with RegionStoreWriter(
            tmp_path / f"{name}.h5", feature_dim=1, class_names=["x"], detector="d", created_by="me",
            attributes={"size": size, "licence": "CC0"},
        ) as writer:  # fmt: skip
            writer.add(name, features=np.ones((1, 1)), boxes=np.array([[0, 0, 1, 1]]), labels=np.zeros(1, int))
    for copy in (False, True):
        out = tmp_path / f"m{copy}.h5"
        merge_stores([str(tmp_path / "a.h5"), str(tmp_path / "b.h5")], str(out), copy=copy)
        attributes = contents(out)["attributes"]
        assert attributes["licence"] == "CC0" and attributes["created_by"] == "me" and "size" not in attributes


@pytest.mark.slow
def test_command(shards, tmp_path, capsys):
    paths, stored = shards
    out = str(tmp_path / "m.h5")
    assert main(["merge", str(tmp_path / "parts"), "--out", out]) == 0
    assert "m.h5: 8 images, 17 regions from 3 files" in capsys.readouterr().out
    check(out, stored)
    assert main(["info", out]) == 0
    assert "8 x float16, in 2 other files" in capsys.readouterr().out
    for argv, reason in (
        (["merge", *paths, "--out", out], "--overwrite"),
        (["merge", *paths, "--out", paths[0], "--overwrite"], f"--out {paths[0]}"),
        (["merge", *paths, "--out", str(tmp_path / "no" / "m.h5"), "--copy"], "no"),
        (["merge", *paths, "--out", str(tmp_path)], f"--out {tmp_path}: is a folder"),
    ):
        with pytest.raises(SystemExit, match=reason):
            main(argv)
    check(out, stored)


def test_rows_are_copied_as_they_are(tmp_path, monkeypatch):
    """Chosen ones of two files, by the system and, where that cannot, by this process; a file that is cut is named."""
    first = make_store(tmp_path / "a.h5", ["a0", "a1", "a2"], regions=[2, 0, 3], seed=1)
    first |= make_store(tmp_path / "b.h5", ["b0", "b1"], regions=[1, 2], seed=2)
    paths = [str(tmp_path / name) for name in ("a.h5", "b.h5")]

    def copied(name):
        store = RegionStore(paths, max_regions=None)
        with writer_like(store, str(tmp_path / name), {}) as writer:
            copy_rows(store, np.array([0, 1, 2, 4]), writer)
        return RegionStore([str(tmp_path / name)], max_regions=None)

    for name in ("s.h5", "t.h5"):
        made = copied(name)
        assert made.ids() == ["a0", "a1", "a2", "b1"] and validate(str(tmp_path / name)) == []
        for row, image in enumerate(made.ids()):
            for part in ("features", "boxes", "labels", "scores"):
                np.testing.assert_array_equal(getattr(made[row], part), first[image][part])

        def elsewhere(*args):
            raise OSError(errno.EXDEV, "another disk")

        monkeypatch.setattr("os.copy_file_range", elsewhere)
    monkeypatch.setattr("os.copy_file_range", lambda *args: 0)
    message = fault(copied, "u.h5")
    assert "a.h5" in message and "shorter" in message and not (tmp_path / "u.h5").exists()


@pytest.mark.slow
@pytest.mark.parametrize("copy", [(), ("--copy",)])
def test_boxes_in_pixels_are_said_and_not_merged(tmp_path, capsys, copy):
    """Those that end by rounding alone outside are neither."""
    first, second, out = (str(tmp_path / name) for name in ("a.h5", "b.h5", "m.h5"))
    make_store(first, ["a0"], regions=[2])
    make_store(second, ["b0", "b1"], regions=[2, 3])
    with h5py.File(second, "r+") as file:
        file["boxes"][0] = [0, -0.009, 1.004, 1]
    assert main(["merge", first, second, "--out", out, *copy]) == 0
    assert main(["info", second]) == 0 and "beyond the image" not in capsys.readouterr().out
    with h5py.File(second, "r+") as file:
        file["boxes"][3:] = [2, 2, 600, 400]
    assert main(["info", second]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("beyond the image"))
    assert line.split()[3] == "2"
    with pytest.raises(SystemExit, match="b.h5: image 'b1' .* 2 to 600.*validate"):
        main(["merge", first, second, "--out", out, "--overwrite", *copy])
    assert len(RegionStore([out])) == 3
