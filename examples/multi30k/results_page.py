"""Collect what the runner left, test differences, and write the tables of the pages of results.

    results_page.py collect OUT [OUT ...]       hypotheses and run.json of finished rows -> results/
    results_page.py compare --references DIR    paired bootstraps, tests of seeds -> results/{comparisons,seeds}.json
    results_page.py tables --references DIR     the tables in RESULTS.md, RESULTS-1.md, the README; --check: only look

`DIR` is `OUT/data-bin/references`. Tables of RESULTS-1.md (PROTOCOL.md) are of seeds 1, 2 and 3, that beside fairseq's
transformer of 4, 5, 6 too; those of RESULTS.md (PROTOCOL-2.md) are of the records in results2/ (results2_tables.py).
"""

import argparse
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from operator import truediv
from pathlib import Path
from statistics import fmean

from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # python -P leaves the folder of the script out

import results2_tables  # noqa: E402
from results2_tables import read_record  # noqa: E402
from stages import write_atomically  # noqa: E402
from table1_rows import ORDERS, PRETRAININGS, ROWS, decodings_of  # noqa: E402

from vtlm_fairseq.errors import VTLMError  # noqa: E402
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED, paired_bootstrap, seed_statistics  # noqa: E402
from vtlm_fairseq.evaluation.scoring.seeds import compare_systems  # noqa: E402
from vtlm_fairseq.evaluation.tables import Table  # noqa: E402
from vtlm_fairseq.files import copy_file  # noqa: E402
from vtlm_fairseq.files.lines import read_lines  # noqa: E402
from vtlm_fairseq.terminal import command_line  # noqa: E402

RESULTS = HERE / "results"
PAGES = (HERE / "RESULTS-1.md", HERE.parent.parent / "README.md", HERE / "RESULTS.md")
TEST_SET = "test_2016_flickr"
OTHER_SETS = ("test_2017_flickr", "test_2017_mscoco")
VAL = "val (used for selection)"
TARGET = "de"
ALPHA = 0.05
SEEDS = (1, 2, 3)  # of every row
ADDED_SEEDS = (4, 5, 6)  # of the rows that one comparison is made of
ALL_SEEDS = SEEDS + ADDED_SEEDS


@dataclass(frozen=True)
class Pair:
    """A comparison of PROTOCOL.md: a system with a baseline.

    Attributes:
        system, baseline: names of rows.
        order: of the regions that the baseline is decoded with, where it is the system itself.
        seeds: of both.
    """

    system: str
    baseline: str
    order: str = "given"
    seeds: tuple[int, ...] = SEEDS

    @property
    def key(self) -> str:
        """Names it in ``comparisons.json``."""
        return f"{self.system} - {self.baseline}" + (f", {self.order}" if self.order != "given" else "")


COMPARISONS = (
    Pair("nmt", "stock", seeds=ALL_SEEDS),
    *(
        Pair(*rows.split(" - "))
        for rows in (
            "mmt - nmt, tlm_nmt - nmt, vtlm_nmt - nmt, tlm_mmt - mmt, vtlm_mmt - mmt, vtlm_mmt - nmt, "
            "tlm_mmt - tlm_nmt, vtlm_mmt - vtlm_nmt, vtlm_nmt - tlm_nmt, vtlm_mmt - tlm_mmt, vtlm0_mmt - vtlm_mmt, "
            "tlm_nmt - tlm_nmt_random"
        ).split(", ")
    ),
    Pair("vtlm_mmt", "vtlm_mmt", "shuffled"),
    Pair("vtlm_mmt", "vtlm_mmt", "hidden"),
    Pair("vtlm_mmt", "vtlm_mmt_signal0"),
    Pair("vtlm_mmt", "vtlm_mmt_noboxes"),
)


