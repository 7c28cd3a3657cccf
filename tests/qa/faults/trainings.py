"""Small trainings with much saving and validating, and the comparison of two that should be one."""

import re
from pathlib import Path

import torch
from equality import equal

from harness import CommandLines, Result, pretraining, translation
from toy import Corpus
from vtlm_fairseq.checkpoints import load_checkpoint, num_updates

TIMES = re.compile(r"(\w+_)?(wps|ups|wall)")  # what a clock decides in the log
SAVING = ("--save-interval-updates", "2", "--keep-interval-updates", "2", "--validate-interval-updates", "3",
          "--lr", "3e-3", "--num-workers")  # fmt: skip


def training(kind: str, corpus: Corpus, save_dir: Path, *, workers: int, updates: int, pretrained: Path | None) -> list:
    """Arguments of fairseq-train.

    Args:
        kind: ``pretraining`` or ``finetuning``.
        corpus: the data.
        save_dir: where checkpoints go.
        workers: of the data loader.
        updates: of the whole run.
        pretrained: for fine-tuning.
    """
    argv = (corpus.data, save_dir, *SAVING, workers, "--max-update", updates)
    if kind == "pretraining":
        return pretraining(*argv, regions=corpus.regions)
    bleu = ("--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 8}', "--best-checkpoint-metric", "bleu")
    more = (*bleu, "--maximize-best-checkpoint-metric", "--pretrained", pretrained)
    return translation(*argv, *more, regions=corpus.regions)


def newest(run: CommandLines, folder: Path) -> list:
    """What a user adds to go on: ``--restore-file`` with the newest whole checkpoint, if there is one."""
    found = run.convert("latest", folder, ok=None) if folder.is_dir() else Result(1, "")
    return ["--restore-file", found.last_line] if found.status == 0 else []


def trained_updates(argv: list) -> int:
    """Updates behind the checkpoint that :func:`newest` names."""
    return num_updates(load_checkpoint(argv[1])) if argv else 0


def place(result: Result, folder: Path) -> str:
    """Where a training was when it was killed: start-up, step, validation, saving or copying a checkpoint."""
    marks = {
        "begin training epoch": "step",
        '"num_updates"': "step",
        'begin validation on "valid"': "validation",
        '"valid_loss"': "step",
        "Preparing to save checkpoint": "saving",
        "Saved checkpoint": "step",
        "done training": "end",
    }
    where = "start-up"
    for line in result.output.splitlines():
        for mark, meaning in marks.items():
            if mark in line:
                where = meaning
    if where == "saving" and not list(folder.glob("*.tmp")):
        size = max((path.stat().st_size for path in folder.glob("checkpoint*.pt")), default=0)
        if any(path.stat().st_size <= size / 2 for path in folder.glob("checkpoint*.pt")):
            return "copying"
    return where


def figures(results: list[Result]) -> dict[tuple[str, int], list[dict]]:
    """What a training logged, over all its starts, by kind of record and update, without times."""
    found: dict[tuple[str, int], list[dict]] = {}
    for result in results:
        for record in result.json_lines("epoch"):
            kind = next((k for k in ("valid", "train") if f"{k}_num_updates" in record), "")
            number = record.get(f"{kind}_num_updates" if kind else "num_updates")
            if number is None:
                continue
            values = {name: value for name, value in record.items() if not TIMES.fullmatch(name)}
            found.setdefault((kind or "update", int(number)), []).append(values)
    return found


def differences(whole: Path, killed: Path, logged_whole: list[Result], logged_killed: list[Result]) -> list[str]:
    """In what a training that was killed differs from one that was not; nothing where none was lost.

    Compared are the names of the files, weights, optimiser state and position in the data of all checkpoints, and all
    figures of the logs but times.
    """
    found = []
    names = [sorted(path.name for path in folder.iterdir()) for folder in (whole, killed)]
    if names[0] != names[1]:
        found.append(f"files {names[1]} instead of {names[0]}")
    for name in set(names[0]) & set(names[1]):
        if name.endswith(".pt"):
            found += [f"{name}: {part}" for part in different_parts(whole / name, killed / name)]
    expected, given = figures(logged_whole), figures(logged_killed)
    assert any(kind == "valid" for kind, _ in expected)
    for key in expected.keys() | given.keys():
        first = expected.get(key, [])
        found += [f"log of {key}: {values}" for values in given.get(key, [None]) if values not in first]
    return sorted(found)


def different_parts(first: Path, second: Path) -> list[str]:
    """Names of the parts of two checkpoints that are not equal bit for bit."""
    states = [torch.load(path, weights_only=True) for path in (first, second)]
    parts = {
        "weights": lambda state: state["model"],
        "optimiser": lambda state: state["last_optimizer_state"],
        "updates": lambda state: state["optimizer_history"][-1],  # each resumed run adds an entry
        "position": lambda state: state["extra_state"]["train_iterator"],
        "validation": lambda state: (state["extra_state"].get("val_loss"), state["extra_state"].get("best")),
    }
    return [name for name, part in parts.items() if not equal(*map(part, states))]
