"""Text that is tokenised or escaped already: noticed by its first lines, and prepared without doing it again."""

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.pairs import Pair
from vtlm_fairseq.text.pipeline import TextPipeline
from vtlm_fairseq.text.unspaced import is_apart, is_unspaced, segmentation

_LINES = 1000
_NEARLY_ALL, _MOST = 0.9, 0.5
_ESCAPED = re.compile(r"&(?:apos|quot|amp|lt|gt|#124|#91|#93);")
_PLAIN = re.compile(r"['\"<>\[\]|]|&(?!\w+;|#\d+;)")
_HYPHEN = re.compile(r"(?<=\S) @-@ (?=\S)")
_APART = re.compile(r"(?<=\w) (?:[.,]|'(?:s|re|ve|ll|d|m)|n't)(?= |$)")  # French has a blank before ? ! ; and :
_ATTACHED = re.compile(r"\w(?:[.,](?= |$)|'(?:s|re|ve|ll|d|m)(?= |$))")


@dataclass
class _Counts:
    """Of the first lines of one side, those with each sign."""

    lines: int = 0
    escaped: int = 0
    plain: int = 0
    hyphens: int = 0
    apart: int = 0
    attached: int = 0
    characters: int = 0
    segmented: int = 0

    def look(self, line: str) -> None:
        self.lines += 1
        escaped = bool(_ESCAPED.search(line))
        self.escaped += escaped
        self.plain += not escaped and bool(_PLAIN.search(line))
        self.hyphens += bool(_HYPHEN.search(line))
        attached = bool(_ATTACHED.search(line))
        self.attached += attached
        self.apart += not attached and bool(_APART.search(line))
        self.characters += is_unspaced(line)
        self.segmented += is_apart(line)

    def signs(self) -> str:
        """What shows that the text is tokenised or escaped; empty where nothing does."""
        found = []
        if self.escaped >= 3 and self.escaped >= _NEARLY_ALL * (self.escaped + self.plain):
            found.append(f"{self.escaped:,} with &apos; or other escapes")
        if self.hyphens >= 2:
            found.append(f"{self.hyphens:,} with @-@")
        if self.apart >= 10 and self.apart >= _NEARLY_ALL * (self.apart + self.attached):
            found.append(f"{self.apart:,} with a blank before '.', ',' or 's ({self.attached:,} without)")
        if self.segmented >= 3 and self.segmented >= _NEARLY_ALL * self.characters:
            found.append(f"{self.segmented:,} with blanks between Chinese or Japanese characters")
        return ", ".join(found)

    def contradiction(self, escape: bool) -> str:
        """What shows that the text is not as ``--tokenised`` says, and what mends it; empty where nothing does."""
        if self.attached >= 10 and self.attached >= _MOST * (self.attached + self.apart):
            return f"{self.attached:,} have '.', ',' or 's at a word: give --no-tokenised, which tokenises both sides"
        if escape and self.plain >= 10 and self.plain >= _MOST * (self.plain + self.escaped):
            return f"{self.plain:,} have quotes, & or brackets that are not escaped: give --no-escape too"
        if not escape and self.escaped >= 3 and self.escaped >= _MOST * (self.plain + self.escaped):
            return f"{self.escaped:,} have &apos; or other escapes: leave out --no-escape"
        return ""


def looks_running(lines: Iterable[str], pipeline: TextPipeline, lang: str) -> bool:
    """Whether text that a pipeline's steps should have cut into words is running text: half of its lines."""
    counts = _Counts()
    for line in lines:
        counts.look(line)
    if segmentation(lang, pipeline.steps) is not None:
        return counts.characters >= 3 and counts.segmented <= (1 - _MOST) * counts.characters
    cut = "tokenise" in pipeline.steps
    return cut and counts.attached >= 3 and counts.attached >= _MOST * (counts.attached + counts.apart)


def watched(
    text: Mapping[str, Iterable[Pair]], pipeline: TextPipeline, tokenised: bool | None
) -> dict[str, Iterator[Pair]]:
    """The same pairs; the first lines of each split are looked at while they are read.

    Args:
        text: pairs of each split.
        pipeline: languages, and the steps that the text will be said to have.
        tokenised: whether the steps of Moses are applied already; None: nobody said, and where they seem to be it is a
            fault; False: they are not, whatever it looks like.

    Raises:
        VTLMError: while reading: the text looks tokenised, or is said to be and does not look like it.
    """
    return {
        split: iter(pairs) if tokenised is False else _watch(split, pairs, pipeline, bool(tokenised))
        for split, pairs in text.items()
    }


def _watch(split: str, pairs: Iterable[Pair], pipeline: TextPipeline, tokenised: bool) -> Iterator[Pair]:
    sides = (_Counts(), _Counts())

    def judge() -> None:
        for lang, side in zip((pipeline.source_lang, pipeline.target_lang), sides, strict=True):
            where = f"{split}, {lang}: of the first {side.lines:,} lines"
            if tokenised and (found := side.contradiction("escape" in pipeline.steps)):
                raise VTLMError(f"{where} {found}")
            if not tokenised and (found := side.signs()):
                raise VTLMError(
                    f"{where} {found}: the text seems to be tokenised or escaped already; give --tokenised to leave it "
                    "so, or --no-tokenised to prepare it as raw text all the same"
                )

    for number, pair in enumerate(pairs, start=1):
        if number <= _LINES:
            sides[0].look(pair.source)
            sides[1].look(pair.target)
        if number == _LINES:
            judge()
        yield pair
    if sides[0].lines < _LINES:
        judge()


def with_hyphens(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Tokenised pairs as the steps of `TextPipeline` leave them: hyphens of Moses' option -a are joined again."""
    for pair in pairs:
        yield pair._replace(source=_HYPHEN.sub("-", pair.source), target=_HYPHEN.sub("-", pair.target))


def add_tokenised(parser: argparse.ArgumentParser) -> None:
    """Add ``--tokenised`` and ``--no-tokenised``."""
    parser.add_argument(
        "--tokenised",
        action=argparse.BooleanOptionalAction,
        help="the text is tokenised already, as Moses does it, and escaped, or not with --no-escape: only the other "
        "steps are done. --no-tokenised: it is raw text (default: raw text, refused where it does not look like it)",
    )
