"""What the runner leaves: a ``run.json`` for each training, and the table."""

import json
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from statistics import fmean

import torch
from stages import Stage, write_atomically
from table1_data import FOLDERS, ROOT, Checksums
from table1_plan import BEST, Decoded, Plan, Planner, Training
from table1_rows import GIVEN, ORDERS, PRETRAININGS, ROWS, Row

from vtlm_fairseq.evaluation.scoring.scores import STRIPPED, TOKENISED, seed_statistics
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.version import __version__

DISTRIBUTIONS = ("ve-fairseq", "numpy", "sacrebleu")


class Recorder:
    """Writes ``run.json`` beside the checkpoints when a training has ended, and its scores when one is decoded.

    Args:
        planner: knows the folders.
        plan: tells trainings and decodings by the names of their stages.
        checksums: of files.
    """

    def __init__(self, planner: Planner, plan: Plan, checksums: Checksums) -> None:
        self._planner, self._plan, self._checksums, self.out = planner, plan, checksums, planner.out

    def __call__(self, stage: Stage, seconds: float) -> None:
        """What `stages.Runner` calls when a stage has ended well."""
        if stage.name in self._plan.trainings:
            self._write(self._plan.trainings[stage.name], self._training(stage, seconds))
        elif stage.name in self._plan.decoded:
            item = self._plan.decoded[stage.name]
            record = self.read(item.training)
            record["scores"].setdefault(item.test_set, {})[item.decoding.name] = self.score(item)
            self._write(item.training, record)
        self._checksums.save()

    def read(self, training: Training) -> dict:
        """The ``run.json`` of a training."""
        return json.loads((self.out / training.folder / "run.json").read_text(encoding="utf-8"))

    def _write(self, training: Training, record: dict) -> None:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.out / training.folder / "run.json", text)

    def score(self, item: Decoded) -> dict:
        """BLEU of a decoding, on tokenised text, with and without accents; each with its signature."""
        hypotheses = read_lines(self.out / item.path(self._planner.data.pair[1]))
        references = self._planner.references(item.test_set)
        figures = [measure.score(hypotheses, references) for measure in (TOKENISED, STRIPPED)]
        return {figure.label: {"value": figure.value, "signature": figure.signature} for figure in figures}

    def _training(self, stage: Stage, seconds: float) -> dict:
        training, folder = self._plan.trainings[stage.name], self.out / stage.outputs[0]
        text, store = FOLDERS[training.corpus]
        files = self._checksums.folder(self.out / text)
        best, last = (
            torch.load(folder / name, map_location="cpu", mmap=True, weights_only=True)
            for name in (BEST, "checkpoint_last.pt")
        )
        record = {
            "system": training.system.name,
            "title": training.system.title,
            "seed": training.seed,
            "command": ["python", *(part.replace(str(ROOT), "CHECKOUT") for part in stage.command)],
            "versions": {
                "python": platform.python_version(),
                "vtlm-fairseq": __version__,
                "torch": torch.__version__,  # with its build
                **{name: metadata.version(name) for name in DISTRIBUTIONS},
            },
            **_commit(),
            "device": _device(self.out / "logs" / f"{stage.name}.log"),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "seconds": seconds,
            "updates": {"best": _updates(best), "last": _updates(last)},
            "selection": {
                "metric": best["cfg"]["checkpoint"]["best_checkpoint_metric"],
                "best": best["extra_state"].get("best"),
            },
            "dictionary": {name: value for name, value in files.items() if name.startswith("dict.")},
            "data": {name: value for name, value in files.items() if not name.startswith("dict.")},
            "regions": self._checksums.folder(self.out / store) if training.system.regions else None,
        }
        if training.start:
            start = self.out / training.start.folder / BEST
            record["pretrained"] = {"system": training.start.system.name, "sha256": self._checksums.file(start)}
        if isinstance(training.system, Row):
            record["scores"] = {}
        return record


def _updates(state: dict) -> int:
    return state["optimizer_history"][-1]["num_updates"]


def _commit() -> dict:
    """Commit of the checkout, and whether tracked files differ from it; None if it is no clone, or without git."""

    def git(*command: str) -> str:
        call = ["git", "-C", str(ROOT), *command]
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:
            changed = bool(git("status", "--porcelain", "--untracked-files=no"))
            return {"commit": git("rev-parse", "HEAD"), "changed_since_commit": changed}
    except (OSError, subprocess.CalledProcessError):
        pass
    return {"commit": None, "changed_since_commit": None}


