"""``vtlm-probe contrastive``: does the right one of two translations score better? (CoMMuTE and sets like it)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.paired import mcnemar, paired_t
from vtlm_fairseq.evaluation.scoring.hypotheses import read_sentences
from vtlm_fairseq.evaluation.splits import in_order
from vtlm_fairseq.evaluation.systems import named_checkpoints
from vtlm_fairseq.evaluation.tables import Table, publish
from vtlm_fairseq.evaluation.teacher_forcing import Score, score_translations
from vtlm_fairseq.files import write_lines
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.hub import MultimodalTransformer
from vtlm_fairseq.options import loading_options


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    if args.margins and args.region_order not in (None, "given"):
        raise VTLMError(f"--margins compares given with shuffled regions: leave out --region-order {args.region_order}")
    checkpoints = list(named_checkpoints(args.systems))
    options = loading_options(args) | ({"region_order": "given"} if args.margins else {})
    lines = ContrastiveSet.read(src=args.src, correct=args.correct, incorrect=args.incorrect, images=args.images)
    made = Table(
        ["system", "score", "accuracy", "right", "ties", "lines"],
        [],
        title=f"Right translation scores better, per cent of the lines of {args.src}",
        notes=["perplexity: exp(-log p / tokens); log-probability: log p / tokens**lenpen, "
               f"lenpen {args.lenpen:g}; tokens are sub-words and </s>; a tie counts as wrong"],
    )  # fmt: skip
    if args.margins:
        made.columns += MARGINS
        made.precision = {"p (t)": 4, "p (McNemar)": 4, **dict.fromkeys(MARGINS[:2] + MARGINS[3:6], 3)}
        made.notes.append(
            f"margin: score of the right translation less that of the wrong one; shuffled: mean of {args.repeats} "
            "derangements; t over images, McNemar against the first derangement"
        )
    written = []
    for name, path in checkpoints:
        model = MultimodalTransformer.from_pretrained(path, text_only=True, **options)
        scores, unknown = score_lines(model, lines, batch_size=args.batch_size)
        shuffled = []
        if args.margins and model.needs_images:
            if len(set(lines.images)) < 2:
                raise VTLMError(f"--images {args.images}: --margins needs lines of two images or more, to shuffle them")
            shuffled = [
                score_lines(model, lines, batch_size=args.batch_size, shuffle=args.seed + repeat)[0]
                for repeat in range(args.repeats)
            ]
        for what, (right, ties) in results(scores, lenpen=args.lenpen).items():
            made.rows.append([name, what, 100 * right / len(scores), right, ties, len(scores)])
            if args.margins:
                made.rows[-1] += margins(scores, shuffled, lines.images, what, lenpen=args.lenpen)
        if model.needs_images:
            made.notes.append(f'{name}: regions "{model.store.detector}", order {model.region_order}')
        if unknown:
            made.notes.append(f"{name}: {unknown} sub-words of the translations are <unk>")
        values = [[value for score in pair for value in _values(score, args.lenpen)] for pair in scores]
        if args.margins:
            values = [
                [*one, *more] for one, more in zip(values, log_margins(scores, shuffled, args.lenpen), strict=True)
            ]
        written += [
            "\t".join([name, str(line), *("" if value is None else f"{value:.8g}" for value in one)])
            for line, one in enumerate(values, 1)
        ]
    try:
        publish(made, args)
    finally:
        if args.sentences:
            _write_sentences(args.sentences, written, margins=args.margins)


def _write_sentences(path: str, lines: Sequence[str], *, margins: bool) -> None:
    columns = ["perplexity", "log-probability", "tokens"]
    head = ["system", "line", *(f"{side} {column}" for side in ("correct", "incorrect") for column in columns)]
    head += ["margin", "shuffled margin", "shuffled right"] if margins else []
    write_lines(path, ["\t".join(head), *lines], label=f"--sentences {path}")


@dataclass(frozen=True)
class ContrastiveSet:
    """Lines of a contrastive test set; ``images`` is None where no file of them is given."""

    source: list[str]
    correct: list[str]
    incorrect: list[str]
    images: list[str] | None

    @classmethod
    def read(cls, *, src: str, correct: str, incorrect: str, images: str | None = None) -> ContrastiveSet:
        """Read the files; a last line without a newline counts.

        Raises:
            VTLMError: unreadable, empty, or of different lengths.
        """
        files = {"--src": src, "--correct": correct, "--incorrect": incorrect}
        texts = {option: read_sentences(path) for option, path in files.items()}
        if images is not None:
            texts["--images"] = read_lines(images)
        if len({len(text) for text in texts.values()}) > 1 or not texts["--src"]:
            counts = ", ".join(f"{option} {len(text)}" for option, text in texts.items())
            raise VTLMError(f"the files must have the same number of lines, line i belonging together: {counts}")
        return cls(texts["--src"], texts["--correct"], texts["--incorrect"], texts.get("--images"))


def score_lines(
    model: MultimodalTransformer, lines: ContrastiveSet, *, batch_size: int = 32, shuffle: int | None = None
) -> tuple[list[tuple[Score, Score]], int]:
    """Scores of the right and of the wrong translation of each line, and how many target sub-words are unknown.

    Args:
        shuffle: seed of a derangement: lines get the regions of another image; None: as the model was loaded.

    Raises:
        VTLMError: images are missing or unknown, or a sentence is too long (names the line).
    """
    if model.needs_images and lines.images is None:
        raise VTLMError("this model translates with regions: give --images, or hide the regions with "
                        "--region-order none")  # fmt: skip
    sources = [model.encode(text) for text in lines.source] * 2
    targets = [model.encode_target(text) for text in [*lines.correct, *lines.incorrect]]
    count = len(lines.source)
    limits = (model.max_positions[0] - 1, model.max_positions[1])
    files = (("--src", "--src"), ("--correct", "--incorrect"))
    for sides, limit, options in zip((sources, targets), limits, files, strict=True):
        for number, ids in enumerate(sides):
            if len(ids) > limit:
                raise VTLMError(
                    f"{options[number // count]}, line {number % count + 1}: {len(ids)} tokens, the model takes "
                    f"{limit}; shorten it"
                )
    places = [f"--images, line {number}" for number in range(1, count + 1)]
    regions = model.line_regions(lines.images * 2, places * 2) if model.needs_images else None
    if shuffle is not None:
        regions = in_order(regions, "shuffle", seed=shuffle)
    scores = score_translations(model, sources, targets, regions=regions, batch_size=batch_size)
    unknown = sum(int((target == model.task.target_dictionary.unk()).sum()) for target in targets)
    return list(zip(scores[:count], scores[count:], strict=True)), unknown


MARGINS = ["margin", "shuffled margin", "shuffled accuracy", "given - shuffled", "from", "to", "p (t)", "p (McNemar)"]
"""Columns of ``--margins``."""


def margins(
    scores: Sequence[tuple[Score, Score]],
    shuffled: Sequence[Sequence[tuple[Score, Score]]],
    images: Sequence[str] | None,
    what: str,
    *,
    lenpen: float = 1.0,
) -> list[float | None]:
    """`MARGINS` of one score.

    Args:
        scores: of right and wrong translations of N lines, with given regions.
        shuffled: the same for each derangement; none of a model without regions, which has a margin only.
        images: id of each line's image; lines of one image are one trial.
        what: name of the score.
        lenpen: of the log-probability.
    """
    given = _differences(scores, what, lenpen)
    if not shuffled:
        return [float(given.mean()), *[None] * 7]
    others = np.array([_differences(one, what, lenpen) for one in shuffled])
    test = paired_t(given - others.mean(axis=0), np.array(images))
    accuracy = 100 * float((others > 0).mean())
    return [float(given.mean()), float(others.mean()), accuracy, *test, mcnemar(given > 0, others[0] > 0)]


def log_margins(
    scores: Sequence[tuple[Score, Score]], shuffled: Sequence[Sequence[tuple[Score, Score]]], lenpen: float
) -> list[tuple[float, float | None, float | None]]:
    """Of each line: margin in log-probability, that of shuffled regions (the mean), and how often these are right."""
    given = _differences(scores, "log-probability", lenpen).tolist()
    if not shuffled:
        return [(value, None, None) for value in given]
    others = np.array([_differences(one, "log-probability", lenpen) for one in shuffled])
    return list(zip(given, others.mean(axis=0).tolist(), (others > 0).mean(axis=0).tolist(), strict=True))


def _differences(scores: Sequence[tuple[Score, Score]], what: str, lenpen: float) -> np.ndarray:
    """[N] by how much the right translation of each line scores better."""
    return np.array([right - wrong for right, wrong in _values_of(scores, lenpen)[what]])


def _values_of(scores: Sequence[tuple[Score, Score]], lenpen: float) -> dict[str, list[tuple[float, float]]]:
    return {
        "perplexity": [(-right.perplexity, -wrong.perplexity) for right, wrong in scores],
        "log-probability": [(right.normalised(lenpen), wrong.normalised(lenpen)) for right, wrong in scores],
    }


def results(scores: Sequence[tuple[Score, Score]], *, lenpen: float = 1.0) -> dict[str, tuple[int, int]]:
    """Number of lines whose right translation scores better, and of ties, by each of the two scores.

    Args:
        scores: of the right and of the wrong translation of each line.
        lenpen: of the log-probability; with 1 it ranks as perplexity does.
    """
    return {
        name: (sum(right > wrong for right, wrong in pairs), sum(right == wrong for right, wrong in pairs))
        for name, pairs in _values_of(scores, lenpen).items()
    }


def _values(score: Score, lenpen: float) -> tuple[float, float, int]:
    return score.perplexity, score.normalised(lenpen), score.tokens
