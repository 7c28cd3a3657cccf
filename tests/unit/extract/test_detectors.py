"""Detectors whose packages the tests do without: stand-ins for the packages, and the whole command."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extraction import detectors, extract_regions, write_images
from PIL import Image

from stores import ends_with, fault
from vtlm_fairseq.regions.store import RegionStore


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder with two photos."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 2)
    Path("latin").write_bytes(b"\xe9")
    return tmp_path


def extract(detector: str, *argv) -> int:
    """Extract from the photos to `s.h5`."""
    fixed = ("--images", "photos", "--detector", detector, "--out", "s.h5", "--workers", 0)
    return extract_regions.main([str(a) for a in (*fixed, *argv)])


def fails(*argv) -> str:
    """The one line with which an extraction ends."""
    return ends_with(extract, *argv)


def test_packages_that_are_missing_or_half_installed(here, monkeypatch):
    """A dependency of the package is missing, or its compiled part: one line, no stack."""
    monkeypatch.syspath_prepend(str(here))
    load = detectors.base.import_package
    for text, reason in (("import no_such_part", "no_such_part"), ("raise OSError('libx.so')", "libx.so")):
        Path("half.py").write_text(text)
        message = fault(load, "half", extra="y", detector="x")
        assert reason in message and "half" in message and "pip" not in message
    assert "--detector x needs none" in (message := fault(load, "none.part", extra="y", detector="x"))
    assert "'vtlm-fairseq[y]'" in message


OWN = """
import numpy as np
from detectors import Detector, grid
from detectors.base import Detection, register_detector
from images import ImageFile


@register_detector("own")
class Own(Detector):
    def open(self, files):
        assert type(files[0]) is ImageFile
        self.feature_dim, self.class_names, self.description = 1, ["all"], "own"

    def detect(self, inputs):
        box = np.array([[0, 0, 1, 1]])
        return [Detection(np.ones((1, 1)), box, np.zeros(1, int), np.ones(1)) for _ in inputs]
"""


def test_a_file_of_ones_own(here, monkeypatch):
    """`--detector-file` may import `detectors` and `images` by these short names, and gets the very same classes."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("own.py").write_text(OWN)
    assert extract("own", "--detector-file", "own.py") == 0
    assert RegionStore(["s.h5"]).class_names == ["all"]
    assert sys.modules["own"].grid is detectors.grid and sys.modules["own"].Detector is detectors.Detector


# ---- LiteRT


def interpreter(inputs, outputs, maps=()):
    """`ai_edge_litert.interpreter` for a network of these tensors."""

    def details(tensors):
        return [{"name": name, "shape": np.array(shape), "index": k} for k, (name, shape) in enumerate(tensors)]

    net = SimpleNamespace(
        allocate_tensors=lambda: None,
        get_input_details=lambda: details([("in", shape) for shape in inputs]),
        get_output_details=lambda: details([("out", shape) for shape in outputs]),
        get_tensor_details=lambda: details(maps),
    )
    return SimpleNamespace(Interpreter=lambda *args, **kwargs: net)


MAPS = [("Conv_1/Relu6", (1, 10, 10, 1280)), ("layer_19_1_Conv2d", (1, 10, 10, 256))]


def test_litert_models_that_do_not_fit(monkeypatch):
    def package(made) -> None:
        monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", made)

    argv = ("litert-ssd", "--model", "m.tflite")
    assert "m.tflite" in fails(*argv)
    Path("m.tflite").write_text("text")
    Path("two").write_text("a\nb\n")

    def refuse(*args, **kwargs):
        raise ValueError("Could not open it.")

    package(SimpleNamespace(Interpreter=refuse))
    assert "--model m.tflite: " in (message := fails(*argv)) and "Could not open it." in message
    package(interpreter([(1, 300, 300, 3)], [(1, 1917, 4)]))
    assert "300 x 300" in fails(*argv)
    package(interpreter([(1, 300, 300, 3)], [(1, 1917, 4), (1, 1917, 9)], MAPS))
    assert "8 classes but 2 names" in fails(*argv, "--class-names", "two")
    assert "labels.txt" in (message := fails(*argv)) and "--class-names" in message


# ---- TensorFlow


class Shape(tuple):
    """The shape of a batch of images of any size."""

    rank = 4


class Signature:
    """`serving_default` of two detections an image, the second the better one, of classes 1 and 3 (from 1)."""

    def __init__(self, *, dtype="uint8", width=2, without=""):
        spec = SimpleNamespace(dtype=dtype, shape=Shape((None, None, None, 3)))
        self.structured_input_signature = ((), {"images": spec})
        names = ("features", "boxes", "classes", "scores")
        outputs = {f"detection_{name}": SimpleNamespace(shape=(None,)) for name in names if name != without}
        outputs["raw_detection_scores"] = SimpleNamespace(shape=(None,))
        self.structured_outputs = outputs
        self.batches = []
        if not without:
            outputs["detection_features"].shape = (None, 2, 1, 2, width)

    def __call__(self, images):
        count = len(images)
        self.batches.append(images.shape)
        arrays = {
            "detection_features": np.tile(np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2), (count, 1, 1, 1, 1)),
            "detection_boxes": np.tile(np.array([[0, 0.25, 1, 0.5], [0.5, 0, 1.5, 1]], np.float32), (count, 1, 1)),
            "detection_classes": np.tile(np.array([1.0, 3.0]), (count, 1)),
            "detection_scores": np.tile(np.array([0.25, 0.75], np.float32), (count, 1)),
            "raw_detection_scores": np.zeros((count, 5, 4)),  # of three classes and the background
        }
        return {name: SimpleNamespace(numpy=lambda values=values: values) for name, values in arrays.items()}


