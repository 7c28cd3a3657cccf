"""Regions that are valid and probably useless: warned of from a small sample of a store, never refused."""

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.regions.class_names import is_background
from vtlm_fairseq.regions.padding import FLAT, ZERO, flat_boxes, zero_rows
from vtlm_fairseq.regions.store import RegionStore

SAMPLE_IMAGES = 128
SAMPLE_SECONDS = 0.5
_MOST_EQUAL = 0.5  # share of regions that tell nothing apart; grey borders of a grid, and features by class, are fewer
_FAR = 1.25  # ratio of the mean norms of two samples
_FAR_DEVIATION = 2.0
_ENOUGH = 100  # regions for a deviation


class FeatureNorms(NamedTuple):
    """Mean and standard deviation of the Euclidean norm of a region's features, over so many regions."""

    mean: float
    deviation: float
    count: int

    def far_from(self, other: "FeatureNorms") -> bool:
        """Whether two samples are hardly of one detector: means or deviations of other orders."""
        if not self.count or not other.count:
            return False
        (low, small), (high, large) = sorted((one.mean, max(one.deviation, 0.01 * one.mean)) for one in (self, other))
        # of few regions the mean is uncertain
        doubt = 3 * (small + large) / math.sqrt(min(self.count, other.count))
        if high > _FAR * low + doubt:
            return True
        small, large = sorted((small, large))
        return min(self.count, other.count) >= _ENOUGH and large > _FAR_DEVIATION * small

    def __str__(self) -> str:
        return f"{self.mean:.3g} (standard deviation {self.deviation:.2g})"


class Sample(NamedTuple):
    """Regions of some images of a store: ``images`` [R] numbers of their images in ``rows``."""

    rows: np.ndarray
    images: np.ndarray
    features: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray

    def norms(self) -> FeatureNorms:
        """Norms of the features that are finite."""
        norms = np.linalg.norm(self.features.astype(np.float32), axis=1).astype(np.float64)
        norms = norms[np.isfinite(norms)]
        if not len(norms):
            return FeatureNorms(0.0, 0.0, 0)
        return FeatureNorms(float(norms.mean()), float(norms.std()), len(norms))


def take_sample(
    store: RegionStore, rows: np.ndarray, *, images: int = SAMPLE_IMAGES, seconds: float = SAMPLE_SECONDS
) -> Sample:
    """Regions of images drawn from some rows of a store: the same ones each time, fewer where the disk is slow.

    Args:
        store: the store.
        rows: [N] int64, from ``store.rows``.
        images: at most so many are read.
        seconds: no further image is read after so long.

    Raises:
        VTLMError: the file cannot be read there.
    """
    random = np.random.default_rng(0)
    rows = np.asarray(rows, dtype=np.int64)
    drawn = random.permutation(np.unique(random.choice(rows, 2 * images) if len(rows) else rows))[:images]
    end = time.monotonic() + seconds
    found = []
    for row in drawn.tolist():
        found.append(store[row])
        if time.monotonic() > end:
            break
    counts = [len(regions.labels) for regions in found]
    none = np.zeros((0, store.feature_dim), store.dtype), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    parts = zip(none, ([getattr(r, name) for r in found] for name in ("features", "boxes", "labels")), strict=True)
    return Sample(drawn, np.repeat(np.arange(len(found)), counts), *(np.concatenate([no, *all]) for no, all in parts))


