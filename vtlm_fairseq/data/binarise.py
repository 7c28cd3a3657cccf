"""From raw lines to a folder of binarised data: what the preparation scripts share.

A prepared folder holds `{split}.{src}-{tgt}.{lang}.bin/idx`, `dict.{lang}.txt`, the BPE model, `text.json`,
`{split}.images` (an image id a line) and `references/{split}.{lang}` (words, before BPE, for scoring).
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from vtlm_fairseq.data.text_pipeline import (
    BPE_FILES,
    FILE_NAME,
    TextPipeline,
    learn_sentencepiece,
    load_bpe,
)
from vtlm_fairseq.errors import VTLMError

TASK = "visual_translation_lm"
PACKAGE = Path(__file__).resolve().parents[1]
MAX_UNKNOWN = 20.0
"""Percentage of unknown pieces above which a given dictionary cannot belong to the BPE model."""


@dataclass(frozen=True)
class ParallelText:
    """Raw text of one split.

    Attributes:
        lines: sentences of each language, line i of one being the translation of line i of the other.
        image_ids: image of each line.
    """

    lines: Mapping[str, Sequence[str]]
    image_ids: Sequence[str]

    def check(self, split: str) -> None:
        """Check that all sides are equally long and each line has an image.

        Raises:
            VTLMError: they are not, or do not.
        """
        counts = {**{lang: len(lines) for lang, lines in self.lines.items()}, "images": len(self.image_ids)}
        if len(set(counts.values())) != 1:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise VTLMError(f"{split}: numbers of lines differ ({found}); mend the raw files or --image-splits")
        if not self.image_ids:
            raise VTLMError(f"{split}: no lines")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder whole or not at all: the block fills `PATH.tmp`, which becomes `path` at its end.

    Raises:
        VTLMError: `path` exists, or cannot be made.
    """
    if path.exists():
        raise VTLMError(f"{path}: exists already; remove it or choose another --out")
    temporary = path.with_name(path.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise VTLMError(f"{temporary}: cannot be made ({error.strerror}); choose another --out") from None
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_function: Callable[[str], str]


def _set_function(function: Callable[[str], str]) -> None:
    global _function
    _function = function


def _call_function(line: str) -> str:
    return _function(line)


def map_lines(function: Callable[[str], str], lines: Sequence[str], *, workers: int, label: str) -> list[str]:
    """`[function(line) for line in lines]` with progress, in several processes where `workers` is above 1."""
    bar = {"total": len(lines), "desc": label, "unit": "line", "mininterval": 1.0}
    if workers <= 1:
        return [function(line) for line in tqdm(lines, **bar)]
    with multiprocessing.Pool(workers, initializer=_set_function, initargs=(function,)) as pool:
        return list(tqdm(pool.imap(_call_function, lines, chunksize=1000), **bar))


class _ForLanguage:
    """A method of a pipeline for one language, as a function of the line that can be sent to a process."""

    def __init__(self, pipeline: TextPipeline, lang: str) -> None:
        self._pipeline, self._lang = pipeline, lang

    def __call__(self, line: str) -> str:
        return self._pipeline.preprocess(line, self._lang)


def check_reused_steps(pipeline: TextPipeline, bpe_model: Path) -> None:
    """Where the BPE model comes with a `text.json`, its text must have been prepared as this one is.

    Raises:
        VTLMError: the steps differ.
    """
    if not (bpe_model.parent / FILE_NAME).is_file():
        return
    earlier = TextPipeline.load(bpe_model.parent)
    if earlier.steps != pipeline.steps:
        raise VTLMError(
            f"{bpe_model.parent / FILE_NAME}: that text was prepared by {', '.join(earlier.steps) or 'no steps'}, "
            f"this would be by {', '.join(pipeline.steps) or 'none'}; give the same --keep-case, --strip-accents, "
            "--no-escape"
        )


def prepare_folder(
    out: Path,
    text: Mapping[str, ParallelText],
    pipeline: TextPipeline,
    *,
    vocab_size: int | None,
    bpe_model: Path | None,
    dictionary: Path | None,
    workers: int,
) -> list[str]:
    """Fill a folder with binarised data and all that belongs to it.

    Args:
        out: an existing, empty folder.
        text: of each split, by fairseq's name; BPE and dictionary are learnt from `train`.
        pipeline: the languages and the steps; BPE kind and folder are set here.
        vocab_size: pieces of a joint BPE model to learn, or None with `bpe_model`.
        bpe_model: an existing model to use instead.
        dictionary: an existing dictionary, or None to build one.
        workers: processes.

    Returns:
        One line for each file that was binarised: its sentences, tokens and unknowns.

    Raises:
        VTLMError: sides of different length, a model that cannot be read or learnt, a dictionary that does not
            belong to it.
    """
    for split, parallel in text.items():
        parallel.check(split)
    if bpe_model is not None:
        kind = load_bpe(bpe_model)[0]
        check_reused_steps(pipeline, bpe_model)
    else:
        kind = "sentencepiece"
    pipeline = replace(pipeline, bpe=kind, folder=out)
    words = _write_words(out, text, pipeline, workers=workers)
    if bpe_model is not None:
        shutil.copyfile(bpe_model, out / BPE_FILES[kind])
    else:
        learnt = learn_sentencepiece(
            (line for lines in words["train"].values() for line in lines), vocab_size=vocab_size
        )
        (out / BPE_FILES[kind]).write_bytes(learnt)
    with tempfile.TemporaryDirectory(dir=out) as pieces:
        for split, sides in words.items():
            for lang, lines in sides.items():
                encoded = map_lines(pipeline.apply_bpe, lines, workers=workers, label=f"BPE {split}.{lang}")
                write_lines(Path(pieces) / f"{split}.{lang}", encoded)
        report = binarise(Path(pieces), out, list(text), pipeline=pipeline, dictionary=dictionary, workers=workers)
    pipeline.save(out)
    return report


def _write_words(
    out: Path, text: Mapping[str, ParallelText], pipeline: TextPipeline, *, workers: int
) -> dict[str, dict[str, list[str]]]:
    """Preprocess all sides; write `{split}.images` and `references/`."""
    (out / "references").mkdir()
    words: dict[str, dict[str, list[str]]] = {}
    for split, parallel in text.items():
        write_lines(out / f"{split}.images", parallel.image_ids)
        words[split] = {}
        for lang, lines in parallel.lines.items():
            done = map_lines(_ForLanguage(pipeline, lang), lines, workers=workers, label=f"words {split}.{lang}")
            write_lines(out / "references" / f"{split}.{lang}", done)
            words[split][lang] = done
    return words


def write_lines(path: Path, lines: Iterable[str]) -> None:
    r"""Write lines in UTF-8, each ended by `\n`."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


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
        command = [sys.executable, "-m", "fairseq_cli.preprocess", "--user-dir", str(PACKAGE), "--task", TASK]
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
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False
        )
        if done.returncode != 0:
            last = (done.stdout.strip().splitlines() or ["no output"])[-1]
            raise VTLMError(f"fairseq-preprocess failed: {last}")
        _rename(Path(destination), out, others, pipeline)
    return _report(done.stdout, dictionary)


def _rename(destination: Path, out: Path, others: Sequence[str], pipeline: TextPipeline) -> None:
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
