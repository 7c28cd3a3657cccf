"""JSON objects from options and files that somebody may have changed."""

import json
from typing import Any

from vtlm_fairseq.errors import VTLMError, reason


def parse_object(text: str | bytes, what: str, *, hint: str) -> dict[str, Any]:
    """A JSON object.

    Args:
        text: of it.
        what: it is: an option, or a file.
        hint: what mends it.

    Raises:
        VTLMError: the text is no JSON, or none of an object; also where it is nested deeper than Python reads.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VTLMError(f"{what}: cannot be read as JSON ({reason(error)}); {hint}") from None
    if not isinstance(content, dict):
        raise VTLMError(f"{what}: a JSON {type(content).__name__} in place of an object; {hint}")
    return content