@pytest.fixture
def tensorflow(monkeypatch):
    """Make TensorFlow load a signature; None for a model without any."""
    Path("m").mkdir()
    optimised = {}

    def load(signature) -> tuple[str, ...]:
        Path("m/saved_model.pb").touch()
        model = SimpleNamespace(signatures={"serving_default": signature} if signature else {})
        optimizer = SimpleNamespace(set_experimental_options=optimised.update)
        threading = SimpleNamespace(
            set_intra_op_parallelism_threads=lambda n: None, set_inter_op_parallelism_threads=lambda n: None
        )
        package = SimpleNamespace(
            uint8="uint8",
            saved_model=SimpleNamespace(load=lambda path: model),
            config=SimpleNamespace(list_physical_devices=lambda kind: [], threading=threading, optimizer=optimizer),
            device=lambda name: torch.no_grad(),  # any context
            constant=lambda array: array,
        )
        monkeypatch.setitem(sys.modules, "tensorflow", package)
        return "tf-saved-model", "--model", "m"

    load.optimised = optimised
    return load


def test_tensorflow(tensorflow):
    """Features are means over positions, y comes first in its boxes, classes count from the background."""
    Path("names").write_text("a\nb\nc\n")
    assert extract(*tensorflow(Signature()), "--class-names", "names") == 0
    regions = RegionStore(["s.h5"])[1]
    assert regions.features.tolist() == [[5, 6], [1, 2]] and regions.labels.tolist() == [2, 0]
    assert regions.boxes.tolist() == [[0, 0.5, 1, 1], [0.25, 0, 0.5, 1]] and regions.scores.tolist() == [0.75, 0.25]
    Path("names").write_text("a\nb\n")
    assert "--class-names" in fails(*tensorflow(Signature()), "--class-names", "names", "--overwrite")


def test_tensorflow_takes_images_of_different_sizes_together(tensorflow):
    """With `--letterbox`; boxes stay relative to the image, and half precision is TensorFlow's own."""
    Path("names").write_text("a\nb\nc\n")
    shutil.rmtree("photos")
    Path("photos").mkdir()
    for name, size in (("a", (30, 20)), ("b", (400, 300)), ("c", (20, 30)), ("d", (90, 60))):
        Image.new("RGB", size).save(f"photos/{name}.png")
    signature = Signature()
    assert extract(*tensorflow(signature), "--class-names", "names", "--letterbox", 64) == 0
    assert signature.batches == [(3, 48, 64, 3), (1, 64, 48, 3)] and not tensorflow.optimised
    store = RegionStore(["s.h5"])
    np.testing.assert_allclose(store[0].boxes, [[0, 24 / 43, 1, 1], [0.25, 0, 0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(store[1].boxes, [[0, 0.5, 1, 1], [0.25, 0, 0.5, 1]], atol=1e-6)
    np.testing.assert_allclose(store[2].boxes, [[0, 0.5, 1, 1], [12 / 43, 0, 24 / 43, 1]], atol=1e-6)
    assert "--overwrite" in fails(*tensorflow(signature), "--class-names", "names")
    assert extract(*tensorflow(signature), "--class-names", "names", "--fp16", "--overwrite") == 0
    assert tensorflow.optimised == {"auto_mixed_precision": True}


@pytest.mark.parametrize(
    ("signature", "more", "words"),
    [
        (None, (), "serving_default"),
        (Signature(without="features"), (), "not detection_features"),
        (Signature(width=None), (), "detection_features"),
        (Signature(dtype="f4"), (), "uint8"),
        (None, ("--device", "cuda:1"), "--device cuda:1"),
    ],
)
def test_tensorflow_models_that_do_not_fit(tensorflow, signature, more, words):
    assert "--model m: " in fails("tf-saved-model", "--model", "m")  # no saved_model.pb
    assert words in fails(*tensorflow(signature), *more)


# ---- torchvision


def box_model() -> torch.nn.Module:
    """A model with box heads of two classes and the background."""
    model = torch.nn.Module()
    model.roi_heads = torch.nn.Module()
    model.roi_heads.box_roi_pool, model.roi_heads.box_head = torch.nn.Identity(), torch.nn.Identity()
    model.roi_heads.box_predictor = torch.nn.Module()
    model.roi_heads.box_predictor.cls_score = torch.nn.Linear(4, 3)
    return model


@pytest.mark.parametrize(
    ("model", "argv", "words"),
    [
        (None, ("--model", "other"), "--model other"),
        (torch.nn.Module(), (), "no box head"),
        (box_model(), ("--class-names", "one"), "2 classes but 1 names"),
        (box_model(), ("--device", "cuda:99"), "--device cuda:99"),
        (None, ("--weights", "latin"), "--weights latin"),
        (None, ("--weights", "none.pt"), "--weights none.pt: has no roi_heads.box_predictor.cls_score.weight"),
        (box_model(), ("--weights", "own.pt"), "--weights own.pt"),
    ],
)
def test_torchvision_models_that_do_not_fit(monkeypatch, model, argv, words):
    weights = SimpleNamespace(meta={"categories": ["background", "a", "b"]})
    models = SimpleNamespace(
        list_models=lambda module=None: ["tiny_rcnn"],
        get_model=lambda name, **options: model,
        get_model_weights=lambda name: SimpleNamespace(DEFAULT=weights),
    )
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    monkeypatch.setitem(sys.modules, "torchvision.models.detection", SimpleNamespace())
    Path("one").write_text("a\n")
    torch.save({}, "none.pt")
    torch.save({"roi_heads.box_predictor.cls_score.weight": torch.ones(3)}, "own.pt")
    assert words in fails("torchvision", "--model", "tiny_rcnn", *argv)
