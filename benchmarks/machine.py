"""The machine: what it is, how fast it multiplies matrices, and functions timed in turn."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def describe(device: str, threads: int) -> dict:
    """Processor, cores, memory, versions, and what else was running."""
    found = {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_average": list(os.getloadavg()),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "allocation": {name: value for name, value in sorted(os.environ.items()) if name.startswith("MALLOC_")},
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
        found["cuda"] = torch.version.cuda
    return found


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_model() -> str:
    """The processor's name (Linux)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def synchronise(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object], *, calls: int, device: str) -> float:
    """Seconds a call, by events of the GPU where there is one."""
    synchronise(device)
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls


def in_turn(
    functions: Mapping[str, Callable[[], object]], *, repeats: int, device: str = "cpu", at_least: float = 0.5
) -> dict[str, list[float]]:
    """Time functions in turn (A B C A B C ...), so that what else the machine does hits all alike.

    Each is called before, untimed: first calls allocate; a second call tells how many calls fill a turn.

    Args:
        functions: by name.
        repeats: turns.
        device: cpu or cuda.
        at_least: seconds that one turn of a function takes; a faster one is called several times. 0: one call.

    Returns:
        seconds a call, by name, one for each turn.
    """
    calls = {}
    for name, function in functions.items():
        function()
        calls[name] = max(1, math.ceil(at_least / timed(function, calls=1, device=device))) if at_least else 1
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(timed(function, calls=calls[name], device=device))
    return seconds


def speedup(seconds: Mapping[str, list[float]], fast: str, slow: str) -> float:
    """How many times faster one function is: the median over turns of the ratio within a turn."""
    return statistics.median(b / a for a, b in zip(seconds[fast], seconds[slow], strict=True))


def products(
    dtype: str, *, device: str, feed_forward: tuple[int, int, int], squares: tuple[int, ...] = (1024, 2048, 4096)
) -> dict[str, tuple[Callable[[], object], float]]:
    """Matrix products to find the machine's rate with.

    Args:
        dtype: a name of `DTYPES`.
        device: cpu or cuda.
        feed_forward: (n, k, m): a product n x k times k x m, the model's own.
        squares: sizes of square products.

    Returns:
        by name: the function, and its floating-point operations.
    """
    shapes = {f"{size}^3": (size, size, size) for size in squares}
    shapes["x".join(map(str, feed_forward))] = feed_forward
    made = {}
    for name, (n, k, m) in shapes.items():
        a, b = (torch.randn(shape, device=device, dtype=DTYPES[dtype]) for shape in ((n, k), (k, m)))
        out = torch.empty(n, m, device=device, dtype=DTYPES[dtype])
        made[f"product {dtype} {name}"] = (lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 2.0 * n * k * m)
    return made