class Results:
    """The committed results.

    Args:
        folder: with ``hyp/TEST_SET/ROW.SEED.DECODING.de``, ``runs/ROW.SEED.json``, ``comparisons.json``,
            ``probes/NAME.json``, what vtlm-probe printed with ``--format json``, and ``rerun``, a folder like this.
        references: folder with ``TEST_SET.de``, tokenised.
        seeds: the others are left out.
    """

    def __init__(self, folder: Path, references: Path, seeds: Sequence[int] = SEEDS) -> None:
        self.folder, self._references, self._seeds = folder, references, seeds
        self._lines: dict[Path, list[str]] = {}
        self._scores: dict[tuple, float] = {}

    def of(self, seeds: Sequence[int]) -> "Results":
        """The same of other seeds; what is read is shared."""
        found = copy(self)
        found._seeds = seeds
        return found

    def seeds(self, row: str, test_set: str = TEST_SET) -> list[int]:
        """Seeds of a row that are decoded with given regions."""
        folder = self.folder / "hyp" / test_set
        return [seed for seed in self._seeds if (folder / f"{row}.{seed}.given.{TARGET}").is_file()]

    def run(self, stage: str) -> dict:
        """The ``run.json`` of a training: ``ROW.SEED``, or a pre-training."""
        return read_record(self.folder / "runs" / f"{stage}.json")

    def pretrainings(self) -> list[str]:
        """Names of the pre-trainings that have ended."""
        return [name for name in PRETRAININGS if (self.folder / "runs" / f"{name}.json").is_file()]

    def references(self, test_set: str) -> list[str]:
        """Tokenised references."""
        return self._read(self._references / f"{test_set}.{TARGET}")

    def hypotheses(self, row: str, seed: int, decoding: str, test_set: str = TEST_SET) -> list[str]:
        """What a system said."""
        return self._read(self.folder / "hyp" / test_set / f"{row}.{seed}.{decoding}.{TARGET}")

    def decodings(self, row: str, seed: int, order: str, test_set: str = TEST_SET) -> list[list[str]]:
        """The hypotheses of a seed with one order of regions; several where there are several derangements."""
        names = [decoding.name for decoding in decodings_of(ROWS[row]) if decoding.order == order]
        files = {name: self.folder / "hyp" / test_set / f"{row}.{seed}.{name}.{TARGET}" for name in names}
        return [self._read(path) for path in files.values() if path.is_file()]

    def bleu(self, row: str, order: str = "given", test_set: str = TEST_SET) -> list[float]:
        """BLEU of each seed; with several derangements their mean."""
        scores = []
        for seed in self.seeds(row, test_set):
            key = (row, seed, order, test_set)
            if key not in self._scores and (decoded := self.decodings(*key)):
                references = self.references(test_set)
                self._scores[key] = fmean(TOKENISED.score(lines, references).value for lines in decoded)
            if key in self._scores:
                scores.append(self._scores[key])
        return scores

    def comparisons(self) -> dict[str, list[dict]]:
        """What `compare` has written: p value and difference of each pair of seeds."""
        path = self.folder / "comparisons.json"
        return read_record(path) if path.is_file() else {}

    def rerun(self) -> "Results":
        """The rows that were run once more."""
        return Results(self.folder / "rerun", self._references)

    def second(self, split: str) -> results2_tables.Records:
        """The records of PROTOCOL-2.md, in the folder ``results2`` beside this one."""
        return results2_tables.Records(self.folder.parent / "results2", split, partial(self.references, split))

    def probe(self, name: str) -> Table:
        """What a probe printed."""
        found = read_record(self.folder / "probes" / f"{name}.json")
        rows = [[row[column] for column in found["columns"]] for row in found["rows"]]
        return Table(found["columns"], rows, notes=found["notes"])

    def _read(self, path: Path) -> list[str]:
        if path not in self._lines:
            if not path.is_file():
                raise VTLMError(f"{path}: no such file; --references is the folder OUT/data-bin/references")
            self._lines[path] = read_lines(path)
        return self._lines[path]


def collect(outs: Iterable[Path], folder: Path) -> list[str]:
    """Copy hypotheses and ``run.json`` of all finished trainings; returns their names."""
    names = []
    for out in outs:
        for record in sorted([*out.glob("*/*/run.json"), *out.glob("*/run.json")]):
            name = str(record.parent.relative_to(out)).replace("/", ".")
            if not (out / "stamps" / f"{name}.json").is_file():
                continue
            names.append(name)
            write_atomically(folder / "runs" / f"{name}.json", record.read_text(encoding="utf-8"))
            for stamp in (out / "stamps").glob(f"decode.{name}.*.json"):
                _, _, _, test_set, decoding, _ = stamp.name.split(".")
                copied = folder / "hyp" / test_set / f"{name}.{decoding}.{TARGET}"
                copied.parent.mkdir(parents=True, exist_ok=True)
                copy_file(out / "hyp" / test_set / copied.name, copied)
    return names


