"""The test of sentences and seeds together: its variance by hand, its size and its power as it prints them."""

import numpy as np
import pytest

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED, detokenised_measures
from vtlm_fairseq.evaluation.scoring.seeds import compare_systems, seed_test


def mean(statistics: np.ndarray) -> np.ndarray:
    """The score: a mean over sentences."""
    return statistics[..., 0] / statistics[..., 1]


def values(*seeds) -> np.ndarray:
    """Statistics [seeds, N, 2] of the values of sentences."""
    return np.stack([np.stack([np.asarray(one, dtype=float), np.ones(len(one))], axis=1) for one in seeds])


def test_sentences_alone_by_hand():
    """One seed each: differences 3, 1, 1, -1 (mean 1, variance of the mean 8/4/4), 3 degrees: p 2 * (1 - F(1.414))."""
    found = seed_test(values([4, 2, 3, 1]), values([1, 1, 2, 2]), mean, samples=20_000)
    assert found.difference == pytest.approx(1)
    assert found.error**2 == pytest.approx(0.5, rel=0.05)
    assert found.freedom == pytest.approx(3)
    assert found.p_value == pytest.approx(0.2522, abs=0.01)
    assert (found.interval[1] - found.difference) / found.error == pytest.approx(3.1824, abs=1e-3)  # t.975 of 3
    assert found.detects / found.error == pytest.approx(3.1824 + 0.9785, abs=1e-3)
    assert (found.seeds, found.sentences) == ((1, 1), 4)


def test_seeds_alone_by_hand():
    """Sentences are alike: seeds of means 1, 2, 3 and 1, 1: V = 1/3, with 2 degrees of freedom."""
    found = seed_test(values([1] * 9, [2] * 9, [3] * 9), values([1] * 9, [1] * 9), mean)
    assert (found.difference, found.error**2, found.freedom) == pytest.approx((1, 1 / 3, 2))
    assert found.p_value == pytest.approx(0.2254, abs=1e-4)  # of t = 1.7321


def test_what_sentences_explain_of_the_spread_of_seeds_counts_once():
    """Seeds that differ sentence by sentence only: S2/k is about V_int, so V is V_sent, not twice that."""
    rng, ratios = np.random.default_rng(1), []
    for seed in range(1, 41):
        system, baseline = rng.normal(size=(2, 4, 200))
        found = seed_test(values(*system), values(*baseline), mean, samples=200, seed=seed)
        ratios.append(found.error**2 / (2 / 4 / 200))
    assert 0.95 < np.mean(ratios) < 1.35  # max(0, ...) adds a little; without V_int it would be 2


def test_paired_seeds_are_differences():
    """Two decodings of each model: that models differ does not count."""
    rng = np.random.default_rng(2)
    models = rng.normal(size=(3, 1)) * 50
    first, second = rng.normal(size=(2, 3, 100)) + models
    alone = [seed_test(values(*first), values(*second + 1), mean, paired=paired) for paired in (True, False)]
    assert alone[0].error < 0.5 and alone[1].error > 10
    assert alone[0].difference == pytest.approx(alone[1].difference)
    with pytest.raises(VTLMError, match="no pairs"):
        seed_test(values(*first), values(*second[:2]), mean, paired=True)


def experiment(rng, effect: float, *, seeds: int, spread: float, sentences: int = 200):
    """Systems that differ by sentence, by seed and by both, and by ``effect`` in the mean."""
    shared = 2 * rng.normal(size=sentences)
    made = []
    for shift in (effect, 0.0):
        system = shared + rng.normal(size=sentences) + shift
        made.append(values(*(system + spread * rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, sentences)))))
    return seed_test(*made, mean, samples=200, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.05), (6, 0.2)])
def test_size_and_power_are_what_it_prints(seeds, spread):
    """Without a difference 5 % of experiments have p < 0.05, with the one that it prints as detected 80 %."""
    rng, trials = np.random.default_rng(3), 300
    null = [experiment(rng, 0, seeds=seeds, spread=spread) for _ in range(trials)]
    assert 0.015 < np.mean([one.p_value < 0.05 for one in null]) < 0.09
    effect = float(np.median([one.detects for one in null]))
    found = [experiment(rng, effect, seeds=seeds, spread=spread) for _ in range(trials)]
    assert 0.72 < np.mean([one.p_value < 0.05 for one in found]) < 0.88
    assert np.mean([abs(one.difference - effect) < one.interval[1] - one.difference for one in found]) > 0.9


def test_translations():
    """Difference of mean BLEU, chrF2 and TER, the same each time; the same translations differ in nothing."""
    references = [f"ein mann geht über die straße nummer {k} ." for k in range(30)]
    worse = [line.replace("mann", "frau") if k % 3 else line for k, line in enumerate(references)]
    worst = [line.replace("über", "unter") for line in worse]
    for measure in (TOKENISED, *detokenised_measures(lowercase=False)):
        found = compare_systems([references, worse], [worst], references, measure=measure, samples=100)
        scores = [measure.score(lines, references).value for lines in (references, worse, worst)]
        assert found.difference == pytest.approx((scores[0] + scores[1]) / 2 - scores[2])
        again = compare_systems([references, worse], [worst], references, measure=measure, samples=100)
        assert found == again and found.interval[0] < found.difference < found.interval[1]
    same = compare_systems([worse, worse], [worse], references, samples=50)
    assert (same.difference, same.p_value, same.detects) == (0, 1, 0)
