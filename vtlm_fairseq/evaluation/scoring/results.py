"""Tables of what was measured: for people, and for machines."""

from __future__ import annotations

from dataclasses import dataclass

from vtlm_fairseq.evaluation.scoring.outputs import Output
from vtlm_fairseq.evaluation.scoring.scores import Comparison, Figure, seed_statistics
from vtlm_fairseq.evaluation.scoring.seeds import SeedTest
from vtlm_fairseq.evaluation.tables import Table


@dataclass
class Scored:
    """One measure of the outputs of a system (one a seed) on a test set.

    Attributes:
        system: name of the system.
        test_set: name of the test set.
        outputs: one a seed.
        figures: one a seed.
        baselines: outputs of the baseline, one a seed; empty without one.
        comparisons: with the baseline, one a seed; empty for a measure that is not compared.
        over_seeds: one test of all seeds instead (``--seeds``).
    """

    system: str
    test_set: str
    outputs: list[Output]
    figures: list[Figure]
    baselines: list[Output]
    comparisons: list[Comparison]
    over_seeds: SeedTest | None = None

    @property
    def label(self) -> str:
        """Name of the measure."""
        return self.figures[0].label

    def number(self, value: float, sign: str = "") -> str:
        """A value of this measure as it is printed: two digits, four on a scale of 0 to 1."""
        digits = 4 if self.label.startswith(("METEOR", "COMET")) else 2
        return f"{value:{sign}.{digits}f}"


def make_table(results: list[Scored], *, machine: bool, wide: bool) -> Table:
    """The table of all results, with notes on what was left out.

    Args:
        machine: a row a file and measure, unrounded; else
        wide: a row a system and test set, or, of one test set, a row a measure.
    """
    table = (_long_table if machine else _wide_table if wide else _tall_table)(results)
    table.notes = [*_missing_notes(results), *table.notes]
    return table


def _tall_table(results: list[Scored]) -> Table:
    """One test set: a row a measure."""
    seeds = len(results[0].figures)
    columns = ["measure", "score"] if seeds == 1 else ["measure", "mean", "deviation", "maximum"]
    compared = any(result.comparisons for result in results)
    columns += ["95 % interval", "baseline", "difference", "p"] if compared else []
    tested = any(result.over_seeds for result in results)
    columns += ["difference", "95 % interval", "p", "detects"] if tested else []
    rows = []
    for result in results:
        row = [result.label]
        mean, deviation, maximum = seed_statistics([figure.value for figure in result.figures])
        row += [result.number(value) for value in ((mean,) if seeds == 1 else (mean, deviation, maximum))]
        for what in ("interval", "baseline", "difference", "p_value") if compared else ():
            values = [getattr(comparison, what) for comparison in result.comparisons]
            if what == "interval":
                cells = ["..".join(map(result.number, value)) for value in values]
            elif what == "p_value":
                cells = [f"{value:.4f}" for value in values]
            else:
                cells = [result.number(value, "+" if what == "difference" else "") for value in values]
            row.append(" ".join(cells))
        if tested:
            row += _seed_cells(result)
        rows.append([*row, result.comparisons[0].signature if result.comparisons else result.figures[0].signature])
    notes = [] if seeds == 1 else [f"{seeds} seeds; deviation: sample standard deviation"]
    notes += _seed_notes(results)
    return Table([*columns, "signature"], rows, title=results[0].test_set, notes=notes)


def _seed_cells(result: Scored) -> list[str]:
    """Difference of the means, its interval, p, and what the test detects."""
    test = result.over_seeds
    if test is None:
        return [""] * 4
    interval = "..".join(result.number(value, "+") for value in test.interval)
    return [result.number(test.difference, "+"), interval, f"{test.p_value:.4f}", result.number(test.detects)]


def _seed_notes(results: list[Scored]) -> list[str]:
    tests = [result.over_seeds for result in results if result.over_seeds]
    made = [f"{ours} seeds against {theirs}, {n} sentences" for ours, theirs, n in
            dict.fromkeys((*test.seeds, test.sentences) for test in tests)]  # fmt: skip
    if made:
        made.insert(0, "difference of the means over seeds, sentences and seeds resampled together; detects: a true "
                       "difference of this size has p < 0.05 in 80 % of such experiments")  # fmt: skip
    if any(1 in test.seeds for test in tests):
        made.append("one seed: its deviation is not known and not in the test, which is of that model alone")
    return made


def _wide_table(results: list[Scored]) -> Table:
    """Several systems or test sets: a row each, a column a measure."""
    labels = list(dict.fromkeys(result.label for result in results))
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for result in results:
        mean, deviation, maximum = seed_statistics([figure.value for figure in result.figures])
        cell = result.number(mean)
        if deviation is not None:
            cell += f" ± {result.number(deviation)} ({result.number(maximum)})"
        if result.comparisons:
            cell += f" p {max(comparison.p_value for comparison in result.comparisons):.4f}"
        if result.over_seeds:
            difference, interval, p, detects = _seed_cells(result)
            cell += f", {difference} [{interval}] p {p}, detects {detects}"
        cells.setdefault((result.system, result.test_set), {})[result.label] = cell
    rows = [[*key, *(row.get(label) for label in labels)] for key, row in cells.items()]
    notes = []
    if any(len(result.figures) > 1 for result in results):
        notes.append("mean ± sample standard deviation (maximum) over seeds")
    if any(result.comparisons for result in results):
        notes.append("p: of the paired bootstrap against --baseline, the greatest over seeds")
    notes += _seed_notes(results)
    signatures = {(r.label, r.comparisons[0].signature if r.comparisons else r.figures[0].signature) for r in results}
    notes += [f"{label}: {signature}" for label, signature in sorted(signatures, key=lambda s: (labels.index(s[0]), s))]
    return Table(["system", "test set", *labels], rows, notes=notes)


def _long_table(results: list[Scored]) -> Table:
    """For machines: a row a file and measure, with statistics over the seeds repeated in each."""
    columns = ["system", "test_set", "file", "sentences", "measure", "score", "mean", "deviation", "maximum"]
    columns += ["baseline", "difference", "p_value", "interval_low", "interval_high", "signature"]
    tests = ("difference", "error", "freedom", "p_value", "interval_low", "interval_high", "detects", "baselines")
    tested = any(result.over_seeds for result in results)
    columns += [f"seeds_{name}" for name in tests] if tested else []
    rows = []
    for result in results:
        overall = seed_statistics([figure.value for figure in result.figures])
        for k, (output, figure) in enumerate(zip(result.outputs, result.figures, strict=True)):
            row = [result.system, result.test_set, output.path, len(output.ids), figure.label, figure.value, *overall]
            if result.comparisons:
                one = result.comparisons[k]
                row += [one.baseline, one.difference, one.p_value, *one.interval, one.signature]
            else:
                row += [None] * 5 + [figure.signature]
            if tested:
                test = result.over_seeds
                row += [None] * len(tests) if test is None else [
                    test.difference, test.error, test.freedom, test.p_value, *test.interval, test.detects, test.seeds[1]
                ]  # fmt: skip
            rows.append(row)
    return Table(columns, rows)


def _missing_notes(results: list[Scored]) -> list[str]:
    """Which sentences were left out, for each file that lacks some."""
    outputs = {one.path: one for result in results for one in [*result.outputs, *result.baselines] if one.missing}
    notes = []
    for path, output in outputs.items():
        ids = ", ".join(map(str, output.missing))
        notes.append(f"{path}: {len(output.missing)} sentences without translation left out: ids {ids}")
    return notes