def compare(results: Results, pair: Pair) -> list[dict]:
    """Paired bootstrap of each seed of the system with each of the baseline; of the same seed where both are one."""
    results = results.of(pair.seeds)
    references, found = results.references(TEST_SET), []
    for seed in results.seeds(pair.system):
        hypotheses = results.hypotheses(pair.system, seed, "given")
        same = pair.system == pair.baseline
        for other in [seed] if same else results.seeds(pair.baseline):
            for baseline in results.decodings(pair.baseline, other, pair.order):
                result = paired_bootstrap(hypotheses, baseline, references)
                found.append({"seeds": [seed, other], "difference": result.difference, "p": result.p_value})
    return found


def compare_seeds(results: Results, pair: Pair) -> dict | None:
    """One test of all seeds, sentences and seeds resampled together; of several derangements the first is taken.

    None where a side has no seed.
    """
    results, same = results.of(pair.seeds), pair.system == pair.baseline
    system = [results.hypotheses(pair.system, seed, "given") for seed in results.seeds(pair.system)]
    decoded = [results.decodings(pair.baseline, seed, pair.order) for seed in results.seeds(pair.baseline)]
    baseline = [lines[0] for lines in decoded if lines]
    if not system or not baseline:
        return None
    return asdict(compare_systems(system, baseline, results.references(TEST_SET), paired=same))


def verdict(system: Sequence[float], baseline: Sequence[float], p_values: Sequence[float]) -> str:
    """What a comparison shows: a difference only where every p is below 0.05 and the seeds' ranges do not overlap.

    With one seed on a side nothing is judged: its range is not known.
    """
    if min(len(system), len(baseline)) == 1:
        return "not judged: one seed"
    apart = min(system) > max(baseline) or max(system) < min(baseline)
    if not apart or max(p_values) >= ALPHA:
        return "no difference shown"
    return "higher" if min(system) > max(baseline) else "lower"


def main_table(results: Results) -> Table:
    """All rows with given regions."""
    rows = []
    for name, row in ROWS.items():
        scores = results.bleu(name)
        if scores:
            runs = [results.run(f"{name}.{seed}") for seed in results.seeds(name)]
            perplexity, _, _ = seed_statistics([2 ** run["selection"]["best"] for run in runs])
            updates = ", ".join(str(run["updates"]["best"]) for run in runs)
            rows.append([row.title, "oracle" if row.regions else "none", len(scores), perplexity,
                         *seed_statistics(scores), updates])  # fmt: skip
    columns = ["system", "regions", "seeds", f"perplexity, {VAL}", "BLEU", "deviation", "maximum",
               "updates to the best checkpoint"]  # fmt: skip
    return Table(columns, rows)


def orders_table(results: Results) -> Table:
    """Multimodal rows with given, shuffled and hidden regions."""
    rows = []
    for name, row in ROWS.items():
        if row.regions and results.seeds(name):
            cells = [results.bleu(name, order) for order in ORDERS]
            count = len(results.decodings(name, results.seeds(name)[0], "shuffled"))
            rows.append([row.title, len(cells[0]), *(fmean(scores) if scores else None for scores in cells), count])
    return Table(["system", "seeds", *(f"BLEU, {order}" for order in ORDERS), "derangements a seed"], rows)


def comparison_table(results: Results) -> Table:
    """The comparisons of PROTOCOL.md, with what they show."""
    rows, found = [], results.comparisons()
    for pair in COMPARISONS:
        tests, compared = found.get(pair.key), results.of(pair.seeds)
        if not tests:
            continue
        system, baseline = compared.bleu(pair.system), compared.bleu(pair.baseline, pair.order)
        p_values = [test["p"] for test in tests]
        title = ROWS[pair.baseline].title
        rows.append([
            ROWS[pair.system].title,
            f"itself, regions {pair.order}" if pair.system == pair.baseline else title,
            fmean(system) - fmean(baseline),
            f"{sum(p < ALPHA for p in p_values)} of {len(p_values)}",
            max(p_values),
            verdict(system, baseline, p_values),
        ])  # fmt: skip
    columns = ["system", "compared with", "difference of mean BLEU", "tests with p < 0.05", "largest p", "shown"]
    return Table(columns, rows, precision={"largest p": 3})


