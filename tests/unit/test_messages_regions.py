"""Messages about regions and images: each is produced by the place that says it, and names what mends it."""

import base64
import builtins
import io
import json
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from messages import message, says
from stores import make_store, random_image
from tiny import MemoryStore
from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.data import image_reading, region_drawing
from vtlm_fairseq.data.bottom_up_tsv import BottomUpImages
from vtlm_fairseq.data.coco_json import CocoImages
from vtlm_fairseq.data.image_reading import UnreadableImageError, decode_image, open_image
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.region_pickle import _NDARRAY, load_plain_pickle
from vtlm_fairseq.data.region_store import RegionStore, RegionStoreWriter, find_store_files
from vtlm_fairseq.data.region_writer import writing


def command(*argv):
    """`vtlm-regions`, without an output file if none is named."""
    argv = [str(a) for a in argv]
    return lambda: main(argv if argv[0] != "convert" or "--out" in argv else [*argv, "--out", "made.h5"])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a file and a folder of each kind that a message is about."""
    monkeypatch.chdir(tmp_path)
    make_store("s.h5", 3)
    make_store("wide.h5", ["a"], feature_dim=9)
    make_store("single.h5", ["a"], dtype="float32")
    make_store("classes.h5", ["a"], num_classes=4)
    for folder in ("empty", "npz", "pickles"):
        Path(folder).mkdir()
    np.save("f.npy", np.ones((2, 3, 4), np.float16))
    np.save("flat.npy", np.ones((2, 3)))
    np.savez("one.npz", features=np.ones((2, 3)))
    Path("ids").write_text("x\ny\n")
    Path("latin").write_bytes(b"\xe9\n")
    Path("text").write_text("hello\n")
    return tmp_path


def test_convert(here):
    npy, out = ("convert", "--npy", "f.npy", "--ids", "ids"), ("--out", "s.h5")
    rows = [
        ("regions_convert.run_convert", "--out s.h5: exists; remove it or add --overwrite", (*npy, *out)),
        ("regions_convert._check_options", "give both or neither", (*npy, "--box-units", "pixels")),
        ("regions_input.__init__", "--npz none: no such folder", ("convert", "--npz", "none")),
        (
            "regions_input.read_lines",
            "--ids none: cannot be read (No such",
            ("convert", "--npy", "f.npy", "--ids", "none"),
        ),
        ("regions_input.read_lines", "--ids latin: not UTF-8 text", ("convert", "--npy", "f.npy", "--ids", "latin")),
        ("regions_input._load_npy", "read with --npz DIR", ("convert", "--npy", "one.npz", "--ids", "ids")),
        ("regions_input._load_beside", "must be (2, 3, 4) to fit the features", (*npy, "--boxes", "flat.npy")),
        ("region_pickle.__init__", "--vtlm-pickles none: no such folder", ("convert", "--vtlm-pickles", "none")),
        ("bottom_up_tsv.__init__", "--bottom-up-tsv none: no such file", ("convert", "--bottom-up-tsv", "none")),
        ("bottom_up_tsv.__init__", "--bottom-up-tsv empty.tsv: empty", ("convert", "--bottom-up-tsv", "empty.tsv")),
        (
            "coco_json.__init__",
            "--features none: no such folder",
            ("convert", "--coco-json", "c", "--features", "none"),
        ),
        (
            "coco_json._read_json",
            "--coco-json text: not readable JSON",
            ("convert", "--coco-json", "text", "--features", "npz"),
        ),
    ]
    Path("empty.tsv").touch()
    for site, words, argv in rows:
        says(site, words, command(*argv))


@pytest.mark.parametrize(
    ("site", "words", "arrays"),
    [
        ("regions_input._read", "array 'labels' is missing, the file holds features, boxes", {"labels": None}),
        ("regions_input._read", "features have shape (4,), must be [R, D]", {"features": np.ones(4)}),
        ("regions_input._read", "save plain numbers with numpy.savez", {"labels": np.array([{}, {}])}),
        (
            "regions_input.to_relative_boxes",
            "boxes are float64 (2, 3), must be numbers [2, 4]",
            {"boxes": np.ones((2, 3))},
        ),
    ],
)
def test_arrays_of_an_npz(here, site, words, arrays):
    whole = {"features": np.ones((2, 4)), "boxes": np.zeros((2, 4)), "labels": np.zeros(2, int)} | arrays
    np.savez("npz/a.npz", **{name: array for name, array in whole.items() if array is not None})
    text = message(site, command("convert", "--npz", "npz", "--num-classes", 2, "--out", "new.h5"))
    assert words in text and "npz/a.npz" in text


def test_ids_and_shapes(here):
    rows = [
        ("regions_convert._check_options", "--ids goes with --npy; with --npz the", ("--npz", "npz", "--ids", "ids")),
        ("regions_input.read_lines", "--ids gap: line 2 is empty", ("--npy", "f.npy", "--ids", "gap")),
        (
            "regions_input.__init__",
            "--ids text: 1 lines, but f.npy holds 2 images",
            ("--npy", "f.npy", "--ids", "text"),
        ),
        (
            "regions_input.__init__",
            "--npy flat.npy: shape (2, 3), must be [N, R, D]",
            ("--npy", "flat.npy", "--ids", "ids"),
        ),
    ]
    Path("gap").write_text("x\n\n")
    for site, words, argv in rows:
        says(site, words, command("convert", *argv))


def test_an_npy_that_is_called_npz(here):
    np.save("flat.npz.npy", np.ones(2))
    os.rename("flat.npz.npy", "npz/a.npz")
    says("regions_input._read", "stacked arrays are read with --npy", command("convert", "--npz", "npz"))


@pytest.mark.parametrize("line", ["x 2 3", "x\t2\t3\t4", "x\t2\t0"])
def test_image_sizes(here, line):
    Path("sizes").write_text(f"y\t1\t1\n{line}\n")
    np.save("boxes.npy", np.zeros((2, 3, 4)))
    argv = ("convert", "--npy", "f.npy", "--ids", "ids", "--boxes", "boxes.npy", "--box-units", "pixels")
    argv += ("--image-sizes", "sizes", "--num-classes", 2, "--out", "new.h5")
    says(
        "regions_input.read_sizes",
        f"--image-sizes sizes: line 2 is {line!r}, not id, width, height (above 0) between tabs",
        command(*argv),
    )
    Path("sizes").write_text("y\t1\t1\n")
    says("regions_input.to_relative_boxes", "--image-sizes has no line for image 'x'", command(*argv))


def number(values, dtype="<f4") -> str:
    """Values as a column of bottom-up-attention files."""
    return base64.b64encode(np.array(values, dtype).tobytes()).decode()


@pytest.mark.parametrize(
    ("site", "words", "fields"),
    [
        ("bottom_up_tsv._read", "name other columns with --tsv-columns", ["x"]),
        (
            "bottom_up_tsv._read",
            "is 0 x 9 pixels, must be above 0; the columns may stand in another order",
            ["x", "0", "9", "1", number([0, 0, 1, 1]), number([1, 2])],
        ),
        (
            "bottom_up_tsv._read",
            "3 feature values for 2 boxes, must be as many for each",
            ["x", "9", "9", "2", number([0, 0, 1, 1] * 2), number([1, 2, 3])],
        ),
        (
            "bottom_up_tsv._decode",
            "boxes: not base64; the file is cut off or has other columns",
            ["x", "9", "9", "1", "?", number([1, 2])],
        ),
        ("bottom_up_tsv._read", "0 feature values for 0 boxes, must be", ["x", "9", "9", "0", "", ""]),
        (
            "bottom_up_tsv._column",
            "2 values in objects_conf for 1 boxes",
            ["x", "9", "9", number([3], "<i8"), number([1, 2]), "1", number([0, 0, 1, 1]), number([1, 2])],
        ),
    ],
)
def test_bottom_up(here, site, words, fields):
    Path("x.tsv").write_text("\t".join(fields) + "\n")
    text = message(site, BottomUpImages, "x.tsv")
    assert words in text and "x.tsv, line 1" in text


def test_coco(here):
    content = {
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 9, "category_id": 1, "bbox": [0] * 4}],
    }
    content["images"] = [{"id": 9, "width": 0, "height": 5, "file_name": "a.jpg"}]
    Path("results.json").write_text(json.dumps(content["annotations"]))
    Path("coco.json").write_text(json.dumps(content))
    Path("other.json").write_text("{}")
    whole = "give the file with its images and categories, --coco-dataset"
    says("coco_json.__init__", whole, CocoImages, "results.json", "npz")
    says("coco_json._get", "no list 'annotations'; a COCO file holds", CocoImages, "other.json", "npz")
    says(
        "coco_json._features",
        "--features npz: none of a.jpg.npy, a.npy, 9.npy is there",
        CocoImages,
        "coco.json",
        "npz",
    )
    np.save("npz/a.npy", np.array([{}]), allow_pickle=True)
    says("coco_json._features", "npz/a.npy: not a .npy file of plain numbers", CocoImages, "coco.json", "npz")
    np.save("npz/a.npy", np.ones((1, 4)))
    says(
        "coco_json._read",
        "coco.json, image 9: size 0 x 5 pixels, must be above 0",
        list,
        CocoImages("coco.json", "npz"),
    )
    np.save("npz/a.npy", np.ones((2, 4)))
    says(
        "coco_json._features",
        "npz/a.npy: shape (2, 4), must be [1, D] for the annotations",
        CocoImages,
        "coco.json",
        "npz",
    )
    Path("coco.json").write_text(json.dumps(content | {"annotations": [{"image_id": 9, "category_id": 1}]}))
    says("coco_json._records", "record 0 lacks 'bbox'", CocoImages, "coco.json", "npz")


class Reduced:
    """An object whose pickle calls and changes what it names."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def array_state(shape, data) -> bytes:
    """A pickle of an array with a shape and bytes of one's own."""
    import numpy._core.multiarray as core

    return pickle.dumps(Reduced(core._reconstruct, (np.ndarray, (0,), b"b"), (1, shape, np.dtype("f4"), False, data)))


