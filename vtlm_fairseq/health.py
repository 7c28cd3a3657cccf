"""Health of long runs: batches behind loss spikes and NaN gradients, a loader that no longer delivers, a clean end."""

import atexit
import math
import multiprocessing
import os
import sys
import threading
import time
from typing import ClassVar, NamedTuple, SupportsFloat

import torch
from fairseq.data.iterators import BackgroundConsumer
from torch import Tensor

from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

WARM_UP = 100  # batches before a loss can count as a spike
SPIKE_FACTOR, SPIKE_MARGIN = 3.0, 1.0
DECAY = 0.99  # of the running mean, a batch
WAIT_SECONDS = 300.0
EXIT_SECONDS = 10.0

_DATALOADER = os.path.join("torch", "utils", "data", "dataloader.py")
_BUFFER = os.path.join("fairseq", "data", "iterators.py")


class _Step(NamedTuple):
    ids: Tensor
    loss: SupportsFloat
    sample_size: Tensor | float
    corpus: str | None


class LossWatch:
    """Warns of batches whose loss leaves the others' range, with the ids of their examples.

    A batch is named where its loss (in nats, divided by its sample size) is not finite, or is above three times the
    running mean of the batches before it and at least 1 above that mean. The mean decays by 0.99 a batch; the first 100
    batches are only averaged.
    """

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._mean = 0.0
        self._count = 0

    def add(self, sample: dict, loss: SupportsFloat, sample_size: Tensor | float) -> None:
        """Note a batch that was trained on; its loss is read by `check`."""
        self._steps.append(_Step(sample["id"], loss, sample_size, sample.get("corpus")))

    def report_nan(self, sample: dict, update_num: int) -> None:
        """Name the examples of a batch of an update whose gradients are not finite, with the loss that it had."""
        losses = [step.loss for step in reversed(self._steps) if torch.equal(step.ids, sample["id"])]
        logger.error(
            "update %d: gradients are not finite; a batch of this update had the loss %.4g in sum; %s",
            update_num, float(losses[0]) if losses else math.nan, name_examples(sample["id"], sample.get("corpus")),
        )  # fmt: skip

    def check(self, update_num: int) -> None:
        """Judge the batches noted since the last call. To be called where the trainer waits for the device anyway."""
        for step in self._steps:
            loss = float(step.loss) / max(1.0, float(step.sample_size))
            finite = math.isfinite(loss)
            spike = self._count >= WARM_UP and loss > max(SPIKE_FACTOR * self._mean, self._mean + SPIKE_MARGIN)
            if spike or not finite:
                logger.warning(
                    "update %d: loss %.4g of a batch (running mean %.4g); %s",
                    update_num, loss, self._mean, name_examples(step.ids, step.corpus),
                )  # fmt: skip
            if finite:
                self._count += 1
                self._mean += (loss - self._mean) * max(1 - DECAY, 1 / self._count)
        self._steps.clear()


def is_nan_rerun() -> bool:
    """Whether fairseq's trainer repeats an update to find out where its gradients became NaN or infinite.

    It calls the task's `train_step` again while it handles the FloatingPointError.
    """
    return isinstance(sys.exc_info()[1], FloatingPointError)


def name_examples(ids: Tensor, corpus: str | None = None) -> str:
    """Ids of a batch as text; an id counts from 0 through the lines of the split (train, then train1, ...), of several
    corpora through those of its own."""
    lines = "line numbers from 0" if corpus is None else f"line numbers from 0 in {corpus}"
    return f"ids ({lines}): {' '.join(map(str, sorted(ids.tolist())))}"


class LoaderWatch:
    """A thread that warns where the main thread has waited for one batch too long, and repeats it.

    Args:
        seconds: how long is too long.
    """

    _running: ClassVar["LoaderWatch | None"] = None

    def __init__(self, seconds: float = WAIT_SECONDS) -> None:
        self._seconds = seconds
        self._batches = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="loader watch", daemon=True)

    def start(self) -> None:
        """Begin to watch; the watch over an earlier training of this process ends, which would wait in vain."""
        if LoaderWatch._running is not None:
            LoaderWatch._running.stop()
        LoaderWatch._running = self
        self._thread.start()
        atexit.register(self.stop)  # a thread that still waits when the interpreter ends may abort the process

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        atexit.unregister(self.stop)

    def arrived(self) -> None:
        """Note that a batch has come."""
        self._batches += 1

    def _run(self) -> None:
        polls = 10
        seen, waited = -1, 0
        while not self._stop.wait(self._seconds / polls):
            waited = waited + 1 if _main_thread_waits() and self._batches == seen else 0
            seen = self._batches
            if waited and waited % polls == 0:
                pids = [str(child.pid) for child in multiprocessing.active_children()]
                workers = (
                    f"its {len(pids)} workers have the process ids {', '.join(pids)}" if pids else "it has no workers"
                )
                logger.warning(
                    "no batch from the data loader for %.0f s; %s; do the disks of text and regions still answer?",
                    self._seconds * waited / polls, workers,
                )  # fmt: skip


def _main_thread_waits() -> bool:
    """Whether the main thread is in torch's data loader, or in fairseq's queue in front of it."""
    frame = sys._current_frames().get(threading.main_thread().ident)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(_DATALOADER):
            return True
        if code.co_filename.endswith(_BUFFER) and code.co_qualname == "BufferedIterator.__next__":
            return True
        frame = frame.f_back
    return False


@atexit.register
def settle_readers(seconds: float = EXIT_SECONDS) -> None:
    """Wait until no thread of fairseq reads batches ahead, at most so long.

    They are daemons, and may be inside torch when the interpreter ends (a training that stopped in mid-epoch, a loader
    that still ends its workers); Python then ends the thread there, which aborts the whole process.
    """
    deadline = time.monotonic() + seconds
    while any(map(_reads, threading.enumerate())) and time.monotonic() < deadline:
        time.sleep(0.01)


def _reads(thread: threading.Thread) -> bool:
    """Whether the thread reads ahead, and does not just wait for room in its full queue."""
    if not isinstance(thread, BackgroundConsumer):
        return False
    frame = sys._current_frames().get(thread.ident)
    names = [of.f_code.co_qualname for of in (frame, frame and frame.f_back) if of]
    return names != ["Condition.wait", "Queue.put"] or not thread._queue.full()
