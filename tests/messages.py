"""The message with which a call ends, for tables of ``(site, words, call)``; the site is for the reader only."""

from collections.abc import Callable
from typing import Any

import pytest


def message(site: str, call: Callable, *args: Any, **kwargs: Any) -> str:
    """The message with which a call ends, which must be one line."""
    with pytest.raises((Exception, SystemExit)) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert text and "\n" not in text
    return text


def says(site: str, words: str, call: Callable, *args: Any, **kwargs: Any) -> None:
    """Demand that the :func:`message` of a call holds some words."""
    text = message(site, call, *args, **kwargs)
    assert words in text, f"{words!r} is not in: {text}"