@pytest.mark.parametrize(
    ("site", "words", "content"),
    [
        (
            "region_pickle.load_plain_pickle",
            "(an array of no valid shape); nothing in it was run",
            array_state((-1,), b""),
        ),
        ("region_pickle.load_plain_pickle", "(an array whose bytes do not fit its shape)", array_state((2,), b"1234")),
        ("region_pickle.load_plain_pickle", "(it calls numpy.ndarray)", pickle.dumps(Reduced(np.ndarray, ((1,),)))),
        ("region_pickle.load_plain_pickle", "(dtype 'O8')", pickle.dumps(np.dtype("O"))),
        ("region_pickle.load_plain_pickle", "(it changes a function)", b"cnumpy\nndarray\n}b."),
        ("region_pickle.load_plain_pickle", "(a function)", b"cnumpy\nndarray\n."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pickles(here, site, words, content):
    Path("a.pkl").write_bytes(content)
    text = message(site, load_plain_pickle, Path("a.pkl"))
    assert words in text and text.startswith("a.pkl: refused, not a pickle of plain numpy arrays")


def test_names_in_pickles_take_nothing_else(here):
    import numpy._core.multiarray as core

    other = pickle.dumps(Reduced(core._reconstruct, (set, (0,), b"b")))
    rows = [
        ("region_pickle._make_empty", "(an array of a class of its own); nothing in it was run", other),
        ("region_pickle._array", "(an array that does not hold plain numbers); nothing", array_state((1,), 3)),
        ("region_pickle._encode", "_codecs.encode of something else than bytes", b"c_codecs\nencode\n(I1\ntR."),
        ("region_pickle._make_dtype", "dtype 'O8'", pickle.dumps(np.dtype("O"))),
        ("region_pickle.find_class", "it names os.system", b"cos\nsystem\n(S'x'\ntR."),
        ("region_pickle.__setstate__", "a dtype that is no plain number", b"cnumpy\ndtype\n(S'f4'\ntR}b."),
    ]
    for site, words, content in rows:
        Path("a.pkl").write_bytes(content)
        says(site, words, load_plain_pickle, Path("a.pkl"))


def test_pickles_of_deep_lists_and_of_nothing(here):
    deep = []
    for _ in range(25):
        deep = [deep]
    Path("a.pkl").write_bytes(pickle.dumps(deep))
    says("region_pickle.load_plain_pickle", "(nested too deeply)", load_plain_pickle, Path("a.pkl"))
    says("region_pickle.load_plain_pickle", "none.pkl: cannot be read (No such", load_plain_pickle, Path("none.pkl"))
    Path("pickles/a.pkl").write_bytes(pickle.dumps({}))
    pickles = command("convert", "--vtlm-pickles", "pickles")
    says("region_pickle._read", "array 'detection_features' is missing, the file holds nothing", pickles)


def test_names_in_pickles_cannot_be_changed():
    assert message("region_pickle.__setattr__", setattr, _NDARRAY, "x", 1) == "it sets 'x' of a function"


def test_finding_stores(here):
    says("region_store.find_store_files", "--regions none: no such file or folder", find_store_files, "none", "x")
    says("region_store.__init__", "--regions takes a file or a folder of {split}.h5 files", RegionStore, [])
    says("region_schema.open_file", "no such region store; --regions takes a file or a folder", RegionStore, ["none"])
    says("regions._store_files", "none: no such file or folder", command("info", "none"))
    says("regions._store_files", "empty: no .h5 file in that folder", command("info", "empty"))
    merge = command("merge", "s.h5", "--out", "text")
    says("regions._refuse_existing", "--out text: exists; remove it or add --overwrite", merge)
    text = message("region_merge._write_virtual", command("merge", "s.h5", "--out", "empty/m.h5"))
    assert "s.h5 lies outside its folder" in text and "put --out above the shards, or add --copy" in text
    says(
        "region_validate.find_missing",
        "--images none: cannot be read (No such",
        command("validate", "s.h5", "--images", "none"),
    )
    says(
        "region_validate.find_missing",
        "--images latin: not UTF-8 text",
        command("validate", "s.h5", "--images", "latin"),
    )


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("wide.h5", "features are 9 and 8 wide; remake one of them"),
        ("single.h5", "features are float32 and float16; remake one with the other --dtype"),
        ("classes.h5", "class_names differ; remake one with the --class-names of the other"),
    ],
)
def test_stores_that_do_not_agree(here, other, words):
    text = message("region_store._check_agree", RegionStore, ["s.h5", other])
    assert words in text and f"{here / other} does not fit {here / 's.h5'}" in text


def test_rows_that_are_not_there(here):
    says("region_store.counts", "rows 1..9, the store has 3 images", RegionStore(["s.h5"]).counts, np.array([1, 9]))
    says("region_store._shard", "row 3, the store has 3 images", RegionStore(["s.h5"]).__getitem__, 3)


def test_ids_that_are_there_twice(here):
    text = message("region_store._sort_ids", RegionStore, ["s.h5", "s.h5"])
    assert "image 'img0.jpg' is there twice; ids must be unique" in text


def edited(edit) -> str:
    """The store after a change."""
    with h5py.File("s.h5", "a") as file:
        edit(file)
    return "s.h5"


def missing(file):
    del file["boxes"]


def shaped(file):
    del file["labels"]
    file["labels"] = np.zeros((18, 1), "i2")


def newer(file):
    file.attrs["schema_version"] = 7


def external(file):
    del file["features"]
    file.create_dataset("features", (18, 8), "f2", external=[("raw", 0, 288)])


def virtual(name, source=".", source_name="x"):
    """A change that makes a dataset virtual."""

    def edit(file):
        shape, dtype = file[name].shape, file[name].dtype
        del file[name]
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(source, source_name, shape=shape)
        file.create_virtual_dataset(name, layout)

    return edit


def nested(file):
    for k in range(7):
        file.move("features", f"v{k}")
        layout = h5py.VirtualLayout((18, 8), "f2")
        layout[:] = h5py.VirtualSource(".", f"v{k}", shape=(18, 8))
        file.create_virtual_dataset("features", layout)


def grouped(file):
    del file["boxes"]
    file.create_group("boxes")


def linked(file):
    del file["boxes"]
    file["boxes"] = h5py.ExternalLink("wide.h5", "boxes")


def overlapping(file):
    file.move("boxes", "other")
    layout = h5py.VirtualLayout((18, 4), "f4")
    for part in (slice(0, 9), slice(9, 18)):
        layout[:9] = h5py.VirtualSource(".", "other", shape=(18, 4))[part]
    file.create_virtual_dataset("boxes", layout)


def soft(file):
    file.move("boxes", "other")
    file["boxes"] = h5py.SoftLink("/other")


def long_ids(file):
    del file["ids"]
    file["ids"] = np.array([b"a" * 5000] * 3)


@pytest.mark.parametrize(
    ("site", "words", "edit"),
    [
        ("region_schema._check_storage", "too deep; write it again with vtlm-regions convert", nested),
        (
            "region_schema._check_storage",
            "lies in raw files outside the HDF5 file; copy the data in with h5repack",
            external,
        ),
        (
            "region_schema._check_storage",
            "'boxes' takes its data from ., which has no dataset x; write",
            virtual("boxes"),
        ),
        (
            "region_schema._check_inside",
            "none.h5, which is missing; copy it beside the store",
            virtual("boxes", "none.h5"),
        ),
        ("region_schema._check_link", "is a soft link to /other; copy the data into the file", soft),
        ("region_schema._check_link", "'boxes' is an external link to wide.h5; copy the data into the file", linked),
        ("region_schema._check_cover", "takes row 0 from no other file, or from several; make the file", overlapping),
        ("region_schema._get_dataset", "dataset 'boxes' is missing; write it again", missing),
        ("region_schema._check_types", "labels has shape (18, 1), must have 1 axes; write", shaped),
        ("region_schema._check_attributes", "schema_version 7 is not known (this version reads 1); install", newer),
        ("region_schema._get_dataset", "'boxes' is a group, not a dataset", grouped),
        ("region_schema._read_header", "ids are 5000 bytes, at most 4096 are read", long_ids),
    ],
)
def test_schema(here, site, words, edit):
    text = message(site, RegionStore, [edited(edit)])
    assert words in text and str(here / "s.h5") in text


def test_types_and_damage_of_a_store(here):
    edited(lambda f: (f.__delitem__("labels"), f.create_dataset("labels", data=np.zeros(18, "i8"))))
    says("region_schema._check_types", "labels are int64, must be int16; write it again", RegionStore, ["s.h5"])
    store = RegionStore(["wide.h5"])
    os.truncate("wide.h5", 3000)
    damaged = "write it again with vtlm-regions convert or copy it again"
    says("region_schema.open_file", damaged, store.__getitem__, 0)


def test_damage_behind_the_header(here):
    """A chunk whose compression is damaged is found on reading only."""
    with h5py.File("s.h5", "a") as file:
        del file["features"]
        file.create_dataset("features", data=np.ones((18, 8), "f2"), chunks=(18, 8), compression="gzip")
    with h5py.File("s.h5") as file:
        chunk = file["features"].id.get_chunk_info(0)
    with open("s.h5", "r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    store = RegionStore(["s.h5"])
    text = message("region_schema.unreadable", store.__getitem__, 1)
    assert "s.h5: row 1: unreadable (" in text and "write it again with vtlm-regions convert or copy it again" in text


def writer(path="new.h5", **options):
    """A function that writes a store of two images of the same id."""
    whole = {"feature_dim": 8, "class_names": ["a"] * 5, "detector": "x"} | options

    def write():
        with RegionStoreWriter(path, **whole) as file:
            for _ in range(2):
                file.add("a.jpg", **random_image(np.random.default_rng(0), 2))

    return write


def test_writer(here):
    rows = [
        ("region_writer._check_options", "new.h5: feature_dim is 0, must be at least 1", writer(feature_dim=0)),
        ("region_writer._check_options", "new.h5: dtype 'int8', must be float16 or float32", writer(dtype="int8")),
        ("region_writer._check_options", "0 class names, must be 1 to 32767", writer(class_names=[])),
        ("files.check_writable", f"folder {here / 'none'} does not exist; make it first", writer("none/s.h5")),
        ("files.locked", "/proc/s.h5: cannot be written (No such", writer("/proc/s.h5")),
        ("region_writer.add", "new.h5: image 'a.jpg' is given twice; ids must be unique", writer()),
        ("region_writer._checked", "features have shape (2, 8), must be [R, 7]", writer(feature_dim=7)),
    ]
    for site, words, call in rows:
        says(site, words, call)
    closed = RegionStoreWriter("new.h5", feature_dim=8, class_names=["a"], detector="x")
    outside = message("region_writer.add", closed.add, "a", **random_image(np.random.default_rng(0), 2))
    assert outside == "RegionStoreWriter.add outside its with block"


def test_a_disk_that_is_full():
    """The system's reason alone, of what HDF5 says on several lines."""

    def full():
        raise OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device', x)")

    def write():
        with writing("s.h5"):
            full()

    says("region_writer.writing", "s.h5: cannot be written (No space left on device); make room and give", write)


def test_boxes_in_another_order():
    call = (RegionStoreWriter._checked_boxes, "a.jpg", np.array([[0.5, 0, 0.2, 1]]))
    says("region_writer._checked_boxes", "box [0.5, 0.0, 0.2, 1.0] is not x1 <= x2, y1 <= y2; boxes are", *call)


def test_stores_and_shards_of_one_split(here):
    for name in ("x.h5", "x.0.h5"):
        Path("empty", name).touch()
    says(
        "region_store.find_store_files",
        "holds both x.h5 and shards x.*.h5; remove one of them",
        find_store_files,
        "empty",
        "x",
    )


def test_regions_of_lines(here):
    store = MemoryStore([2, 2])
    store.images[0].features[1, 0] = np.nan
    lines = LineRegions(store, np.array([0]), order="given", seed=1, split="valid")
    text = message("line_regions.__getitem__", lines.__getitem__, 0)
    assert "memory.h5: image 'img0.jpg' holds a feature or box that is not finite" in text
    assert "find all such images with: vtlm-regions validate" in text
    text = message("line_regions.__init__", LineRegions, store, np.array([0]), order="shuffle", seed=1, split="valid")
    assert "split valid has 1 image, --region-order shuffle needs another" in text
    assert "use --region-order none to hide the regions" in text


def test_images(here, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

    def encoded(pixels) -> bytes:
        file = io.BytesIO()
        image.fromarray(pixels).save(file, format="TIFF")
        return file.getvalue()

    rows = [
        ("image_reading._to_rgb", "32-bit samples beyond 0..65535; save it", encoded(np.array([[-1]], np.int32))),
        (
            "image_reading._to_rgb",
            "floating-point samples, whose range is not known; save it",
            encoded(np.ones((1, 1), "f4")),
        ),
    ]
    for site, words, data in rows:
        says(site, words, decode_image, data)
    says("image_reading.open_image", "none.jpg: cannot be read (No such", open_image, "none.jpg")
    says("image_reading.open_image", "text: no image, or not in a format", open_image, "text")
    drawing = image.new("RGB", (4, 4))
    says(
        "region_drawing.save_drawing", "--out d.gif: must end in .png or", region_drawing.save_drawing, drawing, "d.gif"
    )
    says(
        "files.check_writable",
        "--out none/d.png: cannot be written (No such file or directory)",
        region_drawing.save_drawing,
        drawing,
        "none/d.png",
    )
    found = builtins.__import__

    def no_pillow(name, *args, **kwargs):
        if name.startswith("PIL"):
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_pillow)
    text = message("image_reading.require_pillow", image_reading.require_pillow)
    assert "images are read with Pillow, not installed here: pip install 'vtlm-fairseq[extract]'" in text


def test_unreadable_images_are_an_error_of_their_own():
    with pytest.raises(UnreadableImageError, match="no image, or not in a format that is read here"):
        decode_image(b"text")