def _device(log: Path) -> str:
    """The GPU that fairseq names in its log, else the processor."""
    names = re.findall(r"rank +\d+: capabilities .*; name = (.*?)\s*$", log.read_text(encoding="utf-8"), re.M)
    if names:
        return names[-1]
    try:
        processor = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        processor = []
    return f"CPU: {processor[0] if processor else platform.machine()}"


def seeds_found(out: Path) -> list[int]:
    """Seeds of all trainings in the output folder that have a ``run.json``."""
    found = {path.parent.name for row in ROWS for path in (out / row).glob("*/run.json")}
    return sorted(int(name) for name in found if name.isdecimal())


def only_finished(plan: Plan, finished: set[str]) -> Plan:
    """The decodings of a plan that are finished, and the trainings behind them."""
    decoded = {
        name: item for name, item in plan.decoded.items() if name in finished and item.training.stage in finished
    }
    trainings = {item.training.stage: item.training for item in decoded.values()}
    return replace(plan, trainings=trainings, decoded=decoded)


def tables(recorder: Recorder, planner: Planner, plan: Plan, *, size: str) -> list[Table]:
    """A table for each test set: rows by the order of their regions, statistics over the seeds."""
    return [_table(recorder, planner, plan, name, size=size) for name in planner.data.test_sets]


COLUMNS = ("system", "regions", "seeds", "valid. perplexity", "BLEU", "deviation", "maximum", "accents stripped")


def _table(recorder: Recorder, planner: Planner, plan: Plan, test_set: str, *, size: str) -> Table:
    rows, signatures = [], {}
    for row in ROWS.values():
        for order in ORDERS if row.regions else (GIVEN.name,):
            found = [
                item
                for item in plan.decoded.values()
                if (item.training.system, item.test_set, item.decoding.order) == (row, test_set, order)
            ]
            if not found:
                continue
            records = {item.training.seed: recorder.read(item.training) for item in found}
            scores = [
                [records[seed]["scores"][test_set][item.decoding.name] for item in found if item.training.seed == seed]
                for seed in records
            ]
            signatures |= {label: figure["signature"] for label, figure in scores[0][0].items()}
            bleu = seed_statistics([_mean(TOKENISED.label, decoded) for decoded in scores])
            stripped, _, _ = seed_statistics([_mean(STRIPPED.label, decoded) for decoded in scores])
            perplexity, _, _ = seed_statistics([2 ** record["selection"]["best"] for record in records.values()])
            rows.append([row.title, order if row.regions else "none", len(records), perplexity, *bleu, stripped])
    notes = [f"{label}: {signature}" for label, signature in signatures.items()]
    return Table(list(COLUMNS), rows, f"{test_set}, size {size}", notes + _notes(planner, plan))


def _mean(label: str, decoded: list[dict]) -> float:
    """A seed's score: the mean over its decodings, which are several where regions are shuffled more than once."""
    return fmean(scores[label]["value"] for scores in decoded)


def _notes(planner: Planner, plan: Plan) -> list[str]:
    """What a reader has to know: corpora, kind of regions, rows that are left out."""
    starts = {training.start for training in plan.trainings.values() if training.start}
    notes = [
        f"{training.system.title}: pre-trained on {'Conceptual Captions' if training.corpus == 'cc' else 'Multi30k'}"
        for training in sorted(starts, key=lambda training: list(PRETRAININGS).index(training.system.name))
    ]
    notes.append("deviation: n - 1, over seeds; perplexity: validation set, which selects the checkpoint")
    store = planner.out / FOLDERS["m30k"][1]
    sets = [name for name in planner.data.test_sets if name in planner.data.region_sets]
    if sets and store.exists() and RegionStore.open(str(store), sets[0]).attributes.get("oracle"):
        notes.append("oracle regions: human boxes, labels from captions that are not translated, synthetic features")
    return notes + list(plan.skipped)


def write_tables(out: Path, made: list[Table], render: Callable[[Table], str] = Table.render) -> str:
    """Write ``table1.md`` and ``table1.json``; returns what the screen shows."""
    write_atomically(out / "table1.md", "\n\n".join(table.render("markdown") for table in made) + "\n")
    write_atomically(out / "table1.json", "[" + ",\n".join(table.render("json") for table in made) + "]\n")
    return "\n\n".join(render(table) for table in made)
