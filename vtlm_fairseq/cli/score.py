"""``vtlm-score``: BLEU, chrF, TER, METEOR and COMET of translations, over seeds, test sets and systems."""

from __future__ import annotations

import argparse
import csv
import glob
import io
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.comet import comet_score
from vtlm_fairseq.evaluation.scoring.meteor import HOW_TO_GET, meteor_score
from vtlm_fairseq.evaluation.scoring.outputs import Output, Reference, find_pipeline, read_output, read_reference
from vtlm_fairseq.evaluation.scoring.scores import (
    BOOTSTRAP_SAMPLES,
    BOOTSTRAP_SEED,
    STRIPPED,
    TOKENISED,
    Comparison,
    Figure,
    Measure,
    detokenised_measures,
    paired_bootstrap,
    seed_statistics,
)
from vtlm_fairseq.evaluation.tables import Table, add_table_options, check_out, publish
from vtlm_fairseq.files import check_writable, write_text
from vtlm_fairseq.options import add_options
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.text.pipeline import STEPS, TextPipeline


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
    """

    system: str
    test_set: str
    outputs: list[Output]
    figures: list[Figure]
    baselines: list[Output]
    comparisons: list[Comparison]

    @property
    def label(self) -> str:
        """Name of the measure."""
        return self.figures[0].label

    def number(self, value: float, sign: str = "") -> str:
        """A value of this measure as it is printed: two digits, four on a scale of 0 to 1."""
        digits = 4 if self.label.startswith(("METEOR", "COMET")) else 2
        return f"{value:{sign}.{digits}f}"


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)  # importing fairseq sets it to DEBUG
    _check(args)
    references = _references(args)
    results = []
    for name, patterns in _systems(args):
        for reference in references:
            results += _score(args, name, patterns, reference)
    if args.format in ("csv", "json"):
        table = _long_table(results)
    else:
        table = _wide_table(results) if args.set else _tall_table(results)
    table.notes = [*_missing_notes(results), *table.notes]
    try:
        publish(table, args)
    finally:
        if args.sentences:
            _write_sentences(args, references[0])
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-score``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-score",
        description="Score translations. HYP is raw output of fairseq-generate or plain lines; several are the seeds "
        "of one system. Or score systems on several test sets: --system NAME PATTERN and --set NAME REF [RAW-REF].",
    )
    add_table_options(parser)
    parser.add_argument("hyp", nargs="*", metavar="HYP", help="translations, one file a seed")
    _add_options(
        parser.add_argument_group("files"),
        ("--ref", "FILE", "references prepared as the model's text was, before BPE"),
        ("--raw-ref", "FILE", "references as published: adds BLEU 13a, chrF2 and TER"),
        ("--src", "FILE", "source sentences as published, for --comet"),
        ("--subset", "FILE", "score only these lines of the test set: numbers from 1, one a line"),
        ("--sentences", "OUT.tsv", "write id (from 0), texts, BLEU and chrF2 of each sentence"),
    )
    parser.add_argument("--allow-missing", action="store_true", help="leave out and name sentences without translation")
    many = parser.add_argument_group("several systems and test sets")
    many.add_argument(
        "--system",
        nargs=2,
        action="append",
        metavar=("NAME", "PATTERN"),
        default=[],
        help="pattern of a system's files, one a seed, with {set} for the test set: 'out/seed*/{set}.txt'",
    )
    many.add_argument(
        "--set",
        nargs="+",
        action="append",
        metavar=("NAME REF", "RAW-REF SRC"),
        default=[],
        help="a test set: its name, --ref and, if wanted, --raw-ref and --src",
    )
    prepared = parser.add_argument_group("how the model's text was prepared")
    _add_options(
        prepared,
        ("--text-json", "PATH", "text.json, or a folder of data or checkpoints that holds it (default: beside HYP)"),
        ("--steps", "LIST", f"where there is no text.json: some of {','.join(STEPS)}, or none"),
        ("--lang", "CODE", "language of the translations (default: the target of text.json)"),
    )
    add_options(prepared, "--post-process")
    more = parser.add_argument_group("METEOR and COMET")
    _add_options(
        more,
        ("--meteor-jar", "FILE", f"METEOR 1.5, which needs Java; {HOW_TO_GET}"),
        ("--comet", "MODEL", "a COMET checkpoint file (extra [comet]); needs raw references and sources"),
    )
    more.add_argument("--force", action="store_true", help="COMET of lower-cased text, which it was not trained on")
    test = parser.add_argument_group("significance: sacreBLEU's paired bootstrap")
    test.add_argument(
        "--baseline",
        action="append",
        metavar="FILE",
        default=[],
        help="translations of another system; once, or as often as there are seeds (with --set: a pattern)",
    )
    test.add_argument("--bootstrap-samples", type=int, default=BOOTSTRAP_SAMPLES, metavar="N", help="(default: 1000)")
    add_options(test, "--seed", default=BOOTSTRAP_SEED, help="of resampling (default: %(default)s)")
    return parser


def _add_options(group: argparse._ArgumentGroup, *options: tuple[str, str, str]) -> None:
    """Options that take one string: name, what it stands for, help."""
    for name, metavar, text in options:
        group.add_argument(name, metavar=metavar, help=text)


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    if bool(args.set) != bool(args.system) or bool(args.set) == bool(args.hyp):
        raise VTLMError("give files of translations, or --system and --set; see --help")
    if args.set and (args.ref or args.raw_ref or args.src):
        raise VTLMError("--ref, --raw-ref and --src are part of --set: --set NAME REF RAW-REF SRC")
    if not args.set and not (args.ref or args.raw_ref):
        raise VTLMError("nothing to compare with; give --ref, --raw-ref or both")
    if args.meteor_jar and not args.set and not args.ref:
        raise VTLMError("--meteor-jar needs --ref: METEOR compares tokenised text")
    if args.subset and len(args.set) > 1:
        raise VTLMError("--subset holds line numbers of one test set; give one --set")
    if args.sentences and (args.set or len(args.hyp) > 1):
        raise VTLMError("--sentences takes one file of translations")
    check_out(args)
    if args.sentences:
        check_writable(args.sentences, label=f"--sentences {args.sentences}")


def _references(args: argparse.Namespace) -> list[Reference]:
    if not args.set:
        files = {"words": args.ref, "raw": args.raw_ref, "source": args.src}
        return [read_reference(Path(args.ref or args.raw_ref).name, **files, subset=args.subset)]
    names = [name for name, *_ in args.set]
    if len(set(names)) < len(names):
        raise VTLMError(f"--set: two test sets with the same name among {', '.join(names)}")
    references = []
    for name, *files in args.set:
        if not 1 <= len(files) <= 3:
            raise VTLMError(f"--set {name}: give NAME REF, NAME REF RAW-REF or NAME REF RAW-REF SRC")
        words, raw, source = [*files, None, None][:3]
        references.append(read_reference(name, words=words, raw=raw, source=source, subset=args.subset))
    return references


def _systems(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """Name and files or patterns of each system."""
    if not args.set:
        return [("", args.hyp)]
    names = [name for name, _ in args.system]
    if len(set(names)) < len(names):
        raise VTLMError(f"--system: a name twice among {', '.join(names)}; one pattern takes all seeds")
    for name, pattern in [*args.system, *(("--baseline", pattern) for pattern in args.baseline)]:
        if len(args.set) > 1 and "{set}" not in pattern:
            raise VTLMError(f"{name}: no {{set}} in {pattern}, which would score the same files on each test set")
        counts = {s: len(glob.glob(pattern.replace("{set}", s))) for s, *_ in args.set}
        if len(set(counts.values())) > 1 or 0 in counts.values():
            found = ", ".join(f"{s} {count}" for s, count in counts.items())
            raise VTLMError(f"{name}: files of {pattern}: {found}; each test set needs the same seeds")
    return [(name, [pattern]) for name, pattern in args.system]


def _score(args: argparse.Namespace, system: str, patterns: list[str], reference: Reference) -> list[Scored]:
    """All measures of a system on a test set."""

    def files(patterns: list[str]) -> list[str]:
        if not args.set:
            return patterns
        return [path for pattern in patterns for path in sorted(glob.glob(pattern.replace("{set}", reference.name)))]

    paths, baseline_paths = files(patterns), files(args.baseline)
    if len(baseline_paths) not in (0, 1, len(paths)):
        raise VTLMError(f"{len(paths)} files and {len(baseline_paths)} baselines; give one --baseline, or one a seed")
    outputs, pipelines = zip(*(_read(args, path, reference) for path in paths), strict=True)
    baselines = [_read(args, path, reference)[0] for path in baseline_paths]
    baselines = baselines * len(outputs) if len(baselines) == 1 else baselines
    pipeline = pipelines[0]
    if any((other and other.steps) != (pipeline and pipeline.steps) for other in pipelines):
        raise VTLMError(f"{paths[0]} and the other files have text.json of different steps; score them apart")
    steps = pipeline.steps if pipeline else ()
    results = []

    def add(figures: list[Figure], comparisons: Sequence[Comparison] = ()) -> None:
        results.append(Scored(system, reference.name, list(outputs), figures, baselines, list(comparisons)))

    lowercase = "lowercase" in steps
    measures = []
    if reference.words is not None:
        measures += [(STRIPPED, True)] if "strip_accents" in steps else [(TOKENISED, True), (STRIPPED, True)]
    if reference.raw is not None:
        measures += [(measure, False) for measure in detokenised_measures(lowercase=lowercase)]
    for measure, tokenised in measures:
        pairs = [_texts(output, reference, tokenised) for output in outputs]
        figures = [measure.score(*pair) for pair in pairs]
        comparisons = [
            _compare(args, measure, output, baseline, reference, tokenised)
            for output, baseline in zip(outputs, baselines, strict=False)
        ]
        add(figures, comparisons)
    if args.meteor_jar and reference.words is not None:
        lang = args.lang or (pipeline.target_lang if pipeline else "")
        if not lang:
            raise VTLMError("--meteor-jar needs the language of the translations: give --lang")
        scores = [meteor_score(*_texts(output, reference, True), jar=args.meteor_jar, lang=lang) for output in outputs]
        add([Figure(score.label, score.value, score.signature) for score in scores])
    if args.comet:
        add([_comet(args, output, reference, lowercase) for output in outputs])
    return results


def _read(args: argparse.Namespace, path: str, reference: Reference) -> tuple[Output, TextPipeline | None]:
    pipeline = find_pipeline(path, text_json=args.text_json, steps=args.steps, lang=args.lang)
    output = read_output(
        path,
        reference,
        pipeline=pipeline,
        lang=args.lang,
        post_process=args.post_process,
        allow_missing=args.allow_missing,
    )
    return output, pipeline


def _texts(output: Output, reference: Reference, tokenised: bool) -> tuple[list[str], list[str]]:
    """Translations and references of the same lines, tokenised or running text."""
    texts, references = (output.words, reference.words) if tokenised else (output.running, reference.raw)
    return list(texts), [references[number] for number in output.ids]


def _compare(
    args: argparse.Namespace, measure: Measure, output: Output, baseline: Output, reference: Reference, tokenised: bool
) -> Comparison:
    """Paired bootstrap on the lines that both have."""
    ours, theirs = (
        dict(zip(one.ids, one.words if tokenised else one.running, strict=True)) for one in (output, baseline)
    )
    references = reference.words if tokenised else reference.raw
    ids = [number for number in output.ids if number in theirs]
    return paired_bootstrap(
        [ours[number] for number in ids],
        [theirs[number] for number in ids],
        [references[number] for number in ids],
        measure=measure,
        samples=args.bootstrap_samples,
        seed=args.seed,
    )


def _comet(args: argparse.Namespace, output: Output, reference: Reference, lowercase: bool) -> Figure:
    if reference.raw is None or reference.source is None:
        raise VTLMError(f"{output.path}: --comet needs raw references and raw source sentences: --raw-ref and --src")
    if lowercase and not args.force:
        raise VTLMError(
            f"{output.path}: lower-cased text, which COMET was not trained on; its score would mean little (--force)"
        )
    texts, references = _texts(output, reference, False)
    sources = [reference.source[number] for number in output.ids]
    return comet_score(sources, texts, references, model=args.comet)


def _write_sentences(args: argparse.Namespace, reference: Reference) -> None:
    """Scores of single sentences: of tokenised text where there is a prepared reference, else of running text."""
    output, pipeline = _read(args, args.hyp[0], reference)
    tokenised = reference.words is not None
    texts, references = _texts(output, reference, tokenised)
    bleu, chrf, _ = detokenised_measures(lowercase=pipeline is not None and "lowercase" in pipeline.steps)
    bleu = TOKENISED if tokenised else bleu
    out = io.StringIO()
    writer = csv.writer(out, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
    writer.writerow(["id", "hypothesis", "reference", "BLEU", "chrF2"])
    columns = (
        output.ids,
        texts,
        references,
        bleu.sentence_scores(texts, references),
        chrf.sentence_scores(texts, references),
    )
    for number, text, wanted, *values in zip(*columns, strict=True):
        words = [" ".join(line.split()) for line in (text, wanted)]
        writer.writerow([number, *words, *(f"{value:.2f}" for value in values)])
    write_text(args.sentences, out.getvalue(), label=f"--sentences {args.sentences}")


def _tall_table(results: list[Scored]) -> Table:
    """One test set: a row a measure."""
    seeds = len(results[0].figures)
    columns = ["measure", "score"] if seeds == 1 else ["measure", "mean", "deviation", "maximum"]
    compared = any(result.comparisons for result in results)
    columns += ["95 % interval", "baseline", "difference", "p"] if compared else []
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
        rows.append([*row, result.comparisons[0].signature if result.comparisons else result.figures[0].signature])
    notes = [] if seeds == 1 else [f"{seeds} seeds; deviation: sample standard deviation"]
    return Table([*columns, "signature"], rows, title=results[0].test_set, notes=notes)


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
        cells.setdefault((result.system, result.test_set), {})[result.label] = cell
    rows = [[*key, *(row.get(label) for label in labels)] for key, row in cells.items()]
    notes = []
    if any(len(result.figures) > 1 for result in results):
        notes.append("mean ± sample standard deviation (maximum) over seeds")
    if any(result.comparisons for result in results):
        notes.append("p: of the paired bootstrap against --baseline, the greatest over seeds")
    signatures = {(r.label, r.comparisons[0].signature if r.comparisons else r.figures[0].signature) for r in results}
    notes += [f"{label}: {signature}" for label, signature in sorted(signatures, key=lambda s: (labels.index(s[0]), s))]
    return Table(["system", "test set", *labels], rows, notes=notes)


def _long_table(results: list[Scored]) -> Table:
    """For machines: a row a file and measure, with statistics over the seeds repeated in each."""
    columns = ["system", "test_set", "file", "sentences", "measure", "score", "mean", "deviation", "maximum"]
    columns += ["baseline", "difference", "p_value", "interval_low", "interval_high", "signature"]
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


if __name__ == "__main__":
    sys.exit(main())
