"""Read translations, raw output of fairseq-generate or plain lines, in corpus order and complete."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import PathLike, read_content, read_lines, split_lines

_OUTPUT_LINE = re.compile(r"([STH])-([0-9]{1,12})\t(.*)", re.DOTALL)


@dataclass
class Hypotheses:
    """Translations of a test set.

    Attributes:
        texts: one a sentence, in corpus order.
        ids: 0-based line number of each in the corpus.
        scores: log-probability of each as fairseq prints it (base 2, per token unless --unnormalized);
            None for plain lines.
        references: the ``T-`` lines of the same sentences; None if there are none.
        path: the file.
    """

    texts: list[str]
    ids: list[int]
    scores: list[float] | None
    references: list[str] | None
    path: str

    def missing(self, count: int) -> list[int]:
        """Ids of a corpus of ``count`` sentences that have no hypothesis."""
        return sorted(set(range(count)) - set(self.ids))

    def require(self, count: int, *, allow_missing: bool = False) -> list[int]:
        """Check that there is one hypothesis for each of ``count`` sentences.

        Returns:
            Ids that are missing: empty unless ``allow_missing``.

        Raises:
            VTLMError: some are missing, or there are more than ``count``.
        """
        missing = self.missing(count)
        extra = [number for number in self.ids if number >= count]
        if extra or (missing and self.scores is None):
            what = f"sentence {extra[0]} (ids count from 0)" if self.scores else f"{len(self.ids)} lines"
            raise VTLMError(f"{self.path}: {what}, but the corpus has {count} sentences; is this the right test set?")
        if missing and not allow_missing:
            raise VTLMError(_missing_message(self.path, self.ids, count))
        return missing


def read_sentences(path: PathLike) -> list[str]:
    """Lines of a text, without trailing blanks, which mean nothing to a metric.

    Raises:
        VTLMError: unreadable.
    """
    return [line.rstrip() for line in read_lines(path)]


def read_hypotheses(path: PathLike, *, allow_missing: bool = False) -> Hypotheses:
    """Read raw output of fairseq-generate (``H-`` lines in any order, log lines around them) or plain lines.

    Of the output, ``S-``, ``T-`` and ``H-`` lines are looked at: a sentence that has any of them needs exactly one
    ``H-`` line, and so does every id below the greatest one. That no sentence is missing at the end, only the
    reference can tell: see `Hypotheses.require`.

    Args:
        path: the file.
        allow_missing: accept output in which sentences are missing; `Hypotheses.ids` says which are there.

    Raises:
        VTLMError: unreadable; a sentence has two hypotheses or none.
    """
    found: dict[str, dict[int, str]] = {"S": {}, "T": {}, "H": {}}
    twice: set[int] = set()
    content = read_content(path)
    for line in split_lines(content, str(path), returns=True):
        if match := _OUTPUT_LINE.match(line):
            kind, number, rest = match[1], int(match[2]), match[3].rstrip()
            if kind == "H" and number in found[kind]:
                twice.add(number)
            found[kind][number] = rest
    known = set().union(*found.values())
    if not known:
        content.seek(0)
        lines = [line.rstrip() for line in split_lines(content, str(path))]
        return Hypotheses(lines, list(range(len(lines))), None, None, str(path))
    if twice:
        raise VTLMError(
            f"{path}: {len(twice)} sentences have more than one hypothesis: ids {_first(sorted(twice))}; "
            "decode with --nbest 1, into a file of its own"
        )
    ids = sorted(found["H"])
    if not ids:
        raise VTLMError(f"{path}: no H- lines; is this the whole output of fairseq-generate, without --quiet?")
    count = max(known) + 1
    if len(ids) < count and not allow_missing:
        raise VTLMError(_missing_message(str(path), ids, count))
    scores, texts = [], []
    for number in ids:
        score, tab, text = found["H"][number].partition("\t")
        try:
            scores.append(float(score))
        except ValueError:
            scores.append(math.nan)
        if not math.isfinite(scores[-1]):
            raise VTLMError(f"{path}: H-{number} has no score but {score[:40]!r}; decode again")
        texts.append(text)
    references = [found["T"][number] for number in ids] if found["T"].keys() >= set(ids) else None
    return Hypotheses(texts, ids, scores, references, str(path))


def _missing_message(path: str, ids: Sequence[int], count: int) -> str:
    """`ids` are there, all below `count`."""
    found = set(ids)
    missing = list(islice((number for number in range(count) if number not in found), 6))
    return (
        f"{path}: {len(ids)} hypotheses for {count} sentences; missing: {_first(missing)}; decode again, "
        "or score what is there with --allow-missing"
    )


def _first(numbers: Sequence[int], count: int = 5) -> str:
    """The first five, in brackets."""
    shown = ", ".join(map(str, numbers[:count]))
    return f"[{shown}{', ...' if len(numbers) > count else ''}]"
