"""``vtlm-plot``: curves of trainings from the records that fairseq logs with ``--log-format json``."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.plots import save_plot
from vtlm_fairseq.files.lines import read_content

Curve = dict[int, float]
"""Figures by update."""

TRAINING = "training"
_RECORD = re.compile(r"(?:^|\|\s*|:)(\{\"epoch\": .*\})\s*$")
_END = "_num_updates"
_SHOWN = (r"loss", r"\w+_loss", r"(?:\w+_)?accuracy", r"\w*bleu", r"lr", r"wps")
"""Metrics that are drawn where none are asked for, in this order."""
_HIDDEN = re.compile(r"best_.*")


@dataclass
class Run:
    """Curves of a training.

    Attributes:
        name: of the run.
        curves: by metric, then by split; `TRAINING` is one.
    """

    name: str
    curves: dict[str, dict[str, Curve]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, metric: str, split: str, update: int, value: float) -> None:
        """A figure; one that comes later for the same update, after a resume, replaces it."""
        self.curves[metric].setdefault(split, {})[update] = value


def read_run(path: Path) -> Run:
    """Curves of a log file, or of the one log in a folder.

    A metric of the training comes from the records of its updates, or, where there are none, of its epochs.

    Raises:
        VTLMError: no such file, a folder with no log or several, or a log without JSON records.
    """
    file = find_log(path)
    run, epochs = Run(str(path)), Run("")
    text = read_content(file).read().decode("utf-8-sig", errors="replace")  # a log may hold anything
    for line in re.split(r"[\r\n]+", text):
        record = parse(line)
        if record is None:
            continue
        if "num_updates" in record:
            for metric, value in record.items():
                run.add(metric, TRAINING, int(record["num_updates"]), value)
            continue
        split = next((name.removesuffix(_END) for name in record if name.endswith(_END)), None)
        if split is None:
            continue
        for name, value in record.items():
            if name.startswith(f"{split}_") and (split == "train" or name != f"{split}_wps"):
                of, kind = (epochs, TRAINING) if split == "train" else (run, split)
                of.add(name.removeprefix(f"{split}_"), kind, int(record[split + _END]), value)
    for metric, splits in epochs.curves.items():
        run.curves[metric].setdefault(TRAINING, splits[TRAINING])
    for metric in ("epoch", "update", "num_updates"):
        run.curves.pop(metric, None)
    if not run.curves:
        raise VTLMError(f"{file}: no records of a training in JSON; train with --log-format json")
    return run


def find_log(path: Path) -> Path:
    """The log of a run.

    Raises:
        VTLMError: there is none, or several.
    """
    if not path.exists():
        raise VTLMError(f"{path}: no such run; name a log file, or a folder that holds one")
    if not path.is_dir():
        return path
    found = sorted(one for one in path.iterdir() if one.is_file() and (one.suffix == ".log" or one.name == "log"))
    if len(found) != 1:
        names = ", ".join(one.name for one in found[:5])
        raise VTLMError(
            f"{path}: {len(found) or 'no'} logs (*.log, log){names and f': {names}'}; name the file that holds the "
            "training's output, or write one with fairseq-train --log-format json --log-file FILE"
        )
    return found[0]


def parse(line: str) -> dict[str, float] | None:
    """Numbers of a record, by their names; None of a line that is none, or cut off."""
    match = _RECORD.search(line)
    if match is None:
        return None
    try:
        record = json.loads(match[1])
    except ValueError:
        return None
    numbers = {}
    for name, value in record.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers


def choose(runs: Sequence[Run], asked: Sequence[str] | None) -> list[str]:
    """Metrics to draw.

    Raises:
        VTLMError: no run has one that is asked for.
    """
    known = sorted({metric for run in runs for metric in run.curves if not _HIDDEN.fullmatch(metric)})
    if asked:
        for metric in asked:
            if not any(metric in run.curves for run in runs):
                raise VTLMError(f"--metric {metric}: in no run; there are {', '.join(known)}")
        return list(dict.fromkeys(asked))
    shown = [[metric for metric in known if re.fullmatch(pattern, metric)] for pattern in _SHOWN]
    return list(dict.fromkeys(metric for some in shown for metric in some)) or known


def draw(runs: Sequence[Run], metrics: Sequence[str], path: Path) -> None:
    """Draw a panel for each metric: training as a line, other splits dashed with points, a colour a run."""
    from matplotlib.figure import Figure

    columns = min(3, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows), layout="constrained")
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    handles = {}
    for metric, axes in zip(metrics, panels, strict=False):
        for number, run in enumerate(runs):
            splits = run.curves.get(metric, {})
            for k, split in enumerate(sorted(splits, key=lambda split: (split != TRAINING, split))):
                points = zip(*sorted(splits[split].items()), strict=True)
                style = {} if split == TRAINING else {"linestyle": "--", "marker": "os^Dv*"[k % 6], "markersize": 3.5}
                (line,) = axes.plot(*points, color=f"C{number % 10}", linewidth=1.2, **style)
                handles.setdefault(f"{run.name}, {split}", line)
        axes.set_title(metric, fontsize="medium")
        axes.set_xlabel("updates", fontsize="small")
        axes.ticklabel_format(axis="x", style="plain")
        axes.grid(alpha=0.3)
    for axes in panels:
        axes.set_axis_off()
    place = {"loc": "outside lower center", "ncols": 2}
    figure.legend(handles.values(), handles.keys(), frameon=False, fontsize="small", **place)
    save_plot(figure, path, option="--out")