def feature_figures(store: RegionStore, *, images: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each dimension of a store's features, float32 [D], over evenly spaced images of it.

    The same ones each time and on every rank; of no region at all 0 and 0.
    """
    count, total, squares = 0, np.zeros(store.feature_dim), np.zeros(store.feature_dim)
    for row in range(0, store.num_images, max(1, -(-store.num_images // images))):
        features = store[row].features.astype(np.float64)
        count += len(features)
        total += features.sum(axis=0)
        squares += np.square(features).sum(axis=0)
    mean = total / max(1, count)
    variance = np.maximum(squares / max(1, count) - mean**2, 0)
    variance[variance < 1e-9 * (1 + mean**2)] = 0  # rounding alone
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def equal_scores(store: RegionStore, rows: np.ndarray, *, images: int = 32) -> bool:
    """Whether the best regions of images that have more than the store's `max_regions` all have one score.

    Which of them are kept is then chance, as of the cells of a grid. Looks at the first such images.
    """
    full = rows[store.counts(rows) == store.max_regions][:images] if store.max_regions else rows[:0]
    scores = [store[int(row)].scores for row in full]
    return any(len(one) > 1 for one in scores) and all((one == one[0]).all() for one in scores)


def suspicions(store: RegionStore, sample: Sample, *, labels: bool) -> list[str]:
    """One line for each reason to think that regions teach nothing; empty where there is none.

    Args:
        store: where the sample is from.
        sample: of its regions.
        labels: whether they are used (region classification).
    """
    total = len(sample.labels)
    if not total:
        return ["has no regions"] if len(sample.rows) else []
    where = f"of {total:,} regions in a sample of {len(np.unique(sample.images)):,} images"

    def first(bad: np.ndarray) -> str:
        return f"the first of image {store.image_id(int(sample.rows[sample.images[np.flatnonzero(bad)[0]]]))!r}"

    found = []
    zero = zero_rows(sample.features)
    if zero.any():
        found.append(f"{ZERO} in {zero.sum():,} {where}, {first(zero)}")
    equal = _alike(sample) & ~zero
    if equal.sum() >= _MOST_EQUAL * total:
        found.append(
            f"features are the same within an image, or everywhere, in {equal.sum():,} {where}, {first(equal)}"
        )
    flat = flat_boxes(sample.boxes)
    if flat.any():
        found.append(f"{FLAT} in {flat.sum():,} {where}, {first(flat)}")
    if (np.abs(sample.boxes - (0, 0, 1, 1)) < 1e-3).all():
        found.append(f"boxes are the whole image in all {where}: they say nothing of places")
    if labels and is_background(store.class_names[0]):
        found.append(
            f"classes begin with {store.class_names[0]!r}, and a store has no background: are labels off by one?"
        )
    if labels and store.num_classes == 1:
        found.append(
            f"has one class, {store.class_names[0]!r}: region classification (MRC) is trivial, and accuracy "
            "leaves it out (vtlm-regions convert --store STORE --pseudo-labels K makes classes)"
        )
    elif labels and total > 1 and (sample.labels == sample.labels[0]).all():
        name = store.class_names[sample.labels[0]]
        found.append(f"class is {name!r} in all {where}: region classification has nothing to learn")
    return found


def _alike(sample: Sample) -> np.ndarray:
    """[R] whether a region has the features of all others of its image, or those that most of the sample have."""
    features = np.ascontiguousarray(sample.features)
    rows = features.view(np.dtype((np.void, features.dtype.itemsize * features.shape[1])))[:, 0]
    _, kinds, counts = np.unique(rows, return_inverse=True, return_counts=True)
    kinds = kinds.reshape(-1)
    of_image = np.unique(sample.images, return_index=True, return_counts=True)
    alike = np.zeros(len(kinds), dtype=bool)
    for _, start, count in zip(*of_image, strict=True):
        alike[start : start + count] = count > 1 and (kinds[start : start + count] == kinds[start]).all()
    commonest = counts.max()
    return alike | ((counts[kinds] == commonest) & (commonest >= _MOST_EQUAL * len(kinds)) & (commonest > 1))


class NormWatch:
    """Norms of the features that a model was trained on: kept with it, compared with those it is given."""

    def __init__(self) -> None:
        self._trained: FeatureNorms | None = None
        self._before: FeatureNorms | None = None
        self._waiting: list[tuple[str, FeatureNorms]] = []

    def adopt(self, task_state: Mapping[str, Any] | None) -> None:
        """Take over what a checkpoint says of the model that is loaded, or goes on in training."""
        self._trained = _read_norms(task_state) or self._trained

    def precede(self, task_state: Mapping[str, Any] | None) -> None:
        """Compare with a model that another one begins from."""
        self._before = _read_norms(task_state)

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint keeps."""
        return {} if self._trained is None else {"feature_norms": [float(value) for value in self._trained]}

    def compare(self, name: str, norms: FeatureNorms, *, training: bool) -> list[str]:
        """A line for each set of regions unlike those of the model, as soon as these are known.

        Args:
            name: of the regions.
            norms: of the regions.
            training: they are those of the training itself, which are kept unless the model goes on.
        """
        if training and self._trained is None and norms.count:
            self._trained = norms
        found = [_compare(name, norms, self._before, "the model it begins from was trained on")] if training else []
        self._waiting.append((name, norms))
        if self._trained is not None:
            found += [_compare(*one, self._trained, "the model was trained on") for one in self._waiting]
            self._waiting.clear()
        return [line for line in found if line]


def _read_norms(task_state: Mapping[str, Any] | None) -> FeatureNorms | None:
    """Norms in the task's state of a checkpoint; None where it has none."""
    saved = (task_state or {}).get("feature_norms")
    if not isinstance(saved, list | tuple) or len(saved) != 3:
        return None
    try:
        mean, deviation, count = map(float, saved)
    except (TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (mean, deviation, count))):
        return None
    return FeatureNorms(mean, deviation, int(count))


def _compare(name: str, given: FeatureNorms, known: FeatureNorms | None, what: str) -> str | None:
    """A line where features are of another scale than those that ``what`` names."""
    if known is None or not given.far_from(known):
        return None
    return (
        f"{name}: features have norm {given}, those that {what} {known}: another detector, or another scaling? "
        "use regions made as those were"
    )
