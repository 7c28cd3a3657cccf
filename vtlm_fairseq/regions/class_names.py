"""Names of detector classes as files give them."""

import re

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.terminal import say

_BACKGROUND = re.compile(r"[\W_]*(background|bg|no[ _-]?object)[\W_]*", re.IGNORECASE)


def is_background(name: str) -> bool:
    """Whether a name is that of no class, which detectors' lists often begin with."""
    return _BACKGROUND.fullmatch(name) is not None


def read_class_names(path: str, hint: str = "") -> list[str]:
    """Lines of `--class-names`; a name that is there twice, as some detectors have one, is warned of.

    Args:
        path: the file.
        hint: how labels that count a background are brought to 0.

    Raises:
        VTLMError: it cannot be read, a line is empty, or it begins with a background class.
    """
    names = read_lines(path, label=f"--class-names {path}", filled=True)
    if is_background(names[0]):
        raise VTLMError(
            f"--class-names {path}: line 1 is {names[0]!r}, and stores have no background class: take the line out"
            + (f"; labels that count it, so that the first class is 1, are brought to 0 by {hint}" if hint else "")
        )
    first: dict[str, int] = {}
    again = [(first[name], line) for line, name in enumerate(names, 1) if first.setdefault(name, line) != line]
    if again:
        before, line = again[0]
        more = f" (and {len(again) - 1:,} more such lines)" if again[1:] else ""
        say(
            f"warning: --class-names {path}: lines {before} and {line} are both {names[line - 1]!r}, two classes of "
            f"one name{more}"
        )
    return names