def seeds_table(results: Results) -> Table:
    """The same comparisons by one test of seeds and sentences each, with the difference that it can detect."""
    rows, path = [], results.folder / "seeds.json"
    found = read_record(path) if path.is_file() else {}
    for pair in COMPARISONS:
        if test := found.get(pair.key):
            other = f"itself, regions {pair.order}" if pair.system == pair.baseline else ROWS[pair.baseline].title
            rows.append([ROWS[pair.system].title, other, " and ".join(map(str, test["seeds"])), test["difference"],
                         *test["interval"], test["p_value"], test["detects"]])  # fmt: skip
    columns = ["system", "compared with", "seeds", "difference of mean BLEU", "from", "to", "p", "detects"]
    return Table(columns, rows, precision={"p": 3})


def other_sets_table(results: Results) -> Table:
    """Text-only rows on the test sets that have no regions."""
    rows = []
    for name, row in ROWS.items():
        scores = [results.bleu(name, test_set=test_set) for test_set in OTHER_SETS]
        if all(scores):
            means = [part for found in scores for part in seed_statistics(found)[:2]]
            rows.append([row.title, len(scores[0]), *means])
    columns = [f"{test_set}{what}" for test_set in OTHER_SETS for what in (", BLEU", ", deviation")]
    return Table(["system", "seeds", *columns], rows)


def fairseq_table(results: Results) -> Table:
    """NMT from scratch beside fairseq's own transformer on each set, with and without BLEU's brevity penalty.

    Of all seeds, of the first three, which asked for more, and of those added. Length: words said per word of the
    references.
    """
    results, rows = results.of(ALL_SEEDS), []
    for test_set in (TEST_SET, *OTHER_SETS, "valid"):
        measured = [bleu_and_length(results, name, test_set) for name in ("nmt", "stock")]
        for seeds in (ALL_SEEDS, SEEDS, ADDED_SEEDS):
            chosen = [[found[seed] for seed in seeds if seed in found] for found in measured]
            if not all(chosen):
                continue
            means, unpenalised, cells = [], [], []
            for found in chosen:
                scores, lengths = zip(*found, strict=True)
                mean, deviation, _ = seed_statistics(scores)
                means.append(mean)
                penalties = [math.exp(min(0.0, 1 - 1 / length)) for length in lengths]
                unpenalised.append(fmean(map(truediv, scores, penalties)))
                cells += [mean, deviation, fmean(lengths)]
            differences = [means[0] - means[1], unpenalised[0] - unpenalised[1]]
            named = f"{seeds[0]} to {seeds[-1]}"
            rows.append([VAL if test_set == "valid" else test_set, named, *cells, *differences])
    columns = [f"{name}{what}" for name in ("ours", "fairseq's") for what in (", BLEU", ", deviation", ", length")]
    return Table(["set", "seeds", *columns, "difference", "without brevity penalty"], rows)


def bleu_and_length(results: Results, row: str, test_set: str) -> dict[int, tuple[float, float]]:
    """BLEU of each seed of a row, and words said per word of the references."""
    seeds, scores = results.seeds(row, test_set), results.bleu(row, test_set=test_set)
    if not seeds:
        return {}
    said = [results.hypotheses(row, seed, "given", test_set) for seed in seeds]
    *words, expected = (len(" ".join(lines).split()) for lines in (*said, results.references(test_set)))
    return {seed: (score, count / expected) for seed, score, count in zip(seeds, scores, words, strict=True)}


def pretraining_table(results: Results) -> Table:
    """Pre-trainings and their accuracy on masked words."""
    rows = []
    for name in results.pretrainings():
        run, title = results.run(name), PRETRAININGS[name].title
        rows.append([title, run["updates"]["last"], run["updates"]["best"], run["selection"]["best"]])
    return Table(["pre-training", "updates", "best at", f"masked words right, %, {VAL}"], rows)


def machines_table(results: Results) -> Table:
    """What each training ran on."""
    results = results.of(ALL_SEEDS)
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for stage in [*results.pretrainings(), *(f"{row}.{seed}" for row in ROWS for seed in results.seeds(row))]:
        name, *seed = stage.split(".")
        run = results.run(stage)
        machine = found.setdefault((run["device"], run["versions"]["torch"]), {})
        machine.setdefault(name, []).extend(seed)
    rows = [
        [*machine, "; ".join(f"{name} {', '.join(seeds)}".rstrip() for name, seeds in trainings.items())]
        for machine, trainings in sorted(found.items())
    ]
    return Table(["machine", "PyTorch", "trainings and their seeds"], rows)


