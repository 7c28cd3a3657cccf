"""The protocol of detectors: images in, regions out."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions.image_reading import IMAGE_SUFFIXES, UnreadableImageError, decode_image, require_pillow
from vtlm_fairseq.registry import Registry


class Detection(NamedTuple):
    """The regions of one image, in any order.

    Attributes:
        features: [R, D] numbers.
        boxes: [R, 4], x1, y1, x2, y2 divided by image width and height, within 0..1.
        labels: [R] classes from 0, without background.
        scores: [R] confidence.
    """

    features: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class DetectorOptions:
    """What the command line says to every detector.

    Attributes:
        model: file, folder or name of the model.
        weights: file of weights, where the model's name does not tell.
        class_names: names of the classes in the order of the labels, where the model does not know them.
        max_regions: at most so many regions an image are kept.
        min_score: regions of lower confidence are dropped.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: threads of the detector on the CPU.
        grid: rows and columns of cells.
        pool: the model's own grid is averaged down to `grid`.
        boxes: region store whose boxes are taken.
        letterbox: longer side, in pixels, that images are scaled to, so that those of different sizes share batches.
        fp16: compute in half precision.
    """

    model: str | None = None
    weights: str | None = None
    class_names: tuple[str, ...] | None = None
    max_regions: int = 36
    min_score: float = 0.0
    device: str = "cpu"
    threads: int = 1
    grid: Sequence[int] | None = None
    pool: bool = False
    boxes: str | None = None
    letterbox: int | None = None
    fp16: bool = False


class Detector(ABC):
    """A detector. `read` runs in worker processes, `open` once in the main process, then `detect` for each batch.

    A detector is made before the workers start, so that making it must be cheap; they work on copies of it. The
    regions that `detect` gives are sorted, and cut to `--max-regions`, by the caller.

    Attributes:
        suffixes: endings of the file names it reads.
        uses: those of the options but `max_regions` that have an effect.
        feature_dim: D; known after `open`.
        class_names: C names; known after `open`.
        description: what the store's `detector` attribute says; known after `open`.
    """

    suffixes: Sequence[str] = IMAGE_SUFFIXES
    uses: frozenset[str] = frozenset()
    feature_dim: int
    class_names: Sequence[str]
    description: str

    def __init__(self, options: DetectorOptions) -> None:
        self.options = options
        if set(self.suffixes) & set(IMAGE_SUFFIXES):
            require_pillow()

    def read_file(self, file: ImageFile) -> Any:
        """One input of `detect`; here what `read` makes of the file's bytes.

        Raises:
            UnreadableImageError: as of `read`.
            OSError: the file cannot be read.
        """
        return self.read(file.read())

    def read(self, data: bytes) -> np.ndarray:
        """One input of `detect` from the bytes of a file; here the pixels [height, width, 3], uint8.

        Raises:
            UnreadableImageError: the file goes to the list of errors, with this reason.
        """
        return np.asarray(decode_image(data))

    @abstractmethod
    def open(self, files: Sequence[ImageFile]) -> None:
        """Load the model, and set `feature_dim`, `class_names` and `description`.

        Args:
            files: those of the run, for a detector that has to look at one.

        Raises:
            VTLMError: a package or a file is missing, or the model is not of the right kind.
        """

    @abstractmethod
    def detect(self, inputs: list[np.ndarray]) -> list[Detection | UnreadableImageError]:
        """The regions of a batch of images, or the reason why an image can have none."""


_DETECTORS = Registry("--detector", "detectors", "--detector-file adds your own")
register_detector = _DETECTORS.register
"""Class decorator: makes a detector known as `--detector NAME`."""
list_detectors = _DETECTORS.names
"""Names of all detectors."""
get_detector = _DETECTORS.get
"""The class of a detector."""


def import_package(package: str, *, extra: str, detector: str) -> ModuleType:
    """Import a package that only one detector needs.

    Raises:
        VTLMError: it is not installed (names the extra), or cannot be loaded.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        if getattr(error, "name", None) == package.split(".")[0]:
            raise VTLMError(
                f"--detector {detector} needs {error.name}, not installed here: pip install 'vtlm-fairseq[{extra}]'"
            ) from None
        raise VTLMError(f"--detector {detector}: {package} cannot be imported ({error}); install it again") from None


def need_model(options: DetectorOptions, *, detector: str, what: str) -> str:
    """The value of `--model`.

    Raises:
        VTLMError: not given (says what it should be).
    """
    if options.model is None:
        raise VTLMError(f"--detector {detector} needs --model: {what}")
    return options.model
