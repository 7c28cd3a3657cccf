"""The preparation scripts as modules, real data where it is given, and tiny data in the same layouts."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import forked

from vtlm_fairseq.cli import oracle as oracle_cli  # noqa: F401
from vtlm_fairseq.cli import prepare as prepare_cli  # noqa: F401
from vtlm_fairseq.corpora import (  # noqa: F401
    entities_regions,
    flickr30k_entities,
    multi30k,
    oracle_features,
    oracle_labels,
)
from vtlm_fairseq.text import binarise

# python -P -m fairseq_cli.preprocess ..., whose start takes four seconds
binarise.run_group = lambda command, env: forked(command[3], command[4:], env=env)

ROOT = Path(__file__).resolve().parents[2]

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
