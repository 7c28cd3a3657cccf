"""Grids of patch features from vision transformers of the `transformers` package, of a folder on this machine."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.extract.detectors.base import DetectorOptions, import_package, need_model
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.regions.image_reading import decode_image


class _Kind(NamedTuple):
    """What is known of a model by its `model_type`.

    Attributes:
        class_tokens: before the patches; the registers stand between them.
        any_size: it takes images of any size, where positions are interpolated.
    """

    class_tokens: int
    any_size: bool = False


_KINDS = {
    "clip_vision_model": _Kind(1),
    "siglip_vision_model": _Kind(0),
    "dinov2": _Kind(1, any_size=True),
    "dinov2_with_registers": _Kind(1, any_size=True),
    "dinov3_vit": _Kind(1, any_size=True),
    "vit": _Kind(1),
}
_CONFIG, _PIXELS = "config.json", "preprocessor_config.json"
_BICUBIC, _FILTERS = 3, range(6)
_MAX_SIDE = 8192


class VisionTransformer:
    """Images to grids of the states of the last layer: `model.last_hidden_state` without class token and registers.

    The whole image is resized to the model's input, so that the grid lies over all of it.

    Args:
        options: `model`, `device`, `threads`, `fp16`; `grid`, where `pool` is not set, is the size of the grid.
        detector: its name, for messages.

    Attributes:
        name: of the folder.
        rows, columns: of the grid.
        height, width: of the grid, as shares of the image: an input that patches do not divide has an edge that the
            model does not see.

    Raises:
        VTLMError: no such folder, a file is missing, or a model that is not known.
    """

    def __init__(self, options: DetectorOptions, *, detector: str) -> None:
        self._options, self._detector = options, detector
        self.path = need_model(options, detector=detector, what="the folder of a vision transformer, on this machine")
        self.name = Path(os.path.abspath(self.path)).name
        for file in (_CONFIG, _PIXELS):
            if not os.path.isfile(os.path.join(self.path, file)):
                raise VTLMError(
                    f"--model {self.path}: no folder with {file} and the weights of a model; nothing is downloaded, "
                    "get the model's files first"
                )
        _hide_what_does_not_load()
        self._transformers = import_package("transformers", extra="patches", detector=detector)
        self._transformers.utils.logging.disable_progress_bar()
        self._transformers.utils.logging.set_verbosity_error()
        self._config = self._read_config()
        config = getattr(self._config, "vision_config", self._config)
        if config.model_type not in _KINDS:
            raise VTLMError(f"--model {self.path}: a {config.model_type}; {detector} knows {', '.join(_KINDS)}")
        kind = _KINDS[config.model_type]
        self._prefix = kind.class_tokens + getattr(config, "num_register_tokens", 0)
        self._read_pixels(kind, config)

    def _read_config(self) -> Any:
        try:
            return self._transformers.AutoConfig.from_pretrained(
                self.path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # whatever a file makes the package raise
            raise VTLMError(f"--model {self.path}: {_CONFIG} cannot be read ({reason(error)[:300]})") from None

    def _read_pixels(self, kind: _Kind, config: Any) -> None:
        where = os.path.join(self.path, _PIXELS)
        given = parse_object(Path(where).read_bytes(), where, hint="get the model's files again")
        try:
            normal = given.get("do_normalize", True)
            self._mean = _three(given, "image_mean") if normal else np.zeros(3, np.float32)
            self._deviation = _three(given, "image_std") if normal else np.ones(3, np.float32)
            if not (np.isfinite(self._mean) & (self._deviation > 0)).all():
                raise ValueError("image_mean or image_std holds what is no mean or deviation")
            self._resample = int(given.get("resample", _BICUBIC))
            if self._resample not in _FILTERS:
                raise ValueError(f"resample is {self._resample}, none of Pillow's filters")
            side = _sides(config.image_size)
            if kind.any_size:
                cropped = given.get("do_center_crop", True) and given.get("crop_size")
                side = _sides(cropped or given.get("size") or side)
            patch = _sides(config.patch_size)
            if not all(1 <= p <= s <= _MAX_SIDE for p, s in zip(patch, side, strict=True)):
                raise ValueError(f"patches of {patch} in images of {side} pixels")
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise VTLMError(
                f"--model {self.path}: {_CONFIG} and {_PIXELS} do not say how its images are ({type(error).__name__}: "
                f"{reason(error)}); get the model's files again"
            ) from None
        own = side[0] // patch[0], side[1] // patch[1]
        wanted = self._options.grid
        if wanted is not None and not self._options.pool and tuple(wanted) != own:
            if not kind.any_size:
                raise VTLMError(
                    f"--grid {wanted[0]}x{wanted[1]}: the grid of --model {self.path} is {own[0]}x{own[1]}; add --pool "
                    "to average it down, or leave out --grid"
                )
            own = wanted[0], wanted[1]
            side = own[0] * patch[0], own[1] * patch[1]
        (self.rows, self.columns), self._side = own, side
        self.height, self.width = self.rows * patch[0] / side[0], self.columns * patch[1] / side[1]

    def read(self, data: bytes) -> np.ndarray:
        """The whole image, resized: [height, width, 3] uint8.

        Raises:
            UnreadableImageError: it is none.
        """
        return np.asarray(decode_image(data).resize((self._side[1], self._side[0]), resample=self._resample))

    def open(self) -> int:
        """Load the weights; the width D of the features.

        Raises:
            VTLMError: they are missing, damaged, or some of the model's are not there; or no such device.
        """
        import torch

        torch.set_num_threads(self._options.threads)
        dtype = torch.float16 if self._options.fp16 else torch.float32
        try:
            model, found = self._transformers.AutoModel.from_pretrained(
                self.path, config=self._config, local_files_only=True, trust_remote_code=False, dtype=dtype,
                output_loading_info=True,
            )  # fmt: skip
        except Exception as error:  # whatever a file makes the package raise
            raise VTLMError(f"--model {self.path}: cannot be loaded ({reason(error)[:300]})") from None
        whole = hasattr(self._config, "vision_config")
        missing = sorted(key for key in found["missing_keys"] if _is_needed(key, whole=whole))
        if missing:
            raise VTLMError(
                f"--model {self.path}: lacks {len(missing)} weights, {missing[0]} for one; get the model's files again"
            )
        try:
            self._model = (model.vision_model if whole else model).eval().to(self._options.device)
        except (RuntimeError, AssertionError) as error:
            raise VTLMError(f"--device {self._options.device}: {reason(error)}; use --device cpu") from None
        self._dtype = dtype
        return self.encode([np.zeros((*self._side, 3), np.uint8)]).shape[-1]

    def encode(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Grids of features.

        Args:
            images: B of what `read` gives.

        Returns:
            [B, rows, columns, D] float32.

        Raises:
            VTLMError: the model gives another number of tokens than its configuration says.
        """
        import torch

        device = self._options.device
        mean, deviation = (torch.from_numpy(v).to(device).view(3, 1, 1) for v in (self._mean, self._deviation))
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2) / 255
            pixels = ((pixels - mean) / deviation).to(self._dtype)
            states = self._model(pixel_values=pixels).last_hidden_state
            if states.shape[1] != self._prefix + self.rows * self.columns:
                raise VTLMError(
                    f"--model {self.path}: gives {states.shape[1]} tokens, not {self._prefix} and "
                    f"{self.rows} x {self.columns} patches; {self._detector} cannot tell which they are"
                )
            patches = states[:, self._prefix :].float().cpu().numpy()
        return patches.reshape(len(images), self.rows, self.columns, -1)


def _hide_what_does_not_load() -> None:
    """Packages that `transformers` imports where they are installed, and can do without.

    Those of another build than PyTorch's, such as a CUDA torchaudio beside a CPU PyTorch, do not load.
    """
    for name in ("torchaudio", "torchvision"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):
            sys.modules[name] = None  # for Python this is a package that is not installed


def _three(given: dict[str, Any], name: str) -> np.ndarray:
    values = given[name]
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise ValueError(f"{name} is {values}, not three numbers")
    return np.array(values, dtype=np.float32)


def _sides(size: Any) -> tuple[int, int]:
    """Height and width of an image or a patch, as configurations write them."""
    if isinstance(size, dict):
        size = (size["height"], size["width"]) if "height" in size else size["shortest_edge"]
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _is_needed(key: str, *, whole: bool) -> bool:
    """Whether a weight is one that patches depend on: not of the text's half, nor of what pools them."""
    if whole and not key.startswith("vision_model."):
        return False
    return not key.removeprefix("vision_model.").startswith(("head.", "pooler."))
