"""Detectors that run in TensorFlow and torchvision, each with a tiny model whose regions are known."""

import numpy as np
import pytest
from extraction import FRAMEWORKS, ROOT, SCRIPT, without
from PIL import Image

from harness import write_lines
from vtlm_fairseq.regions.store import RegionStore

SAVED_MODELS = """
import sys
import tensorflow as tf

def make(folder, classes, width, *, left_out=None):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    def detect(inputs):
        batch = tf.shape(inputs)[0]
        mean = tf.reduce_mean(tf.cast(inputs, tf.float32), axis=[1, 2])
        noise = tf.reshape(tf.range(4 * 2 * 3 * 3, dtype=tf.float32), [1, 4, 2, 3, 3])
        boxes = [[0.0, 0.1, 0.5, 0.6], [0.2, 0.0, 1.0, 1.25], [0.0, 0.0, 1.0, 1.0], [0.5] * 4]
        found = {
            "detection_features": noise + mean[:, None, None, None, :],
            "detection_boxes": tf.tile(tf.constant([boxes]), [batch, 1, 1]),
            "detection_classes": tf.tile(tf.constant([[1.0, float(classes), 7.0, 2.0]]), [batch, 1]),
            "detection_scores": tf.tile(tf.constant([[0.5, 0.9, 0.25, 0.8]]), [batch, 1]),
            "raw_detection_scores": tf.zeros([batch, 5, width]),
            "num_detections": tf.fill([batch], 3.0),
        }
        found.pop(left_out, None)
        return found

    model = tf.Module()
    model.detect = detect
    tf.saved_model.save(model, f"{sys.argv[1]}/{folder}", signatures={"serving_default": model.detect})

make("oid", 601, 602)
make("own", 6, 7)
make("bare", 601, 602, left_out="detection_features")
"""
RCNN = """
from collections import OrderedDict

import torch
from torch import nn
from torchvision.models._api import register_model
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign


class Backbone(nn.Module):
    out_channels = 3

    def forward(self, images):
        return OrderedDict({"0": nn.functional.avg_pool2d(images, 4)})


class Mean(nn.Module):
    def forward(self, pooled):
        return pooled.mean(dim=(2, 3))


class Predictor(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(3, classes), nn.Linear(3, classes * 4)

    def forward(self, features):
        return self.cls_score(features), self.bbox_pred(features)


@register_model()
def tiny_rcnn(weights=None, weights_backbone=None, num_classes=4):
    return FasterRCNN(
        Backbone(), min_size=64, max_size=96, image_mean=[0] * 3, image_std=[1] * 3, rpn_pre_nms_top_n_test=40,
        rpn_anchor_generator=AnchorGenerator(((16,),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=3, sampling_ratio=2), box_head=Mean(),
        box_predictor=Predictor(num_classes),
    )


if __name__ == "__main__":
    import sys

    torch.manual_seed(0)
    model = tiny_rcnn()
    nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.weight)
    nn.init.zeros_(model.roi_heads.box_predictor.bbox_pred.bias)
    torch.save(model.state_dict(), sys.argv[1])
"""


@pytest.fixture
def folder(tmp_path):
    """Three images, two of one size: left half red, right half blue; and evenly green ones."""
    (tmp_path / "in").mkdir()
    halves = np.zeros((64, 96, 3), np.uint8)
    halves[:, :48, 0] = halves[:, 48:, 2] = 255
    Image.fromarray(halves).save(tmp_path / "in" / "halves.png")
    Image.new("RGB", (50, 30), (0, 200, 0)).save(tmp_path / "in" / "green.png")
    Image.new("RGB", (96, 64), (0, 100, 0)).save(tmp_path / "in" / "leaf.png")
    return tmp_path


def extract(run, folder, detector, *argv, out="s.h5", **options):
    return run(SCRIPT, "--images", folder / "in", "--detector", detector, "--out", folder / out, "--dtype", "float32",
               "--workers", 1, *argv, env={"PYTHONPATH": FRAMEWORKS}, **options)  # fmt: skip


