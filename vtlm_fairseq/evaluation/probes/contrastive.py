"""``vtlm-probe contrastive``: does the right one of two translations score better? (CoMMuTE and sets like it)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.hypotheses import read_sentences
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
    checkpoints = list(named_checkpoints(args.systems))
    lines = ContrastiveSet.read(src=args.src, correct=args.correct, incorrect=args.incorrect, images=args.images)
    made = Table(
        ["system", "score", "accuracy", "right", "ties", "lines"],
        [],
        title=f"Right translation scores better, per cent of the lines of {args.src}",
        notes=["perplexity: exp(-log p / tokens); log-probability: log p / tokens**lenpen, "
               f"lenpen {args.lenpen:g}; tokens are sub-words and </s>; a tie counts as wrong"],
    )  # fmt: skip
    written = []
    for name, path in checkpoints:
        model = MultimodalTransformer.from_pretrained(path, text_only=True, **loading_options(args))
        scores, unknown = score_lines(model, lines, batch_size=args.batch_size)
        for what, (right, ties) in results(scores, lenpen=args.lenpen).items():
            made.rows.append([name, what, 100 * right / len(scores), right, ties, len(scores)])
        if model.needs_images:
            made.notes.append(f'{name}: regions "{model.store.detector}", order {model.region_order}')
        if unknown:
            made.notes.append(f"{name}: {unknown} sub-words of the translations are <unk>")
        written += [
            "\t".join([name, str(line), *(f"{value:.8g}" for score in pair for value in _values(score, args.lenpen))])
            for line, pair in enumerate(scores, 1)
        ]
    try:
        publish(made, args)
    finally:
        if args.sentences:
            _write_sentences(args.sentences, written)


def _write_sentences(path: str, lines: Sequence[str]) -> None:
    columns = ["perplexity", "log-probability", "tokens"]
    head = ["system", "line", *(f"{side} {column}" for side in ("correct", "incorrect") for column in columns)]
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
    model: MultimodalTransformer, lines: ContrastiveSet, *, batch_size: int = 32
) -> tuple[list[tuple[Score, Score]], int]:
    """Scores of the right and of the wrong translation of each line, and how many target sub-words are unknown.

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
    regions = model.line_regions(lines.images * 2) if model.needs_images else None
    scores = score_translations(model, sources, targets, regions=regions, batch_size=batch_size)
    unknown = sum(int((target == model.task.target_dictionary.unk()).sum()) for target in targets)
    return list(zip(scores[:count], scores[count:], strict=True)), unknown


def results(scores: Sequence[tuple[Score, Score]], *, lenpen: float = 1.0) -> dict[str, tuple[int, int]]:
    """Number of lines whose right translation scores better, and of ties, by each of the two scores.

    Args:
        scores: of the right and of the wrong translation of each line.
        lenpen: of the log-probability; with 1 it ranks as perplexity does.
    """
    kinds = {
        "perplexity": [(-right.perplexity, -wrong.perplexity) for right, wrong in scores],
        "log-probability": [(right.normalised(lenpen), wrong.normalised(lenpen)) for right, wrong in scores],
    }
    return {
        name: (sum(right > wrong for right, wrong in pairs), sum(right == wrong for right, wrong in pairs))
        for name, pairs in kinds.items()
    }


def _values(score: Score, lenpen: float) -> tuple[float, float, int]:
    return score.perplexity, score.normalised(lenpen), score.tokens
