"""Classes for regions that have none, such as cells of a grid: clusters of their features.

The centres lie in ``STORE.clusters.npz`` beside the store (`centres` [K, D] float32, `seed`, `regions` of the sample),
for the stores of other splits, which must have the same classes.
"""

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import whole_file
from vtlm_fairseq.regions.formats.containers.record import npz_arrays
from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage

SAMPLE_IMAGES = 2000
SAMPLE_REGIONS = 100_000
_BATCH = 4096


class Clusters:
    """Centres of clusters, which give regions their labels.

    Args:
        centres: [K, D] float32.

    Attributes:
        class_names: of the clusters; the same names are the same centres.
    """

    def __init__(self, centres: np.ndarray) -> None:
        self.centres = centres.astype(np.float32)
        self._squares = np.square(self.centres.astype(np.float64)).sum(axis=1)
        key = hashlib.sha256(np.ascontiguousarray(self.centres)).hexdigest()[:8]
        self.class_names = [f"cluster {k} of {key}" for k in range(len(centres))]

    def label(self, features: np.ndarray) -> np.ndarray:
        """[R] int64: the nearest centre of each region [R, D].

        Raises:
            VTLMError: the features are of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.centres.shape[1]:
            raise VTLMError(f"features have shape {features.shape}, the clusters are {self.centres.shape[1]} wide")
        return (self._squares - 2 * features.astype(np.float64) @ self.centres.T).argmin(axis=1)


def find_clusters(choice: str, source: ImageSource, out: str, *, seed: int, resumed: bool) -> Clusters:
    """The clusters that ``--pseudo-labels`` names.

    Args:
        choice: K, a number of clusters to make; or a file of centres.
        source: of the images; an even sample of them is clustered.
        out: the store; the centres are saved beside it.
        seed: of the clustering.
        resumed: parts of the store are there, made with the saved centres.

    Raises:
        VTLMError: no such file, or fewer regions than clusters.
    """
    saved = f"{out}.clusters.npz"
    if not choice.isdecimal():
        return read_clusters(choice, source.feature_dim)
    if resumed and os.path.isfile(saved):
        return read_clusters(saved, source.feature_dim)
    count = int(choice)
    if not 2 <= count <= np.iinfo(np.int16).max:
        raise VTLMError(f"--pseudo-labels {choice}: must be from 2 to {np.iinfo(np.int16).max} clusters, or a file")
    sample = _sample(source, seed)
    if len(sample) < count:
        raise VTLMError(f"--pseudo-labels {choice}: the sample has {len(sample)} regions, fewer than clusters")
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, random_state=seed, batch_size=_BATCH, n_init=3).fit(sample)
    clusters = Clusters(means.cluster_centers_)
    with whole_file(saved, "wb", wait=0) as file:
        np.savez(file, centres=clusters.centres, seed=seed, regions=len(sample))
    return clusters


def read_clusters(path: str, width: int) -> Clusters:
    """Clusters of a file.

    Raises:
        VTLMError: it is no such file, or of features of another width.
    """
    centres: Any = npz_arrays(path, f"--pseudo-labels {path}", ["centres"])["centres"]
    if not isinstance(centres, np.ndarray) or centres.dtype.kind != "f" or centres.ndim != 2 or not len(centres):
        raise VTLMError(f"--pseudo-labels {path}: holds no centres [K, D]; it is the .clusters.npz beside a store")
    if centres.shape[1] != width or not np.isfinite(centres).all():
        raise VTLMError(f"--pseudo-labels {path}: clusters of {centres.shape[1]} numbers, the features have {width}")
    return Clusters(centres)


def _sample(source: ImageSource, seed: int) -> np.ndarray:
    """[n, D] float32: regions of up to 2,000 evenly spaced images, at most 100,000 of them."""
    step = max(1, -(-source.count() // SAMPLE_IMAGES))
    found = [image.features.astype(np.float32) for image in _spaced(source, step) if len(image.features)]
    regions = np.concatenate(found) if found else np.zeros((0, source.feature_dim), np.float32)
    regions = regions[np.isfinite(regions).all(axis=1) & regions.any(axis=1)]
    if len(regions) > SAMPLE_REGIONS:
        regions = regions[np.random.default_rng(seed).permutation(len(regions))[:SAMPLE_REGIONS]]
    return regions


def _spaced(source: ImageSource, step: int) -> Iterator[InputImage]:
    for number, record in enumerate(source.records()):
        if number % step == 0:
            try:
                yield source.read(record)
            except VTLMError:
                continue  # the conversion meets it, too
