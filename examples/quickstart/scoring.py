"""Score the quickstart's hypotheses: is each ambiguous noun, and each other content word, translated?"""

import json
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses

Bounds = tuple[float, float]

SYSTEMS: dict[str, str] = {
    "mmt": "MMT, scene given",
    "mmt_swapped": "MMT, scenes of each pair swapped",
    "mmt_shuffled": "MMT, scenes shuffled",
    "nmt": "NMT, no scene",
}
"""The systems by the name of their hypothesis file."""

EXPECTED: dict[str, dict[str, Bounds]] = {
    "mmt": {"ambiguous": (0.95, 1.0), "other_content": (0.95, 1.0)},
    "mmt_swapped": {"ambiguous": (0.0, 0.05), "other_content": (0.95, 1.0)},
    "mmt_shuffled": {"ambiguous": (0.30, 0.60), "other_content": (0.95, 1.0)},
    "nmt": {"ambiguous": (0.40, 0.50), "other_content": (0.95, 1.0)},
}
"""Where the accuracies of a full run lie: lowest and highest."""


def sense_is_right(hypothesis: Sequence[str], *, right: Sequence[str], wrong: Sequence[str]) -> bool:
    """Whether a form of the right noun is in the hypothesis and none of the other sense's noun is."""
    words = set(hypothesis)
    return not words.isdisjoint(right) and words.isdisjoint(wrong)


def score(hypotheses: Sequence[str], records: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Accuracies of one system.

    Args:
        hypotheses: one a line of the test split, in its order.
        records: the lines of ``test.jsonl``.

    Returns:
        ``right``, ``total`` and ``accuracy`` of ``ambiguous`` (one word a line that has one), of the part of
        it where the noun is the last word (``ambiguous_last``) and of ``other_content`` (nouns, adjectives
        and verbs of all lines; any form of the right word counts).
    """
    counts = {"ambiguous": [0, 0], "ambiguous_last": [0, 0], "other_content": [0, 0]}

    def count(what: str, right: bool) -> None:
        counts[what][0] += right
        counts[what][1] += 1

    for hypothesis, record in zip(hypotheses, records, strict=True):
        words = hypothesis.split()
        if record["ambiguous"]:
            right = sense_is_right(words, right=record["right"], wrong=record["wrong"])
            count("ambiguous", right)
            if record["last"]:
                count("ambiguous_last", right)
        for forms in record["content"]:
            count("other_content", not set(words).isdisjoint(forms))
    return {
        what: {"right": right, "total": total, "accuracy": right / total if total else 0.0}
        for what, (right, total) in counts.items()
    }


def read_records(path: Path) -> list[dict]:
    """Read the facts about each line of a split from ``{split}.jsonl``."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def extract_hypotheses(log: Path, *, count: int) -> list[str]:
    """The best hypothesis of each sentence in the output of ``fairseq-generate``, in the order of the ids.

    Args:
        log: its output.
        count: the number of sentences.

    Raises:
        VTLMError: not every sentence from 0 to ``count - 1`` has exactly one hypothesis.
    """
    hypotheses = read_hypotheses(log)
    hypotheses.require(count)
    return hypotheses.texts


def _in_bounds(value: float, bounds: Bounds) -> bool:
    return bounds[0] <= value <= bounds[1]


def _bounds_text(bounds: Bounds) -> str:
    low, high = bounds
    if high == 1.0:
        return f">= {low:.2f}"
    return f"<= {high:.2f}" if low == 0.0 else f"{low:.2f} to {high:.2f}"


def table(scores: dict[str, dict[str, dict[str, float]]], *, expected: bool) -> str:
    """The accuracies of all systems; ``expected`` adds where they should lie and marks what lies outside."""
    columns = {"ambiguous": "ambiguous nouns", "other_content": "other content words"}
    width = max(map(len, SYSTEMS.values())) + 2
    rows = ["share translated right".ljust(width) + "".join(title.ljust(26) for title in columns.values())]
    for system, title in SYSTEMS.items():
        cells = []
        for what in columns:
            value, bounds = scores[system][what]["accuracy"], EXPECTED[system][what]
            cell = f"{value:.3f}"
            if expected:
                sign = "" if _in_bounds(value, bounds) else " (!)"
                cell += f"  [{_bounds_text(bounds)}]{sign}"
            cells.append(cell.ljust(26))
        rows.append(title.ljust(width) + "".join(cells))
    return "\n".join(row.rstrip() for row in rows)


def outside_expected(scores: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The figures that lie outside `EXPECTED`, each in words."""
    return [
        f"{SYSTEMS[system]}: {what} {scores[system][what]['accuracy']:.3f}, not {_bounds_text(bounds)}"
        for system, wanted in EXPECTED.items()
        for what, bounds in wanted.items()
        if not _in_bounds(scores[system][what]["accuracy"], bounds)
    ]


def _mark(hypothesis: str, record: dict) -> str:
    """The hypothesis with either noun of the ambiguous word in square brackets."""
    nouns = {*record["right"], *record["wrong"]}
    return " ".join(f"[{word}]" if word in nouns else word for word in hypothesis.split())


def minimal_pairs(records: Sequence[dict], hypotheses: dict[str, Sequence[str]], *, count: int = 3) -> str:
    """The first ``count`` pairs with different ambiguous nouns: both scenes and what MMT and NMT make of them."""
    shown: set[str] = set()
    blocks = []
    for record in records:
        noun = record["ambiguous"]
        if noun is None or noun in shown:
            continue
        if len(shown) == count:
            break
        shown.add(noun)
        rows = [record["english"]]
        for one in (record, records[record["partner"]]):
            rows.append(f"  scene  {', '.join(one['scene'])}")
            rows.append(f"  MMT    {_mark(hypotheses['mmt'][one['line']], one)}")
        rows.append("  any or no scene")
        rows.append(f"  NMT    {_mark(hypotheses['nmt'][record['line']], record)}")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)
