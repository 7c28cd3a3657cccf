"""Messages of region extraction; packages that the tests do without have stand-ins that fail as they do."""

import importlib
import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extraction import detectors, extract_regions, grid, images, write_grids, write_images

from messages import message, says
from stores import make_store
from vtlm_fairseq.data.image_reading import UnreadableImageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with images as photos and as grids."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("PIL", reason="Pillow is not installed")
    write_grids(tmp_path / "grids", 2)
    write_images(tmp_path / "photos", 2)
    Path("latin").write_bytes(b"\xe9")
    return tmp_path


def extract(*argv, detector="grid", source="grids", out="s.h5"):
    """The command, with grids unless told otherwise."""
    line = ("--images", source, "--detector", detector, "--out", out, "--workers", 0, *argv)
    return lambda: extract_regions.main([str(a) for a in line])


def test_options(here):
    make_store("s.h5", 2)
    Path("text").touch()
    rows = [
        ("extract_regions._import_file", "--detector-file none: no such file", extract("--detector-file", "none")),
        ("extract_regions.make_detector", "--model has no effect on --detector grid", extract("--model", "x")),
        (
            "extract_regions._read_names",
            "--class-names none: cannot be read (No such file",
            extract("--class-names", "none", detector="litert-ssd"),
        ),
        (
            "extract_regions._read_names",
            "--class-names latin: not UTF-8 text (byte 0); convert it",
            extract("--class-names", "latin", detector="litert-ssd"),
        ),
        ("extraction_parts._check", "--out s.h5: exists; remove it or add --overwrite", extract()),
        (
            "files.check_writable",
            f"folder {here / 'none'} does not exist; make it first",
            extract(out="none/s.h5"),
        ),
        ("files.locked", "--out /proc/s.h5: cannot be written (", extract(out="/proc/s.h5")),
        ("images._list", "--images none: neither a folder nor a readable list (No such file", extract(source="none")),
        (
            "images.list_images",
            "--shard-id 2 must be in 0..1, as --num-shards is 2",
            extract("--num-shards", 2, "--shard-id", 2),
        ),
        ("images.list_images", "--images *.tar: no such tar file", extract(source="*.tar")),
        (
            "images.list_images",
            "--images photos: no file that ends in .npy (it holds 2 files",
            extract(source="photos"),
        ),
        ("images._list", "--images latin: not a list, which is UTF-8 text", extract(source="latin")),
    ]
    for site, words, call in rows:
        says(site, words, call)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--batch-size", 0), "--batch-size must be at least 1"),
        (("--part-size", 0), "--part-size must be at least 1"),
        (("--workers", -1), "--workers must not be negative"),
    ],
)
def test_numbers(here, argv, words, capsys):
    with pytest.raises(SystemExit) as caught:
        extract(*argv)()
    assert caught.value.code == 2 and f"error: {words}" in capsys.readouterr().err


