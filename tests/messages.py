"""Where a message comes from: rows of ``(site, words, call)`` for the tests of messages."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def message(site: str, call: Callable, *args: Any, **kwargs: Any) -> str:
    """The message with which a call ends, which must be one line and come from a certain place.

    Args:
        site: module and function that raise, such as ``region_store.find_store_files``; a caller may have put something
            before its message, or made a `SystemExit` of it.
        call: what to call.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    with pytest.raises((Exception, SystemExit)) as caught:
        call(*args, **kwargs)
    text, places = str(caught.value), []
    error: BaseException | None = caught.value
    while error is not None and str(error) in text:
        places.append(_raised_at(error))
        error = error.__context__
    assert site in places, f"{places} said: {text}"
    assert text and "\n" not in text
    return text


def says(site: str, words: str, call: Callable, *args: Any, **kwargs: Any) -> None:
    """Demand that the :func:`message` of a call holds some words."""
    text = message(site, call, *args, **kwargs)
    assert words in text, f"{words!r} is not in: {text}"


def _raised_at(error: BaseException) -> str:
    """Module and function of the last frame that is of the package or its scripts."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if ROOT in Path(frame.filename).parents and ROOT / "tests" not in Path(frame.filename).parents
    ]
    return f"{Path(ours[-1].filename).stem}.{ours[-1].name}" if ours else repr(error)
