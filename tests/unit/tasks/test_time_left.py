"""How far a training is, said once a minute: the pace, the last update, and the time between."""

import logging
from types import SimpleNamespace

import pytest

from vtlm_fairseq.tasks.time_left import TimeLeft, spell_time


def training(*, max_update=0, max_epoch=0, update_freq=(1,), log_format=None, clock=lambda: 0.0) -> TimeLeft:
    """That of a command with these options."""
    options = SimpleNamespace(max_update=max_update, max_epoch=max_epoch, update_freq=list(update_freq))
    return TimeLeft(SimpleNamespace(optimization=options, common=SimpleNamespace(log_format=log_format)), clock)


def lines(caplog, time_left: TimeLeft, clock: list[float], *, first: int, updates: int, seconds: float) -> list[str]:
    """What is logged while so many updates end, each so many seconds after the one before."""
    caplog.clear()
    with caplog.at_level(logging.INFO):
        for update in range(first, first + updates):
            clock[0] += seconds
            time_left.trained(update)
    return [record.getMessage() for record in caplog.records]


def test_a_line_a_minute_with_the_time_left(caplog):
    """A resumed training has the pace of this process; the wait for the first batch is not part of it."""
    clock = [1000.0]
    time_left = training(max_update=2000, clock=lambda: clock[0])
    clock[0] += 500
    found = lines(caplog, time_left, clock, first=1000, updates=100, seconds=2)
    assert len(found) == 3
    assert found[0] == "update 1,031 of 2,000, 2 s each, at most 32 min left"
    assert found[1].startswith("update 1,061 of 2,000, 2 s each")
    clock[0] += 100
    with caplog.at_level(logging.INFO):
        time_left.validated()
        time_left.validated()
    assert [r.getMessage() for r in caplog.records[3:]] == ["validating after update 1,100"]


def test_without_an_end_and_without_a_log(caplog):
    clock = [0.0]
    found = lines(caplog, training(clock=lambda: clock[0]), clock, first=0, updates=3, seconds=61)
    assert found == ["update 2, 61 s each", "update 3, 61 s each"]
    silent = training(max_update=9, log_format="none", clock=lambda: clock[0])
    assert lines(caplog, silent, clock, first=0, updates=3, seconds=61) == []


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"max_update": 50}, 50),
        ({"max_epoch": 3}, 30),
        ({"max_epoch": 3, "max_update": 25}, 25),
        ({"max_epoch": 3, "update_freq": (4, 2)}, 3 + 5 + 5),
        ({"max_epoch": 1, "update_freq": (4, 2)}, 3),
        ({}, None),
    ],
)
def test_the_last_update(options, last):
    """Of epochs of ten batches."""
    time_left = training(**options)
    time_left.follow(range(10))
    assert time_left.last_update() == last


def test_times():
    found = [spell_time(seconds) for seconds in (0.2, 59.4, 61, 3599, 3600 * 23.5, 3600 * 53)]
    assert found == ["0 s", "59 s", "1 min", "1 h 0 min", "23 h 30 min", "2 d 5 h"]
