"""`vtlm-regions convert --layout FILE.yaml`: a user's own mapping, of every container, and what is refused."""

import pickle

import numpy as np
import pytest
import region_layouts as made
from region_layouts import LABELS, RELATIVE, SCORES
from region_sources import convert, fails

from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.regions.store import RegionStore

pytestmark = pytest.mark.usefixtures("read_here")
YXYX = [1, 0, 3, 2]
MAPPING = {
    "features": "x",
    "shape": "regions",
    "boxes": "b",
    "box_units": "relative",
    "box_format": "yxyx",
    "labels": "y",
    "label_offset": 1,
    "scores": "s",
}


def arrays() -> dict[str, np.ndarray]:
    """Of one image, y first and labels from 1."""
    return {"x": made.features(6), "b": RELATIVE[:, YXYX], "y": LABELS + 1, "s": SCORES}


def padded() -> dict[str, np.ndarray]:
    """Of two images, the second of one region; the rest is padding."""
    one = {name: np.concatenate([a, np.full_like(a[:1], 0.5)])[None] for name, a in arrays().items()}
    two = {name: np.concatenate([a[1:], np.zeros_like(a)])[None] for name, a in arrays().items()}
    return {name: np.concatenate([one[name], two[name]]) for name in one} | {"n": np.array([2, 1])}


def write_layout(tmp_path, **changes):
    lines = [f"{key}: {value}\n" for key, value in {**MAPPING, **changes}.items() if value is not None]
    (tmp_path / "own.yaml").write_text("".join(lines))
    return tmp_path / "own.yaml"


def run(tmp_path, path, *argv, **changes):
    layout = write_layout(tmp_path, **changes)
    return convert(tmp_path / "s.h5", "--layout", layout, "--input", path, "--num-classes", 5, *argv)


def check(store, names=("a",)):
    assert store.ids() == list(names)
    np.testing.assert_allclose(store[0].boxes, RELATIVE[[1, 0]], atol=1e-6)
    assert store[0].labels.tolist() == [1, 3] and store[0].features[:, 1].tolist() == [20, 10]
    if len(names) == 2:
        np.testing.assert_allclose(store[1].boxes, RELATIVE[[1]], atol=1e-6)
        assert store[1].labels.tolist() == [1] and store[1].features[:, 1].tolist() == [20]


def test_npz_of_an_image(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in/a.npz", **arrays())
    check(run(tmp_path, tmp_path / "in", container="npz"))


@pytest.mark.slow
@pytest.mark.parametrize("container", ["npz", "h5", "torch", "pickle"])
def test_stacked_with_counts(tmp_path, container):
    path, content = tmp_path / "data", padded()
    names = np.array([b"a", b"b"])
    if container == "npz":
        with open(path, "wb") as file:
            np.savez_compressed(file, **content, names=names)
    elif container == "h5":
        import h5py

        with h5py.File(path, "w") as file:
            for name, array in {**content, "names": names}.items():
                file[name] = array
    elif container == "torch":
        import torch

        torch.save({name: torch.tensor(array) for name, array in content.items()} | {"names": ["a", "b"]}, path)
    else:
        path.write_bytes(pickle.dumps({**content, "names": ["a", "b"]}))
    check(run(tmp_path, path, container=container, arrangement="stacked", counts="n", id="names"), "ab")


def test_stacked_npy(tmp_path):
    for name, array in padded().items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "ids").write_text("a\nb\n")
    files = "{b: b.npy, y: y.npy, s: s.npy, n: n.npy}"
    changes = {"container": "npy", "arrangement": "stacked", "counts": "n", "files": files}
    check(run(tmp_path, tmp_path / "x.npy", "--ids", tmp_path / "ids", **changes), "ab")


