"""Small region stores for tests."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import RegionStoreWriter


def random_image(
    generator: np.random.Generator, regions: int, *, feature_dim: int = 8, num_classes: int = 5
) -> dict[str, np.ndarray]:
    """Arrays of one image as `RegionStoreWriter.add` takes them; scores differ and are not in order."""
    corners = generator.random((regions, 2, 2)).astype(np.float32)
    return {
        "features": generator.normal(size=(regions, feature_dim)).astype(np.float16),
        "boxes": np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1),
        "labels": generator.integers(0, num_classes, regions),
        "scores": generator.permutation(np.linspace(0.1, 0.9, max(regions, 1), dtype=np.float32))[:regions],
    }


def make_store(
    path: str | Path,
    images: int | Sequence[str] = 4,
    *,
    regions: int | Sequence[int] = 6,
    feature_dim: int = 8,
    num_classes: int = 5,
    dtype: str = "float16",
    seed: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Write a store of random regions.

    Args:
        path: the file; its folder is made.
        images: ids, or how many (`img0.jpg`, `img1.jpg`, ...).
        regions: of each image, or one number for all.

    Returns:
        By id, the arrays that were stored, in the order stored (best score first).
    """
    ids = [f"img{i}.jpg" for i in range(images)] if isinstance(images, int) else list(images)
    counts = [regions] * len(ids) if isinstance(regions, int) else list(regions)
    generator = np.random.default_rng(seed)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    stored = {}
    names = [f"class{c}" for c in range(num_classes)]
    with RegionStoreWriter(path, feature_dim=feature_dim, class_names=names, detector="random", dtype=dtype) as writer:
        for image_id, count in zip(ids, counts, strict=True):
            image = random_image(generator, count, feature_dim=feature_dim, num_classes=num_classes)
            writer.add(image_id, **image)
            order = np.argsort(-image["scores"], kind="stable")
            stored[image_id] = {name: values[order] for name, values in image.items()}
            stored[image_id]["features"] = stored[image_id]["features"].astype(dtype)
    return stored


def write_pair(path: Path, **overrides: Any) -> None:
    """A store of one image `a` with two regions, D 2, three classes."""
    image = {
        "features": np.array([[1, 2], [3, 4]], np.float16),
        "boxes": np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 1]], np.float32),
        "labels": np.array([2, 0]),
        "scores": np.array([0.5, 0.75], np.float32),
    }
    options = {"feature_dim": 2, "class_names": ["cat", "dog", "tree"], "detector": "hand"}
    options.update({k: overrides.pop(k) for k in list(overrides) if k in (*options, "dtype", "attributes")})
    with RegionStoreWriter(path, **options) as writer:
        writer.add("a", **{**image, **overrides})


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable, *args: Any, state: Any = None):
        self.call = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.call


def fault(function: Callable, *args: Any, **kwargs: Any) -> str:
    """The message of the VTLMError that a call raises; it must be one line."""
    with pytest.raises(VTLMError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def crash_in_children(monkeypatch: pytest.MonkeyPatch, name: str = "") -> None:
    """HDF5 ends each child of this process that opens a file with ``name`` in its path; this process opens none."""
    parent, opened = os.getpid(), h5py.File

    def crash(path, *args, **options):
        if name not in str(path):
            return opened(path, *args, **options)
        assert os.getpid() != parent, f"{path} is opened without a child"
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(h5py, "File", crash)


def ends_with(function: Callable, *args: Any, **kwargs: Any) -> str:
    """The one line with which a call ends a command; nothing in it changes the terminal."""
    with pytest.raises(SystemExit) as caught:
        function(*args, **kwargs)
    assert isinstance(caught.value.code, str) and not set("\n\x1b") & set(caught.value.code)
    assert caught.value.code.startswith("error: ")
    return caught.value.code
