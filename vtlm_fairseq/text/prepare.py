"""From raw sentence pairs to a complete folder of binarised data, as a stream: what the preparation scripts share.

A prepared folder holds `{split}.{src}-{tgt}.{lang}.bin/idx`, `dict.{lang}.txt`, the BPE model, `text.json`,
`{split}.images` (an image id a line) and `references/{split}.{lang}` (words, before BPE, for scoring).
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice, tee
from pathlib import Path
from typing import Any, TextIO

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.interrupts import start_worker
from vtlm_fairseq.terminal import progress_bar
from vtlm_fairseq.text.binarise import binarise
from vtlm_fairseq.text.pairs import Pair
from vtlm_fairseq.text.pipeline import BPE_FILES, FILE_NAME, MOSES, TextPipeline, learn_sentencepiece, load_bpe
from vtlm_fairseq.text.tokenised import watched, with_hyphens

FILTERED = ("train", "valid")
"""Splits from which pairs may be dropped; a test set stays whole."""

_BATCH = 500
_WAITING = 4


@dataclass(frozen=True)
class LengthFilter:
    """How many BPE pieces each side of a pair may have, `</s>` not counted."""

    minimum: int = 1
    maximum: int = 100

    def reason(self, pieces: Pair) -> str | None:
        """Why a pair is to be dropped, or None."""
        for side, text in (("source", pieces.source), ("target", pieces.target)):
            count = len(text.split())
            if count < self.minimum:
                return f"{side} is empty" if count == 0 else f"{side} is too short"
            if count > self.maximum:
                return f"{side} is too long"
        return None


class DroppedPairs:
    """Counts pairs that are dropped, and lists them: split, place, image id and reason between tabs."""

    def __init__(self, file: TextIO) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._file = file

    def add(self, split: str, pair: Pair, reason: str) -> None:
        """Drop a pair."""
        self.counts[split, reason] += 1
        print(split, pair.place, pair.image, reason, sep="\t", file=self._file)

    def report(self) -> list[str]:
        """One line for each split and reason."""
        return [f"{split}: {count:,} pairs dropped, {reason}" for (split, reason), count in self.counts.items()]


def zip_pairs(lines: Mapping[str, Sequence[str]], image_ids: Sequence[str], *, split: str) -> Iterator[Pair]:
    """Pairs of the lines of two languages (source first) and their images.

    Raises:
        VTLMError: there are none, or not equally many.
    """
    counts = {**{lang: len(side) for lang, side in lines.items()}, "images": len(image_ids)}
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise VTLMError(f"{split}: numbers of lines differ ({found}); mend the raw files or --image-splits")
    if not image_ids:
        raise VTLMError(f"{split}: no lines, its files are empty; see --raw")
    return map(Pair, image_ids, *lines.values())


_function: Callable[[Any], Any]


def _set_function(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    start_worker()


def _call_function(items: list[Any]) -> list[Any]:
    return [_function(item) for item in items]


def map_stream(
    function: Callable[[Any], Any], items: Iterable[Any], *, workers: int, label: str, total: int | None = None
) -> Iterator[Any]:
    """`map(function, items)` with progress, in several processes where `workers` is above 1.

    A bounded number of items is held, whichever side is slower.
    """
    with progress_bar(total=total, desc=label, unit=" pairs") as bar:
        if workers <= 1:
            for item in items:
                yield function(item)
                bar.update()
            return
        items = iter(items)
        waiting: deque[Future] = deque()
        with ProcessPoolExecutor(workers, initializer=_set_function, initargs=(function,)) as pool:
            try:
                while True:
                    while len(waiting) < _WAITING * workers and (batch := list(islice(items, _BATCH))):
                        waiting.append(pool.submit(_call_function, batch))
                    if not waiting:
                        return
                    done = waiting.popleft().result()
                    yield from done
                    bar.update(len(done))
            finally:
                pool.shutdown(cancel_futures=True)  # where the block was left early, no batch is begun any more


class _ForBothSides:
    """A method of a pipeline for each side of a pair, as a function that can be sent to a process."""

    def __init__(self, source: Callable[[str], str], target: Callable[[str], str]) -> None:
        self._source, self._target = source, target

    def __call__(self, pair: Pair) -> Pair:
        return pair._replace(source=self._source(pair.source), target=self._target(pair.target))


class _Words:
    """`TextPipeline.preprocess` for one language."""

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
            "--no-escape, --segment"
        )


def prepare_folder(
    out: Path,
    text: Mapping[str, Iterable[Pair]],
    pipeline: TextPipeline,
    *,
    vocab_size: int | None,
    bpe_model: Path | None,
    dictionary: Path | None,
    workers: int,
    bpe_sample: int | None = None,
    length_filter: LengthFilter | None = None,
    dropped: DroppedPairs | None = None,
    tokenised: bool | None = False,
) -> list[str]:
    """Fill a folder with binarised data and all that belongs to it.

    Args:
        out: an existing folder.
        text: pairs of each split, by fairseq's name; BPE and dictionary are learnt from `train`. Each is read once.
        pipeline: the languages and the steps; BPE kind and folder are set here.
        vocab_size: pieces of a joint BPE model to learn, or None with `bpe_model`.
        bpe_model: an existing model to use instead.
        dictionary: an existing dictionary, or None to build one.
        workers: processes.
        bpe_sample: learn BPE from so many sentences of both sides at most, evenly spaced; None: from all.
        length_filter: drops pairs of `train` and `valid`; needs `dropped`.
        dropped: what is told of dropped pairs.
        tokenised: the text has the steps of Moses already; see `watched`.

    Returns:
        One line for each file that was binarised: its sentences, tokens and unknowns.

    Raises:
        VTLMError: a split without pairs, a model that cannot be read or learnt, a dictionary that does not
            belong to it, text that looks tokenised though nobody said so.
    """
    text = watched(text, pipeline, tokenised)
    if bpe_model is not None:
        kind = load_bpe(bpe_model)[0]
        check_reused_steps(pipeline, bpe_model)
    else:
        kind = "sentencepiece"
    pipeline = replace(pipeline, bpe=kind, folder=out)
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        missing = pipeline
        if tokenised:
            missing = replace(pipeline, steps=tuple(step for step in pipeline.steps if step not in (*MOSES, "jieba")))
        words = {split: SplitFiles(Path(scratch), split, missing) for split in text}
        for split, pairs in text.items():
            words[split].write(with_hyphens(pairs) if tokenised else pairs, workers=workers)
        if bpe_model is not None:
            shutil.copyfile(bpe_model, out / BPE_FILES[kind])
        else:
            sample = words["train"].sample(bpe_sample)
            (out / BPE_FILES[kind]).write_bytes(learn_sentencepiece(sample, vocab_size=vocab_size))
        (out / "references").mkdir()
        for split, files in words.items():
            _write_pieces(out, files, pipeline, split, length_filter, dropped, workers=workers)
        report = binarise(Path(scratch), out, list(text), pipeline=pipeline, dictionary=dictionary, workers=workers)
    pipeline.save(out)
    return report


class SplitFiles:
    """Words of a split, and image and place of each line, in files of a scratch folder."""

    def __init__(self, folder: Path, split: str, pipeline: TextPipeline) -> None:
        self.split, self.count = split, 0
        self.pieces = [folder / f"{split}.{lang}" for lang in (pipeline.source_lang, pipeline.target_lang)]
        self._words = [folder / f"{split}.words.{side}" for side in ("source", "target")]
        self._places = folder / f"{split}.places"
        self._function = _ForBothSides(_Words(pipeline, pipeline.source_lang), _Words(pipeline, pipeline.target_lang))

    def write(self, pairs: Iterable[Pair], *, workers: int) -> None:
        """Preprocess and write all pairs."""
        with ExitStack() as stack:
            source, target, places = (stack.enter_context(_create(p)) for p in (*self._words, self._places))
            for pair in map_stream(self._function, pairs, workers=workers, label=f"words of {self.split}"):
                print(pair.source, file=source)
                print(pair.target, file=target)
                print(pair.place, pair.image, sep="\t", file=places)
                self.count += 1
        if not self.count:
            raise VTLMError(f"{self.split}: no pairs, its file is empty")

    def read(self) -> Iterator[Pair]:
        """The preprocessed pairs."""
        for source, target, place in zip(*map(stream_lines, (*self._words, self._places)), strict=True):
            place, _, image = place.partition("\t")
            yield Pair(image, source, target, place)

    def sample(self, size: int | None) -> Iterator[str]:
        """Sentences of the source side, then of the target side, evenly spaced where there are more than `size`."""
        for path in self._words:
            kept = self.count if size is None else min(self.count, max(1, size // 2))
            for number, line in enumerate(stream_lines(path)):
                if (number + 1) * kept // self.count > number * kept // self.count:
                    yield line


def _write_pieces(
    out: Path,
    files: SplitFiles,
    pipeline: TextPipeline,
    split: str,
    length_filter: LengthFilter | None,
    dropped: DroppedPairs | None,
    *,
    workers: int,
) -> None:
    """Apply BPE; write pieces, `{split}.images` and `references/` of the pairs that stay."""
    langs = (pipeline.source_lang, pipeline.target_lang)
    paths = [*files.pieces, *(out / "references" / f"{split}.{lang}" for lang in langs), out / f"{split}.images"]
    words, more = tee(files.read())
    function = _ForBothSides(pipeline.apply_bpe, pipeline.apply_bpe)
    encoded = map_stream(function, more, workers=workers, label=f"BPE of {split}", total=files.count)
    kept = 0
    with ExitStack() as stack:
        outputs = [stack.enter_context(_create(path)) for path in paths]
        for pair, pieces in zip(words, encoded, strict=True):
            if length_filter is not None and dropped is not None and split in FILTERED:
                reason = length_filter.reason(pieces)
                if reason is not None:
                    dropped.add(split, pair, reason)
                    continue
            kept += 1
            lines = (pieces.source, pieces.target, pair.source, pair.target, pair.image)
            for file, line in zip(outputs, lines, strict=True):
                print(line, file=file)
    if not kept:
        raise VTLMError(f"{split}: no pair is left; see --min-tokens and --max-tokens")


def _create(path: Path) -> TextIO:
    return open(path, "w", encoding="utf-8", newline="\n")
