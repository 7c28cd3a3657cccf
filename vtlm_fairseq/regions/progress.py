"""What of a conversion is done: which images are in finished parts, and which parts are to be made.

Of a source that lists its images (`ImageSource.listed`), an image whose files have not changed stays done, whatever is
added, removed or mended around it. Of any other, part k holds the images from place k * size on.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import NamedTuple, Protocol

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.formats.input_image import Listed
from vtlm_fairseq.regions.parts import Failure, Part
from vtlm_fairseq.text.id_rules import IdRule

Places = Sequence[int]


class Joined(NamedTuple):
    """Stores of parts, rows of the images in these, taken together, and what failed: arguments of `Parts.join`."""

    stores: list[str]
    rows: np.ndarray
    failures: list[Failure]


class Progress(Protocol):
    """Of either kind of source.

    Attributes:
        done: number of images that are done.
    """

    done: int

    def work(self) -> Iterator[tuple[int, Places]]:
        """Number of each part to be made, and places of its images in the source."""

    def joined(self, parts: dict[int, Part]) -> Joined:
        """The store's images, of the parts that there are at the end."""


class ListedProgress:
    """Of a source that lists its images.

    Args:
        listed: its images.
        share: places of those to be converted.
        parts: those that are whole.
        size: images of a part to be made.
        feature_dim: of the source; parts of another are of no use.
        rule: changes the ids.
        skip_bad: of an id that is given twice the first image is taken, and the others are listed.

    Raises:
        VTLMError: an id is given twice, and `skip_bad` is not set.
    """

    def __init__(
        self,
        listed: Sequence[Listed],
        share: range,
        parts: dict[int, Part],
        *,
        size: int,
        feature_dim: int,
        rule: IdRule,
        skip_bad: bool,
    ) -> None:
        self._twice = _given_twice(listed, rule, skip_bad=skip_bad)
        self._listed, self._share, self._size, self._feature_dim = listed, share, size, feature_dim
        self._keys = {place: listed[place].key for place in share}
        self._taken = set(parts)
        stored, failed = self._tried(parts)
        known = stored.keys() | failed.keys()
        self._missing = [p for p in share if p not in self._twice and self._keys[p] not in known]
        self._any = any(part.feature_dim == feature_dim for part in parts.values())
        self.done = len(share) - len(self._missing)

    def _tried(self, parts: dict[int, Part]) -> tuple[dict[str, tuple[int, int]], dict[str, Failure]]:
        """Part and row of each image in a store, and failures of others, by key."""
        stored: dict[str, tuple[int, int]] = {}
        failed: dict[str, Failure] = {}
        for number, part in sorted(parts.items()):
            if part.tried is None or part.feature_dim != self._feature_dim:
                continue
            rows, failures = count(), iter(part.failures)
            for key, is_stored in part.tried:
                if is_stored:
                    stored.setdefault(key, (number, next(rows)))
                elif failure := next(failures, None):
                    failed[key] = failure
        return stored, failed

    def work(self) -> Iterator[tuple[int, Places]]:
        """See `Progress`."""
        numbers = (number for number in count() if number not in self._taken)
        if not self._missing and not self._any:
            yield next(numbers), []  # a store without images
        for start in range(0, len(self._missing), self._size):
            yield next(numbers), self._missing[start : start + self._size]

    def joined(self, parts: dict[int, Part]) -> Joined:
        """See `Progress`."""
        stored, failed = self._tried(parts)
        places = [stored[key] for key in self._keys.values() if key in stored]
        sound = [number for number, part in sorted(parts.items()) if part.feature_dim == self._feature_dim]
        used = sorted({number for number, _ in places}) or sound[:1]
        starts = dict(zip(used, np.cumsum([0, *(len(parts[n].image_ids) for n in used)]).tolist(), strict=False))
        rows = np.array([starts[number] + row for number, row in places], dtype=np.int64)
        failures = []
        for place, key in self._keys.items():
            if place in self._twice:
                failures.append(self._twice[place])
            elif key not in stored and key in failed:
                failures.append(failed[key])
        return Joined([parts[number].store for number in used], rows, failures)


