"""`litert-ssd`: a Single Shot Detector of 300 x 300 pixels in LiteRT (TensorFlow Lite), on the CPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.detectors.base import Detection, Detector, import_package, need_model, register_detector
from vtlm_fairseq.extract.detectors.ssd_boxes import decode_boxes, make_anchors, pool_cells, suppress
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.image_reading import UnreadableImageError, decode_image

MODEL_FILE, LABELS_FILE = "ssd_mobilenetv2_oidv4_fp16.tflite", "labels.txt"  # as fetch_ssd.sh names them
_SIDE = 300
_MAPS = (("Conv_1/", (1, 10, 10, 1280)), ("layer_19_1_", (1, 10, 10, 256)))
_MAX_OVERLAP = 0.5
_SMALLEST_BOX = 1.0 / _SIDE
_GET_IT = "bash preprocess/fetch_ssd.sh FOLDER gets it"


@register_detector("litert-ssd")
class LiteRTSSD(Detector):
    """SSD MobileNetV2 for Open Images V4 with 23 classes, or another one with the same six feature maps.

    Features (1,536 wide) are the means of the 10 x 10 cells that a box touches, of the last layer of MobileNetV2
    (1,280) and of the layer that follows it (256). The network takes one image at a time.
    """

    uses = frozenset({"model", "class_names", "min_score", "threads"})

    def read(self, data: bytes) -> np.ndarray:
        """Pixels [300, 300, 3], uint8; the whole image, stretched."""
        image = decode_image(data)
        return np.asarray(image.resize((_SIDE, _SIDE), resample=2))  # bilinear

    def open(self, files: Sequence[ImageFile]) -> None:
        """Load `--model`, a .tflite file with labels.txt beside it, or the folder that `fetch_ssd.sh` made."""
        path = need_model(
            self.options, detector="litert-ssd", what=f"the folder or .tflite file of the SSD ({_GET_IT})"
        )
        if os.path.isdir(path):
            path = os.path.join(path, MODEL_FILE)
        if not os.path.isfile(path):
            raise VTLMError(f"--model {path}: no such file; {_GET_IT}")
        interpreter = import_package("ai_edge_litert.interpreter", extra="extract", detector="litert-ssd")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls the tensors that we read a debugging aid
            try:
                self._net = interpreter.Interpreter(
                    path, num_threads=self.options.threads, experimental_preserve_all_tensors=True
                )
                self._net.allocate_tensors()
            except (ValueError, RuntimeError) as error:
                raise VTLMError(f"--model {path}: not a LiteRT model ({error}); {_GET_IT}") from None
        self._find_tensors(path)
        self._anchors = make_anchors()
        self.feature_dim = sum(shape[-1] for _, shape in _MAPS)
        self.description = f"litert-ssd {Path(path).name}"

    def _find_tensors(self, path: str) -> None:
        given = self._net.get_input_details()
        outputs = {tuple(o["shape"].tolist()): o["index"] for o in self._net.get_output_details()}
        boxes = [index for shape, index in outputs.items() if shape == (1, 1917, 4)]
        scores = [(shape, index) for shape, index in outputs.items() if shape[:2] == (1, 1917) and shape[2:] > (4,)]
        maps = [
            [d["index"] for d in self._net.get_tensor_details() if part in d["name"] and tuple(d["shape"]) == shape]
            for part, shape in _MAPS
        ]
        if len(given) != 1 or tuple(given[0]["shape"]) != (1, _SIDE, _SIDE, 3) or not (boxes and scores and all(maps)):
            raise VTLMError(f"--model {path}: not an SSD MobileNetV2 for 300 x 300 pixels, with raw outputs; {_GET_IT}")
        self._input, self._boxes, (shape, self._scores) = given[0]["index"], boxes[0], scores[0]
        self._maps = [indices[0] for indices in maps]
        names = self.options.class_names
        if names is None:
            labels = os.path.join(os.path.dirname(path), LABELS_FILE)
            if not os.path.isfile(labels):
                raise VTLMError(f"{labels}: no such file; give --class-names FILE, or {_GET_IT}")
            names = tuple(read_lines(labels, filled=True))
        if len(names) != shape[2] - 1:
            raise VTLMError(f"--model {path}: {shape[2] - 1} classes but {len(names)} names; mend --class-names")
        self.class_names = names

    def detect(self, inputs: list[np.ndarray]) -> list[Detection | UnreadableImageError]:
        """Regions of each image, best first."""
        return [self._detect(pixels) for pixels in inputs]

    def _detect(self, pixels: np.ndarray) -> Detection:
        self._net.set_tensor(self._input, pixels[None].astype(np.float32) / 127.5 - 1.0)
        self._net.invoke()
        boxes = decode_boxes(self._net.get_tensor(self._boxes)[0], self._anchors).astype(np.float32)
        logits = self._net.get_tensor(self._scores)[0, :, 1:].astype(np.float64)  # 0 is the background
        scores = (1.0 / (1.0 + np.exp(-logits))).astype(np.float32)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= _SMALLEST_BOX).all(axis=1)
        boxes, scores = boxes[large], scores[large]
        rows, labels = suppress(
            boxes,
            scores,
            max_overlap=_MAX_OVERLAP,
            max_regions=self.options.max_regions,
            min_score=self.options.min_score,
        )
        maps = np.concatenate([self._net.get_tensor(index)[0] for index in self._maps], axis=-1)
        return Detection(pool_cells(maps, boxes[rows]), boxes[rows], labels, scores[rows, labels])