@pytest.mark.skipif(without("tensorflow"), reason="tensorflow is neither installed nor in VTLM_TEST_FRAMEWORKS")
def test_tf_saved_model(run, folder):
    """Features averaged over positions, y-first boxes turned and cut, the background's offset taken off."""
    (folder / "make.py").write_text(SAVED_MODELS)
    run(folder / "make.py", folder, env={"PYTHONPATH": FRAMEWORKS})
    extract(run, folder, "tf-saved-model", "--model", folder / "oid")
    store = RegionStore([str(folder / "s.h5")])
    assert (store.ids(), store.num_classes) == (["green", "halves", "leaf"], 601)
    assert store.detector == "tf-saved-model oid"
    green, halves = store[0], store[1]
    assert green.scores.tolist() == pytest.approx([0.9, 0.5, 0.25])  # three detections: the fourth is padding
    assert green.labels.tolist() == [600, 0, 6]
    np.testing.assert_allclose(green.boxes, [[0, 0.2, 1, 1], [0.1, 0, 0.6, 0.5], [0, 0, 1, 1]])
    # detection 1 holds 18..35: positions 0..5 of channel 0 are 18, 21, .., 33, their mean 25.5
    np.testing.assert_allclose(green.features[0], [25.5, 226.5, 27.5])
    np.testing.assert_allclose(halves.features[1], [7.5 + 127.5, 8.5, 9.5 + 127.5])
    np.testing.assert_allclose(store[2].features[2], [43.5, 144.5, 45.5])

    extract(run, folder, "tf-saved-model", "--model", folder / "oid", "--letterbox", 96, "--fp16", out="boxed.h5")
    boxed = RegionStore([str(folder / "boxed.h5")])  # the green one: 58 rows of 60
    np.testing.assert_allclose(boxed[0].boxes[1], [0.1, 0, 0.6, 30 / 58], atol=1e-6)

    names = write_lines(folder / "names", ["cat", "dog", *map(str, range(5))])  # as many as scores: classes from 0
    extract(run, folder, "tf-saved-model", "--model", folder / "own", "--class-names", names, "--max-regions", 2,
            "--min-score", 0.3, out="own.h5")  # fmt: skip
    assert RegionStore([str(folder / "own.h5")])[0].labels.tolist() == [6, 1]

    fault = extract(run, folder, "tf-saved-model", "--model", folder / "own", out="no.h5", ok=False)
    fault.fault("class", "taking off -594", "--class-names FILE")
    fault = extract(run, folder, "tf-saved-model", "--model", folder / "bare", out="bare.h5", ok=False)
    fault.fault("but not detection_features; export the model again")


@pytest.mark.skipif(without("torchvision"), reason="torchvision is neither installed nor in VTLM_TEST_FRAMEWORKS")
def test_torchvision(run, folder):
    """Features belong to the boxes that are kept: here the mean colour in each box; labels without background."""
    (folder / "rcnn.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests/support')!r})\nimport torchvision_ops\n{RCNN}"
    )
    run(folder / "rcnn.py", folder / "own.pt", env={"PYTHONPATH": FRAMEWORKS})
    base = ["--detector-file", folder / "rcnn.py", "--model", "tiny_rcnn", "--weights", folder / "own.pt"]
    extract(run, folder, "torchvision", *base, "--max-regions", 12)
    store = RegionStore([str(folder / "s.h5")])
    assert store.ids() == ["green", "halves", "leaf"] and store.class_names == ["class 0", "class 1", "class 2"]
    assert store.counts(np.arange(3)).tolist() == [12, 12, 12] and store.detector == "torchvision tiny_rcnn own weights"
    green, halves, leaf = store[0], store[1], store[2]
    inside = green.boxes[:, 3] < 0.8  # below, torchvision pads the image to the size of the others
    np.testing.assert_allclose(green.features[inside], np.tile([0, 200 / 255, 0], (inside.sum(), 1)), atol=1e-3)
    assert inside.sum() > 3
    np.testing.assert_allclose(leaf.features, np.tile([0, 100 / 255, 0], (12, 1)), atol=1e-3)
    boxes = halves.boxes
    assert (boxes[:, 2] - boxes[:, 0]).min() > 0.05 and len(np.unique(boxes.round(3), axis=0)) > 3
    red = np.clip((0.5 - boxes[:, 0]) / (boxes[:, 2] - boxes[:, 0]), 0, 1)
    np.testing.assert_allclose(halves.features[:, 0], red, atol=0.15)
    np.testing.assert_allclose(halves.features[:, 2], 1 - red, atol=0.15)
    for more in (("--fp16",), ("--letterbox", 96)):
        extract(run, folder, "torchvision", *base, "--max-regions", 40, *more, out=f"{more[0]}.h5")
        found = RegionStore([str(folder / f"{more[0]}.h5")])
        for image, shade in ((found[0], 200 / 255), (found[2], 100 / 255)):
            inside = (image.boxes[:, 2:] < 0.8).all(axis=1)  # beyond, what is behind the edge shows
            assert inside.sum() > 3
            np.testing.assert_allclose(image.features[inside], np.tile([0, shade, 0], (inside.sum(), 1)), atol=2e-3)
    for name, size in (("line.gif", (1400, 1)), ("pole.gif", (1, 3000))):  # torchvision resizes them to no pixels
        Image.new("P", size).save(folder / "in" / name)
    assert extract(run, folder, "torchvision", *base, "--max-regions", 12, ok=False).status == 3
    assert RegionStore([str(folder / "s.h5")]).ids() == store.ids()
    listed = [line.split("\t") for line in (folder / "s.h5.errors.tsv").read_text().splitlines()]
    assert [line[0] for line in listed] == ["line", "pole"]
    fault = extract(run, folder, "torchvision", "--detector-file", folder / "rcnn.py", "--model", "tiny_rcnn",
                    "--weights", folder / "rcnn.py", out="no.h5", ok=False)  # fmt: skip
    fault.fault("rcnn.py: not a state dict of tensors")
