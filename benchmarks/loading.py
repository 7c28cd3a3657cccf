"""Reading regions: images a second for some numbers of workers, beside a raw read of the same bytes."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from fairseq.data.iterators import GroupedIterator
from fairseq.logging import metrics
from generated import Size, image_bytes, write_data, write_store, write_text
from generated import real_lengths as draw_lengths
from machine import in_turn, synchronise
from setups import Training
from torch.utils.data import DataLoader, Dataset

from vtlm_fairseq.data.line_regions import LineRegions, RegionsBatch
from vtlm_fairseq.data.shared import send_small_by_value
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.regions.schema import open_file
from vtlm_fairseq.regions.store import RegionStore

SLICES = 5  # a cold pass reads a part of the file, another one in each turn
ON_DEVICE = "--regions-on-device"
SHARE = 3  # a warm pass reads one of so many images, drawn at random


class _Lines(Dataset):
    """The regions of lines, as the training datasets read them."""

    def __init__(self, regions: LineRegions):
        self.regions = regions

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, line: int):
        return self.regions[line]


def measure(folder: Path, size: Size, *, device: str, repeats: int, gigabytes: float, updates: int) -> dict:
    """Images a second; returns as :func:`pretraining.measure`.

    Args:
        folder: for the generated data, which are left there and used again.
        size: of model, batch and regions.
        device: where the training that waits for data runs.
        repeats: turns.
        gigabytes: of features.
        updates: of VTLM, to see how long it waits for data.
    """
    data = folder / f"loading-{gigabytes:g}GB"
    images = max(2 * size.batch, round(gigabytes * 1e9 / image_bytes(size)))
    path = data / "regions.h5"
    if not path.exists():
        write_data(data, size, pairs=images)
    store = RegionStore([str(path)])
    lines = LineRegions(store, np.arange(images), order="given", seed=1, split="train")
    part = max(size.batch, images // SHARE)
    order = np.random.default_rng(1).permutation(images)[:part]
    run = Training(data, size, "pretraining", device=device, regions=True, options=("--num-workers", "1"), batches=0)
    functions: dict[str, Callable[[], object]] = {"raw": lambda: raw_read(path, size, np.arange(part))}
    for workers in size.workers:
        functions[f"regions, workers: {workers}"] = lambda w=workers: drain(region_batches(lines, size, w, order))
    run.task.load_dataset("train")
    for workers in size.workers:
        functions[f"pre-training batches, workers: {workers}"] = lambda w=workers: drain(
            run.task.get_batch_iterator(
                run.task.dataset("train"),
                max_sentences=size.batch,
                num_workers=w,
                seed=1,
                data_buffer_size=run.cfg.dataset.data_buffer_size,
                disable_iterator_cache=True,
            ).next_epoch_itr(shuffle=True),
            part // size.batch,
        )
    seconds = in_turn(functions, repeats=repeats, at_least=0)
    placed = Training(data, size, "pretraining", device=device, regions=True, options=(ON_DEVICE,), batches=0)
    placed.task.load_dataset("train")
    costs = cpu_costs(
        {name: one.task.dataset("train") for name, one in (("as it is", run), (ON_DEVICE, placed))},
        size,
        order,
        repeats,
    )
    cold = cold_reads(path, lines, size, repeats)
    rows = []
    for name, times in seconds.items():
        found = median(cold[name]) if name in cold else None
        rows.append([name, part / median(times), part * image_bytes(size) / median(times) / 1e9, found])
    table = Table(["reader", "images/s", "GB/s", "images/s, cold"], rows)
    table.precision = {"images/s": 0, "images/s, cold": 0}
    table.title = (
        f"Loading {images} images of {size.regions} x {size.region_dim} float16, "
        f"{images * image_bytes(size) / 1e9:.3f} GB, {part} of them in a turn, in a random order but for raw"
    )
    loop = in_the_loop(run, updates, device)
    table.notes = [
        "cold: after the file was dropped from the page cache (posix_fadvise); a disk below may still have it",
        f"VTLM training with 1 worker waits for data {100 * loop.waiting:.2f} % of its time "
        f"({sum(loop.seconds) / updates:.3f} s an update)",
    ]
    figures = {
        **{f"us of CPU a pair, {name}": median(found) for name, found in costs.items()},
        "images/s, 1 worker": part / median(seconds["regions, workers: 1"]),
        "images/s of pre-training batches, 1 worker": part / median(seconds["pre-training batches, workers: 1"]),
        "share of training that waits for data": loop.waiting,
    }
    seconds |= {f"{name}, cold": found for name, found in cold.items()}
    return {"tables": [table], "figures": figures, "seconds": {**seconds, **{f"us, {n}": t for n, t in costs.items()}}}


def cpu_costs(datasets: dict[str, TranslationLMDataset], size: Size, order: np.ndarray, repeats: int) -> dict:
    """Microseconds of CPU that a pair of a pre-training batch takes, in this process and on one thread, in each turn.

    Args:
        datasets: by name.
        size: of the batch.
        order: [n] pairs that are read.
        repeats: turns.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    batches = [order[i : i + size.batch].tolist() for i in range(0, len(order) - size.batch + 1, size.batch)]
    costs: dict[str, list[float]] = {name: [] for name in datasets}
    for _ in range(repeats):
        for name, dataset in datasets.items():
            start = time.process_time()
            for rows in batches:
                dataset.collater(dataset.__getitems__(rows))
            costs[name].append((time.process_time() - start) / len(batches) / size.batch * 1e6)
    torch.set_num_threads(threads)
    return costs


