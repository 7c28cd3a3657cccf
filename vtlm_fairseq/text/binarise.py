"""fairseq-preprocess for files of BPE pieces, into a folder that appears whole or not at all."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.errors import FULL, VTLMError
from vtlm_fairseq.files import cannot_be_written
from vtlm_fairseq.interrupts import run_group
from vtlm_fairseq.text.pipeline import TextPipeline

TASK = "visual_translation_lm"
PACKAGE = Path(__file__).resolve().parents[1]
MAX_UNKNOWN = 20.0
"""Percentage of unknown pieces above which a given dictionary cannot belong to the BPE model."""


def binarise(
    pieces: Path,
    out: Path,
    splits: Sequence[str],
    *,
    pipeline: TextPipeline,
    dictionary: Path | None,
    workers: int,
) -> list[str]:
    """Run `fairseq-preprocess` with a joint dictionary that holds `<mask>`; each split keeps its own name.

    Args:
        pieces: folder of `{split}.{lang}`, BPE pieces.
        out: folder for `{split}.{src}-{tgt}.{lang}.bin/idx` and `dict.{lang}.txt`.
        splits: `train` (needed where no dictionary is given), `valid` and any others.
        pipeline: gives the languages.
        dictionary: an existing `dict.txt`, or None.
        workers: processes.

    Returns:
        One line for each file: its sentences, tokens and unknowns.

    Raises:
        VTLMError: fairseq-preprocess failed, or the dictionary does not know the pieces.
    """
    if dictionary is not None and not dictionary.is_file():
        raise VTLMError(f"{dictionary}: no such file; see --dict")
    others = [split for split in splits if split not in ("train", "valid")]
    with tempfile.TemporaryDirectory(dir=out) as destination:
        safe = "-I" if sys.flags.isolated else "-P"  # not with modules of the folder in which the command is given
        command = [sys.executable, safe, "-m", "fairseq_cli.preprocess", "--user-dir", str(PACKAGE), "--task", TASK]
        command += ["--source-lang", pipeline.source_lang, "--target-lang", pipeline.target_lang]
        command += ["--joined-dictionary", "--workers", str(max(1, workers)), "--destdir", destination]
        for split in ("train", "valid"):
            if split in splits:
                command += [f"--{split}pref", str(pieces / split)]
        if others:
            command += ["--testpref", ",".join(str(pieces / split) for split in others)]
        if dictionary is not None:
            command += ["--srcdict", str(dictionary)]
        print("fairseq-preprocess ...", flush=True)
        environment = {**os.environ, "LOGLEVEL": "INFO"}
        status, output = run_group(command, env=environment)
        if status != 0:
            last = (output.strip().splitlines() or ["no output"])[-1]
            for number in FULL:
                if os.strerror(number) in last:
                    raise cannot_be_written(os.fspath(out), OSError(number, os.strerror(number)))
            raise VTLMError(f"fairseq-preprocess failed: {last}")
        _rename(Path(destination), out, others)
    return _report(output, dictionary)


def _rename(destination: Path, out: Path, others: Sequence[str]) -> None:
    """Move fairseq-preprocess's files to `out`; its `test`, `test1`, ... get the names of the splits."""
    names = {("test" if k == 0 else f"test{k}"): split for k, split in enumerate(others)}
    for path in destination.iterdir():
        first, dot, rest = path.name.partition(".")
        if path.name != "preprocess.log":
            path.rename(out / f"{names.get(first, first)}{dot}{rest}")


def _report(output: str, dictionary: Path | None) -> list[str]:
    """fairseq-preprocess's own lines of counts, with file names instead of paths; refuse a foreign dictionary."""
    lines = []
    for path, summary, unknown in re.findall(r"\[\w+\] (.+): (\d+ sents, .*?([\d.]+)% replaced.*)", output):
        lines.append(f"{Path(path).name}: {summary}")
        if dictionary is not None and float(unknown) > MAX_UNKNOWN:
            raise VTLMError(
                f"{dictionary}: does not know {unknown}% of the pieces of {Path(path).name}; it does not belong to "
                "the BPE model, see --dict and --bpe-model"
            )
    return lines
