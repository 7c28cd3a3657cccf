"""Class scores of regions: probabilities of all classes, or of the most probable ones and which these are."""

from typing import NamedTuple

import numpy as np


class SoftLabels(NamedTuple):
    """Class scores of R regions.

    Attributes:
        probabilities: [R, K] float16; they need not add up to 1.
        classes: [R, K] int16, whose they are; None: of all C classes in their order.
    """

    probabilities: np.ndarray
    classes: np.ndarray | None

    @classmethod
    def of(cls, scores: np.ndarray, kept: int) -> "SoftLabels":
        """The ``kept`` best of [R, C] scores, the best first."""
        if kept == scores.shape[1]:
            return cls(scores.astype(np.float16), None)
        best = np.argpartition(-scores, kept - 1, axis=1)[:, :kept] if len(scores) else np.zeros((0, kept), int)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        return cls(np.take_along_axis(scores, best, axis=1).astype(np.float16), best.astype(np.int16))

    def dense(self, num_classes: int) -> np.ndarray:
        """[R, C] float16, 0 where nothing was kept."""
        if self.classes is None:
            return self.probabilities
        scores = np.zeros((len(self.probabilities), num_classes), np.float16)
        np.put_along_axis(scores, self.classes.astype(np.int64), self.probabilities, axis=1)
        return scores

    def faults(self, num_classes: int) -> dict[str, np.ndarray]:
        """[R] where regions have each fault, by what it is."""
        values = self.probabilities.astype(np.float32)
        with np.errstate(invalid="ignore"):
            found = {
                "a class score is not within 0..1": ~((values >= 0) & (values <= 1)).all(axis=1),
                "class scores add up to more than 1": values.sum(axis=1) > 1 + SLACK,
            }
        if self.classes is not None:
            ordered = np.sort(self.classes, axis=1)
            found[f"the class of a score is not within 0..{num_classes - 1}"] = (
                (self.classes < 0) | (self.classes >= num_classes)
            ).any(axis=1)
            found["a class has two scores"] = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
        return found


SLACK = 0.02
"""How far above 1 the scores of a region may add up: they are rounded one by one."""