def test_lists_and_tar_files(here, monkeypatch):
    Path("list").write_text("a\tb\tc\n")
    says("images._list", r"--images list: line 1 is 'a\tb\tc', not path or id TAB path", extract(source="list"))
    with tarfile.open("x.tar", "w") as tar:
        for name in ("grids/img0000.npy", "grids/img0001.npy"):
            tar.add(name)
    whole = Path("x.tar").read_bytes()
    Path("x.tar").write_bytes(whole[:2048])  # between a member and the end mark
    says("tar_files.tar_members", "x.tar: damaged or cut at byte", extract(source="x.tar"))
    with tarfile.open("x.tar", "w:gz") as tar:
        tar.add("grids/img0000.npy")
    words = "x.tar: not an intact tar file ("
    text = message("tar_files.tar_members", extract(source="x.tar"))
    assert words in text and "copy it again, and unpack it if it is compressed" in text
    says(
        "images.list_images",
        "1 tar files cannot be shared by --num-shards 2; each shard takes whole files",
        extract("--num-shards", 2, source="x.tar"),
    )
    file = images.ImageFile("a", "x.tar/a", "x.tar", 0, 1 << 20)
    with pytest.raises(OSError, match="x.tar has been cut"):
        file.read()

    def closed(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", closed)
    says("images.fail", "--images grids: grids cannot be read (Permission denied)", extract())


def test_grids(here):
    for path in Path("grids").iterdir():
        path.write_bytes(b"text")
    text = message("grid.open", extract())
    assert "--detector grid: no file could be read; grids/img0001.npy: not a .npy file of plain numbers (" in text
    detector = grid.GridDetector(detectors.DetectorOptions())
    file = io.BytesIO()
    np.save(file, np.array(["text"]))
    says("grid.read", "not a .npy file of plain numbers (", detector.read, b"text")
    for data, words in ((b"text", "not a .npy file of plain numbers ("), (file.getvalue(), "not numbers [g * g, D]")):
        with pytest.raises(UnreadableImageError) as caught:
            detector.read(data)
        assert words in str(caught.value)
    with pytest.raises(UnreadableImageError, match="5 features make no square grid; leave out the class token"):
        detector.read(saved(np.ones((5, 2))))
    Path("g.npy").write_bytes(saved(np.ones((1, 3, 2))))
    detector = grid.GridDetector(detectors.DetectorOptions(max_regions=3))
    detector.open([images.ImageFile("g", "g.npy")])
    wide, large = detector.detect([np.ones((1, 1, 4)), np.ones((2, 2, 2))])
    assert str(wide) == "features are 4 wide, those of the first file 2"
    assert str(large) == "2 x 2 cells are more than --max-regions 3"


def saved(array) -> bytes:
    """The bytes of a `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_parts_of_another_extraction(here):
    Path("s.h5.parts").mkdir()
    Path("s.h5.parts/plan.json").write_text('{"detector": "other"}')
    Path("s.h5.parts/00000.h5").touch()
    text = message("extraction_parts._compare_plan", extract())
    says(
        "extraction_parts._compare_plan",
        "parts of another extraction, detector was 'other' and is 'grid'; go on",
        extract(),
    )
    assert text.endswith("go on with the same options, or add --overwrite to begin anew")


def test_detectors_of_ones_own(here, monkeypatch):
    register = detectors.base.register_detector("grid")
    says("base.register", "--detector grid: two detectors of that name; rename yours", register, grid.GridDetector)
    says("base.get_detector", "--detector x: not known; there are grid, ", extract(detector="x"))
    says(
        "base.need_model",
        "--detector litert-ssd needs --model: the folder or .tflite file",
        extract(detector="litert-ssd", source="photos"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "import no_such_dependency",
            "half cannot be imported (No module named 'no_such_dependency'); install it again",
        ),
        ("raise OSError('libx.so: cannot open')", "half cannot be imported (libx.so: cannot open); install it again"),
    ],
)
def test_packages_that_are_half_installed(here, monkeypatch, text, words):
    """A dependency of the package is missing, or its compiled part: one line, no stack."""
    Path("half.py").write_text(text)
    monkeypatch.syspath_prepend(str(here))
    says(
        "base.import_package", f"--detector x: {words}", detectors.base.import_package, "half", extra="x", detector="x"
    )
    says(
        "base.import_package",
        "--detector x needs none, not installed here: pip install 'vtlm-fairseq[y]'",
        detectors.base.import_package,
        "none.part",
        extra="y",
        detector="x",
    )


def test_readers_that_end(here, monkeypatch):
    def killed():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        yield

    text = message("extract_regions._next", extract_regions._next, killed())
    assert "give the same command again to go on, with fewer --workers if memory ran out" in text

    def other():
        raise RuntimeError("CUDA out of memory")
        yield

    with pytest.raises(RuntimeError, match="CUDA out of memory"):  # not ours: its stack says where
        extract_regions._next(other())


# ---- litert


class Interpreter:
    """A LiteRT interpreter of given tensors."""

    def __init__(self, inputs, outputs, maps):
        self._inputs, self._outputs, self._maps = inputs, outputs, maps

    def get_input_details(self):
        return [{"shape": np.array(shape), "index": k} for k, shape in enumerate(self._inputs)]

    def get_output_details(self):
        return [{"shape": np.array(shape), "index": k} for k, shape in enumerate(self._outputs)]

    def get_tensor_details(self):
        return [{"name": name, "shape": np.array(shape), "index": k} for k, (name, shape) in enumerate(self._maps)]


def test_litert(here, monkeypatch):
    ssd = importlib.import_module("detectors.litert_ssd")
    call = extract("--model", "m.tflite", detector="litert-ssd", source="photos")
    says("litert_ssd.open", "--model m.tflite: no such file; bash preprocess/fetch_ssd.sh", call)
    Path("m.tflite").write_text("text")

    def refuse(*args, **kwargs):
        raise ValueError("Could not open 'm.tflite'.")

    monkeypatch.setattr(ssd, "import_package", lambda *args, **kwargs: SimpleNamespace(Interpreter=refuse))
    text = message("litert_ssd.open", call)
    assert "--model m.tflite: not a LiteRT model (Could not open 'm.tflite'.); bash preprocess/fetch_ssd.sh" in text

    detector = ssd.LiteRTSSD(detectors.DetectorOptions(class_names=("a", "b")))
    detector._net = Interpreter([(1, 300, 300, 3)], [(1, 1917, 4)], [])
    says(
        "litert_ssd._find_tensors",
        "not an SSD MobileNetV2 for 300 x 300 pixels, with raw outputs",
        detector._find_tensors,
        "m.tflite",
    )
    detector._net = Interpreter([(1, 300, 300, 3)], [(1, 1917, 4), (1, 1917, 9)], ssd._MAPS)
    says(
        "litert_ssd._find_tensors",
        "--model m.tflite: 8 classes but 2 names; mend --class-names",
        detector._find_tensors,
        "m.tflite",
    )
    detector.options = detectors.DetectorOptions()
    says(
        "litert_ssd._find_tensors",
        "labels.txt: no such file; give --class-names FILE, or bash preprocess/fetch_ssd.sh",
        detector._find_tensors,
        "m.tflite",
    )


# ---- TensorFlow


class Tensorflow:
    """As much of TensorFlow as opening a SavedModel needs; ``model`` is what it loads."""

    uint8 = "uint8"

    def __init__(self, model):
        self.saved_model = SimpleNamespace(load=lambda path: model)
        self.config = SimpleNamespace(
            list_physical_devices=lambda kind: [],
            threading=SimpleNamespace(
                set_intra_op_parallelism_threads=lambda n: None, set_inter_op_parallelism_threads=lambda n: None
            ),
        )

    def device(self, name):
        """Any context."""
        return torch.no_grad()


class Shape(tuple):
    """The shape of a batch of images of any size."""

    rank = 4


def saved_model(dtype="uint8", outputs=None):
    """A model with the signature `serving_default`, whose features have no fixed width."""
    module = importlib.import_module("detectors.tf_saved_model")
    outputs = module._OUTPUTS if outputs is None else outputs
    spec = SimpleNamespace(dtype=dtype, shape=Shape((None, None, None, 3)))
    run = SimpleNamespace(
        structured_outputs=dict.fromkeys(outputs, SimpleNamespace(shape=(None,))),
        structured_input_signature=((), {"images": spec}),
    )
    return SimpleNamespace(signatures={"serving_default": run})


@pytest.mark.parametrize(
    ("site", "words", "model", "device"),
    [
        (
            "open",
            "has no signature serving_default; export the model again with it",
            SimpleNamespace(signatures={}),
            "cpu",
        ),
        (
            "open",
            "but not detection_features; export the model again with its detection",
            saved_model(outputs=["x"]),
            "cpu",
        ),
        ("open", "the width of detection_features is not fixed; export the model again", saved_model(), "cpu"),
        (
            "_check_input",
            "not uint8 images [B, height, width, 3]; export the model again for",
            saved_model(dtype="f4"),
            "cpu",
        ),
        ("_set_device", "--device cuda:1: TensorFlow has no such GPU; use --device cpu", None, "cuda:1"),
    ],
)
def test_tensorflow(here, monkeypatch, site, words, model, device):
    module = importlib.import_module("detectors.tf_saved_model")
    monkeypatch.setattr(module, "import_package", lambda *args, **kwargs: Tensorflow(model))
    call = extract("--model", "m", "--device", device, detector="tf-saved-model", source="photos")
    folder = "--model m: not the folder of a SavedModel, which holds saved_model.pb"
    says("tf_saved_model.open", folder, call)
    Path("m").mkdir()
    Path("m/saved_model.pb").touch()
    says(f"tf_saved_model.{site}", words, call)


def test_classes_of_tensorflow():
    module = importlib.import_module("detectors.tf_saved_model")
    detector = module.TFSavedModel(detectors.DetectorOptions())
    detector.class_names = ["a", "b"]
    outputs = {"detection_scores": np.ones((1, 1)), "raw_detection_scores": np.ones((1, 1, 3))}
    outputs |= {"detection_classes": np.full((1, 1), 9.0)}
    says(
        "tf_saved_model._detection",
        "class 8 to 8 after taking off 1, of 2; give --class-names FILE with a line for each class of this model",
        detector._detection,
        outputs,
        0,
    )


# ---- torchvision


class Heads(torch.nn.Module):
    """Box heads of two classes and the background."""

    def __init__(self):
        super().__init__()
        self.box_roi_pool, self.box_head = torch.nn.Identity(), torch.nn.Identity()
        self.box_predictor = torch.nn.Module()
        self.box_predictor.cls_score = torch.nn.Linear(4, 3)


def torchvision(model):
    """As much of torchvision as opening a model needs."""
    weights = SimpleNamespace(meta={"categories": ["background", "a", "b"]})
    return SimpleNamespace(
        list_models=lambda module=None: ["tiny_rcnn"],
        get_model=lambda name, **options: model,
        get_model_weights=lambda name: SimpleNamespace(DEFAULT=weights),
    )


def box_model():
    """A model with box heads."""
    model = torch.nn.Module()
    model.roi_heads = Heads()
    return model


@pytest.mark.parametrize(
    ("site", "words", "model", "argv"),
    [
        (
            "torchvision_boxes.open",
            "--model other: torchvision has no such model; for detection it has tiny_rcnn",
            None,
            ("--model", "other"),
        ),
        (
            "torchvision_boxes.open",
            "--model tiny_rcnn: has no box head; take one of the *rcnn models",
            torch.nn.Module(),
            (),
        ),
        (
            "torchvision_boxes.open",
            "--model tiny_rcnn: 2 classes but 1 names; mend --class-names",
            box_model(),
            ("--class-names", "one"),
        ),
        ("torchvision_boxes.open", "--device cuda:99: ", box_model(), ("--device", "cuda:99")),
        (
            "torchvision_boxes._with_own_weights",
            "--weights latin: not a state dict of tensors (",
            None,
            ("--weights", "latin"),
        ),
        (
            "torchvision_boxes._with_own_weights",
            "save model.state_dict() of a torchvision R-CNN",
            None,
            ("--weights", "none.pt"),
        ),
        (
            "torchvision_boxes._with_own_weights",
            "--weights own.pt: do not fit --model tiny_rcnn (",
            box_model(),
            ("--weights", "own.pt"),
        ),
    ],
)
def test_torchvision(here, monkeypatch, site, words, model, argv):
    module = importlib.import_module("detectors.torchvision_boxes")
    monkeypatch.setattr(module, "import_package", lambda *args, **kwargs: torchvision(model))
    Path("one").write_text("a\n")
    torch.save({}, "none.pt")
    torch.save({module._CLASS_ROWS: torch.ones(3)}, "own.pt")
    call = extract("--model", "tiny_rcnn", *argv, detector="torchvision", source="photos")
    text = message(site, call)
    assert words in text and (argv[:1] != ("--device",) or text.endswith("; use --device cpu"))
