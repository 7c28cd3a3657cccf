"""What benchmarks/gpu.py times its phases with: cells that are built one by one, then timed in turn."""

import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import plain
import pretraining
import torch
from fairseq.logging import metrics
from generated import Size
from machine import synchronise, timed
from setups import Training

from vtlm_fairseq.tasks.acceleration import graphs

TURNS = 3
_OLDER = """
import logging, sys
from dataclasses import replace
from pathlib import Path
folder, data, name, batch, vocabulary, device = sys.argv[1:]
sys.path[:0] = [folder, folder + "/benchmarks"]
logging.disable(logging.WARNING)
from generated import SIZES
from machine import timed
from setups import Training
size = replace(SIZES[name], batch=int(batch), vocabulary=int(vocabulary))
run = Training(Path(data), size, "pretraining", device=device, regions=True, options=("--autocast", "bf16"), batches=2)
run.step()
for line in sys.stdin:
    print("seconds", timed(run.step, calls=int(line), device=device), flush=True)
"""


class OutOfTime(BaseException):
    """The time of a phase is up. Nothing that catches errors catches it."""


@dataclass
class Step:
    """What is timed: ``time(n)`` gives the seconds of each of n calls; floating-point ``operations`` of a call.

    What runs in a process of its own is ``elsewhere``: its waits and its memory are not seen.
    """

    time: Callable[[int], float]
    operations: float | None = None
    elsewhere: bool = False


Maker = Callable[[], Step]


