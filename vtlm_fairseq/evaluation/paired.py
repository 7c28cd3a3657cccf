"""Differences item by item, where items of one sentence or image are no independent trials."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


class Mean(NamedTuple):
    """Mean of N values, its standard error and the number of clusters that it is over; error NaN for one cluster."""

    value: float
    error: float
    clusters: int


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> Mean:
    """Mean of N values in clusters: the ratio of two sums over clusters, with the variance of its linearisation."""
    if not len(values):
        return Mean(math.nan, math.nan, 0)
    _, place = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    mean, number = values.mean(), len(counts)
    if number < 2:
        return Mean(float(mean), math.nan, number)
    deviation = math.sqrt(number / (number - 1) * float(((sums - mean * counts) ** 2).sum())) / len(values)
    return Mean(float(mean), deviation, number)


def paired_interval(values: np.ndarray, sentences: np.ndarray) -> tuple[float, float, float]:
    """Mean of N differences and its 95 % interval over sentences, of which each may have several; normal."""
    mean = clustered_mean(values, sentences)
    return mean.value, mean.value - _Z * mean.error, mean.value + _Z * mean.error


def paired_t(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float, float, float]:
    """Mean of N differences, its 95 % interval and two-sided p by Student's t with one degree fewer than clusters."""
    from scipy.stats import t

    mean = clustered_mean(values, clusters)
    if not mean.error > 0:
        p_value = math.nan if math.isnan(mean.error) else float(mean.value == 0)
        return mean.value, mean.value - mean.error, mean.value + mean.error, p_value
    half = float(t.ppf(0.975, mean.clusters - 1)) * mean.error
    p_value = float(2 * t.sf(abs(mean.value) / mean.error, mean.clusters - 1))
    return mean.value, mean.value - half, mean.value + half, p_value


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Exact two-sided p of McNemar's test: N items that two conditions get right or wrong."""
    from scipy.stats import binomtest

    gained, lost = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
