"""Scenes of the quickstart: a few regions, each a noisy copy of its class's prototype vector.

The regions are synthetic numbers; no picture and no detector is behind them.
"""

import random
from dataclasses import dataclass

import numpy as np
from grammar import Sentence
from lexicon import AMBIGUOUS, CLASS_NAMES, PERSONS, THINGS

FEATURE_DIM = 64
SPREAD = 4.0
"""Standard deviation of the numbers of a class's prototype."""
NOISE = 4.0
"""Standard deviation of a region's own noise."""
MIN_REGIONS, MAX_REGIONS = 3, 8


@dataclass(frozen=True)
class Scene:
    """The R regions of one synthetic image, best score first.

    Attributes:
        features: R x FEATURE_DIM, float16.
        boxes: R x 4, x1, y1, x2, y2 within 0..1, float32.
        labels: R class numbers.
        scores: R, strictly descending, float32.
    """

    features: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray

    @property
    def words(self) -> list[str]:
        """The class name of each region."""
        return [CLASS_NAMES[label] for label in self.labels]


class ScenePainter:
    """Draws scenes; the prototypes depend on ``seed`` alone, the scenes on ``seed`` and ``stream``.

    Args:
        seed: seed of the data set.
        stream: number of the split, so that no two splits share a region.
    """

    def __init__(self, seed: int, *, stream: int) -> None:
        shape = (len(CLASS_NAMES), FEATURE_DIM)
        self.prototypes = SPREAD * np.random.default_rng([seed, 0]).standard_normal(shape)
        self._numbers = np.random.default_rng([seed, 1, stream])
        self._choices = random.Random(f"{seed}/scenes/{stream}")

    def pair(self, sentence: Sentence) -> tuple[tuple[Scene, Scene], int]:
        """Two scenes for one sentence, and the number of the only region in which they differ.

        Both have the same regions but one: features, boxes, labels and scores are equal there. The one is the
        focus noun in its first and in its second sense, in the same place with the same box and score. For a
        sentence without an ambiguous noun it is a sense region of an ambiguous noun that the sentence does
        not mention, so that exchanging the scenes should change nothing.

        All else (which other regions there are, among them 1 to 3 sense regions of other ambiguous nouns, and
        where the region stands) is drawn before the sense is looked at.
        """
        rng = self._choices
        others = [noun for noun in AMBIGUOUS if noun != sentence.focus]
        rng.shuffle(others)
        changing = sentence.focus if sentence.ambiguous else others.pop()
        shown = [noun.classes[0] for noun in sentence.mentioned]
        if not sentence.ambiguous:
            shown.append(sentence.focus.classes[0])
        mentioned = {sentence.focus, *sentence.mentioned}
        shown += [rng.choice(noun.classes) for noun in others[: rng.randint(1, 3)]]
        fillers = [noun.classes[0] for noun in THINGS + PERSONS if noun not in mentioned]
        room = MAX_REGIONS - 1 - len(shown)
        shown += rng.sample(fillers, rng.randint(0, min(2, room)))
        shown.append(changing.classes[0])
        rng.shuffle(shown)
        place = shown.index(changing.classes[0])

        labels = np.array([CLASS_NAMES.index(name) for name in shown])
        first = Scene(self._features(labels), self._boxes(len(labels)), labels, self._scores(len(labels)))
        other_labels = labels.copy()
        other_labels[place] = CLASS_NAMES.index(changing.classes[1])
        other_features = first.features.copy()
        other_features[place] = self._features(other_labels[place : place + 1])[0]
        return (first, Scene(other_features, first.boxes, other_labels, first.scores)), place

    def _features(self, labels: np.ndarray) -> np.ndarray:
        noise = self._numbers.standard_normal((len(labels), FEATURE_DIM))
        return (self.prototypes[labels] + NOISE * noise).astype(np.float16)

    def _boxes(self, count: int) -> np.ndarray:
        size = self._numbers.uniform(0.1, 0.5, (count, 2))
        corner = self._numbers.uniform(0.0, 1.0 - size)
        return np.concatenate([corner, corner + size], axis=1).astype(np.float32)

    def _scores(self, count: int) -> np.ndarray:
        """Distinct scores, best first: one from each of ``count`` equal slices of 0.3..1."""
        slices = np.arange(count, 0, -1) - self._numbers.uniform(0.1, 0.9, count)
        return (0.3 + 0.7 * slices / count).astype(np.float32)
