"""One test of two systems that were trained several times: sentences and seeds are both samples.

The difference D of the two means over seeds has the variance

    V = V_sent + sum over the systems of max(0, S2/k - V_int)

V_sent is that of D when sentences are resampled and seeds stay as they are (a bootstrap, the same sentences for all).
S2 is the variance of a system's k scores. A part of it is of the sentences: seeds differ sentence by sentence, and that
is in V_sent already. This part, V_int, is how much the seeds' scores spread when sentences are resampled, beyond how
they spread anyway. D / sqrt(V) is compared with Student's t, whose degrees of freedom are Satterthwaite's. Of one seed
there is no S2: the test is then of these two models, not of the systems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.scores import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, TOKENISED, Measure

LEVEL, POWER = 0.95, 0.8
_AT_ONCE = 100  # resamples


@dataclass(frozen=True)
class SeedTest:
    """What the test says.

    Attributes:
        difference: of the means over seeds, system minus baseline.
        error: its standard error, sqrt(V).
        freedom: degrees of freedom of t.
        p_value: two-sided.
        interval: 95 % interval of the difference.
        detects: the true difference that has p < 0.05 in 80 % of such experiments, (t.975 + t.8) * error.
        seeds: of system and baseline.
        sentences: how many.
    """

    difference: float
    error: float
    freedom: float
    p_value: float
    interval: tuple[float, float]
    detects: float
    seeds: tuple[int, int]
    sentences: int


def seed_test(
    system: np.ndarray,
    baseline: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = BOOTSTRAP_SEED,
    paired: bool = False,
) -> SeedTest:
    """Compare two systems.

    Args:
        system, baseline: [seeds, N, M] statistics of each sentence that add up to those of a corpus.
        score: [..., M] statistics of corpora to [...] scores.
        samples: resamples of the sentences.
        seed: of the resampling, from 0.
        paired: seed i of the system belongs to seed i of the baseline, as two decodings of one model do.

    Raises:
        VTLMError: fewer than two sentences, fewer than two samples, or pairs that are none.
    """
    count = system.shape[1]
    if count < 2 or baseline.shape[1:] != system.shape[1:]:
        raise VTLMError(f"{count} and {baseline.shape[1]} sentences: a test needs the same ones, at least two")
    if samples < 2:
        raise VTLMError(f"--bootstrap-samples {samples}: with --seeds at least 2")
    if paired and len(system) != len(baseline):
        raise VTLMError(f"{len(system)} and {len(baseline)} seeds are no pairs")
    both = np.concatenate([system, baseline]).astype(np.float64)
    rng, resampled = np.random.default_rng(seed), []
    for start in range(0, samples, _AT_ONCE):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(_AT_ONCE, samples - start))
        resampled.append(score(np.einsum("bn,knm->kbm", weights, both, optimize=True)))
    scores, spread = score(both.sum(axis=1)), np.concatenate(resampled, axis=1)
    k = len(system)
    groups = [(scores[:k] - scores[k:], spread[:k] - spread[k:])] if paired else [
        (scores[:k], spread[:k]), (scores[k:], spread[k:])]  # fmt: skip
    difference = float(scores[:k].mean() - scores[k:].mean())
    variance = of_sentences = float((spread[:k].mean(axis=0) - spread[k:].mean(axis=0)).var(ddof=1))
    uncertainty = of_sentences**2 / (count - 1)
    for values, drawn in groups:
        seeds = len(values)
        if seeds > 1:
            between = float(values.var(ddof=1)) / seeds
            within = float((drawn - values[:, None]).var(axis=0, ddof=1).mean()) / seeds
            variance += max(0.0, between - within)
            uncertainty += between**2 / (seeds - 1)
    freedom = variance**2 / uncertainty if uncertainty else math.inf
    return _judge(difference, math.sqrt(variance), freedom, (k, len(baseline)), count)


def _judge(difference: float, error: float, freedom: float, seeds: tuple[int, int], sentences: int) -> SeedTest:
    from scipy.stats import t

    if not error:
        p_value = 0.0 if difference else 1.0
        return SeedTest(difference, 0.0, freedom, p_value, (difference, difference), 0.0, seeds, sentences)
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * error
    p_value = float(2 * t.sf(abs(difference) / error, freedom))
    detects = half + float(t.ppf(POWER, freedom)) * error
    interval = (difference - half, difference + half)
    return SeedTest(difference, error, freedom, p_value, interval, detects, seeds, sentences)


def compare_systems(
    system: Sequence[Sequence[str]],
    baseline: Sequence[Sequence[str]],
    references: Sequence[str],
    *,
    measure: Measure = TOKENISED,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = BOOTSTRAP_SEED,
    paired: bool = False,
) -> SeedTest:
    """`seed_test` of translations: those of each seed of a system and of a baseline, with the same references."""
    statistics = [measure.statistics(hypotheses, references) for hypotheses in (*system, *baseline)]
    ours, theirs = np.stack(statistics[: len(system)]), np.stack(statistics[len(system) :])
    return seed_test(ours, theirs, measure.scores, samples=samples, seed=seed, paired=paired)
