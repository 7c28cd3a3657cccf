"""The preparation scripts as modules, real data where it is given, and tiny data in the same layouts."""

import importlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

entities_regions = importlib.import_module("vtlm_fairseq.corpora.entities_regions")
flickr30k_entities = importlib.import_module("vtlm_fairseq.corpora.flickr30k_entities")
multi30k = importlib.import_module("vtlm_fairseq.corpora.multi30k")
oracle_features = importlib.import_module("vtlm_fairseq.corpora.oracle_features")
oracle_labels = importlib.import_module("vtlm_fairseq.corpora.oracle_labels")
oracle_cli = importlib.import_module("vtlm_fairseq.cli.oracle")
prepare_cli = importlib.import_module("vtlm_fairseq.cli.prepare")

DATA = Path(os.environ.get("VTLM_TEST_DATA") or "no-test-data")


def needs_data(test: Callable) -> Callable:
    """Mark a test that reads the real data, and skip it where there are none."""
    reason = "VTLM_TEST_DATA does not name the folder of real data (Multi30k, Flickr30k Entities)"
    return pytest.mark.data(pytest.mark.skipif(not DATA.is_dir(), reason=reason)(test))


def write(path: Path, text: str) -> Path:
    """Write text as it stands, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))
    return path


def read_lines(path: Path) -> list[str]:
    """Lines of a file that ends with a line end."""
    text = path.read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return text[:-1].split("\n")


def annotation(width: int, height: int, boxes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """An `Annotations` file: corners and chains of each box."""
    objects = []
    for corners, chains in boxes:
        names = "".join(f"<name>{chain}</name>" for chain in chains)
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        objects.append(f"<object>{names}<bndbox>{''.join(f'<{s}>{v}</{s}>' for s, v in sides)}</bndbox></object>")
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"