def raw_read(path: Path, size: Size, images: np.ndarray, *, block: int = 512) -> int:
    """Read the features of consecutive images with h5py, ``block`` images at once into one array; returns bytes."""
    with open_file(str(path)) as file:
        features = file["features"]
        out = np.empty((block * size.regions, size.region_dim), features.dtype)
        end = (int(images[-1]) + 1) * size.regions
        for first in range(int(images[0]) * size.regions, end, len(out)):
            count = min(len(out), end - first)
            features.read_direct(out, np.s_[first : first + count], np.s_[:count])
        return (end - int(images[0]) * size.regions) * size.region_dim * features.dtype.itemsize


def region_batches(lines: LineRegions, size: Size, workers: int, images: np.ndarray) -> DataLoader:
    """Collated regions of images in a random order, without text."""
    order = np.random.default_rng(1).permutation(images).tolist()
    batches = [order[i : i + size.batch] for i in range(0, len(order), size.batch)]
    collate = partial(_collate, lines.width)
    return DataLoader(_Lines(lines), batch_sampler=batches, num_workers=workers, collate_fn=collate)


def _collate(width: Callable[[np.ndarray], int], regions: list) -> dict:
    """As the training datasets do it."""
    return send_small_by_value(RegionsBatch.of(regions, width).collated())


def drain(batches: Iterable, count: int | None = None) -> None:
    """Read all batches, or the first ones."""
    for _ in islice(batches, count):
        pass


def drop_cache(path: Path) -> None:
    """Ask the system to forget the pages of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def cold_reads(path: Path, lines: LineRegions, size: Size, repeats: int) -> dict[str, list[float]]:
    """Images a second from a file that is not in the page cache, raw and with one worker."""
    slices = np.array_split(np.arange(len(lines)), SLICES)
    rates: dict[str, list[float]] = {"raw": [], "regions, workers: 1": []}
    for turn in range(repeats):
        images = slices[turn % SLICES]
        for name, read in (
            ("raw", lambda images=images: raw_read(path, size, images)),
            ("regions, workers: 1", lambda images=images: drain(region_batches(lines, size, 1, images))),
        ):
            drop_cache(path)
            start = time.perf_counter()
            read()
            rates[name].append(len(images) / (time.perf_counter() - start))
    return rates


@dataclass
class Loop:
    """What some updates of a training took, with its loader.

    Attributes:
        seconds: of each update, with the wait for its batch.
        waited: of them, seconds of waiting.
        pairs: in all.
        padding: share of the text positions that is padding.
    """

    seconds: list[float]
    waited: float
    pairs: int
    padding: float

    @property
    def rate(self) -> float:
        """Pairs a second."""
        return self.pairs / sum(self.seconds)

    @property
    def waiting(self) -> float:
        """Share of the time that training waits for its next batch."""
        return self.waited / sum(self.seconds)

    @property
    def p99(self) -> float:
        """99th percentile of the seconds of an update."""
        return float(np.quantile(self.seconds, 0.99))


def in_the_loop(run: Training, updates: int, device: str) -> Loop:
    """Train on batches of the loader. The first update is not counted: its wait is the start of the workers."""
    iterator = run.trainer.get_train_iterator(epoch=1, load_dataset=False)
    batches = iter(GroupedIterator(iterator.next_epoch_itr(shuffle=True), 1))
    run.trainer.train_step(next(batches))
    synchronise(device)
    marks, waited, pairs, words, positions = [time.perf_counter()], 0.0, 0, 0, 0
    for _ in range(updates):
        batch = next(batches)
        waited += time.perf_counter() - marks[-1]
        run.trainer.train_step(batch)
        marks.append(time.perf_counter())
        pairs += batch[0]["nsentences"]
        words += int(batch[0]["net_input"]["src_lengths"].sum())
        positions += batch[0]["net_input"]["src_tokens"].numel()
    synchronise(device)
    marks[-1] = time.perf_counter()
    return Loop(np.diff(marks).tolist(), waited, pairs, 1 - words / positions)


def real_lengths(folder: Path, size: Size, *, device: str, updates: int) -> dict:
    """Training on sentences as long as Multi30k's, padded, from the loader; as :func:`pretraining.measure`."""
    data = folder / "lengths"
    write_real(data, size, pairs=(updates + 2) * size.batch)
    rows, figures, seconds = [], {}, {}
    for kind, workers in [*(("pretraining", n) for n in size.workers), ("translation", 1)]:
        options = ("--num-workers", str(workers))
        run = Training(data, size, kind, device=device, regions=True, options=options, batches=0)
        run.task.load_dataset("train")
        metrics.reset()  # two criteria log values of different kinds under the same names
        loop = in_the_loop(run, updates, device)
        name = f"{'VTLM' if kind == 'pretraining' else 'MMT'}, workers: {workers}"
        rows.append([name, loop.rate, median(loop.seconds), loop.p99, 100 * loop.waiting, 100 * loop.padding])
        figures |= {f"pairs/s: {name}": loop.rate, f"share of waiting: {name}": loop.waiting}
        seconds[name] = loop.seconds
    columns = ["training", "pairs/s", "s an update", "s, 99th percentile", "% waiting", "% padding"]
    table = Table(
        columns, rows, title=f"Sentences as long as Multi30k's, {size.batch} pairs, loader in the loop, float32"
    )
    table.precision = {"pairs/s": 1, "s an update": 4, "s, 99th percentile": 4}
    return {"tables": [table], "figures": figures, "seconds": seconds}


def write_real(data: Path, size: Size, *, pairs: int) -> None:
    """Write ``bin``, sentences as long as Multi30k's, and ``regions.h5``, an image for eight pairs each."""
    images = -(-pairs // 8)
    lengths = draw_lengths(np.random.default_rng(1), pairs)
    write_text(data / "bin", size, pairs=pairs, seed=1, lengths=lengths, image_id=lambda i: f"image{i % images}")
    write_store(data / "regions.h5", size, images=images, seed=1)
