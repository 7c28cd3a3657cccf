"""`grid`: no detector, but a grid of features an image, as vision transformers and CLIP give."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.extract.detectors.base import Detection, Detector, register_detector
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions.cells import grid_boxes
from vtlm_fairseq.regions.image_reading import UnreadableImageError


@register_detector("grid")
class GridDetector(Detector):
    """Features from one `.npy` file an image, [rows, columns, D], or [g * g, D] in reading order.

    A region is a cell of the grid with its box; all have the label 0, `cell`, and the score 1.
    """

    suffixes = (".npy",)

    def read(self, data: bytes) -> np.ndarray:
        """Features of an image, [rows, columns, D]."""
        try:
            grid = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise UnreadableImageError(f"not a .npy file of plain numbers ({reason(error)})") from None
        if not isinstance(grid, np.ndarray) or grid.dtype.kind not in "fiu" or grid.ndim not in (2, 3) or not grid.size:
            kind = f"{grid.dtype} {list(grid.shape)}" if isinstance(grid, np.ndarray) else "a .npz file"
            raise UnreadableImageError(f"{kind}, not numbers [g * g, D] or [rows, columns, D]")
        if grid.shape[-1] < 2:
            raise UnreadableImageError(f"{list(grid.shape)}: one number a cell is no feature; are these labels?")
        if grid.ndim == 3:
            return grid
        side = math.isqrt(len(grid))
        if side * side != len(grid):
            hint = "; leave out the class token" if math.isqrt(len(grid) - 1) ** 2 == len(grid) - 1 else ""
            raise UnreadableImageError(f"{len(grid)} features make no square grid{hint}")
        return grid.reshape(side, side, -1)

    def open(self, files: Sequence[ImageFile]) -> None:
        """Take the width of the features from the first file that can be read."""
        for file in files:
            try:
                rows, columns, self.feature_dim = self.read(file.read()).shape
            except (OSError, UnreadableImageError) as error:
                fault = error
                continue
            check_cells(rows, columns, max_regions=self.options.max_regions, where=file.path)
            self.class_names, self.description = ["cell"], f"grid of {rows} x {columns}"
            return
        raise VTLMError(f"--detector grid: no file could be read; {files[-1].path}: {fault}")

    def detect(self, inputs: list[np.ndarray]) -> list[Detection | UnreadableImageError]:
        """Cells of each grid in reading order."""
        return [self._cells(grid) for grid in inputs]

    def _cells(self, grid: np.ndarray) -> Detection | UnreadableImageError:
        rows, columns, width = grid.shape
        if width != self.feature_dim:
            return UnreadableImageError(f"features are {width} wide, those of the first file {self.feature_dim}")
        cells = rows * columns
        if cells > self.options.max_regions:
            return UnreadableImageError(
                f"{rows} x {columns} cells are more than --max-regions {self.options.max_regions}"
            )
        return cells_as_regions(grid, grid_boxes(rows, columns))


def cells_as_regions(grid: np.ndarray, boxes: np.ndarray) -> Detection:
    """Regions without class: a grid of features [rows, columns, D] with the boxes of its cells [rows * columns, 4]."""
    return Detection(grid.reshape(len(boxes), -1), boxes, np.zeros(len(boxes), np.int64), np.ones(len(boxes)))


def check_cells(rows: int, columns: int, *, max_regions: int, where: str) -> None:
    """Refuse a grid that a store would cut.

    Raises:
        VTLMError: it has more cells than `--max-regions`.
    """
    if rows * columns > max_regions:
        raise VTLMError(
            f"{where}: a grid of {rows} x {columns} cells has more than {max_regions} regions; "
            f"add --max-regions {rows * columns} here and in training"
        )
