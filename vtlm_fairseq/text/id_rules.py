"""What people do to image ids on one side only: rules that make both sides alike, and which of them would.

``--id-rule`` of the commands that make stores and prepare captions applies them; where ids are not found, the message
names those that would find them.
"""

import argparse
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from vtlm_fairseq.errors import VTLMError

_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_BLANKS = "\ufeff\u200b \t\u00a0\u3000"
_SAMPLE, _MOST = 200, 1_000_000  # missing and known ids that are looked at
_CANDIDATES = 8  # known ids that are kept of a missing one
BOTH_SIDES = "--id-rule {rule}, given where the store is made and where the captions are prepared, finds {found}"
"""What makes ids of a store and of captions the same."""

BY_EITHER = "--id-rule {rule}, given here or where the store is made, finds {found}"
"""What makes ids of images and of a store the same."""

AS_THERE = "the two agree by {rule}; write such ids as they stand in the store, which finds {found}"
"""Where ids are given by hand."""

BY_HAND = "the two agree by {rule}; change one of them, which finds {found}"
"""Where no option does it."""


def strip_extension(image_id: str) -> str:
    """An image id without the extension of an image file; any other id as it is."""
    stem, dot, extension = image_id.rpartition(".")
    return stem if stem and dot and extension.lower() in _EXTENSIONS else image_id


def _strip_zeros(image_id: str) -> str:
    return (image_id.lstrip("0") or "0") if image_id.isdecimal() else image_id


RULES: dict[str, Callable[[str], str]] = {
    "nfc": lambda image_id: unicodedata.normalize("NFC", image_id),
    "blanks": lambda image_id: image_id.strip(_BLANKS),
    "fragment": lambda image_id: image_id.partition("#")[0].rstrip(_BLANKS),
    "basename": lambda image_id: re.split(r"[/\\]", image_id.rstrip("/\\"))[-1],
    "extension": strip_extension,
    "zeros": _strip_zeros,
}
"""By name, in the order in which they are applied."""

RULES_HELP = (
    "change image ids, the same way wherever they are given: comma-separated, of nfc (Unicode's composed form), blanks "
    "(and byte order marks at the ends), fragment (from # on), basename (without folders), extension (without .jpg, "
    ".png, ...), zeros (leading ones of a number)"
)


@dataclass(frozen=True)
class IdRule:
    """Rules, applied in the order of `RULES`.

    Attributes:
        names: of the rules.
    """

    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "IdRule":
        """From names between commas, for an option.

        Raises:
            argparse.ArgumentTypeError: an unknown one.
        """
        names = [name.strip() for name in text.split(",")]
        for name in names:
            if name not in RULES:
                raise argparse.ArgumentTypeError(f"{name!r}: not one of {', '.join(RULES)}")
        return cls(tuple(name for name in RULES if name in names))

    def and_extension(self, strip: bool) -> "IdRule":
        """With ``--strip-extension``, where that is given."""
        return IdRule(tuple(name for name in RULES if name in self.names or (strip and name == "extension")))

    def __call__(self, image_id: str) -> str:
        """An id by the rules.

        Raises:
            VTLMError: nothing is left of it.
        """
        changed = self._apply(image_id)
        if image_id and not changed:
            raise VTLMError(f"image id {image_id!r}: --id-rule {self} leaves nothing of it")
        return changed

    def _apply(self, image_id: str) -> str:
        for name in self.names:
            image_id = RULES[name](image_id)
        return image_id

    def __str__(self) -> str:
        return ",".join(self.names)


def explain_missing(missing: Iterable[str], known: Iterable[str], remedy: str = BOTH_SIDES) -> str:
    """What a message on ids that are not found says of rules by which they would be; empty where there are none.

    Args:
        missing: ids that were not found.
        known: those that are there.
        remedy: what is to be done, with the names of the rules as ``{rule}`` and how many they find as ``{found}``.
    """
    every = IdRule(tuple(RULES))
    sample = list(islice(dict.fromkeys(missing), _SAMPLE))
    wanted: dict[str, list[str]] = {}
    for image_id in sample:
        wanted.setdefault(every._apply(image_id), []).append(image_id)
    wanted.pop("", None)
    there: dict[str, list[str]] = {}
    for image_id in islice(known, _MOST):
        for other in wanted.get(every._apply(image_id), ()):
            if len(some := there.setdefault(other, [])) < _CANDIDATES:
                some.append(image_id)
    if not there:
        return ""
    pairs = {
        image_id: min(some, key=lambda one, wanted=image_id: len(_fewest_rules({wanted: one}).names))
        for image_id, some in there.items()
    }
    rule = _fewest_rules(pairs)
    show = ascii if {"nfc", "blanks"} & set(rule.names) else repr
    for image_id, some in there.items():
        same = [one for one in dict.fromkeys(some) if rule._apply(one) == rule._apply(image_id)]
        if len(same) > 1:
            one, other = (show(name[:99]) for name in same[:2])
            return f"; {show(image_id[:99])} may be {one} or {other} there: change the ids so that they tell which"
    image_id, first = next(iter(pairs.items()))
    return f"; {show(image_id[:99])} is there as {show(first[:99])}: " + remedy.format(
        rule=rule, found=f"{len(pairs)} of {len(sample)}"
    )


def _fewest_rules(pairs: Mapping[str, str]) -> IdRule:
    """Rules that make the ids of each pair the same, of which none can be left out; all of them together do."""
    rule = IdRule(tuple(RULES))
    for name in sorted(RULES, key="blanks".__eq__):  # last: others take blanks along, and more besides
        fewer = IdRule(tuple(n for n in rule.names if n != name))
        if all(fewer._apply(a) == fewer._apply(b) for a, b in pairs.items()):
            rule = fewer
    return rule
