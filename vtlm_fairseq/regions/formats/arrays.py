"""What `vtlm-regions convert` reads: numpy files and id lists."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.formats.input_image import ImageFiles, ImageSource, InputImage, Listed, check_no_pipe

_ARRAYS = ("features", "boxes", "labels", "scores", "soft_labels")


class NpzImages(ImageFiles):
    """Images from a folder of `ID.npz` files.

    Raises:
        VTLMError: as `ImageFiles`: a file is no .npz or lacks an array.
    """

    option, ending, has_soft_labels = "--npz", ".npz", True

    def read(self, path: Path) -> InputImage:
        """Arrays ``features``, ``boxes``, ``labels``, and perhaps ``scores`` and ``soft_labels``."""
        check_no_pipe(path)
        arrays = _load(path)
        if isinstance(arrays, np.ndarray):
            raise VTLMError(f"{path}: not a .npz file; stacked arrays are read with --npy")
        with arrays:
            missing = [name for name in ("features", "boxes", "labels") if name not in arrays]
            if missing:
                raise VTLMError(
                    f"{path}: array {missing[0]!r} is missing, the file holds {', '.join(arrays) or 'none'}"
                )
            try:
                found = {n: arrays[n] if n in arrays else None for n in _ARRAYS}
            except Exception as error:  # numpy and zipfile raise a dozen types for damaged files
                raise VTLMError(f"{path}: unreadable ({reason(error)}); save plain numbers with numpy.savez") from None
        if found["features"].ndim != 2:
            raise VTLMError(f"{path}: features have shape {found['features'].shape}, must be [R, D]")
        return InputImage(path.name.removesuffix(self.ending), str(path), **found)


class NpyImages(ImageSource):
    """Images from stacked arrays, memory-mapped: features [N, R, D] and, beside them, boxes, labels, scores.

    Raises:
        VTLMError: a file that is no .npy, or whose shape does not fit the features or the ids.
    """

    def __init__(
        self,
        features: str,
        ids: str,
        *,
        boxes: str | None,
        labels: str | None,
        scores: str | None,
        counts: str | None = None,
    ) -> None:
        self._source, self.has_labels = features, labels is not None
        self._features = _load_npy(features, "--npy")
        if self._features.ndim != 3:
            hint = {
                2: "; one vector an image [N, D]: --layout multi30k-avgpool --input FILE",
                4: "; maps [N, D, rows, columns]: --layout multi30k-res4 --input FILE, or a YAML (docs/formats.md)",
            }
            shape = self._features.shape
            raise VTLMError(f"--npy {features}: shape {shape}, must be [N, R, D]{hint.get(len(shape), '')}")
        images, regions, self.feature_dim = self._features.shape
        self._ids = read_lines(ids, label=f"--ids {ids}", filled=True, strip=True)
        if len(self._ids) != images:
            raise VTLMError(f"--ids {ids}: {len(self._ids)} lines, but {features} holds {images} images")
        self._boxes = _load_beside("--boxes", boxes, (images, regions, 4))
        self._labels = _load_beside("--labels", labels, (images, regions))
        self._scores = _load_beside("--scores", scores, (images, regions))
        self._ids_file, self.listed_inputs = ids, (ids,)
        self._counts = _load_beside("--counts", counts, (images,))
        if self._counts is not None:
            wrong = self._counts.dtype.kind not in "iu" or (self._counts < 0) | (self._counts > regions)
            if np.any(wrong):
                raise VTLMError(f"--counts {counts}: must be whole numbers from 0 to {regions}, the rows of {features}")

    def __len__(self) -> int:
        return len(self._ids)

    def listed(self) -> list[Listed]:
        """The lines of the ids."""
        where = f"--ids {self._ids_file}, line"
        return [Listed(image_id, f"{where} {number}") for number, image_id in enumerate(self._ids, start=1)]

    def records(self) -> Iterator[int]:
        """Rows of the arrays."""
        return iter(range(len(self._ids)))

    def read(self, row: int) -> InputImage:
        """The image of a row."""
        end = None if self._counts is None else int(self._counts[row])
        boxes, labels, scores = (a if a is None else a[row][:end] for a in (self._boxes, self._labels, self._scores))
        return InputImage(self._ids[row], self._source, self._features[row][:end], boxes, labels, scores)


def _load(path: str | Path) -> Any:
    try:
        return np.load(path, allow_pickle=False, mmap_mode="r")
    except Exception as error:  # numpy and zipfile raise a dozen types for damaged files
        raise VTLMError(f"{path}: not a numpy file of plain numbers ({reason(error)})") from None


def _load_npy(path: str, option: str) -> np.ndarray:
    check_no_pipe(path)
    array = _load(path)
    if not isinstance(array, np.ndarray):
        array.close()
        raise VTLMError(f"{option} {path}: a .npz file; one .npz an image is read with --npz DIR")
    return array


def _load_beside(option: str, path: str | None, shape: tuple[int, ...]) -> np.ndarray | None:
    if path is None:
        return None
    array = _load_npy(path, option)
    if array.shape != shape:
        raise VTLMError(f"{option} {path}: shape {array.shape}, must be {shape} to fit the features")
    return array