@pytest.mark.slow
@pytest.mark.parametrize("container", ["pickle", "torch"])
def test_a_dictionary_by_id(tmp_path, container):
    if container == "pickle":
        (tmp_path / "data").write_bytes(pickle.dumps({"a": arrays()}))
    else:
        import torch

        torch.save({"a": {name: torch.tensor(array) for name, array in arrays().items()}}, tmp_path / "data")
    check(run(tmp_path, tmp_path / "data", container=container))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    columns = {name: [array.tolist()] for name, array in arrays().items()} | {"id": ["a"], "other": [b"jpeg"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "data")
    check(run(tmp_path, tmp_path / "data", container="parquet", id="id"))


def test_soft_labels(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in/a.npz", **arrays(), soft=made.soft("last"))
    changes = {"labels": None, "label_offset": None, "scores": None, "soft_labels": "soft"}
    line = fails("convert", "--layout", write_layout(tmp_path, container="npz", **changes), "--input", tmp_path / "in",
                 "--num-classes", 5, "--out", tmp_path / "s.h5")  # fmt: skip
    assert "background" in line
    check(run(tmp_path, tmp_path / "in", container="npz", background="last", **changes))


def test_regions_of_the_background_are_left_out_on_request(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in/a.npz", **{**arrays(), "y": np.array([4, 0])})
    store = run(tmp_path, tmp_path / "in", "--layout-set", "drop_background=true", container="npz")
    assert store[0].labels.tolist() == [3] and store[0].features[:, 1].tolist() == [10]


def test_pixels_by_a_list_of_sizes(tmp_path):
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in/a.npz", **{**arrays(), "b": made.PIXELS[:, YXYX]})
    (tmp_path / "sizes").write_text(f"a\t{made.WIDTH}\t{made.HEIGHT}\n")
    sizes = ("--image-sizes", tmp_path / "sizes")
    check(run(tmp_path, tmp_path / "in", *sizes, container="npz", box_units="pixels"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["xywh", "cxcywh"])
def test_forms_of_boxes(tmp_path, form):
    (tmp_path / "in").mkdir()
    size = RELATIVE[:, 2:] - RELATIVE[:, :2]
    start = RELATIVE[:, :2] + (size / 2 if form == "cxcywh" else 0)
    np.savez(tmp_path / "in/a.npz", **{**arrays(), "b": np.hstack([start, size])})
    check(run(tmp_path, tmp_path / "in", container="npz", box_format=form))


def test_only_what_is_said_is_read(tmp_path):
    """Names of the user's file, in messages, and what it must say."""
    cases = {
        "feature_dm: 3": "feature_dim",
        "container: xls": "npz, npy",
        "features: [a]": "one value",
        "label_offset: x": "number",
        "a: &a [1]\nb: *a": "anchors",
        "[" * 60_000: "brackets",
        "- 1": "KEY: VALUE",
        "{": "YAML",
        "ask: {counts: 'the number'}": "counts",
        "class_token: first\nshape: tokens": "boxes",
        "scores: s\nwidth: w": "height",
    }
    (tmp_path / "in").mkdir()
    for text, found in cases.items():
        base = write_layout(tmp_path, container="npz").read_text()
        keys = {line.split(":")[0] for line in text.splitlines()}
        kept = [line for line in base.splitlines() if line.split(":")[0] not in keys and text[0] not in "{-"]
        (tmp_path / "own.yaml").write_text("\n".join([*kept, text]) + "\n")
        line = fails("convert", "--layout", tmp_path / "own.yaml", "--input", tmp_path / "in", "--out", tmp_path / "s")
        assert found in line, (text, line)
    for gone in ("shape", "box_units", "box_format", "label_offset", "features", "container"):
        layout = write_layout(tmp_path, **{"container": "npz", gone: None})
        line = fails("convert", "--layout", layout, "--input", tmp_path / "in", "--out", tmp_path / "s")
        assert gone in line, line
    assert "lxmert" in fails("convert", "--layout", "lxmrt", "--input", tmp_path, "--out", tmp_path / "s")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_cannot_be_read_are_left_out(tmp_path, workers, capsys):
    """Of an LMDB, by several processes: a damaged value, and boxes that cannot be."""
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed")
    names = [f"i{k}" for k in range(9)]
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
        for k, name in enumerate(names):
            record = {**arrays(), "x": made.features(6) + k} | ({"b": made.PIXELS} if k == 5 else {})
            transaction.put(name.encode(), b"\x80nonsense" if k == 2 else pickle.dumps(record))
    layout = write_layout(tmp_path, container="lmdb", value="pickle")
    argv = ["convert", "--layout", layout, "--input", tmp_path / "db", "--num-classes", 5, "--out", tmp_path / "s.h5"]
    assert "i2" in fails(*argv)
    argv += ["--skip-bad", "--workers", workers, "--part-size", 2]
    assert main([str(a) for a in argv]) == 3
    store = RegionStore([str(tmp_path / "s.h5")])
    assert store.ids() == [name for name in names if name not in ("i2", "i5")]
    assert [store[row].features[1, 0] for row in range(7)] == [1 + k for k in range(9) if k not in (2, 5)]
    listed = (tmp_path / "s.h5.errors.tsv").read_text().splitlines()
    assert len(listed) == 2 and "i2" in listed[0] and "outside" in listed[1]


@pytest.mark.slow
@pytest.mark.parametrize("container", ["npz", "pickle"])
def test_folders_in_a_folder_are_named(tmp_path, caplog, container):
    """Their files are left out, which is said; where there are no others, they are what is meant."""
    path = tmp_path / "in" / "train" / f"a.{'npz' if container == 'npz' else 'pkl'}"
    path.parent.mkdir(parents=True)
    if container == "npz":
        np.savez(path, **arrays())
    else:
        path.write_bytes(pickle.dumps(arrays()))
    layout = ("--layout", write_layout(tmp_path, container=container), "--num-classes", 5)
    error = fails("convert", *layout, "--input", tmp_path / "in", "--out", tmp_path / "s.h5")
    assert path.suffix in error and "train" in error
    (tmp_path / "in" / f"b{path.suffix}").write_bytes(path.read_bytes())
    check(run(tmp_path, tmp_path / "in", container=container), ["b"])
    assert "train" in caplog.text


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (("--npz", ".", "--counts", "c.npy"), "--counts goes with --npy"),
        (("--npz", ".", "--layout-set", "a=b"), "--layout-set goes with --layout"),
        (("--layout", "vl-t5", "--box-units", "pixels"), "--layout-set box_format"),
        (("--layout", "vl-t5"), "--input"),
        (("--layout", "vl-t5", "--input", ".", "--layout-set", "labels"), "not KEY=VALUE"),
        (("--layout", "vl-t5", "--input", ".", "--layout-set", "description=x"), "description"),
        (("--layout", "vl-t5", "--input", ".", "--layout-set", "about=x"), "about is not to be set"),
        (("--layout", "lxmert", "--input", ".", "--layout-set", "types.x=float8"), "'x'"),
        (("--layout", "lxmert", "--input", ".", "--layout-set", "columns=a, b"), "columns"),
    ],
)
def test_options_that_do_not_belong_together(tmp_path, argv, part):
    assert part in fails("convert", *argv, "--num-classes", 5, "--out", tmp_path / "s.h5")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"shape": "[regions]"}, "NAME: VALUE|shape"),
        ({"container": "tsv", "columns": "x"}, "a list of names"),
        ({"container": "tsv", "columns": "[i, x, b, y, s]", "types": "[x]"}, "NAME: VALUE lines"),
        ({"container": "tsv", "columns": "[i, x, b, s]"}, "columns lack 'y'"),
        ({"container": "npz", "label_offset": "99999999999"}, "out of range"),
        ({"container": "npz", "drop_background": "perhaps"}, "true or false"),
    ],
)
def test_layouts_that_are_none(tmp_path, changes, part):
    layout = write_layout(tmp_path, **{"container": "npz", **changes})
    line = fails("convert", "--layout", layout, "--input", tmp_path, "--num-classes", 5, "--out", tmp_path / "s.h5")
    assert any(one in line for one in part.split("|")), line


def test_a_layout_that_is_too_large(tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"#" * (1 << 21))
    line = fails("convert", "--layout", tmp_path / "own.yaml", "--input", tmp_path, "--num-classes", 5, "--out", "s.h5")
    assert "own.yaml: more than" in line
