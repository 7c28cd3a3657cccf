"""Class scores of regions in a store: written by convert, kept by merge and parts, shown, checked, read by training."""

import h5py
import numpy as np
import pytest
import region_layouts as made
from region_sources import convert, fails

from stores import fault, make_store, write_pair
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.regions.run import summarise
from vtlm_fairseq.regions.schema import open_file
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter, validate

SCORES = np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])  # stored the other way round: the second region is the surer one


def dense(store: RegionStore, rows=None) -> list:
    rows = np.arange(len(store)) if rows is None else np.array(rows)
    return np.round(store.read_soft(rows).dense(store.num_classes).astype(float), 3).tolist()


def some(path, images, *, num_soft, classes=5, seed=0, regions=3) -> dict[str, np.ndarray]:
    """A store of random class scores; by id, what was given, best region first."""
    rng, given = np.random.default_rng(seed), {}
    with RegionStoreWriter(path, feature_dim=4, class_names=[f"c{k}" for k in range(classes)], detector="d",
                           num_soft=num_soft) as writer:  # fmt: skip
        for image in images:
            scores = rng.dirichlet(np.ones(classes), regions)
            writer.add(image, features=rng.normal(size=(regions, 4)), boxes=np.tile([0, 0, 1, 1], (regions, 1)),
                       labels=scores.argmax(axis=1), soft_labels=scores)  # fmt: skip
            given[image] = scores
    return given


def kept(scores: np.ndarray, best: int) -> np.ndarray:
    return np.where(scores >= np.sort(scores, axis=1)[:, -best:][:, :1], scores, 0)


@pytest.mark.parametrize("num_soft", [3, 2, 1])
def test_what_is_kept_by_hand(tmp_path, num_soft):
    """All classes, or the best ones and their numbers; regions are in order of their own scores."""
    path = str(tmp_path / "s.h5")
    write_pair(path)
    assert RegionStore([path]).num_soft == 0
    assert open_file(path).attrs["schema_version"] == 1
    with RegionStoreWriter(path, feature_dim=1, class_names=["cat", "dog", "tree"], detector="hand",
                           num_soft=num_soft) as writer:  # fmt: skip
        writer.add("a", features=np.ones((2, 1)), boxes=np.tile([0, 0, 1, 1], (2, 1)), labels=[2, 0],
                   scores=np.array([0.5, 0.75]), soft_labels=SCORES)  # fmt: skip
        writer.add("none", features=np.ones((0, 1)), boxes=np.ones((0, 4)), labels=np.ones(0, int),
                   soft_labels=np.ones((0, 3)))  # fmt: skip
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == 2 and file["soft_labels"].shape == (2, num_soft)
        assert ("soft_classes" in file) == (num_soft < 3)
        assert {file[name].dtype.name for name in ("soft_labels", "soft_classes") if name in file} <= {
            "float16",
            "int16",
        }
    store = RegionStore([path])
    assert store.num_soft == num_soft and validate(path) == []
    assert dense(store) == kept(SCORES[::-1], num_soft).tolist() and dense(store, [1]) == []
    assert dense(RegionStore([path], 1)) == kept(SCORES[::-1], num_soft)[:1].tolist()
    assert summarise(path)["class scores"].split()[2] == str(num_soft)


