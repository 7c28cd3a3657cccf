"""`tf-saved-model`: a Faster R-CNN of TensorFlow's Object Detection API with its per-detection features.

The paper's detector is faster_rcnn_inception_resnet_v2_atrous_oid_v4_2018_12_12, exported again so that its signature
`serving_default` gives `detection_features` too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.detectors.base import (
    Detection,
    Detector,
    import_package,
    need_model,
    register_detector,
)
from vtlm_fairseq.extract.detectors.letterbox import Letterboxed, of_one_shape, read_letterboxed, relative_to_image
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions import numbered_classes
from vtlm_fairseq.regions.image_reading import UnreadableImageError

_CLASSES = 601  # Open Images V4
_SIGNATURE = "serving_default"
_OUTPUTS = ("detection_features", "detection_boxes", "detection_classes", "detection_scores", "raw_detection_scores")


@register_detector("tf-saved-model")
class TFSavedModel(Detector):
    """A SavedModel whose `serving_default` takes uint8 images [B, height, width, 3] and gives, with N detections,

    `detection_features` [B, N, height, width, D], here averaged over their positions, `detection_boxes` [B, N, 4]
    (ymin, xmin, ymax, xmax), `detection_classes` [B, N], `detection_scores` [B, N] and `raw_detection_scores`
    [B, proposals, width]. The width of the last less the number of classes is the number of the first class.
    """

    uses = frozenset({"model", "class_names", "min_score", "device", "threads", "letterbox", "fp16"})

    def read(self, data: bytes) -> Letterboxed:
        """The image, on a canvas with `--letterbox`."""
        return read_letterboxed(data, self.options.letterbox)

    def open(self, files: Sequence[ImageFile]) -> None:
        """Load `--model`, the folder of the SavedModel."""
        path = need_model(self.options, detector="tf-saved-model", what="the folder of a SavedModel")
        if not os.path.isfile(os.path.join(path, "saved_model.pb")):
            raise VTLMError(f"--model {path}: not the folder of a SavedModel, which holds saved_model.pb")
        self._tf = import_package("tensorflow", extra="tensorflow", detector="tf-saved-model")
        self._set_device()
        if self.options.fp16:
            self._tf.config.optimizer.set_experimental_options({"auto_mixed_precision": True})
        with self._tf.device(self._device):
            self._model = self._tf.saved_model.load(path)  # keeps the variables of the signature alive
        if _SIGNATURE not in self._model.signatures:
            raise VTLMError(f"--model {path}: has no signature {_SIGNATURE}; export the model again with it")
        self._run = self._model.signatures[_SIGNATURE]
        outputs = self._run.structured_outputs
        missing = [name for name in _OUTPUTS if name not in outputs]
        if missing:
            raise VTLMError(
                f"--model {path}: {_SIGNATURE} gives {', '.join(sorted(outputs))}, but not {missing[0]}; export the "
                "model again with its detection features"
            )
        self._input = self._check_input(path)
        self.class_names = list(self.options.class_names or numbered_classes(_CLASSES))
        self.feature_dim = outputs["detection_features"].shape[-1]
        if self.feature_dim is None:
            raise VTLMError(f"--model {path}: the width of detection_features is not fixed; export the model again")
        self.description = f"tf-saved-model {os.path.basename(os.path.abspath(path))}"

    def _set_device(self) -> None:
        kind, _, number = self.options.device.partition(":")
        self._device = "/CPU:0" if kind == "cpu" else f"/GPU:{number or 0}"
        if kind != "cpu" and len(self._tf.config.list_physical_devices("GPU")) <= int(number or 0):
            raise VTLMError(f"--device {self.options.device}: TensorFlow has no such GPU; use --device cpu")
        try:
            self._tf.config.threading.set_intra_op_parallelism_threads(self.options.threads)
            self._tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:  # TensorFlow is running already in this process, and keeps its threads
            pass

    def _check_input(self, path: str) -> str:
        inputs = self._run.structured_input_signature[1]
        name, spec = next(iter(inputs.items()))
        if len(inputs) != 1 or spec.dtype != self._tf.uint8 or spec.shape.rank != 4:
            raise VTLMError(
                f"--model {path}: {_SIGNATURE} takes {', '.join(map(str, inputs.values()))}, not uint8 images "
                "[B, height, width, 3]; export the model again for image tensors"
            )
        self._batched = spec.shape[0] is None
        return name

    def detect(self, inputs: list[Letterboxed]) -> list[Detection | UnreadableImageError]:
        """Regions of each image; images of one size go through the network together."""
        found: dict[int, Detection] = {}
        for members in of_one_shape(inputs) if self._batched else [[at] for at in range(len(inputs))]:
            images = self._tf.constant(np.stack([inputs[at].pixels for at in members]))
            with self._tf.device(self._device):
                outputs = {name: value.numpy() for name, value in self._run(**{self._input: images}).items()}
            for row, at in enumerate(members):
                found[at] = relative_to_image(self._detection(outputs, row), inputs[at])
        return [found[at] for at in range(len(inputs))]

    def _detection(self, outputs: dict[str, np.ndarray], row: int) -> Detection:
        scores = outputs["detection_scores"][row]
        count = int(outputs["num_detections"][row]) if "num_detections" in outputs else len(scores)
        keep = np.flatnonzero(scores[:count] >= self.options.min_score)
        keep = keep[np.argsort(-scores[keep], kind="stable")[: self.options.max_regions]]
        offset = outputs["raw_detection_scores"].shape[-1] - len(self.class_names)
        labels = outputs["detection_classes"][row][keep].astype(np.int64) - offset
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise VTLMError(
                f"--detector tf-saved-model: class {labels.min()} to {labels.max()} after taking off {offset}, of "
                f"{len(self.class_names)}; give --class-names FILE with a line for each class of this model"
            )
        features = outputs["detection_features"][row][keep]
        boxes = np.clip(outputs["detection_boxes"][row][keep][:, [1, 0, 3, 2]], 0.0, 1.0)
        pooled = features.reshape(len(keep), -1, features.shape[-1]).astype(np.float32)
        return Detection(pooled.mean(axis=1), boxes, labels, scores[keep])
