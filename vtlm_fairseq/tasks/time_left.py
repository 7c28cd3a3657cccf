"""How far a training is and how long it takes yet, in the log at least once a minute."""

import time
from collections.abc import Callable

from fairseq.data.iterators import EpochBatchIterator
from omegaconf import DictConfig

from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

EVERY = 60.0
"""Seconds between two lines."""


class TimeLeft:
    """Says it at the first update that ends a minute after the line before.

    The pace is that since the training began or was resumed, validations and savings included.

    Args:
        whole: the configuration of the command.
        clock: seconds.
    """

    def __init__(self, whole: DictConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._options, self._clock = whole.optimization, clock
        self._silent = whole.common.log_format == "none"
        self._updates_an_epoch: Callable[[int], int] | None = None
        self._said = self._began = clock()
        self._first: int | None = None
        self._update = 0

    def follow(self, batches: EpochBatchIterator) -> None:
        """Note the batches of the training set, of which an epoch has so many."""
        self._updates_an_epoch = lambda frequency: -(-len(batches) // frequency)

    def last_update(self) -> int | None:
        """The update that ends the training at the latest, by ``--max-update`` and ``--max-epoch``; None: no end."""
        ends = [self._options.max_update] if self._options.max_update > 0 else []
        epochs, frequencies = self._options.max_epoch, list(self._options.update_freq)
        if epochs > 0 and self._updates_an_epoch is not None:
            frequencies = (frequencies + frequencies[-1:] * epochs)[:epochs]
            ends.append(sum(map(self._updates_an_epoch, frequencies)))
        return min(ends, default=None)

    def trained(self, updates: int) -> None:
        """Note that a batch was computed, after so many updates."""
        now, self._update = self._clock(), updates + 1
        if self._first is None:  # it has waited for the first data, and for the compiler
            self._first, self._began, self._said = self._update, now, now
        if self._update > self._first and self._is_due(now):
            pace, last = (now - self._began) / (self._update - self._first), self.last_update()
            end = "" if last is None else f" of {last:,}"
            left = "" if last is None else f", at most {spell_time(pace * max(0, last - self._update))} left"
            logger.info("update %s%s, %.3g s each%s", f"{self._update:,}", end, pace, left)

    def validated(self) -> None:
        """Note that a batch of a validation was computed."""
        if self._is_due(self._clock()):
            logger.info("validating after update %s", f"{self._update:,}")

    def _is_due(self, now: float) -> bool:
        if self._silent or now - self._said < EVERY:
            return False
        self._said = now
        return True


def spell_time(seconds: float) -> str:
    """A time as people say it: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 5 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(minutes / 60)
    return f"{hours // 24} d {hours % 24} h"