@pytest.mark.slow
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("num_soft", [5, 2])
def test_merged(tmp_path, copy, num_soft):
    given = some(tmp_path / "a.h5", ["x", "y"], num_soft=num_soft)
    given |= some(tmp_path / "b.h5", ["z"], num_soft=num_soft, seed=1)
    argv = ["merge", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--out", str(tmp_path / "m.h5")]
    assert main([*argv, *(["--copy"] if copy else [])]) == 0
    path = str(tmp_path / "m.h5")
    store, shards = RegionStore([path]), RegionStore([str(tmp_path / name) for name in ("a.h5", "b.h5")])
    expected = np.concatenate([kept(scores, num_soft) for scores in given.values()])
    assert dense(store) == dense(shards) and np.allclose(dense(store), expected, atol=1e-3)
    assert validate(path) == [] and open_file(path)["soft_labels"].is_virtual != copy
    some(tmp_path / "c.h5", ["w"], num_soft=num_soft - 1)
    make_store(tmp_path / "d.h5", ["v"], feature_dim=4)
    for other in ("c.h5", "d.h5"):
        assert other in fault(RegionStore, [path, str(tmp_path / other)])


def npz(folder, images: dict[str, np.ndarray], **changes):
    folder.mkdir()
    for image, scores in images.items():
        count = len(scores)
        np.savez(folder / f"{image}.npz", **{
            "features": np.arange(1, 1 + 2 * count).reshape(count, 2), "boxes": np.tile([0, 0, 0.5, 1], (count, 1)),
            "labels": scores.argmax(axis=1), "scores": np.linspace(0.9, 0.1, count), "soft_labels": scores, **changes,
        })  # fmt: skip
    return folder


@pytest.mark.slow
def test_converted_in_parts_by_workers(tmp_path):
    """The same from parts, from shards, and where a part was made before; without the option as ever."""
    rng = np.random.default_rng(0)
    given = {f"i{k}": rng.dirichlet(np.ones(6), 4) for k in range(7)}
    folder = npz(tmp_path / "in", given)
    argv = ("--npz", folder, "--num-classes", "6")
    store = convert(tmp_path / "s.h5", *argv, "--soft-labels", "2", "--part-size", "2", "--workers", "2")
    expected = np.concatenate([kept(given[image], 2) for image in store.ids()])
    assert np.allclose(dense(store), expected, atol=1e-3) and validate(store.paths[0]) == []
    whole = convert(tmp_path / "all.h5", *argv, "--soft-labels", "all")
    assert whole.num_soft == 6 and np.allclose(dense(whole), np.concatenate(list(given.values())), atol=1e-3)
    assert convert(tmp_path / "plain.h5", *argv).num_soft == 0
    again = ("--store", tmp_path / "all.h5", "--num-classes", "6", "--dtype", "float32")
    assert dense(convert(tmp_path / "again.h5", *again)) == dense(whole)
    assert convert(tmp_path / "fewer.h5", *again, "--soft-labels", "2").num_soft == 2


@pytest.mark.parametrize(
    ("change", "part"),
    [({"soft_labels": np.full((4, 5), 0.2)}, "[4, 6]"), ({"soft_labels": np.full((3, 6), 0.1)}, "[4, 6]"),
     ({"soft_labels": np.full((3, 6), 0.1), "features": np.zeros((4, 2))}, ""),
     ({"soft_labels": np.full((4, 6), 0.3)}, "more than 1"), ({"soft_labels": np.full((4, 6), -1.0)}, "0..1"),
     ({"soft_labels": np.full((4, 6), np.nan)}, "0..1")],
)  # fmt: skip
def test_scores_that_cannot_be_right(tmp_path, change, part):
    folder = npz(tmp_path / "in", {"a": np.full((4, 6), 1 / 6)}, **change)
    argv = ("convert", "--npz", folder, "--num-classes", "6", "--out", tmp_path / "s.h5")
    for more in ((), ("--drop-empty",)):
        assert part in fails(*argv, "--soft-labels", "6", *more)


def test_sources_without(tmp_path, capsys):
    np.save(tmp_path / "f.npy", np.ones((1, 2, 3)))
    (tmp_path / "ids").write_text("a\n")
    argv = ("convert", "--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--out", tmp_path / "s.h5")
    assert "--soft-labels" in fails(*argv, "--soft-labels", "all")
    with pytest.raises(SystemExit):
        main([str(part) for part in (*argv, "--soft-labels", "every")])
    assert "--soft-labels: every: " in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mmf", "uniter"])
def test_of_other_projects(tmp_path, kind):
    """Without the column of the background."""
    for library in ("lmdb", "msgpack") if kind == "uniter" else ():
        pytest.importorskip(library, reason=f"{library} is not installed")
    (tmp_path / "in").mkdir()
    (tmp_path / "names").write_text("".join(f"{name}\n" for name in made.NAMES))
    make, more = {"mmf": (made.mmf, ("--layout-set", "label_offset=0")), "uniter": (made.uniter, ())}[kind]
    argv = ("--layout", kind, "--input", make(tmp_path / "in"), "--class-names", tmp_path / "names", *more)
    store = convert(tmp_path / "s.h5", *argv, "--soft-labels", "all")
    expected = made.soft() if kind == "uniter" else made.mmf_info(pad=0)["cls_prob"]
    assert np.allclose(dense(store), expected[::-1], atol=1e-3) and store[0].labels.tolist() == [1, 3]


def spoiled(path, **values):
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            if np.isscalar(value):
                file[name][1, 0] = value
            else:
                del file[name]
                file[name] = value


@pytest.mark.parametrize(
    ("changes", "part"),
    [({"soft_labels": np.nan}, "not within 0..1"), ({"soft_labels": 1.5}, "not within 0..1"),
     ({"soft_classes": 9}, "0..4"), ({"soft_classes": -1}, "0..4")],
)  # fmt: skip
def test_values_that_are_damaged(tmp_path, changes, part):
    """`vtlm-regions validate` names the image; so does training, in place of a wrong index on the device."""
    path = str(tmp_path / "s.h5")
    some(path, ["x", "y"], num_soft=2)
    spoiled(path, **changes)
    found = validate(path)[0]
    assert part in found and "'x', region 1" in found
    store = RegionStore([path])
    lines = LineRegions(store, np.array([1, 0]), order="given", seed=1, split="train")
    assert len(lines.read_soft([0]).probabilities) == 3
    assert "'x'" in fault(lines.read_soft, [0, 1]) and part in fault(lines.read_soft, [0, 1])


@pytest.mark.parametrize(
    ("changes", "part"),
    [({"soft_labels": np.zeros((6, 3), np.float16)}, "soft_classes"),
     ({"soft_labels": np.zeros((5, 2), np.float16)}, "[6"),
     ({"soft_labels": np.zeros((6, 2), np.float32)}, "float32"), ({"soft_classes": np.zeros(6, np.int16)}, "axes"),
     ({"soft_labels": np.zeros((6, 9), np.float16), "soft_classes": np.zeros((6, 9), np.int16)}, "9")],
)  # fmt: skip
def test_stores_that_are_not_as_the_schema_says(tmp_path, changes, part):
    path = str(tmp_path / "s.h5")
    some(path, ["x", "y"], num_soft=2)
    spoiled(path, **changes)
    assert part in fault(RegionStore, [path])
    assert any(part in line for line in validate(path))


def test_a_newer_schema_is_refused(tmp_path):
    path = str(tmp_path / "s.h5")
    some(path, ["x"], num_soft=2)
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 3
    assert "schema_version 3" in fault(RegionStore, [path])