def rerun_table(results: Results) -> Table:
    """Text-only rows that were run once more from nothing, beside their first run."""
    again, rows, sets = results.rerun(), [], (TEST_SET, *OTHER_SETS)
    for path in sorted(again.folder.glob("runs/*.json")):
        name, seed = path.stem.split(".")
        runs = {title: found.of([int(seed)]) for title, found in (("first", results), ("again", again))}
        said = [found.hypotheses(name, int(seed), "given") for found in runs.values()]
        same = sum(first == second for first, second in zip(*said, strict=True))
        for title, found in runs.items():
            run = found.run(path.stem)
            scores = [fmean(found.bleu(name, test_set=test_set)) for test_set in sets]
            rows.append([f"{ROWS[name].title}, seed {seed}", title, run["device"], run["versions"]["torch"],
                         2 ** run["selection"]["best"], *scores, same])  # fmt: skip
    columns = ["system", "run", "machine", "PyTorch", f"perplexity, {VAL}", *(f"BLEU, {name}" for name in sets)]
    return Table([*columns, f"same sentences, {TEST_SET}"], rows)


def second_table(results: Results, split: str, made: Callable[[results2_tables.Records], Table]) -> Table:
    """A table of PROTOCOL-2.md."""
    return made(results.second(split))


TABLES = {
    "main": main_table,
    "comparisons": comparison_table,
    "seeds": seeds_table,
    "orders": orders_table,
    "other sets": other_sets_table,
    "fairseq": fairseq_table,
    "pre-training": pretraining_table,
    "machines": machines_table,
    "rerun": rerun_table,
    **{
        name: partial(Results.probe, name=name)
        for name in ("last words", "last words, mark kept", "entities", "attention", "regions")
    },
    **{name: partial(second_table, split=split, made=made) for name, (split, made) in results2_tables.TABLES.items()},
}


def with_tables(page: str, results: Results, *, name: str) -> str:
    """A page with its tables made anew, each between ``<!-- table: NAME -->`` and ``<!-- end -->``.

    Args:
        page: its text.
        results: what the tables are made of.
        name: of the page, for the error.

    Raises:
        VTLMError: the page names a table that there is none of.
    """

    def made(found: re.Match) -> str:
        if found[1] not in TABLES:
            raise VTLMError(f"{name}: no table {found[1]!r}; there are {', '.join(TABLES)}")
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]](results).render('markdown')}\n<!-- end -->"

    return re.sub(r"<!-- table: (.*?) -->\n.*?<!-- end -->", made, page, flags=re.S)


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    commands = parser.add_subparsers(dest="command", required=True)
    collecting = commands.add_parser("collect", help="copy what the runner left")
    collecting.add_argument("outs", type=Path, nargs="+", metavar="OUT", help="output folders of table1.sh")
    for name, text in (("compare", "paired bootstraps"), ("tables", "write the tables of the pages")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--references", type=Path, required=True, metavar="DIR", help="OUT/data-bin/references")
        if name == "tables":
            command.add_argument("--check", action="store_true", help="only say whether they are up to date")
    args = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)  # importing fairseq sets it to DEBUG
    if args.command == "collect":
        print("\n".join(collect(args.outs, args.results)))
        return
    results = Results(args.results, args.references)
    if args.command == "compare":
        found = {pair.key: compare(results, pair) for pair in tqdm(COMPARISONS, unit="comparison")}
        found = {key: tests for key, tests in found.items() if tests}
        write_atomically(args.results / "comparisons.json", json.dumps(found, indent=1) + "\n")
        found = {pair.key: compare_seeds(results, pair) for pair in COMPARISONS}
        found = {key: test for key, test in found.items() if test}
        write_atomically(args.results / "seeds.json", json.dumps(found, indent=1) + "\n")
        return
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        made = with_tables(page, results, name=path.name)
        if args.check and made != page:
            raise VTLMError(f"{path.name} is not what the results give; run the command without --check")
        write_atomically(path, made)


if __name__ == "__main__":
    main()
