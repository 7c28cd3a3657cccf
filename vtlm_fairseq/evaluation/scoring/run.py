"""What ``vtlm-score`` does: every measure of every system on every test set."""

from __future__ import annotations

import argparse
import csv
import glob
import io
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.comet import comet_score
from vtlm_fairseq.evaluation.scoring.meteor import meteor_score
from vtlm_fairseq.evaluation.scoring.outputs import Output, Reference, find_pipeline, read_output, read_reference
from vtlm_fairseq.evaluation.scoring.results import Scored, make_table
from vtlm_fairseq.evaluation.scoring.scores import (
    STRIPPED,
    TOKENISED,
    Comparison,
    Figure,
    Measure,
    detokenised_measures,
    paired_bootstrap,
)
from vtlm_fairseq.evaluation.scoring.seeds import SeedTest, compare_systems
from vtlm_fairseq.evaluation.tables import check_out, publish
from vtlm_fairseq.files import write_text


def run(args: argparse.Namespace) -> None:
    """Score what the options of ``vtlm-score`` name.

    Raises:
        VTLMError: a fault of input or options.
    """
    _check(args)
    references = _references(args)
    systems = _systems(args)
    results = [
        scored for name, patterns in systems for each in references for scored in _score(args, name, patterns, each)
    ]
    try:
        publish(make_table(results, machine=args.format in ("csv", "json"), wide=bool(args.set)), args)
    finally:
        if args.sentences:
            _write_sentences(args.sentences, results[0].outputs[0], references[0])


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
    if args.seeds and not args.baseline:
        raise VTLMError("--seeds compares with another system: give --baseline, once for each of its seeds")
    if args.sentences and (args.set or len(args.hyp) > 1):
        raise VTLMError("--sentences takes one file of translations")
    check_out(args)


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
    if not args.seeds and len(baseline_paths) not in (0, 1, len(paths)):
        raise VTLMError(f"{len(paths)} files and {len(baseline_paths)} baselines; give one --baseline, or one a seed")
    outputs, baselines = ([_read(args, path, reference) for path in some] for some in (paths, baseline_paths))
    baselines = baselines * len(outputs) if len(baselines) == 1 and not args.seeds else baselines
    pipeline = outputs[0].pipeline
    if any((other.pipeline and other.pipeline.steps) != (pipeline and pipeline.steps) for other in outputs):
        raise VTLMError(f"{paths[0]} and the other files have text.json of different steps; score them apart")
    results = []

    def add(figures: list[Figure], comparisons: Sequence[Comparison] = (), over_seeds: SeedTest | None = None) -> None:
        results.append(Scored(system, reference.name, outputs, figures, baselines, list(comparisons), over_seeds))

    measures = []
    if reference.words is not None:
        measures += (
            [(STRIPPED, True)]
            if pipeline and "strip_accents" in pipeline.steps
            else [(TOKENISED, True), (STRIPPED, True)]
        )
    if reference.raw is not None:
        detokenised = detokenised_measures(lowercase=outputs[0].lowercase, lang=outputs[0].lang)
        measures += [(measure, False) for measure in detokenised]
    for measure, tokenised in measures:
        pairs = [_texts(output, reference, tokenised) for output in outputs]
        figures = [measure.score(*pair) for pair in pairs]
        if args.seeds:
            add(figures, over_seeds=_compare_seeds(args, measure, outputs, baselines, reference, tokenised))
            continue
        comparisons = [
            _compare(args, measure, output, baseline, reference, tokenised)
            for output, baseline in zip(outputs, baselines, strict=False)
        ]
        add(figures, comparisons)
    if args.meteor_jar and reference.words is not None:
        lang = args.lang or (pipeline.target_lang if pipeline else "")
        if not lang:
            raise VTLMError("--meteor-jar needs the language of the translations: give --lang")
        add([meteor_score(*_texts(output, reference, True), jar=args.meteor_jar, lang=lang) for output in outputs])
    if args.comet:
        add([_comet(args, output, reference) for output in outputs])
    return results


def _read(args: argparse.Namespace, path: str, reference: Reference) -> Output:
    return read_output(
        path,
        reference,
        pipeline=find_pipeline(path, text_json=args.text_json, steps=args.steps, lang=args.lang),
        lang=args.lang,
        post_process=args.post_process,
        allow_missing=args.allow_missing,
    )


def _texts(output: Output, reference: Reference, tokenised: bool) -> tuple[list[str], list[str]]:
    """Translations and references of the same lines, tokenised or running text."""
    texts, references = (output.words, reference.words) if tokenised else (output.running, reference.raw)
    return list(texts), [references[number] for number in output.ids]


def _compare(
    args: argparse.Namespace, measure: Measure, output: Output, baseline: Output, reference: Reference, tokenised: bool
) -> Comparison:
    """Paired bootstrap on the lines that both have."""
    (ours, theirs), references = _common([output, baseline], reference, tokenised)
    return paired_bootstrap(ours, theirs, references, measure=measure, samples=args.bootstrap_samples, seed=args.seed)


def _compare_seeds(
    args: argparse.Namespace,
    measure: Measure,
    outputs: Sequence[Output],
    baselines: Sequence[Output],
    reference: Reference,
    tokenised: bool,
) -> SeedTest:
    """One test of all seeds, on the lines that all have."""
    texts, references = _common([*outputs, *baselines], reference, tokenised)
    return compare_systems(
        texts[: len(outputs)],
        texts[len(outputs) :],
        references,
        measure=measure,
        samples=args.bootstrap_samples,
        seed=args.seed,
    )


def _common(outputs: Sequence[Output], reference: Reference, tokenised: bool) -> tuple[list[list[str]], list[str]]:
    """Translations of each output and references, of the lines that all outputs have."""
    said = [dict(zip(one.ids, one.words if tokenised else one.running, strict=True)) for one in outputs]
    references = reference.words if tokenised else reference.raw
    ids = [number for number in outputs[0].ids if all(number in one for one in said)]
    return [[one[number] for number in ids] for one in said], [references[number] for number in ids]


def _comet(args: argparse.Namespace, output: Output, reference: Reference) -> Figure:
    if reference.raw is None or reference.source is None:
        raise VTLMError(f"{output.path}: --comet needs raw references and raw source sentences: --raw-ref and --src")
    if output.lowercase and not args.force:
        raise VTLMError(
            f"{output.path}: lower-cased text, which COMET was not trained on; its score would mean little (--force)"
        )
    texts, references = _texts(output, reference, False)
    sources = [reference.source[number] for number in output.ids]
    return comet_score(sources, texts, references, model=args.comet)


def _write_sentences(path: str, output: Output, reference: Reference) -> None:
    """Scores of single sentences: of tokenised text where there is a prepared reference, else of running text."""
    tokenised = reference.words is not None
    texts, references = _texts(output, reference, tokenised)
    bleu, chrf, *_ = detokenised_measures(lowercase=output.lowercase, lang=output.lang)
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
    write_text(path, out.getvalue(), label=f"--sentences {path}")
