"""SIGTERM and SIGHUP stop a training where it can go on: after an update, with what is saved at the end of an epoch."""

import atexit
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress
from types import FrameType
from typing import ClassVar

import torch
from fairseq.data.iterators import EpochBatchIterator
from fairseq.distributed import utils as distributed_utils
from omegaconf import DictConfig

from vtlm_fairseq.interrupts import end_children, end_with_parent, give_back_signals, take_signals
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

STOPS = (signal.SIGTERM, signal.SIGHUP)
AGAIN_SECONDS = 2.0  # a launcher passes on what the whole process group has got: within this time it is one signal

_KEYS = {number: f"_{number.name}" for number in STOPS}
_SPAWN = os.path.join("torch", "multiprocessing", "spawn.py")


class StopOnSignal:
    """Lets fairseq's own loop save and stop when a rank has got a signal.

    Each rank adds to its logging output whether it was asked to stop. fairseq sums these over the ranks, so all know it
    at the same update. There `agree` makes this update the last one (``--max-update``), without a validation that the
    run would not have done.

    Args:
        whole: the configuration of the command.
    """

    _last: ClassVar["StopOnSignal | None"] = None  # of this process

    def __init__(self, whole: DictConfig) -> None:
        if StopOnSignal._last is not None:
            StopOnSignal._last.end()
        StopOnSignal._last = self
        self._whole, self._owner = whole, os.getpid()
        saves = not (whole.checkpoint.no_save or whole.checkpoint.no_last_checkpoints)
        self._alone = whole.distributed_training.distributed_world_size == 1
        self._works = saves and (self._alone or not whole.optimization.use_bmuf)  # BMUF does not sum at each update
        self._before: dict[int, object] | None = None  # None: not listening
        self._over = False
        self._asked: signal.Signals | None = None
        self._came: float | None = None  # when this process got it
        self._batches: EpochBatchIterator | None = None
        self._update = 0
        self._postponed = self._ends_epoch = False
        self._status: int | None = None  # once it is decided to stop
        self._left = True  # to fairseq's own end
        self._line = ""
        _guard.watched = self._works

    # -- signals -----------------------------------------------------------------------------------------------

    def _listen(self, task) -> None:
        self._before = {}
        if threading.current_thread() is not threading.main_thread():
            return
        self._before = take_signals(self._ask, STOPS)
        if multiprocessing.parent_process() is not None:
            end_with_parent(signal.SIGTERM)  # torch sends spawned ranks SIGINT, which ends them unsaved
        weakref.finalize(task, self.close).atexit = False

    def close(self) -> None:
        """Give the signals back; in another thread than the main one the next signal does."""
        self._over, _guard.watched, self._batches = True, False, None
        if self._before and threading.current_thread() is threading.main_thread():
            give_back_signals(self._before)
            self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note it, or end at once where it is the second, or the training is over."""
        now = time.monotonic()
        if self._over or os.getpid() != self._owner:
            self.close()
            os.kill(os.getpid(), number)
        elif self._came is None:
            self._asked, self._came = self._asked or signal.Signals(number), now
        elif now - self._came > AGAIN_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # -- in training -------------------------------------------------------------------------------------------

    def follow(self, batches: EpochBatchIterator) -> None:
        """Note the batches of the training set, which know where an epoch ends."""
        self._batches = batches

    def tell(self, log: dict, update_num: int) -> None:
        """Add to a logging output of an update whether this rank was asked to stop."""
        self._update = update_num + 1
        if self._works:
            log.update({key: int(self._asked == number) for number, key in _KEYS.items()})

    def agree(self, task, logs: list[dict]) -> None:
        """Take what `tell` has added out of logging outputs again, and stop if any rank was asked to.

        It is not stopped where an epoch ends, whose figures and learning rate fairseq would lose, nor where it
        validates without saving, which would add to the best checkpoints: then it is the next update.
        """
        sums = {number: sum(int(log.pop(key, -1)) for log in logs) for number, key in _KEYS.items()}
        if any(count < 0 for count in sums.values()):
            return  # a validation
        if self._before is None and self._works and logs and self._batches is not None:
            self._listen(task)
        asked = self._asked if self._alone else next((number for number, count in sums.items() if count), None)
        if asked is None or self._status is not None:
            return
        self._asked = asked
        options = self._whole.optimization
        if 0 < options.max_update <= self._update:
            return  # it ends by itself
        left = len(self._batches) - self._batches.iterations_in_epoch
        epoch = self._batches.epoch
        frequency = options.update_freq[min(epoch, len(options.update_freq)) - 1]
        self._ends_epoch = left < (frequency if options.skip_remainder_batch else 1)
        saves, validates = self._would_do(epoch)
        if (self._ends_epoch or (validates and not saves)) and not self._postponed:
            self._postponed = True
            return
        self._status = 128 + asked
        logger.warning("%s: stopping after update %d", asked.name, self._update)
        self._stop(task, validate=validates and saves)

    def _would_do(self, epoch: int) -> tuple[bool, bool]:
        """Whether fairseq saves and validates after this update (validate_and_save in its train.py)."""
        saving, data = self._whole.checkpoint, self._whole.dataset

        def due(interval: int) -> bool:
            return interval > 0 and self._update % interval == 0

        late = self._update >= data.validate_after_updates
        saves = (self._ends_epoch and epoch % saving.save_interval == 0) or (due(saving.save_interval_updates) and late)
        validates = (
            (saves and not self._ends_epoch)
            or (self._ends_epoch and epoch % data.validate_interval == 0)
            or due(data.validate_interval_updates)
        )
        return saves, validates and late and not data.disable_validation

    def _stop(self, task, *, validate: bool) -> None:
        options, data = self._whole.optimization, self._whole.dataset
        given = options.max_update, data.disable_validation
        options.max_update, data.disable_validation = self._update, data.disable_validation or not validate
        others = getattr(task, "get_checkpoint_dict", dict)

        def get_checkpoint_dict() -> dict:
            # fairseq asks a task that has this method right before it copies the configuration into the checkpoint
            options.max_update, data.disable_validation = given
            return others()

        task.get_checkpoint_dict = get_checkpoint_dict

    def saved(self) -> None:
        """End the process, if the checkpoint that was just saved is the last.

        Raises:
            SystemExit: with status 128 + signal.
        """
        if self._status is None:
            return
        again = " without --restore-file" if self._whole.checkpoint.restore_file != "checkpoint_last.pt" else ""
        last = os.path.join(self._whole.checkpoint.save_dir, "checkpoint_last.pt")
        name = signal.Signals(self._status - 128).name
        self._line = f"error: ended by {name} after update {self._update}; the same command{again} goes on from {last}"
        if not self._ends_epoch and not self._whole.checkpoint.write_checkpoints_asynchronously:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                # the barrier at the end of fairseq's distributed_main, where the other ranks wait
                torch.distributed.barrier(distributed_utils.get_global_group())
            self._leave()

    def end(self) -> None:
        """End a training: of one that was stopped, the process.

        Raises:
            SystemExit: with status 128 + signal.
        """
        self.close()
        if self._status is not None and self._left:
            self._leave()

    def _leave(self) -> None:
        self._left = False
        self._say()
        raise SystemExit(self._status)

    def _say(self) -> None:
        sys.stdout.flush()
        if self._line:
            print(self._line, file=sys.stderr, flush=True)

    def exit(self) -> None:
        """Give the process its status, where fairseq's command has returned as after any training."""
        saved = self._line or distributed_utils.get_global_rank() > 0
        failed = getattr(sys, "last_value", None) is not None
        if self._status is not None and self._left and os.getpid() == self._owner and saved and not failed:
            logging.shutdown()
            end_children()
            with suppress(OSError, ValueError):
                self._say()
            os._exit(self._status)


