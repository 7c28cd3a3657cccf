"""`vtlm-regions convert --pseudo-labels`: classes of a grid's cells, the same for all splits."""

import numpy as np
import pytest
from region_sources import convert, fails

pytest.importorskip("sklearn", reason="scikit-learn is not installed")


def grids(tmp_path, name, images, seed):
    """[images, D, 2, 2]: each cell near one of three points; which one, [images, 4]."""
    generator = np.random.default_rng(seed)
    points = 10 * np.eye(3, 8)
    kinds = generator.integers(0, 3, (images, 4))
    cells = points[kinds] + 0.1 * generator.normal(size=(images, 4, 8))
    np.save(tmp_path / f"{name}.npy", cells.astype(np.float32).transpose(0, 2, 1).reshape(images, 8, 2, 2))
    (tmp_path / f"{name}.ids").write_text("".join(f"{name}{k}\n" for k in range(images)))
    (tmp_path / "grid.yaml").write_text("container: npy\narrangement: stacked\nfeatures: f\nshape: chw\n")
    argv = ("--layout", tmp_path / "grid.yaml", "--input", tmp_path / f"{name}.npy", "--ids", tmp_path / f"{name}.ids")
    return argv, kinds


@pytest.mark.slow
def test_clusters_of_one_split_serve_the_others(tmp_path):
    argv, kinds = grids(tmp_path, "train", 12, seed=1)
    train = convert(tmp_path / "train.h5", *argv, "--pseudo-labels", 3)
    labels = np.stack([train[row].labels for row in range(12)])
    of = {int(kind): set(labels[kinds == kind].tolist()) for kind in range(3)}
    assert sorted(len(found) for found in of.values()) == [1, 1, 1] and len(set.union(*of.values())) == 3
    assert train[0].boxes[1].tolist() == [0.5, 0, 1, 0.5]
    again = convert(tmp_path / "again.h5", *argv, "--pseudo-labels", 3, "--workers", 2, "--part-size", 5)
    assert again.class_names == train.class_names
    assert [again[row].labels.tolist() for row in range(12)] == labels.tolist()

    argv, kinds = grids(tmp_path, "valid", 5, seed=2)
    valid = convert(tmp_path / "valid.h5", *argv, "--pseudo-labels", tmp_path / "train.h5.clusters.npz")
    assert valid.identity == train.identity
    assert [valid[row].labels.tolist() for row in range(5)] == [[next(iter(of[k])) for k in row] for row in kinds]
    other = convert(tmp_path / "other.h5", *argv, "--pseudo-labels", 3)
    assert other.identity != train.identity  # other centres are other classes


@pytest.mark.slow
def test_what_cannot_be_clustered(tmp_path):
    argv, _ = grids(tmp_path, "train", 2, seed=1)
    out = ("--out", tmp_path / "s.h5")
    assert "9" in fails("convert", *argv, *out, "--pseudo-labels", 9)
    assert "--pseudo-labels 1" in fails("convert", *argv, *out, "--pseudo-labels", 1)
    assert "--num-classes" in fails("convert", *argv, *out, "--pseudo-labels", 2, "--num-classes", 2)
    np.savez(tmp_path / "c.npz", centres=np.ones((3, 7)))
    assert "7" in fails("convert", *argv, *out, "--pseudo-labels", tmp_path / "c.npz")
    np.savez(tmp_path / "c.npz", centres=np.ones((3, 8), int))
    assert "no centres" in fails("convert", *argv, *out, "--pseudo-labels", tmp_path / "c.npz")
    assert "no-such" in fails("convert", *argv, *out, "--pseudo-labels", "no-such")
    np.save(tmp_path / "l.npy", np.zeros((2, 1), int))
    np.save(tmp_path / "f.npy", np.ones((2, 1, 3)))
    labelled = ("--npy", tmp_path / "f.npy", "--ids", tmp_path / "train.ids", "--labels", tmp_path / "l.npy")
    assert "labels" in fails("convert", *labelled, *out, "--pseudo-labels", 2)


@pytest.mark.slow
def test_a_store_gets_classes(tmp_path):
    """Of a grid that an extraction made, say: ids, boxes, scores and features are those of the store."""
    argv, kinds = grids(tmp_path, "train", 12, seed=1)
    plain = convert(tmp_path / "plain.h5", *argv, "--detector", "patches m 2x2", "--dtype", "float32")
    store = convert(tmp_path / "s.h5", "--store", tmp_path / "plain.h5", "--pseudo-labels", 3, "--dtype", "float32",
                    "--workers", 2, "--part-size", 5)  # fmt: skip
    assert store.ids() == plain.ids() and store.detector == "patches m 2x2" and store.num_classes == 3
    labels = np.stack([store[row].labels for row in range(12)])
    assert len({(kind, label) for kind, label in zip(kinds.flat, labels.flat, strict=True)}) == 3
    for row in range(12):
        for before, after in zip(plain[row]._replace(labels=0), store[row]._replace(labels=0), strict=True):
            np.testing.assert_array_equal(before, after)
    assert "labels" in fails("convert", "--store", tmp_path / "s.h5", "--out", tmp_path / "no.h5", "--pseudo-labels", 2)
    assert "--store none.h5" in fails("convert", "--store", "none.h5", "--out", tmp_path / "no.h5")
    renamed = convert(tmp_path / "r.h5", "--store", tmp_path / "s.h5", "--id-rule", "zeros", "--detector", "mine")
    assert renamed.detector == "mine" and renamed.class_names == store.class_names
    assert [renamed[row].labels.tolist() for row in range(12)] == labels.tolist()
