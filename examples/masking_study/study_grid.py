"""Grids of options, as YAML files have them, and the runs that they ask for."""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vtlm_fairseq.errors import VTLMError

OURS = {"user-dir", "save-dir", "seed", "regions", "task", "cpu", "system", "out", "format"}
DEFAULTS = {"arch": "vtlm", "criterion": "vtlm", "distributed-world-size": 1, "num-workers": 0, "log-format": "json"}


@dataclass
class Grid:
    """What the file holds; options are without dashes, true is one without a value and false leaves it out."""

    axes: Dict[str, Any] = MISSING
    seeds: List[int] = MISSING
    train: Dict[str, Any] = MISSING
    probe: Dict[str, Any] = MISSING
    figure: Dict[str, str] = MISSING
    checkpoint: str = "last"
    quickstart: Optional[Dict[str, Any]] = None


@dataclass(frozen=True)
class Run:
    """A seed of a cell: its labels on the axes, and its options of fairseq-train."""

    labels: tuple[str, ...]
    options: dict[str, Any]
    seed: int

    @property
    def name(self) -> str:
        """Of files; with other options it is another one, so that no finished run is lost to them."""
        key = hashlib.sha256(json.dumps(self.options, sort_keys=True).encode()).hexdigest()[:8]
        return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', '-'.join(self.labels))[:100]}-{key}-seed{self.seed}"


def read_grid(path: Path, fast: dict[str, Any]) -> tuple[Grid, list[Run]]:
    """A grid and its runs: the cells of one seed before those of the next, the last axis fastest.

    Args:
        path: of the file.
        fast: options that use a GPU; those of an axis go before them.

    Raises:
        VTLMError: it cannot be read, or asks for what cannot be.
    """

    def options_by_label(name: str, values: object) -> dict[str, dict]:
        if isinstance(values, list):
            values = dict(zip(map(str, values), ({name: value} for value in values), strict=True))
            if len(values) < len(grid.axes[name]):
                raise VTLMError(f"{path}: axes: {name}: a value is there twice")
        if not isinstance(values, dict) or not values or not all(isinstance(one, dict) for one in values.values()):
            raise VTLMError(f"{path}: axes: {name}: give a list of values, or options by label")
        return {str(label): options for label, options in values.items()}

    try:
        grid = OmegaConf.to_object(OmegaConf.merge(Grid, OmegaConf.load(path)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        said = getattr(error, "strerror", None) or str(error).partition("object_type=")[0]
        raise VTLMError(f"{path}: is no grid ({' '.join(said.split())})") from None
    axes = {name: options_by_label(name, values) for name, values in grid.axes.items()}
    if not axes or not grid.seeds or len(set(grid.seeds)) < len(grid.seeds) or min(grid.seeds) < 1:
        raise VTLMError(f"{path}: give at least one axis, and seeds that are distinct numbers from 1")
    if set(grid.figure) != {"masked", "word", "nouns"} or grid.checkpoint not in ("last", "best"):
        raise VTLMError(f"{path}: figure has masked, word and nouns; checkpoint is last or best")
    for options in (
        grid.train,
        grid.probe,
        grid.quickstart or {},
        *(one for axis in axes.values() for one in axis.values()),
    ):
        for name, value in options.items():
            if not isinstance(value, str | int | float):
                raise VTLMError(f"{path}: {name}: {value!r} is no value of an option; true is of one without a value")
    sets = [set().union(*axis.values()) for axis in axes.values()]
    given = [*grid.train, *grid.probe, *itertools.chain(*sets)]
    if wrong := [name for name in given if name in OURS or sum(name in one for one in sets) > 1]:
        raise VTLMError(f"{path}: {wrong[0]}: is set by the runner (see --help), or by two axes")
    runs = []
    for seed, point in itertools.product(grid.seeds, itertools.product(*(axis.items() for axis in axes.values()))):
        options = {**DEFAULTS, **grid.train, **fast, **dict(item for _, own in point for item in own.items())}
        runs.append(Run(tuple(label for label, _ in point), options, seed))
    return grid, runs


def flags(options: dict[str, Any]) -> list[str]:
    """Options as a command takes them."""
    given = ((f"--{name}", value) for name, value in options.items() if value is not False)
    return [name if value is True else f"{name}={value}" for name, value in given]
