"""Who made regions: a detector's name and its classes. Features of two detectors of the same sizes do not mix."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)


class Detector(NamedTuple):
    """Identity of a detector.

    Attributes:
        name: the store's attribute ``detector``.
        classes: hash of its class names in their order, 16 hexadecimal digits.
    """

    name: str
    classes: str

    @classmethod
    def of(cls, name: str, class_names: Sequence[str]) -> "Detector":
        """That of a store's attribute and class names."""
        digest = hashlib.sha256()
        for one in class_names:
            digest.update(one.encode("utf-8", "surrogatepass") + b"\0")
        return cls(str(name), digest.hexdigest()[:16])

    @staticmethod
    def is_one(value: Any) -> bool:
        """Whether a value read from a file is one, as a dictionary."""
        fields = Detector._fields
        return isinstance(value, dict) and set(value) == set(fields) and all(type(value[f]) is str for f in fields)

    def __str__(self) -> str:
        return f"{self.name!r} (classes {self.classes})"


def check_detector(expected: Detector | None, found: Detector, *, where: str, owner: str, any_detector: bool) -> None:
    """Refuse regions of another detector; None expects nothing.

    Args:
        expected: of ``owner``.
        found: of ``where``.
        where, owner: names for the message.
        any_detector: warn instead.

    Raises:
        VTLMError: another name, or other classes.
    """
    if expected is None or found == expected:
        return
    if found.name == expected.name:
        difference = f"{found.name!r} has other classes ({found.classes}) than that of {owner} ({expected.classes})"
    else:
        difference = f"regions are by {found.name!r}, those of {owner} by {expected.name!r}"
    if not any_detector:
        raise VTLMError(f"{where}: {difference}; use regions of the same detector, or --any-detector if you mean it")
    logger.warning("%s: %s; taken all the same, as --any-detector asks", where, difference)
