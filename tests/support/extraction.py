"""Region extraction as modules, and images to extract from, for the tests."""

import importlib.util
import io
import os
import re
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from vtlm_fairseq.cli import extract as extract_regions  # noqa: F401
from vtlm_fairseq.extract import detectors, images  # noqa: F401
from vtlm_fairseq.extract import run as extraction_run  # noqa: F401
from vtlm_fairseq.extract.detectors import ssd_boxes  # noqa: F401
from vtlm_fairseq.regions import parts as region_parts  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "preprocess" / "extract_regions.py"
# A folder with TensorFlow, transformers and torchvision (pip install --target). In the environment itself TensorFlow
# would be imported by every start of fairseq, through tensorboard.
FRAMEWORKS = os.environ.get("VTLM_TEST_FRAMEWORKS", "")


def without(package: str) -> bool:
    """Whether a package can be found neither in the environment nor in ``VTLM_TEST_FRAMEWORKS``."""
    return importlib.util.find_spec(package) is None and not Path(FRAMEWORKS, package).is_dir()


def documented_detector() -> str:
    """The detector of docs/extraction.md."""
    text = (ROOT / "docs" / "extraction.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- tested: .*? -->\n```python\n(.*?)```", text, re.S)
    return block


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def write_images(folder: Path, count: int, *, seed: int = 0) -> list[str]:
    """Small PNG files of noise; returns their ids in order."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    ids = [f"img{i:04}" for i in range(count)]
    for image_id in ids:
        height, width = rng.integers(8, 24, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{image_id}.png")
    return ids


def write_grids(folder: Path, count: int, *, side: int = 2, width: int = 3) -> list[str]:
    """`.npy` files for `--detector grid`; feature 0 of a cell is 100 * image + cell."""
    folder.mkdir(parents=True)
    ids = [f"img{i:04}" for i in range(count)]
    for number, image_id in enumerate(ids):
        features = np.zeros((side * side, width), np.float32)
        features[:, 0] = 100 * number + np.arange(side * side)
        np.save(folder / f"{image_id}.npy", features)
    return ids


def contents(path: str | Path) -> dict[str, list]:
    """All datasets and attributes of a store, to compare."""
    with h5py.File(path, "r", locking=False) as file:
        datasets = {name: (str(file[name].dtype), file[name][:].tolist()) for name in file}
        return {**datasets, "attributes": dict(file.attrs)}
