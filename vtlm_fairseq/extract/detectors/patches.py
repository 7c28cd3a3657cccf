"""`patches`: no detector, but the patches of a vision transformer (CLIP, SigLIP, DINOv2) as regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.detectors.base import Detection, Detector, DetectorOptions, register_detector
from vtlm_fairseq.extract.detectors.grid import cells_as_regions, check_cells
from vtlm_fairseq.extract.detectors.vision_transformer import VisionTransformer
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions.cells import grid_boxes, pool_boxes
from vtlm_fairseq.regions.image_reading import UnreadableImageError


@register_detector("patches")
class Patches(Detector):
    """A region is a cell of the model's grid with its box, or with `--pool` the mean of the cells in one of `--grid`.

    All have the label 0, `cell`, and the score 1.
    """

    uses = frozenset({"model", "grid", "pool", "device", "threads", "fp16"})

    def __init__(self, options: DetectorOptions) -> None:
        super().__init__(options)
        self._model = model = VisionTransformer(options, detector="patches")
        self._grid = model.rows, model.columns
        if options.pool:
            if options.grid is None:
                raise VTLMError("--pool averages the model's grid down to --grid; give --grid, such as 7x7")
            self._grid = options.grid[0], options.grid[1]
            if self._grid[0] > model.rows or self._grid[1] > model.columns:
                own = f"{model.rows}x{model.columns}"
                raise VTLMError(f"--grid {self._grid[0]}x{self._grid[1]} --pool: more than the model's own {own}")
        check_cells(*self._grid, max_regions=options.max_regions, where="--detector patches")
        self._boxes = grid_boxes(*self._grid, height=model.height, width=model.width)

    def read(self, data: bytes) -> np.ndarray:
        """Pixels [height, width, 3], uint8; the whole image, stretched."""
        return self._model.read(data)

    def open(self, files: Sequence[ImageFile]) -> None:
        """Load the model."""
        self.feature_dim = self._model.open()
        self.class_names = ["cell"]
        self.description = f"patches {self._model.name} {self._grid[0]}x{self._grid[1]}"

    def detect(self, inputs: list[np.ndarray]) -> list[Detection | UnreadableImageError]:
        """Cells of each image in reading order."""
        return [cells_as_regions(self._pooled(grid), self._boxes) for grid in self._model.encode(inputs)]

    def _pooled(self, grid: np.ndarray) -> np.ndarray:
        if self._grid == grid.shape[:2]:
            return grid
        return pool_boxes(grid, grid_boxes(*self._grid))
