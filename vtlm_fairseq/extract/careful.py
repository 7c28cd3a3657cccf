"""A detector whose failures are told apart: those of an image, which is left out, and those of the detector itself."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from vtlm_fairseq.errors import FULL, VTLMError, reason
from vtlm_fairseq.extract.detectors import Detection, Detector
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.regions.checks import Rules
from vtlm_fairseq.regions.image_reading import UnreadableImageError
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

_ENOUGH = 8
"""Images of which none went through: then it is the detector."""


class UnreachableFileError(UnreadableImageError):
    """A file that the system cannot give."""


class _DetectorFailed(UnreadableImageError):
    """The detector ended with an exception, or gave what no store can hold."""


Regions = dict[str, np.ndarray]
Input = Any
"""What `Detector.read` gives."""


def read_input(detector: Detector, file: ImageFile) -> Input | UnreadableImageError | VTLMError:
    """The input of a file, or why there is none. A `VTLMError` is no fault of the image."""
    try:
        return detector.read_file(file)
    except (UnreadableImageError, VTLMError) as error:
        return error
    except OSError as error:
        fault = VTLMError(f"{file.path}: {reason(error)}")
        return fault if "too many open files" in str(fault) else UnreachableFileError(reason(error))
    except Exception as error:
        return UnreadableImageError(f"{type(error).__name__}: {reason(error)}")


class CarefulDetector:
    """Regions of images as a store takes them, or the reason why an image has none.

    Where a whole batch fails, each of its images is tried alone. Where all of them fail, an image that went through
    before is tried again: if it fails now, the command ends, and so it does where none ever went through.

    Args:
        detector: opened.
        rules: of the store.
        name: of the detector, for messages.
        sound: files of earlier calls that it took.
    """

    def __init__(self, detector: Detector, rules: Rules, *, name: str, sound: Sequence[ImageFile]) -> None:
        self._detector, self._rules, self._name = detector, rules, f"--detector {name}"
        self._sound = sound
        self._sound_file: ImageFile | None = None
        self._sound_input: Input = None
        self._failed = 0  # before the first that went through
        self._last = ""
        self._told = False

    def detect(
        self, files: Sequence[ImageFile], inputs: Sequence[Input | UnreadableImageError]
    ) -> list[Regions | UnreadableImageError]:
        """Of each file its regions, or why it has none.

        Raises:
            VTLMError: the detector does not work (any more), files cannot be reached any more, or a fault of options.
        """
        for value in inputs:
            if isinstance(value, VTLMError):
                raise value
        if all(isinstance(value, UnreachableFileError) for value in inputs):
            self._check_disk()
        found: list[Regions | UnreadableImageError] = list(inputs)
        at = [k for k, value in enumerate(inputs) if not isinstance(value, UnreadableImageError)]
        results = self._try([inputs[k] for k in at]) if at else []
        if isinstance(results, Exception):
            results = self._one_by_one([inputs[k] for k in at], results)
        for k, result in zip(at, results, strict=True):
            found[k] = result
            if not isinstance(result, UnreadableImageError):
                self._sound_file, self._sound_input = files[k], inputs[k]
        broken = [result for result in results if isinstance(result, _DetectorFailed)]
        if broken and len(broken) == len(results):
            self._last = f"{files[at[-1]].path}: {broken[-1]}"
            self._check_detector(len(broken))
        return found

    def finish(self) -> None:
        """To be called where no image is left.

        Raises:
            VTLMError: of several images not one went through the detector.
        """
        if self._failed > 1 and self._sound_file is None:
            self._give_up()

    def _try(self, inputs: list[Input]) -> list[Regions | UnreadableImageError] | Exception:
        try:
            found = self._detector.detect(inputs)
            if len(found) != len(inputs):
                raise VTLMError(f"{self._name}: detect gave {len(found)} results for {len(inputs)} images; mend it")
        except VTLMError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            return error.with_traceback(None)  # whose frames hold the memory of the device
        return [self._checked(one) for one in found]

    def _checked(self, found: Detection | UnreadableImageError) -> Regions | UnreadableImageError:
        if isinstance(found, UnreadableImageError):
            return found
        try:
            best = np.argsort(-np.asarray(found.scores), kind="stable")[: self._detector.options.max_regions]
            return self._rules.check(**{name: np.asarray(values)[best] for name, values in found._asdict().items()})
        except VTLMError as error:
            return _DetectorFailed(f"the detector's {error}")
        except Exception as error:
            return _DetectorFailed(f"the detector gave no regions ({type(error).__name__}: {reason(error)})")

    def _one_by_one(self, inputs: list[Input], error: Exception) -> list[Regions | UnreadableImageError]:
        if len(inputs) == 1:
            return [self._failure(error)]
        if _is_out_of_memory(error):
            _free_memory()
            if not self._told:
                self._told = True
                logger.warning("%s: %d images at once do not fit (%s); tried one by one, a smaller --batch-size is "
                               "faster", self._name, len(inputs), reason(error))  # fmt: skip
        results: list[Regions | UnreadableImageError] = []
        for value in inputs:
            found = self._try([value])
            results.append(self._failure(found) if isinstance(found, Exception) else found[0])
        return results

    def _failure(self, error: Exception) -> _DetectorFailed:
        if _is_out_of_memory(error):
            _free_memory()
            if self._sound_file is None and not self._sound:
                raise VTLMError(
                    f"{self._name}: out of memory with one image ({reason(error)}); free some, or shrink it"
                )
        return _DetectorFailed(f"the detector failed ({type(error).__name__}: {reason(error)[:300]})")

    def _check_detector(self, failed: int) -> None:
        """Whether a batch of which nothing went through is the fault of its images."""
        if self._sound_file is None:
            for sound in self._sound:
                value = read_input(self._detector, sound)
                if not isinstance(value, Exception):
                    self._sound_file, self._sound_input = sound, value
                    break
        if self._sound_file is None:
            self._failed += failed
            if self._failed >= _ENOUGH:
                self._give_up()
            return
        found = self._try([self._sound_input])
        if isinstance(found, Exception) or isinstance(found[0], _DetectorFailed):
            raise VTLMError(
                f"{self._name} works no more: it fails on {self._sound_file.path} too, which it took before ("
                f"{self._last}); give the same command again to go on"
            )

    def _give_up(self) -> None:
        raise VTLMError(
            f"{self._name} fails on every image ({self._last}); mend its options, or leave these images out with "
            "--exclude FILE"
        )

    def _check_disk(self) -> None:
        """Whether a batch that cannot be read is not gone with all other files."""
        sound = self._sound_file or next(iter(self._sound), None)
        if sound is not None and isinstance(read_input(self._detector, sound), UnreachableFileError):
            raise VTLMError(
                f"{sound.path}: could be read before, and cannot any more; give the same command again when the files "
                "are back"
            )


def _is_out_of_memory(error: BaseException) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, MemoryError) or "outofmemory" in text or "out of memory" in text or "exhausted" in text


def _free_memory() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
