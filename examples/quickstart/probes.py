"""The probes of ``--probes``: their commands, and the figures that they should give."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vtlm_fairseq.errors import VTLMError


@dataclass(frozen=True)
class Probe:
    """A sub-command of vtlm-probe: its arguments, the stages it needs, seconds on two cores."""

    flags: tuple[str, ...]
    needs: tuple[str, ...]
    seconds: float


def _systems(*names: str) -> tuple[str, ...]:
    return tuple(part for name in names for part in ("--system", f"{name.upper()}={name}/checkpoint_last.pt"))


SCENES = {"given": "given", "shuffle": "shuffled", "none": "hidden"}
"""Orders of regions in words."""

_SPLITS = ("--regions", "data/regions")

PROBES: dict[str, Probe] = {
    "last-word": Probe(
        flags=(
            *("data-bin", *_systems("tlm", "vtlm"), *_SPLITS, "--subsets", "test", "--lines", "data/test_last.lines"),
            *("--region-order", "given", "--region-order", "shuffle"),
        ),
        needs=("tlm", "vtlm"),
        seconds=15,
    ),
    "contrastive": Probe(
        flags=(
            *_systems("mmt", "nmt"),
            *("--src", "data/contrastive/src.en", "--correct", "data/contrastive/correct.de"),
            *("--incorrect", "data/contrastive/incorrect.de", "--images", "data/contrastive/img.order"),
            *("--regions", "data/regions/test.h5"),
        ),
        needs=("mmt", "nmt"),
        seconds=15,
    ),
    "incongruent": Probe(
        flags=("data-bin", *_systems("mmt", "nmt"), *_SPLITS, "--repeats", "1", "--max-len-b", "30"),
        needs=("mmt", "nmt"),
        seconds=60,
    ),
    "attention": Probe(flags=("data-bin", *_systems("mmt"), *_SPLITS), needs=("mmt",), seconds=15),
}


@dataclass(frozen=True)
class Figure:
    """One figure of a probe.

    Attributes:
        probe: its title, the heading that figures are shown under.
        name: what it is, its key in ``results.json``.
        value: the figure.
        bounds: lowest and highest value that is expected; None: shown only.
        text: how the bounds are written.
    """

    probe: str
    name: str
    value: float
    bounds: tuple[float, float] | None = None
    text: str = ""

    @property
    def outside(self) -> bool:
        """Whether it lies outside the bounds."""
        return self.bounds is not None and not self.bounds[0] <= self.value <= self.bounds[1]


def extract_json(log: str) -> str:
    """The JSON table in the output of a probe.

    Raises:
        VTLMError: there is none.
    """
    found = re.search(r"^\{$.*?^\}$", log, re.M | re.S)
    if found is None:
        raise VTLMError("the probe printed no table; see its log")
    return f"{found[0]}\n"


def read_figures(folder: Path) -> list[Figure]:
    """The figures of all probes from their tables in ``folder``."""

    def rows(name: str) -> list[dict]:
        return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["rows"]

    return [
        *last_word(rows("last-word")),
        *contrastive(rows("contrastive")),
        *incongruent(rows("incongruent")),
        *attention(rows("attention")),
    ]


def last_word(rows: list[dict]) -> list[Figure]:
    """Both last words masked: what VTLM gains on TLM, and how much of it shuffled regions take back."""
    title = "last word in both languages masked, where it is an ambiguous noun (per cent)"
    both = {(row["system"], row["regions"]): row["test"] for row in rows if row["masked"] == "BOTH"}
    tlm, vtlm, shuffled = both["TLM", "none"], both["VTLM", "given"], both["VTLM", "shuffle"]
    gain = vtlm - tlm
    taken = 100 * (vtlm - shuffled) / gain if gain > 0 else 0.0
    return [
        Figure(title, "TLM", tlm),
        Figure(title, "VTLM", vtlm),
        Figure(title, "VTLM, scenes shuffled", shuffled),
        Figure(title, "gain of VTLM", gain, (20, 100), ">= 20"),
        Figure(title, "share of the gain that shuffling takes back", taken, (80, float("inf")), ">= 80"),
    ]


def contrastive(rows: list[dict]) -> list[Figure]:
    """How often the translation in the scene's sense scores better than the other, by perplexity."""
    title = "right translation of an ambiguous noun scores better (per cent)"
    bounds = {"MMT": ((95, 100), ">= 95"), "NMT": ((50, 50), "exactly 50")}
    return [
        Figure(title, f"{row['system']}, contrastive", row["accuracy"], *bounds[row["system"]])
        for row in rows
        if row["score"] == "perplexity"
    ]


def incongruent(rows: list[dict]) -> list[Figure]:
    """BLEU with the scenes given, shuffled and hidden, and whether the drop can be chance."""
    title = "BLEU on the test split"
    figures = []
    for row in rows:
        if row["system"] == "NMT":
            figures += [
                Figure(title, "NMT, no scene", row["BLEU"]),
                Figure(title, "NMT, drop", row["drop"], (0, 0), "none"),
            ]
            continue
        name = f"MMT, scenes {SCENES[row['regions']]}"
        figures.append(Figure(title, name, row["BLEU"]))
        if row["p"] is not None:
            figures.append(Figure(title, f"{name}, drop", row["drop"], (1e-9, 100), "> 0"))
            figures.append(Figure(title, f"{name}, p", row["p"], (0, 0.01 - 1e-12), "< 0.01"))
    return figures


def attention(rows: list[dict]) -> list[Figure]:
    """Attention mass on regions by decoder layer, beside the share that equal weights would give."""
    title = "cross-attention mass on regions by decoder layer (shown only)"
    figures = [Figure(title, f"{row['system']}, layer {row['layer']}", row["mass"]) for row in rows]
    return [*figures, Figure(title, "equal weights", rows[0]["uniform"])]


def table(figures: list[Figure], *, expected: bool) -> str:
    """All figures; ``expected`` adds where they should lie and marks what lies outside."""
    width = max(len(figure.name) for figure in figures) + 4
    lines, probe = [], ""
    for figure in figures:
        if figure.probe != probe:
            probe = figure.probe
            lines.append(probe)
        bounds = f"  [{figure.text}]{' (!)' * figure.outside}" if expected and figure.bounds else ""
        lines.append(f"  {figure.name}".ljust(width) + f"{figure.value:8.3f}{bounds}")
    return "\n".join(lines)


def outside_expected(figures: list[Figure]) -> list[str]:
    """The figures that lie outside their bounds, each in words."""
    return [f"{figure.name} {figure.value:.3f}, not {figure.text}" for figure in figures if figure.outside]
