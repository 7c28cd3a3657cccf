"""Score the quickstart's hypotheses: is each ambiguous noun, and each other content word, translated?

Run in the quickstart's folder: reads ``hyp/`` and ``data/test.jsonl``, writes ``results.json`` and prints a table.
"""

import argparse
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses
from vtlm_fairseq.files import write_text
from vtlm_fairseq.terminal import command_line

Bounds = tuple[float, float]

SYSTEMS: dict[str, tuple[str, Bounds]] = {
    "mmt": ("MMT, scene given", (0.95, 1.0)),
    "mmt_swapped": ("MMT, scenes of each pair swapped", (0.0, 0.05)),
    "mmt_shuffled": ("MMT, scenes shuffled", (0.30, 0.60)),
    "nmt": ("NMT, no scene", (0.40, 0.50)),
}
"""By the name of their hypothesis file: title, and where the accuracy on ambiguous nouns of a full run lies."""
OTHER: Bounds = (0.95, 1.0)
"""And that on other content words, of each system."""


def score(hypotheses: Sequence[str], records: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Accuracies of one system.

    Args:
        hypotheses: one a line of the test split, in its order.
        records: the lines of ``test.jsonl``.

    Returns:
        ``right``, ``total`` and ``accuracy`` of ``ambiguous`` (one word a line that has one: a form of the right noun
        is there, and none of the other sense's noun), of the part of it where the noun is the last word
        (``ambiguous_last``) and of ``other_content`` (nouns, adjectives and verbs of all lines; any form of the right
        word counts).
    """
    found: dict[str, list[bool]] = {"ambiguous": [], "ambiguous_last": [], "other_content": []}
    for hypothesis, record in zip(hypotheses, records, strict=True):
        words = set(hypothesis.split())
        if record["ambiguous"]:
            right = not words.isdisjoint(record["right"]) and words.isdisjoint(record["wrong"])
            found["ambiguous"].append(right)
            found["ambiguous_last"] += [right] if record["last"] else []
        found["other_content"] += [not words.isdisjoint(forms) for forms in record["content"]]
    return {
        what: {"right": sum(hits), "total": len(hits), "accuracy": sum(hits) / max(1, len(hits))}
        for what, hits in found.items()
    }


def table(scores: dict[str, dict[str, dict[str, float]]], *, expected: bool) -> str:
    """The accuracies of all systems; ``expected`` adds where they should lie and marks what lies outside with (!)."""
    rows = [f"{'share translated right':34}{'ambiguous nouns':27}other content words"]
    for system, (title, bounds) in SYSTEMS.items():
        cells = []
        for what, (low, high) in (("ambiguous", bounds), ("other_content", OTHER)):
            value = scores[system][what]["accuracy"]
            mark = "" if low <= value <= high else " (!)"
            cells.append(f"{value:.3f}" + (f"  [{low:.2f} to {high:.2f}]{mark}" if expected else ""))
        rows.append(f"{title:34}{cells[0]:27}{cells[1]}")
    return "\n".join(rows)


def minimal_pairs(records: Sequence[dict], hypotheses: dict[str, Sequence[str]], *, count: int = 3) -> str:
    """The first ``count`` pairs with different ambiguous nouns: both scenes and what MMT and NMT make of them."""
    first: dict[str, dict] = {}
    for record in records:
        if record["ambiguous"]:
            first.setdefault(record["ambiguous"], record)

    def marked(system: str, record: dict) -> str:
        """The hypothesis with either noun of the ambiguous word in square brackets."""
        nouns = {*record["right"], *record["wrong"]}
        return " ".join(f"[{word}]" if word in nouns else word for word in hypotheses[system][record["line"]].split())

    blocks = []
    for record in list(first.values())[:count]:
        rows = [record["english"]]
        for one in (record, records[record["partner"]]):
            rows += [f"  scene  {', '.join(one['scene'])}", f"  MMT    {marked('mmt', one)}"]
        blocks.append("\n".join([*rows, "  any or no scene", f"  NMT    {marked('nmt', record)}"]))
    return "\n\n".join(blocks)


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: figures are not judged")
    args = parser.parse_args(argv)
    records = [json.loads(line) for line in Path("data/test.jsonl").read_text(encoding="utf-8").splitlines()]
    hypotheses = {}
    for system in SYSTEMS:
        found = read_hypotheses(Path(f"hyp/{system}.txt"))
        found.require(len(records))
        hypotheses[system] = found.texts
    scores = {system: score(texts, records) for system, texts in hypotheses.items()}
    versions = {name: metadata.version(name) for name in ("ve-fairseq", "torch", "numpy")}
    results = {
        "size": args.size,
        "systems": {system: {"title": title, **scores[system]} for system, (title, _) in SYSTEMS.items()},
        "expected": {system: {"ambiguous": bounds, "other_content": OTHER} for system, (_, bounds) in SYSTEMS.items()},
        "versions": {"python": platform.python_version(), **versions},
    }
    write_text(Path("results.json"), json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    print(f"\n{minimal_pairs(records, hypotheses)}\n\n{table(scores, expected=args.size == 'full')}\n")
    print(f"Figures in {Path('results.json').absolute()}, hypotheses in hyp/")


if __name__ == "__main__":
    main()
