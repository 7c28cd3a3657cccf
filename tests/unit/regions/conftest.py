"""Fixtures of the tests of region stores."""

from collections.abc import Callable
from typing import Any

import pytest

from vtlm_fairseq.regions.formats import mapped


class Here:
    """Answers of :class:`vtlm_fairseq.regions.formats.child.Child`, from this process."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], where: str, *, memory: int = 0):
        self.make, self.answer = make, None

    def ask(self, request: Any) -> Any:
        """The answer to a request."""
        self.answer = self.answer or self.make()
        return self.answer(request)

    def close(self) -> None:
        """What is asked next begins anew."""
        self.answer = None


@pytest.fixture
def read_here(monkeypatch):
    """Files of other layouts are read in this process, without the start of another one for each."""
    monkeypatch.setattr(mapped, "Child", Here)