def _given_twice(listed: Sequence[Listed], rule: IdRule, *, skip_bad: bool) -> dict[int, Failure]:
    """By place, images whose ids others before them have."""
    first: dict[str, Listed] = {}
    found: dict[int, Failure] = {}
    for place, image in enumerate(listed):
        try:
            image_id = rule(image.image_id)
        except VTLMError:
            continue  # the conversion meets it, too
        other = first.setdefault(image_id, image)
        if other is not image:
            reason = f"is given twice, first by {other.source}{by_rule(rule, image.image_id, other.image_id)}"
            if not skip_bad:
                raise VTLMError(
                    f"{image.source}: image {image_id!r} {reason}; ids must be unique, --skip-bad takes the first"
                )
            found[place] = Failure(image.image_id, image.source, f"the id {reason}")
    return found


def by_rule(rule: IdRule, *given: str) -> str:
    """What a message on equal ids says of the rule that made them so; empty where they are equal without it."""
    if len(set(given)) < 2:
        return ""
    shown = " and ".join(map(ascii if "nfc" in rule.names else repr, given))
    return f" ({shown} are the same by --id-rule {rule})"


class NumberedProgress:
    """Of a source without a list.

    Args:
        label: the source, for messages.
        first: place of the first image to be converted.
        total: how many there are; None: not known.
        parts: those that are whole.
        size: images of a part.
        rule: changes the ids.
        skip_bad: of an id that is given twice the first image is taken, and the others are listed.
    """

    def __init__(
        self,
        label: str,
        first: int,
        total: int | None,
        parts: dict[int, Part],
        *,
        size: int,
        rule: IdRule,
        skip_bad: bool,
    ) -> None:
        self._label, self._first, self._total, self._size = label, first, total, size
        self._rule, self._skip_bad = rule, skip_bad
        self._tried = {number: len(part.image_ids) + len(part.failures) for number, part in parts.items()}
        self.done = sum(self._tried.values())

    def work(self) -> Iterator[tuple[int, Places]]:
        """See `Progress`; without end where the total is not known."""
        end = None if self._total is None else self._first + self._total
        for number in count():
            start = self._first + number * self._size
            if end is not None and start >= end and number:
                return
            if number not in self._tried:
                yield number, range(start, start + self._size if end is None else min(end, start + self._size))
            elif self._tried[number] < self._size:
                return

    def joined(self, parts: dict[int, Part]) -> Joined:
        """See `Progress`.

        Raises:
            VTLMError: an id is in two parts, and `skip_bad` is not set.
        """
        failures: list[Failure] = []
        rows: list[int] = []
        seen: dict[str, tuple[int, int]] = {}
        row = 0
        for number, part in sorted(parts.items()):
            failures += part.failures
            for place, image_id in enumerate(part.image_ids):
                first = seen.setdefault(image_id, (number, place))
                if first == (number, place):
                    rows.append(row)
                else:
                    reason = "is given twice" + self._images(parts, first, (number, place))
                    if not self._skip_bad:
                        raise VTLMError(
                            f"{self._label}: image {image_id!r} {reason}; ids must be unique, --skip-bad takes the "
                            "first"
                        )
                    failures.append(Failure(image_id, self._label, f"the id {reason}"))
                row += 1
        return Joined([part.store for _, part in sorted(parts.items())], np.array(rows, dtype=np.int64), failures)

    def _images(self, parts: dict[int, Part], *places: tuple[int, int]) -> str:
        """Which images of the source these rows of parts are, counted from 1."""
        numbers = []
        for number, row in places:
            tried = parts[number].tried
            if tried is None:
                return ""
            at = [k for k, (_, stored) in enumerate(tried) if stored][row]
            numbers.append(str(self._first + number * self._size + at + 1))
        rule = f"; ids are those by --id-rule {self._rule}" if self._rule.names else ""
        return f", as image {' and '.join(numbers)} of it{rule}"
