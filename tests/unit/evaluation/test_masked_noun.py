"""Masked nouns: the interval over sentences, and what counts as a noun, worked out by hand."""

import math

import numpy as np
import pytest

from vtlm_fairseq.evaluation.paired import mcnemar, paired_interval, paired_t
from vtlm_fairseq.text.nouns import Nouns


def test_the_interval_is_over_sentences():
    """Sentences of (1, 1), (0) and (1): mean 3/4, residuals 1/2, -3/4, 1/4; variance 3/2 * 7/8 / 16."""
    mean, low, high = paired_interval(np.array([1, 1, 0, 1]), np.array([5, 5, 6, 9]))
    half = 1.959964 * math.sqrt(1.5 * 0.875 / 16)
    assert (mean, low, high) == pytest.approx((0.75, 0.75 - half, 0.75 + half), abs=1e-6)
    assert np.isnan(paired_interval(np.array([1.0]), np.array([0]))[1:]).all()
    assert np.isnan(paired_interval(np.array([]), np.array([]))).all()


def test_nouns_are_found_by_name_and_by_singular():
    nouns = Nouns(["man", "dog,hound", "glasses"])
    assert [nouns.find(word) for word in ("Men", "hounds", "glasses", "glass", "cat")] == [0, 1, 2, None, None]


def test_t_and_mcnemar_by_hand():
    """Differences 3, 1, 1, -1: t 1.4142 with 3 degrees; in two clusters of 2 and 0, of mean 1 and error 1, with one.

    Of 6 items that one condition alone gets right and 1 that the other does: 2 * (1 + 7) / 2**7.
    """
    values = np.array([3.0, 1, 1, -1])
    assert paired_t(values, np.arange(4)) == pytest.approx(
        (1, 1 - 3.1824 * 0.8165, 1 + 3.1824 * 0.8165, 0.3081), abs=1e-3
    )
    mean, low, high, p_value = paired_t(values, np.array([0, 0, 1, 1]))
    assert (mean, high - mean, p_value) == pytest.approx((1, 12.7062, 0.5), abs=1e-3)
    assert paired_t(np.zeros(3), np.arange(3))[3] == 1 and math.isnan(paired_t(values, np.zeros(4))[3])
    one, other = np.array([True] * 6 + [False] + [True] * 5), np.array([False] * 6 + [True] + [True] * 5)
    assert mcnemar(one, other) == pytest.approx(0.125) and mcnemar(one, one) == 1
