"""Names of detector classes as files give them."""

import re

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines

_BACKGROUND = re.compile(r"[\W_]*(background|bg|no[ _-]?object)[\W_]*", re.IGNORECASE)


def is_background(name: str) -> bool:
    """Whether a name is that of no class, which detectors' lists often begin with."""
    return _BACKGROUND.fullmatch(name) is not None


def read_class_names(path: str) -> list[str]:
    """Lines of `--class-names`.

    Raises:
        VTLMError: it cannot be read, a line is empty, or it begins with a background class.
    """
    names = read_lines(path, label=f"--class-names {path}", filled=True)
    if is_background(names[0]):
        raise VTLMError(
            f"--class-names {path}: line 1 is {names[0]!r}, and stores have no background class: take the line out; "
            "labels that count it, so that the first class is 1, are brought to 0 by --layout-set label_offset=1"
        )
    return names
