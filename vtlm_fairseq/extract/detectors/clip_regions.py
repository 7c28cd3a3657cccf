"""`clip-regions`: boxes, labels and scores of another store, with features of a vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.detectors.base import Detection, Detector, DetectorOptions, register_detector
from vtlm_fairseq.extract.detectors.vision_transformer import VisionTransformer
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions.cells import pool_boxes
from vtlm_fairseq.regions.checks import bad_boxes, within_image
from vtlm_fairseq.regions.image_reading import UnreadableImageError
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.store import RegionStore, say_beyond
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.id_rules import BY_EITHER, explain_missing


@register_detector("clip-regions")
class ClipRegions(Detector):
    """The regions of `--boxes STORE`; a feature is the mean of the patches in the box, weighted by the area in it."""

    uses = frozenset({"model", "boxes", "grid", "device", "threads", "fp16"})

    def __init__(self, options: DetectorOptions) -> None:
        super().__init__(options)
        if options.boxes is None:
            raise VTLMError(
                "--detector clip-regions needs --boxes: a region store, whose boxes, labels and scores it takes"
            )
        self._store = RegionStore(store_files(options.boxes, option="--boxes "), options.max_regions)
        self._model = VisionTransformer(options, detector="clip-regions")

    def read_file(self, file: ImageFile) -> tuple[str, np.ndarray]:
        """Image id, and pixels [height, width, 3], uint8; the whole image, stretched."""
        return file.image_id, self._model.read(file.read())

    def open(self, files: Sequence[ImageFile]) -> None:
        """Load the model, and find the images in the other store."""
        known = set(self._store.ids())
        held = [file.image_id for file in files if file.image_id in known]
        if absent := [file.image_id for file in files if file.image_id not in known]:
            hint = explain_missing(absent, known, BY_EITHER)
            lacking = (
                f"--boxes {self.options.boxes}: {len(absent):,} images are not in it, the first {absent[0]!r}{hint}"
            )
            if not held:
                raise VTLMError(f"{lacking}; none is, give the store that has them")
            say(lacking)
        rows = self._store.rows(held)
        self._rows = dict(zip(held, rows.tolist(), strict=True))
        beyond = self._store.beyond(rows)
        if beyond[0]:
            say(f"warning: --boxes {self.options.boxes}: {say_beyond(beyond, self.options.max_regions)}, left out")
        self.feature_dim = self._model.open()
        self.class_names = self._store.class_names
        self.description = f"clip-regions {self._model.name}, boxes of {self._store.detector}"

    def detect(self, inputs: list[tuple[str, np.ndarray]]) -> list[Detection | UnreadableImageError]:
        """Regions of each image, in the order of the other store."""
        held = [k for k, (image_id, _) in enumerate(inputs) if image_id in self._rows]
        found: list[Detection | UnreadableImageError] = [
            UnreadableImageError(f"is not in --boxes {self.options.boxes}") for _ in inputs
        ]
        if held:
            grids = self._model.encode([inputs[k][1] for k in held])
            for k, grid in zip(held, grids, strict=True):
                regions = self._store[self._rows[inputs[k][0]]]
                if not within_image(regions.boxes):
                    raise bad_boxes(f"--boxes {self.options.boxes}: image {inputs[k][0]!r}", regions.boxes)
                features = pool_boxes(grid, regions.boxes, height=self._model.height, width=self._model.width)
                found[k] = Detection(features, regions.boxes, regions.labels, regions.scores)
        return found