@dataclass
class Bench:
    """The setting of all phases.

    Attributes:
        name: of the size.
        size: of model and data; the batch is that of a cell.
        folder: with ``fixed`` (all sentences of one length), ``real`` and ``blocks``.
        device: cpu or cuda.
        at_least: seconds that a turn of a cell takes.
        baseline: another checkout.
        found: what the current phase has found, filled as it comes.
    """

    name: str
    size: Size
    folder: Path
    device: str
    at_least: float
    baseline: Path | None = None
    found: dict = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether there is something to wait for."""
        return self.device == "cuda"

    def run(self, phase: Callable[["Bench"], None], box: float) -> dict:
        """What a phase has found in ``box`` seconds; what stopped it is ``error``."""
        self.found = found = {"box_s": box}
        began = time.perf_counter()

        def ring(*_) -> None:
            raise OutOfTime

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, max(box, 1e-3))
        try:
            phase(self)
            synchronise(self.device)
        except OutOfTime:
            found["error"] = f"out of time after {box:.0f} s"
        except Exception as error:
            found |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-2000:]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        found["seconds"] = time.perf_counter() - began
        return found

    def compare(self, title: str, makers: dict[str, Maker], *, pairs: int, **against: str) -> None:
        """Time what is made in turn; ``found["groups"][title]`` gets ``cells`` by name, and ``errors``.

        Args:
            title: of the group.
            makers: they build models and data, untimed; who fails is left out.
            pairs: or sentences, of a call.
            against: names of the cells ``plain`` and ``stock`` that the others are compared with.
        """
        cells, errors, steps, calls = {}, {}, {}, {}
        group = {"pairs": pairs, "against": against, "cells": cells, "errors": errors}
        self.found.setdefault("groups", {})[title] = group
        try:
            for name, make in makers.items():
                with self.reported(errors, name):
                    cells[name], steps[name], calls[name] = self.warm(make)
        finally:  # where time is up, what is built is still timed
            with self.reported(errors, "turns"):
                for _ in range(TURNS):
                    for name, step in steps.items():
                        cells[name]["seconds"].append(step.time(calls[name]))

    def warm(self, make: Maker) -> tuple[dict, Step, int]:
        """A cell, what is timed for it, and the calls of a turn."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        began, before = time.perf_counter(), graphs()
        step = make()
        warm = [step.time(1) for _ in range(4)]
        cell = {"seconds": [], "operations": step.operations, "graphs": graphs() - before}
        cell |= {"first_s": warm[0], "ready_s": time.perf_counter() - began}
        cell |= {"memory_gb": self.memory(step), "waits": self.waits(step)}
        return cell, step, max(1, round(self.at_least / min(warm)))

    def memory(self, step: Step) -> float | None:
        """Peak of the GPU's memory in a call, in 1e9 bytes; fairseq's trainer resets it, and logs what was free."""
        if not self.on_gpu or step.elsewhere:
            return None
        free = metrics.get_meter("default", "gb_free")
        if free is None:
            return torch.cuda.max_memory_allocated() / 1e9
        return torch.cuda.get_device_properties(0).total_memory / 1e9 - free.val * 2**30 / 1e9

    @contextmanager
    def reported(self, errors: dict, name: str) -> Iterator[None]:
        """An error is written down, and what comes next runs."""
        try:
            yield
        except Exception as error:
            errors[name] = f"{type(error).__name__}: {error}"[:500]
            if self.on_gpu:
                torch.cuda.empty_cache()

    def waits(self, step: Step) -> int | None:
        """How often the host waits for the GPU in a call, as PyTorch's debug mode warns of it; None without a GPU."""
        if not self.on_gpu or step.elsewhere:
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                step.time(1)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in caught)

    def step(self, function: Callable[[], object], *, tf32: bool, cudnn: bool, operations: float | None = None) -> Step:
        """A function, with PyTorch's switches as they are to be for it: they are those of the whole process."""

        def time_calls(calls: int) -> float:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            metrics.reset()  # criteria log values of different kinds under the same names
            return timed(function, calls=calls, device=self.device)

        return Step(time_calls, operations)

    def training(self, batch: int, kind: str, *options: str, folder: str = "fixed", **more) -> Training:
        """A training of this project or of stock fairseq, as :class:`setups.Training`."""
        size = replace(self.size, batch=batch)
        more = {"regions": kind == "pretraining", "batches": 2, **more}
        return Training(self.folder / folder, size, kind, device=self.device, options=options, **more)

    def ours(self, batch: int, precision: str = "bf16", *options: str, kind: str = "pretraining", **more) -> Maker:
        """Maker of an update of this project, with the switches that its tasks set on a GPU."""

        def make() -> Step:
            autocast = ("--autocast", "bf16") if precision == "bf16" else ()
            run = self.training(batch, kind, *autocast, *options, **more)
            work = self.operations(run, batch) if kind == "pretraining" else None
            return self.step(run.step, tf32=self.on_gpu and precision != "float32", cudnn=False, operations=work)

        return make

    def stock(self, batch: int, kind: str, folder: str) -> Maker:
        """Maker of an update of stock fairseq: on a GPU with ``--fp16``, its fastest, and its ``adam``."""
        options = ("--fp16",) if self.on_gpu else ()

        def make() -> Step:
            run = self.training(batch, kind, *options, folder=folder, optimizer="adam")
            return self.step(run.step, tf32=False, cudnn=True)

        return make

    def plain(self, batch: int, *, compiled: bool = False) -> Maker:
        """Maker of an update of the same work as VTLM's in plain PyTorch."""

        def make() -> Step:
            run = self.training(batch, "pretraining")
            function = plain.update(run.batches, self.size, run.task.source_dictionary, self.device, compiled=compiled)
            return self.step(function, tf32=self.on_gpu, cudnn=True, operations=self.operations(run, batch))

        return make

    def older(self, batch: int) -> Maker:
        """Maker of an update of VTLM of the baseline, in a process of its own that computes when it is told to."""

        def make() -> Step:
            line = [sys.executable, "-c", _OLDER, str(self.baseline.resolve()), str(self.folder / "fixed"), self.name]
            line += [str(batch), str(self.size.vocabulary), self.device]
            environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
            child = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            return Step(lambda calls: ask(child, calls), elsewhere=True)

        return make

    def operations(self, run: Training, batch: int) -> float:
        """Of an update of VTLM, without its padding."""
        pad, size = run.task.source_dictionary.pad(), replace(self.size, batch=batch)
        return batch * statistics.mean(pretraining.batch_operations(size, one, padding=pad) for one in run.batches)


def ask(child: subprocess.Popen, calls: int) -> float:
    """Seconds a call, of a process that reads numbers of calls."""
    child.stdin.write(f"{calls}\n")
    child.stdin.flush()
    for answer in child.stdout:
        if answer.startswith("seconds "):
            return float(answer.split()[1])
    raise RuntimeError(f"the baseline ended with status {child.wait()}")
