"""Made-up features of oracle regions: class prototype + colour prototypes + noise of the box.

Prototypes are drawn from N(0, I), and so is the noise, multiplied by `noise`. Each vector comes from a generator
of its own, seeded by (seed, class name), (seed, colour name) or (seed, image id, box): neither the order of rows
nor a dropped box can enter. The sum is divided by sqrt(1 + noise^2), so that a feature's values are near N(0, 1).

Noise that fills all dimensions is unlike a detector's: of real features the first 128 components hold 93.5 % of the
variance. With a subspace prototypes and noise are drawn in so many dimensions, and rotated into those of the features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.corpora.flickr30k_entities import COLOURS
from vtlm_fairseq.corpora.oracle_labels import LabelledBox
from vtlm_fairseq.errors import VTLMError

TARGET_ACCURACY = 0.70

NOISE = 10.7
"""Found by `--calibrate` (seed 1, 1536 dimensions): 70 % of the validation labels are read right."""


def draw(dimension: int, *key: object) -> np.ndarray:
    """A vector of N(0, 1) values, float32 [dimension], that depends on the key alone."""
    digest = hashlib.sha256("\n".join(map(str, key)).encode("utf-8")).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    return generator.standard_normal(dimension, dtype=np.float32)


class OracleFeatures:
    """Makes the features of an image's boxes.

    Args:
        class_names: C names, in the order of the labels.
        feature_dim: D.
        seed: of all prototypes and noise.
        noise: standard deviation of the noise (prototypes have 1).
        signal: factor of the prototypes; 0 leaves noise only.
        subspace: dimensions that prototypes and noise lie in; None: all D.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        feature_dim: int,
        seed: int,
        noise: float,
        signal: float = 1.0,
        subspace: int | None = None,
    ) -> None:
        self.class_names = list(class_names)
        self.feature_dim = feature_dim
        self.seed = seed
        self.noise = noise
        self.signal = signal
        self._drawn = subspace or feature_dim
        self._axes = _axes(subspace, feature_dim, seed) if subspace else None
        self.prototypes = np.stack([draw(self._drawn, seed, "class", name) for name in self.class_names])
        self._colours = {name: draw(self._drawn, seed, "colour", name) for name in sorted(COLOURS)}

    @property
    def scale(self) -> float:
        """What the sum is divided by."""
        return float(np.sqrt(1.0 + self.noise**2))

    def box_noise(self, image_id: str, box: LabelledBox) -> np.ndarray:
        """Noise of a box before it is scaled, float32 [D], or [subspace]."""
        return draw(self._drawn, self.seed, "box", image_id, *box.xyxy)

    def prototype_sum(self, box: LabelledBox) -> np.ndarray:
        """Class prototype + colour prototypes, float32 [D], or [subspace]."""
        total = self.prototypes[box.label].copy()
        for name in box.colours:
            total += self._colours[name]
        return total

    def __call__(self, image_id: str, boxes: Sequence[LabelledBox]) -> np.ndarray:
        """Features of the boxes, float32 [R, D]."""
        rows = np.empty((len(boxes), self._drawn), dtype=np.float32)
        for row, box in zip(rows, boxes, strict=True):
            row[:] = self.signal * self.prototype_sum(box) + self.noise * self.box_noise(image_id, box)
        return self.rotate(rows) / np.float32(self.scale)

    def rotate(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors as they stand in features: float32 [..., D]; without a subspace as they are."""
        return vectors if self._axes is None else vectors @ self._axes


def _axes(subspace: int, feature_dim: int, seed: int) -> np.ndarray:
    """Orthogonal rows, float32 [subspace, D], so long that rotated values are near N(0, 1) again."""
    drawn = draw(subspace * feature_dim, seed, "subspace").reshape(feature_dim, subspace)
    q, r = np.linalg.qr(drawn.astype(np.float64))
    return (q * np.sign(np.diag(r)) * np.sqrt(feature_dim / subspace)).T.astype(np.float32)


Images = Sequence[tuple[str, Sequence[LabelledBox]]]
"""Image id and boxes of each image."""


def accuracy(features: OracleFeatures, images: Images) -> float:
    """Share of the boxes whose nearest class prototype (Euclidean, at signal 1) is that of their label."""
    prototypes = features.rotate(features.prototypes) / np.float32(features.scale)
    offsets = 0.5 * np.square(prototypes).sum(axis=1)
    right = count = 0
    for image_id, boxes in images:
        if not boxes:
            continue
        stored = features(image_id, boxes).astype(np.float16).astype(np.float32)
        nearest = (stored @ prototypes.T - offsets).argmax(axis=1)
        right += int((nearest == [box.label for box in boxes]).sum())
        count += len(boxes)
    return right / max(1, count)


def calibrate(features: OracleFeatures, images: Images, *, target: float = TARGET_ACCURACY) -> float:
    """Noise at which `accuracy` is the target, found by bisection on these images.

    Raises:
        VTLMError: even without noise fewer labels are read right.
    """
    pairs = [(image_id, box) for image_id, boxes in images for box in boxes]
    labels = np.array([box.label for _, box in pairs])
    clean = np.stack([features.prototype_sum(box) for _, box in pairs]) @ features.prototypes.T
    clean -= 0.5 * np.square(features.prototypes).sum(axis=1)
    noisy = np.stack([features.box_noise(image_id, box) for image_id, box in pairs]) @ features.prototypes.T

    def read_right(noise: float) -> float:
        return float(((clean + noise * noisy).argmax(axis=1) == labels).mean())

    low, high = 0.0, 1.0
    if read_right(low) < target:
        raise VTLMError(f"{read_right(low):.1%} of the labels are read right without noise; use a larger --feature-dim")
    while read_right(high) > target:
        high *= 2.0
    for _ in range(20):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if read_right(middle) > target else (low, middle)
    return 0.5 * (low + high)