@atexit.register
def _exit() -> None:
    if StopOnSignal._last is not None:
        StopOnSignal._last.exit()


# -- other processes of a training -----------------------------------------------------------------------------


class _WorkerGuard:
    """Keeps loader workers alive, which get the signal too where a whole job does, until their training ends them."""

    def __init__(self) -> None:
        self.watched = False
        multiprocessing.util.register_after_fork(self, _WorkerGuard.enter)

    def enter(self) -> None:
        """In a child of multiprocessing that was just forked."""
        if self.watched and multiprocessing.current_process().daemon and hasattr(signal, "sigwaitinfo"):
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            threading.Thread(target=self._wait, name="signals", daemon=True).start()

    @staticmethod
    def _wait() -> None:
        while signal.sigwaitinfo(STOPS).si_pid != os.getppid():
            pass
        os._exit(0)


_guard = _WorkerGuard()


def pass_on_to_ranks() -> None:
    """In a command that may spawn a process for each rank, and then only waits: hand on SIGTERM and SIGHUP to them.

    The command ends when they have ended, with status 128 + signal. As long as there are none, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner or not _waits_for_ranks(frame):
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        ranks = multiprocessing.active_children()
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank.pid, number)
        for rank in ranks:
            rank.join()
        raise SystemExit(128 + number)

    owner = os.getpid()
    for number in STOPS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, pass_on)


def _waits_for_ranks(frame: FrameType | None) -> bool:
    """Whether the main thread is in torch's function that spawns processes and waits for them."""
    while frame is not None:
        if frame.f_code.co_filename.endswith(_SPAWN):
            return True
        frame = frame.f_back
    return False
