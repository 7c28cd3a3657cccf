"""Scores that a translation model gives to given translations."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.translation_dataset import MultimodalTranslationDataset
from vtlm_fairseq.errors import raise_instead_of_exit
from vtlm_fairseq.inference import Translator, batches, check_pairs


@dataclass(frozen=True)
class Score:
    """What a model says of a translation.

    Attributes:
        log_prob: natural logarithm of its probability, the sum over its tokens.
        tokens: their number, ``</s>`` included.
    """

    log_prob: float
    tokens: int

    @property
    def perplexity(self) -> float:
        """Per token, ``</s>`` included: ``exp(-log_prob / tokens)``."""
        return math.exp(-self.log_prob / self.tokens)

    def normalised(self, lenpen: float = 1.0) -> float:
        """``log_prob / tokens**lenpen``, what beam search ranks by."""
        return self.log_prob / self.tokens**lenpen


def score_translations(
    translator: Translator,
    sources: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
    *,
    regions: LineRegions | None = None,
    batch_size: int = 32,
) -> list[Score]:
    """Score N translations, teacher-forced. Each distinct (source, target, regions) is scored once.

    Without that, equal lines in different batches would differ by rounding.

    Args:
        translator: the model or ensemble (an ensemble averages probabilities, as in fairseq).
        sources: [n] int64 each, ending in ``</s>``.
        targets: the same.
        regions: regions of the N lines; None: no regions.
        batch_size: translations at once.

    Raises:
        VTLMError: a sentence is too long for the model, an image has values that are not finite, or there are not as
            many sources, targets and lines of regions.
    """
    check_pairs(sources, targets, regions, batch_size=batch_size)
    images = [None] * len(sources) if regions is None else regions.line_rows.tolist()
    keys = [
        (tuple(source.tolist()), tuple(target.tolist()), image)
        for source, target, image in zip(sources, targets, images, strict=True)
    ]
    first: dict[tuple, int] = {}
    for line, key in enumerate(keys):
        first.setdefault(key, line)
    lines = list(first.values())
    if not lines:
        return []
    if regions is not None:
        rows = regions.line_rows[np.array(lines)]
        regions = LineRegions(regions.store, rows, order="given", seed=regions.seed, split=regions.split)
    task = translator.task
    dataset = MultimodalTranslationDataset(
        [sources[i] for i in lines],
        np.array([len(sources[i]) for i in lines]),
        task.source_dictionary,
        [targets[i] for i in lines],
        np.array([len(targets[i]) for i in lines]),
        task.target_dictionary,
        left_pad_source=False,
        left_pad_target=False,
        shuffle=False,
        regions=regions,
    )
    scorer = task.build_generator(translator.models, Namespace(score_reference=True))
    with raise_instead_of_exit():
        task.filter_indices_by_size(dataset.ordered_indices(), dataset, translator.max_positions)
    scores: dict[tuple, Score] = {}
    for sample in batches(dataset, batch_size, cuda=translator.cuda):
        scored = task.inference_step(scorer, translator.models, sample)
        for number, (hypothesis,) in zip(sample["id"].tolist(), scored, strict=True):
            steps = hypothesis["positional_scores"].double()
            scores[keys[lines[number]]] = Score(float(steps.sum()), len(steps))
    return [scores[key] for key in keys]
