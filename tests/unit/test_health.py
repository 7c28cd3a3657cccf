"""Long runs: loss spikes and NaN gradients name the batch's ids; a loader that stands still is reported."""

import logging
import sys
import time

import numpy as np
import pytest
import torch
from fairseq.data.iterators import BufferedIterator
from torch.utils.data import DataLoader, Dataset

from harness import shell
from vtlm_fairseq.health import WARM_UP, LoaderWatch, LossWatch, is_nan_rerun, settle_readers


def warnings_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "vtlm_fairseq.health"]


def feed(watch: LossWatch, losses, *, sample_size=1.0, first: int = 0) -> None:
    """One update a loss, of batch (2k, 2k + 1)."""
    for k, loss in enumerate(losses, first):
        watch.add({"id": torch.tensor([2 * k + 1, 2 * k])}, torch.tensor(loss * sample_size), torch.tensor(sample_size))
        watch.check(k)


def test_a_spike_names_its_batch(caplog):
    """Three times the mean of the batches before, and 1 nat above."""
    watch = LossWatch()
    feed(watch, [2.0] * WARM_UP)
    feed(watch, [5.9, 2.0], first=100)  # less than three times the mean of about 2
    assert warnings_of(caplog) == []
    feed(watch, [6.5, 2.0], first=200)
    (line,) = warnings_of(caplog)
    assert line == "update 200: loss 6.5 of a batch (running mean 2.039); ids (line numbers from 0): 400 401"
    caplog.clear()
    watch = LossWatch()  # small losses and the first batches are no spikes
    feed(watch, [0.01, 9.0, 0.01, *[0.01] * WARM_UP])
    feed(watch, [1.0], first=500)  # a hundred times the mean of about 0.1, but not 1 above it
    assert warnings_of(caplog) == []
    watch = LossWatch()  # the loss is divided by the sample size
    feed(watch, [2.0] * WARM_UP, sample_size=10.0)
    feed(watch, [2.0], sample_size=400.0, first=200)
    assert warnings_of(caplog) == []
    feed(watch, [8.0], sample_size=2.0, first=300)
    assert len(warnings_of(caplog)) == 1
    caplog.clear()
    # every batch of an update is judged: --update-freq 3; the losses are looked at once, in optimizer_step
    for ids, loss in (([7, 3], 2.0), ([9, 8], 30.0), ([5, 1], 2.0)):
        watch.add({"id": torch.tensor(ids)}, torch.tensor(loss), 1)
    assert warnings_of(caplog) == []
    watch.check(4321)
    (line,) = warnings_of(caplog)
    assert line.startswith("update 4321: loss 30 ") and line.endswith(" 8 9")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_at_once_and_left_out_of_the_mean(caplog, loss):
    watch = LossWatch()
    feed(watch, [2.0, loss, 2.0])
    (line,) = warnings_of(caplog)
    assert line.startswith("update 1: ") and line.endswith(" 2 3") and str(loss) in line
    feed(watch, [2.0] * WARM_UP + [6.5], first=100)
    assert "running mean 2)" in warnings_of(caplog)[-1]


def test_the_repeated_update_is_known_by_the_error_in_flight():
    assert not is_nan_rerun()
    try:
        raise FloatingPointError("gradients are Nan/Inf")
    except FloatingPointError:
        assert is_nan_rerun()
    assert not is_nan_rerun()


def test_a_batch_of_a_spoilt_update_is_named_with_its_loss(caplog):
    """The loss is that of the update itself; the repetition draws other dropout."""
    watch = LossWatch()
    for ids, loss in (([12, 4], 7.5), ([3], 1.0), ([12, 4], 9.5)):
        watch.add({"id": torch.tensor(ids)}, torch.tensor(loss), 1)
    watch.report_nan({"id": torch.tensor([12, 4])}, 77)
    (line,) = warnings_of(caplog)
    assert line.startswith("update 77: ") and " 9.5 " in line and line.endswith(": 4 12")


class Slow(Dataset):
    """Items that take a while."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        time.sleep(0.9 * index)
        return index


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_that_stands_still_is_reported(caplog, workers):
    watch = LoaderWatch(seconds=0.3)
    watch.start()
    with caplog.at_level(logging.WARNING):
        for _ in DataLoader(Slow(), batch_size=1, num_workers=workers):
            watch.arrived()
        seen = len(warnings_of(caplog))
        time.sleep(0.5)  # busy with something else than the loader
    watch.stop()
    lines = warnings_of(caplog)
    assert 1 <= seen == len(lines)
    assert lines[0].startswith("no batch ") and " 0 s; " in lines[0]
    assert ("1 workers" in lines[0]) == bool(workers)


@pytest.mark.slow
def test_a_slow_loader_that_delivers_is_not_reported(caplog):
    watch = LoaderWatch(seconds=0.5)
    watch.start()
    for _ in DataLoader(np.arange(12), collate_fn=lambda items: time.sleep(0.1)):
        watch.arrived()
    watch.stop()
    assert warnings_of(caplog) == []


class Stuck:
    """Nothing comes."""

    def __len__(self) -> int:
        return 1

    def __iter__(self):
        time.sleep(60)
        yield 1


STOPS_WHILE_FAIRSEQ_READS = """
import atexit, time
atexit.register(lambda: print("read", batches._consumer.count))  # registered first, called last

import vtlm_fairseq
vtlm_fairseq.register()
from fairseq.data.iterators import BufferedIterator

class Source:
    def __len__(self):
        return 100
    def __iter__(self):
        while True:
            time.sleep(0.05)
            yield 1

batches = BufferedIterator(10, Source())
next(batches)
"""


@pytest.mark.slow
def test_an_end_while_fairseq_reads_ahead(tmp_path):
    """The interpreter waits for the thread; else it may end it inside torch, which aborts the process (status -6)."""
    ended = shell(sys.executable, "-c", STOPS_WHILE_FAIRSEQ_READS, cwd=tmp_path)
    assert (ended.status, ended.last_line) == (0, "read 11"), ended.output


def test_readers_settle():
    """A reader settles when its queue is full, or at the end of its source; one that stands still is given up."""
    full, ended, stuck = BufferedIterator(2, range(9)), BufferedIterator(2, [1]), BufferedIterator(2, Stuck())
    next(full), next(ended)
    settle_readers()
    assert full._queue.full() and full._consumer.is_alive() and not ended._consumer.is_alive()
    stuck._create_consumer()
    before = time.monotonic()
    settle_readers(seconds=0.3)
    assert 0.3 <= time.monotonic() - before < 5
