"""`vtlm-regions convert --layout`: every layout of another project, on a small file written as it writes them."""

import json

import numpy as np
import pytest
import region_layouts as made
from region_layouts import LABELS, NAMES, RELATIVE, SCORES
from region_sources import coco, convert, fails

from harness import ROOT

NEEDS = {"uniter": ("lmdb", "msgpack"), "mmf-lmdb": ("lmdb",)}


@pytest.fixture
def names(tmp_path):
    (tmp_path / "names").write_text("".join(f"{name}\n" for name in NAMES))
    return tmp_path / "names"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def needs(layout):
    for library in NEEDS.get(layout, ()):
        pytest.importorskip(library, reason=f"{library} is not installed")


DETECTIONS = {
    "lxmert": ("lxmert", made.lxmert, {}, []),
    "lxmert as bytes": ("lxmert", made.lxmert, {"as_bytes": True}, []),
    "milvlg": ("milvlg", made.milvlg, {}, ["label_offset=0"]),
    "milvlg with background": ("milvlg", made.milvlg, {"labels": LABELS + 1}, ["label_offset=1"]),
    "uniter": ("uniter", made.uniter, {}, []),
    "uniter compressed": ("uniter", made.uniter, {"compressed": True}, []),
    "vinvl": ("vinvl", made.vinvl, {}, []),
    "vinvl of two columns": ("vinvl", made.vinvl, {"columns": 2}, []),
    "vl-t5": ("vl-t5", made.vl_t5, {}, []),
    "mmf": ("mmf", made.mmf, {}, ["label_offset=0"]),
    "mmf with background": ("mmf", made.mmf, {"background": True}, ["label_offset=1"]),
    "mmf lmdb": ("mmf-lmdb", made.mmf_lmdb, {}, ["label_offset=0"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DETECTIONS)
def test_detections(tmp_path, folder, names, case):
    layout, make, changes, settings = DETECTIONS[case]
    needs(layout)
    path = make(folder, **changes)
    argv = [part for setting in settings for part in ("--layout-set", setting)]
    store = convert(tmp_path / "s.h5", "--layout", layout, "--input", path, "--class-names", names, *argv)
    assert store.ids() == ["a"] and store.class_names == NAMES
    regions = store[0]
    best = [1, 0]  # by score
    np.testing.assert_allclose(regions.boxes, RELATIVE[best], atol=2e-3)
    assert regions.labels.tolist() == LABELS[best].tolist()
    np.testing.assert_allclose(regions.scores, SCORES[best], atol=1e-3)
    assert regions.features[:, :2].tolist() == [[2, 20], [1, 10]]


@pytest.mark.slow
def test_bottom_up(tmp_path, folder):
    store = convert(tmp_path / "s.h5", "--layout", "bottom-up", "--input", made.bottom_up(folder))
    np.testing.assert_allclose(store[0].boxes, RELATIVE, atol=1e-6)
    assert store.class_names == ["region"] and store[0].features[:, 0].tolist() == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("argv", [("--bottom-up-tsv",), ("--layout", "bottom-up", "--input")])
def test_odd_lines_of_bottom_up(tmp_path, folder, argv):
    """Ids as Python prints bytes, numbers with a point, images without a region, also the first: both options alike."""
    _, *sizes, _, boxes, features = made.bottom_up(folder).read_text().rstrip("\n").split("\t")
    lines = [
        ("b'1'", *sizes, "0", "", ""),
        ("2", *sizes, "2.0", boxes, features),
        ('b"3"', *sizes, "0.0", "b''", "b''"),
    ]
    (folder / "x.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    store = convert(tmp_path / "s.h5", *argv, folder / "x.tsv")
    assert store.ids() == ["1", "2", "3"] and [len(store[row].labels) for row in range(3)] == [0, 2, 0]
    np.testing.assert_allclose(store[1].boxes, RELATIVE, atol=1e-6)


@pytest.mark.slow
def test_the_older_option_reads_bytes_of_python_too(tmp_path, folder):
    path = made.lxmert(folder, as_bytes=True)
    store = convert(tmp_path / "s.h5", "--bottom-up-tsv", path, "--num-classes", 5)
    assert store[0].labels.tolist() == [1, 3] and store[0].features[:, 0].tolist() == [2, 1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_vgamt_mdetr(tmp_path, folder, count):
    path = made.vgamt_mdetr(folder, count=count)
    store = convert(tmp_path / "s.h5", "--layout", "vgamt-mdetr", "--input", path)
    np.testing.assert_allclose(store[0].boxes, RELATIVE[:count], atol=1e-6)
    assert store.ids() == ["a.jpg"] and store[0].features[:, 1].tolist() == [10, 20][:count]


def ids(tmp_path, *names):
    (tmp_path / "ids").write_text("".join(f"{name}\n" for name in names))
    return tmp_path / "ids"


def check_grid(store, first, second):
    """A grid of 2 x 2 cells: some values of the second image, and the boxes of its cells in reading order."""
    assert store.ids() == ["a", "b"] and store.class_names == ["cell"]
    assert store[0].features[:, 0].tolist() == first and store[1].features[:, 1].tolist() == second
    assert store[1].boxes.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]


@pytest.mark.slow
def test_fairseq_mmt(tmp_path, folder):
    import torch

    tokens = torch.zeros(2, 5, 8)
    tokens[:, 0] = 99  # the class token
    tokens[0, 1:, 0], tokens[1, 1:, 1] = torch.tensor([1.0, 2, 3, 4]), torch.tensor([5.0, 6, 7, 8])
    torch.save(tokens, folder / "train.pth")
    argv = ("--layout", "fairseq-mmt", "--input", folder / "train.pth")
    store = convert(tmp_path / "s.h5", *argv, "--ids", ids(tmp_path, "a", "b"))
    check_grid(store, [1, 2, 3, 4], [5, 6, 7, 8])
    line = fails(
        "convert", *argv, "--ids", tmp_path / "ids", "--layout-set", "class_token=none", "--out", tmp_path / "x.h5"
    )
    assert "class_token" in line
    assert "--ids" in fails("convert", *argv, "--out", tmp_path / "x.h5")
    assert "2 images" in fails("convert", *argv, "--ids", ids(tmp_path, "a"), "--out", tmp_path / "x.h5")


@pytest.mark.slow
def test_multi30k_grids(tmp_path, folder):
    grids = np.zeros((2, 1024, 2, 2), np.float16)
    grids[0, 0], grids[1, 1] = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    np.save(folder / "g.npy", grids)
    argv = ("--layout", "multi30k-res4", "--input", folder / "g.npy", "--ids", ids(tmp_path, "a", "b"))
    check_grid(convert(tmp_path / "s.h5", *argv), [1, 2, 3, 4], [5, 6, 7, 8])
    line = fails("convert", *argv, "--layout-set", "shape=hwc", "--out", tmp_path / "x.h5")
    assert "2 wide" in line and "1024" in line
    line = fails(
        "convert", *argv, "--layout-set", "shape=hwc", "--layout-set", "feature_dim=", "--out", tmp_path / "x.h5"
    )
    assert "chw" in line


@pytest.mark.slow
def test_multi30k_pooled(tmp_path, folder):
    np.save(folder / "g.npy", made.features(2048))
    argv = ("--layout", "multi30k-avgpool", "--input", folder / "g.npy", "--ids", ids(tmp_path, "a", "b"))
    store = convert(tmp_path / "s.h5", *argv)
    assert [store[row].features[:, 1].tolist() for row in range(2)] == [[10], [20]]
    assert store[0].boxes.tolist() == [[0, 0, 1, 1]]


@pytest.mark.slow
def test_vgamt_clip(tmp_path, folder):
    for number, name in enumerate(("a.jpg", "b.jpg")):
        np.save(folder / f"{name}.npy", made.features(512)[number])
    argv = ("--layout", "vgamt-clip", "--input", folder)
    assert "512 wide" in fails("convert", *argv, "--layout-set", "feature_dim=768", "--out", tmp_path / "x.h5")
    store = convert(tmp_path / "s.h5", *argv)
    assert store.ids() == ["a.jpg", "b.jpg"] and store[1].features[0, :2].tolist() == [2, 20]


@pytest.mark.slow
def test_cliptrans(tmp_path, folder):
    import torch

    torch.save(torch.tensor(made.features(512)), folder / "train.pth")
    argv = ("--layout", "cliptrans", "--input", folder / "train.pth", "--ids", ids(tmp_path, "a", "b"))
    store = convert(tmp_path / "s.h5", *argv)
    assert store[1].features[0, :2].tolist() == [2, 20] and store[0].boxes.tolist() == [[0, 0, 1, 1]]


def test_detectron2(tmp_path):
    """Its coco_instances_results.json is a list of results; the data set's file has images and categories."""
    images = [{"id": 7, "width": made.WIDTH, "height": made.HEIGHT, "file_name": "a.jpg"}]
    categories = [{"id": 10 * (k + 1), "name": name} for k, name in enumerate(NAMES)]
    results = [
        {"image_id": 7, "category_id": int(10 * (LABELS[k] + 1)), "score": float(SCORES[k]),
         "bbox": [*map(float, box[:2]), *map(float, box[2:] - box[:2])]}
        for k, box in enumerate(made.PIXELS)
    ]  # fmt: skip
    (tmp_path / "data.json").write_text(json.dumps({"images": images, "categories": categories}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "f").mkdir()
    np.save(tmp_path / "f/a.npy", made.features(8))
    argv = ("--coco-json", tmp_path / "results.json", "--features", tmp_path / "f")
    store = convert(tmp_path / "s.h5", *argv, "--coco-dataset", tmp_path / "data.json")
    np.testing.assert_allclose(store[0].boxes, RELATIVE[[1, 0]], atol=1e-6)
    assert store[0].labels.tolist() == [1, 3] and store[0].features[:, 1].tolist() == [20, 10]


def test_ofa_holds_no_features(tmp_path, folder):
    line = fails("convert", "--layout", "ofa", "--input", folder, "--out", tmp_path / "x.h5")
    assert "vtlm-extract" in line


YXYX = [1, 0, 3, 2]
SWAPPED = made.PIXELS[:, YXYX]
SMALL = np.array([[0.8, 0.8, 0.9, 0.9], [0, 0, 1, 0.5]], np.float32)
WRONG = {
    "lxmert: width and height turned": ("lxmert", made.lxmert, {"size": (100, 200)}, [], "outside"),
    "lxmert: y first": ("lxmert", made.lxmert, {"boxes": SWAPPED}, [], "outside"),
    "lxmert: relative boxes": ("lxmert", made.lxmert, {"boxes": RELATIVE}, [], "relative"),
    "lxmert: x, y, width, height": ("lxmert", made.lxmert, {"boxes": made.PIXELS - [[0, 0, 70, 0], [0, 0, 0, 0]]}, [],
                                    "x1 <= x2"),
    "lxmert: labels from 1": ("lxmert", made.lxmert, {"labels": LABELS + 2}, [], "0..4"),
    "lxmert: other features": ("lxmert", made.lxmert, {"dim": 1024}, [], "1024 wide"),
    "lxmert: too few counted": ("lxmert", made.lxmert, {"count": 1}, [], "4096 wide"),
    "lxmert: none counted": ("lxmert", made.lxmert, {"count": 0}, [], "2 rows behind"),
    "lxmert: below the first class": ("lxmert", made.lxmert, {"labels": LABELS - 2}, [], "first class"),
    "bottom-up: y first": ("bottom-up", made.bottom_up, {"boxes": SWAPPED}, [], "outside"),
    "bottom-up: relative boxes": ("bottom-up", made.bottom_up, {"boxes": RELATIVE}, [], "relative"),
    "bottom-up: other features": ("bottom-up", made.bottom_up, {"dim": 1024}, [], "1024 wide"),
    "bottom-up: too many counted": ("bottom-up", made.bottom_up, {"count": 3}, [], "3 regions"),
    "bottom-up: width and height turned": ("bottom-up", made.bottom_up, {"size": (100, 200)}, [], "outside"),
    "milvlg: offset not said": ("milvlg", made.milvlg, {}, [], "label_offset"),
    "milvlg: no background in it": ("milvlg", made.milvlg, {"labels": LABELS - 1}, ["label_offset=1"], "background"),
    "milvlg: background in it": ("milvlg", made.milvlg, {"labels": LABELS + 2}, ["label_offset=0"], "0..4"),
    "milvlg: fewer boxes than counted": ("milvlg", made.milvlg, {"count": 3}, ["label_offset=0"], "num_bbox"),
    "milvlg: more than counted": ("milvlg", made.milvlg, {"count": 1}, ["label_offset=0"], "1 rows behind"),
    "milvlg: y first": ("milvlg", made.milvlg, {"boxes": SWAPPED}, ["label_offset=0"], "outside"),
    "milvlg: relative boxes": ("milvlg", made.milvlg, {"boxes": RELATIVE}, ["label_offset=0"], "relative"),
    "milvlg: other features": ("milvlg", made.milvlg, {"dim": 1024}, ["label_offset=0"], "1024 wide"),
    "uniter: other features": ("uniter", made.uniter, {"dim": 1024}, [], "1024 wide"),
    "uniter: fewer features": ("uniter", made.uniter, {"rows": 1}, [], "[1, classes]"),
    "uniter: y first": ("uniter", made.uniter, {"order": YXYX}, [], "width, height"),
    "uniter: pixels": ("uniter", made.uniter, {"boxes": made.PIXELS}, [], "outside"),
    "uniter: no background column": ("uniter", made.uniter, {"soft_labels": made.soft("none")}, [], "4 classes"),
    "uniter: background not dropped": ("uniter", made.uniter, {}, ["background=none"], "6 classes"),
    "vinvl: another order of the lines": ("vinvl", made.vinvl, {"key": "b"}, [], "'b'"),
    "vinvl: lineidx of another file": ("vinvl", made.vinvl, {"index": 5}, [], "lineidx"),
    "vinvl: no size": ("vinvl", made.vinvl, {"sized": False}, [], "--image-sizes"),
    "vinvl: y first": ("vinvl", made.vinvl, {"rect": SWAPPED}, [], "outside"),
    "vinvl: relative boxes": ("vinvl", made.vinvl, {"rect": RELATIVE}, [], "relative"),
    "vinvl: too few counted": ("vinvl", made.vinvl, {"count": 1}, [], "2 boxes for 1 features"),
    "vinvl: another list of classes": ("vinvl", made.vinvl, {"names": ["x"] * 5}, [], "class 'x'"),
    "vl-t5: labels from 1": ("vl-t5", made.vl_t5, {"labels": LABELS + 2}, [], "0..4"),
    "vl-t5: other features": ("vl-t5", made.vl_t5, {"dim": 1024}, [], "1024 wide"),
    "vl-t5: fewer features": ("vl-t5", made.vl_t5, {"rows": 1}, [], "2 boxes for 1 features"),
    "vl-t5: y first": ("vl-t5", made.vl_t5, {"boxes": SWAPPED}, [], "outside"),
    "vl-t5: relative boxes": ("vl-t5", made.vl_t5, {"boxes": RELATIVE}, [], "relative"),
    "mmf: offset not said": ("mmf", made.mmf, {}, [], "label_offset"),
    "mmf: other labels": ("mmf", made.mmf, {"labels": LABELS - 1, "pad": 0}, ["label_offset=0"], "cls_prob"),
    "mmf: background not said": ("mmf", made.mmf, {"background": True}, ["label_offset=0"], "6 classes"),
    "mmf: y first": ("mmf", made.mmf, {"bbox": SWAPPED, "pad": 0}, ["label_offset=0"], "outside"),
    "mmf: relative boxes": ("mmf", made.mmf, {"bbox": RELATIVE, "pad": 0}, ["label_offset=0"], "relative"),
    "mmf: padding counted": ("mmf", made.mmf, {"num_boxes": 3}, ["label_offset=0"], "padding"),
    "mmf: more than counted": ("mmf", made.mmf, {"num_boxes": 1}, ["label_offset=0"], "1 rows behind"),
    "mmf-lmdb: more than counted": ("mmf-lmdb", made.mmf_lmdb, {"num_boxes": 1}, ["label_offset=0"], "1 rows behind"),
    "mmf-lmdb: relative boxes": ("mmf-lmdb", made.mmf_lmdb, {"bbox": RELATIVE}, ["label_offset=0"], "relative"),
    "mmf-lmdb: background said": ("mmf-lmdb", made.mmf_lmdb, {}, ["label_offset=1"], "4 classes"),
    "vgamt-mdetr: corners": ("vgamt-mdetr", made.vgamt_mdetr, {"boxes": SMALL}, ["box_format=xyxy"], "x1 <= x2"),
    "vgamt-mdetr: fewer features": ("vgamt-mdetr", made.vgamt_mdetr, {"rows": 1}, [], "2 boxes for 1 features"),
    "vgamt-mdetr: pixels": ("vgamt-mdetr", made.vgamt_mdetr, {"boxes": made.PIXELS}, [], "outside"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("read_here")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_noticed(tmp_path, folder, names, case):
    layout, make, changes, settings, found = WRONG[case]
    needs(layout)
    path = make(folder, **changes)
    argv = ["--layout", layout, "--input", path, "--out", tmp_path / "s.h5", "--class-names", names]
    argv += [part for setting in settings for part in ("--layout-set", setting)]
    line = fails("convert", *argv)
    assert found in line, line
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, -1, 1, 3000])
def test_classes_by_half_precision_scores_of_any_sign(tmp_path, folder, names, shift):
    """Logits below 0 as probabilities."""
    needs("uniter")
    path = made.uniter(folder, soft_labels=made.soft("first") * 8 + shift)
    store = convert(tmp_path / "s.h5", "--layout", "uniter", "--input", path, "--class-names", names)
    wanted = (np.float16(made.soft("first") * 8 + shift)[:, 1:]).astype(np.float32).argmax(axis=1)
    assert store[0].labels.tolist() == wanted[[1, 0]].tolist()


@pytest.mark.slow
def test_what_is_behind_a_count_may_be_said_to_be_none(tmp_path, folder, names):
    path = made.milvlg(folder, count=1)
    argv = ["--layout-set", "label_offset=0", "--layout-set", "padding=any"]
    store = convert(tmp_path / "s.h5", "--layout", "milvlg", "--input", path, "--class-names", names, *argv)
    assert store[0].labels.tolist() == LABELS[:1].tolist()


def test_relative_boxes_are_not_taken_for_pixels(tmp_path, folder):
    """Of COCO files, whose boxes are x, y, width, height, and of arrays that are said to be in pixels."""
    content = coco(tmp_path)
    for annotation in content["annotations"]:
        annotation["bbox"] = [value / 200 for value in annotation["bbox"]]
    coco(tmp_path, annotations=content["annotations"])
    argv = ("--coco-json", tmp_path / "coco.json", "--features", tmp_path / "f", "--out", tmp_path / "s.h5")
    assert "relative" in fails("convert", *argv)
    np.savez(folder / "a", features=made.features(8), boxes=RELATIVE, labels=LABELS)
    (tmp_path / "sizes").write_text("a\t200\t100\n")
    argv = ("--npz", folder, "--num-classes", 5, "--out", tmp_path / "s.h5")
    line = fails("convert", *argv, "--box-units", "pixels", "--image-sizes", tmp_path / "sizes")
    assert "relative" in line and "--box-units" in line


def test_every_layout_is_tested():
    from vtlm_fairseq.regions.formats import presets

    detections = {layout for layout, *_ in DETECTIONS.values()}
    others = {"bottom-up", "vgamt-mdetr", "vgamt-clip", "fairseq-mmt", "multi30k-res4", "multi30k-avgpool", "cliptrans",
              "ofa"}  # fmt: skip
    assert set(presets()) == detections | others
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert [name for name in presets() if f"--layout {name} " not in page and name != "ofa"] == []
