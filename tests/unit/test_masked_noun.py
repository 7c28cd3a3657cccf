"""Masked nouns: the interval over sentences, and what counts as a noun, worked out by hand."""

import math

import numpy as np
import pytest

from vtlm_fairseq.corpora.nouns import Nouns
from vtlm_fairseq.evaluation.probes.masked_noun import paired_interval


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
