"""How the share of regions that are predicted goes over the epochs (``--region-mask-schedule``)."""

import math
from dataclasses import dataclass

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.ranges import SHARE

OPTION, NONE = "--region-mask-schedule", "none"
_SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class ShareSchedule:
    """A share that goes from one value to another; the epoch alone says where it is, in a resumed run too.

    Attributes:
        shape: ``linear``, or ``cosine``: slow at both ends.
        start: share in the first epoch.
        end: share in the last of `epochs`, and behind it.
        epochs: at least 2.
    """

    shape: str
    start: float
    end: float
    epochs: int

    @classmethod
    def parse(cls, text: str) -> "ShareSchedule | None":
        """From ``SHAPE:FROM:TO:EPOCHS``; None from ``none``.

        Raises:
            VTLMError: it is neither.
        """
        if text == NONE:
            return None
        shape, *numbers = text.split(":")
        try:
            start, end, epochs = float(numbers[0]), float(numbers[1]), int(numbers[2])
            sound = shape in _SHAPES and len(numbers) == 3 and start in SHARE and end in SHARE and epochs > 1
        except (ValueError, IndexError):
            sound = False
        if not sound:
            raise VTLMError(
                f"{OPTION} {text}: must be SHAPE:FROM:TO:EPOCHS, such as linear:0.05:0.3:20, with the shape one of "
                f"{', '.join(_SHAPES)}, shares within 0..1 and at least 2 epochs"
            )
        return cls(shape, start, end, epochs)

    def share(self, epoch: int) -> float:
        """In an epoch, from 1."""
        progress = min(epoch - 1, self.epochs - 1) / (self.epochs - 1)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return (1 - progress) * self.start + progress * self.end
