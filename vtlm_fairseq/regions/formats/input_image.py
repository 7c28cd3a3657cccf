"""One image of the input of a conversion, whatever its format."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError


class InputImage(NamedTuple):
    """Features [R, D], boxes [R, 4], labels [R], scores [R] of an image; None where not given.

    Attributes:
        image_id: its id in the store.
        source: file (and line), for messages.
        features: [R, D].
        boxes: [R, 4], x1, y1, x2, y2 unless the command says otherwise.
        labels: [R], 0-based.
        scores: [R].
        size: width and height in pixels, where the boxes are in pixels and the format gives it.
    """

    image_id: str
    source: str
    features: np.ndarray
    boxes: np.ndarray | None
    labels: np.ndarray | None
    scores: np.ndarray | None
    size: tuple[float, float] | None = None


class ImageFiles:
    """Images from a folder with a file for each, in the order of their names.

    Raises:
        VTLMError: no folder, no file in it, or a file that is not of this form.
    """

    option: str
    ending: str

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            raise VTLMError(f"{self.option} {folder}: no such folder")
        self._files = sorted(Path(folder).glob(f"*{self.ending}"))
        if not self._files:
            raise VTLMError(f"{self.option} {folder}: no {self.ending} file in that folder")
        self.feature_dim = self.read(self._files[0]).features.shape[1]

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[InputImage]:
        return map(self.read, self._files)

    def read(self, path: Path) -> InputImage:
        """The image of a file; its id is the file's name without the ending."""
        raise NotImplementedError
