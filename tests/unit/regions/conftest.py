"""Fixtures of the tests of region stores."""

import pytest
from region_sources import Here

from vtlm_fairseq.regions.formats import mapped


@pytest.fixture
def read_here(monkeypatch):
    """Files of other layouts are read in this process, without the start of another one for each."""
    monkeypatch.setattr(mapped, "Child", Here)
