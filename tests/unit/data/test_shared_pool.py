"""A tensor from a worker's buffer never changes under its holder, and the buffer is used again once it is dropped."""

import copy
import gc
import os
import pickle
import signal
import time
from itertools import zip_longest
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from fairseq.data.iterators import BufferedIterator
from stacks import stack_padded
from torch.utils.data import DataLoader, Dataset

from vtlm_fairseq.data import shared_pool
from vtlm_fairseq.data.shared import send_small_by_value

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no buffers without memfd_create")
WIDTH = 20_000


def arrays(number: int) -> list[np.ndarray]:
    """Arrays of batch ``number``, 40 kB a row, of most batches too large for the pipe."""
    rng = np.random.default_rng(number)
    dtype = rng.choice(["float16", "float32"])
    return [
        rng.integers(-99, 99, (int(rows), WIDTH), np.int8).astype(dtype)
        for rows in rng.integers(0, 6, rng.integers(1, 5))
    ]


def stacked(number: int) -> torch.Tensor:
    """The features of a batch, in this process or in a worker."""
    return stack_padded(arrays(number), 6)


class Batches(Dataset):
    """Batch ``number`` of ``count``; a process reads them one at a time."""

    def __init__(self, count: int, rows: int | None = None) -> None:
        self.count = count
        self.rows = rows

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict:
        if self.rows is None:
            return send_small_by_value({"number": number, "features": stacked(number)})
        return send_small_by_value(
            {"features": stack_padded([np.full((self.rows, WIDTH), number, np.float16)], self.rows)}
        )


def loader(dataset: Dataset, **options) -> DataLoader:
    return DataLoader(dataset, batch_size=None, **{"num_workers": 1, **options})


def addresses(dataset: Dataset, **options) -> set[int]:
    """Where batches lie of which none is kept."""
    return {batch["features"].data_ptr() for batch in loader(dataset, **options)}


def mapped() -> int:
    """How many buffers this process has mapped or open."""
    names = Path("/proc/self/maps").read_text().splitlines()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:  # the one of iterdir itself
            pass
    return sum("memfd:batches" in name for name in names)


@pytest.fixture(autouse=True)
def nothing_stays():
    """After each test no buffer is mapped or open here, and nothing new is in /dev/shm."""
    before = set(os.listdir("/dev/shm"))
    yield
    gc.collect()  # tracebacks of errors that were expected
    assert mapped() == 0
    end = time.monotonic() + 5  # what other tests' processes hand over stands there for a moment
    while kept := {name for name in set(os.listdir("/dev/shm")) - before if may_be_ours(name)}:
        assert time.monotonic() < end, kept
        time.sleep(0.05)


def may_be_ours(name: str) -> bool:
    """Whether PyTorch's shared memory is of this process, of one that it made, or of one that has ended."""
    if not name.startswith("torch_"):
        return False
    pid = int(name.split("_")[1])
    while pid > 1 and pid != os.getpid():
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            return True
    return pid == os.getpid()


HOLD = {
    "whole": lambda tensor: tensor,
    "slice": lambda tensor: tensor[-1:, 1:3],
    "transposed": lambda tensor: tensor.view(-1, WIDTH).t()[7:],
    "numpy": lambda tensor: torch.from_numpy(tensor.numpy()[:, 2:]),
    "storage": lambda tensor: torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage(), 0, tensor.shape),
    "detached": lambda tensor: tensor.view(torch.int16).detach(),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "buffered", "options"),
    [
        (1, 0, {}),
        (2, 10, {}),
        (3, 0, {"num_workers": 3, "persistent_workers": True, "prefetch_factor": 4}),
        pytest.param(4, 0, {"multiprocessing_context": "spawn", "persistent_workers": True}, marks=pytest.mark.slow),
    ],
    ids=["one worker", "fairseq's buffer", "persistent", "spawn"],
)
def test_what_is_held_never_changes(seed, buffered, options):
    """Two loaders in turn, two epochs, batches and parts of them held at random for random times."""
    rng = np.random.default_rng(seed)
    loaders = [loader(Batches(24), **options), loader(Batches(40))]
    held = []
    for _ in range(2):
        both = [BufferedIterator(buffered, one) if buffered else one for one in loaders]
        for batches in zip_longest(*both):
            for batch in batches:
                if batch is None:
                    continue
                expected = stacked(batch["number"])
                assert batch["features"].dtype == expected.dtype and torch.equal(batch["features"], expected)
                if rng.random() < 0.5:
                    part = HOLD[rng.choice(list(HOLD))]
                    held.append((part(batch["features"]), part(expected)))
                else:
                    batch["features"].fill_(99)  # who has it may write to it
            for tensor, expected in held:
                assert torch.equal(tensor, expected)
            held = [one for one in held if rng.random() < 0.9]
        for one in both if buffered else ():
            one._consumer.join()
    del loaders, both, batches, batch
    assert held and mapped()
    for tensor, expected in held:
        assert torch.equal(tensor, expected)


def test_a_dropped_batch_gives_its_buffer_back():
    """Two batches of each worker are on their way and one is in use."""
    assert len(addresses(Batches(30, rows=4))) <= 4
    assert 2 <= len(addresses(Batches(30, rows=4), num_workers=2)) <= 8


def test_batches_of_any_length_use_the_same_buffers():
    """One that is too small makes room for a larger one."""
    grows = [stack_padded([np.ones((1 + number // 3, WIDTH), np.float16)], 4 + number // 3) for number in range(30)]

    class Growing(Batches):
        def __getitem__(self, number: int) -> dict:
            rows = 1 + number // 3
            return send_small_by_value({"features": stack_padded([np.ones((rows, WIDTH), np.float16)], rows + 3)})

    most = 0
    for batch, expected in zip(loader(Growing(30)), grows, strict=True):
        assert torch.equal(batch["features"], expected)
        most = max(most, mapped())
    assert most <= 2 * 4  # a map and its descriptor each


def test_more_batches_than_buffers(monkeypatch):
    """The others come as PyTorch sends tensors."""
    monkeypatch.setattr(shared_pool, "MOST", 3)
    batches = iter(loader(Batches(20, rows=4)))
    held = [batch["features"] for batch in batches]
    assert [tensor[0, 0, 0].item() for tensor in held] == list(range(20))
    assert [tensor.is_shared() for tensor in held] == [False] * 3 + [True] * 17


def test_a_killed_worker():
    batches = iter(loader(Batches(9, rows=4)))
    kept = next(batches)["features"]
    pid = batches._workers[0].pid
    with pytest.raises(RuntimeError, match="killed by signal"):  # by PyTorch's handler of SIGCHLD
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        time.sleep(10)
    del batches
    assert kept.unique().tolist() == [0]


def test_copies_are_of_their_own():
    """A tensor that is pickled, copied or sent on does not change when the buffer is filled again."""
    batches = iter(loader(Batches(30, rows=4)))
    features = next(batches)["features"]
    place = features.data_ptr()
    copies = [
        pickle.loads(pickle.dumps(features)),
        copy.deepcopy(features),
        features.to(torch.float32),
        features.to("cpu", copy=True),
    ]
    del features
    gc.collect()  # pickling in torch 2.6 leaves a cycle with the storage
    assert place in {batch["features"].data_ptr() for batch in batches}
    assert [one.unique().tolist() for one in copies] == [[0]] * 4


def test_sent_on_to_another_process():
    """As torch.multiprocessing does it, which moves the tensor itself to memory of its own."""
    batches = iter(loader(Batches(30, rows=4)))
    features = next(batches)["features"]
    other = pickle.loads(ForkingPickler.dumps(features))
    for batch in batches:
        assert batch["features"].data_ptr() not in (features.data_ptr(), other.data_ptr())
    assert features.unique().tolist() == other.unique().tolist() == [0]


def test_a_forked_process_keeps_its_tensors():
    """It inherits a tensor which the training process drops before the loader's next batches."""
    batches = iter(loader(Batches(40, rows=4)))
    features = next(batches)["features"]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(writer)
        os.read(reader, 1)  # or the other end is gone
        os._exit(int(features.numpy().any()))  # PyTorch's threads do not work after a fork
    os.close(reader)
    del features
    assert len({batch["features"].data_ptr() for batch in batches}) <= 5
    os.close(writer)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.slow
def test_a_forked_process_gives_no_buffer_back():
    """What it drops is still held here; the worker makes another buffer in the place of that one."""
    batches = iter(loader(Batches(40, rows=4)))
    for number in range(8):
        features = next(batches)["features"]
        child = os.fork()
        if not child:
            del features
            os._exit(0 if mapped() == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
        next(batches), next(batches)
        assert features.unique().tolist() == [3 * number]
    assert mapped() <= 2 * 5


def test_a_forked_worker_has_buffers_of_its_own():
    """It would fill those of the worker that it was forked from at the same time."""
    worker = os.fork()
    if not worker:
        shared_pool.take(WIDTH)[:] = 1
        if not os.fork():
            shared_pool.take(WIDTH)[:] = 2
            os._exit(0)
        os.wait()
        os._exit(0 if shared_pool.take(WIDTH)[0] == 1 else 1)  # the one that was dropped
    assert os.waitpid(worker, 0)[1] == 0


class Turned(Batches):
    """Not as they were stacked: other strides, another type, a part, less than the pipe takes."""

    def __getitem__(self, number: int) -> dict:
        features = stack_padded(arrays(number), 6)
        return send_small_by_value(TURNS[number % len(TURNS)](features))


TURNS = (
    lambda features: features.transpose(0, 1),
    lambda features: features.transpose(1, 2),
    lambda features: features.view(torch.bfloat16 if features.dtype == torch.float16 else torch.int64),
    lambda features: features[:1],
    lambda features: features[-1:, 2:],
    lambda features: features[..., :9],
)


def test_other_views_of_the_stacked_arrays():
    expected = [Turned(18)[number] for number in range(18)]
    for batch, other in zip(loader(Turned(18)), expected, strict=True):
        assert batch.dtype == other.dtype and torch.equal(batch, other)


class Awkward(Batches):
    """Batches that fail after their memory was taken, that hold a tensor twice, or of which the worker keeps one."""

    def __getitem__(self, number: int) -> dict:
        features = stack_padded([np.full((4, WIDTH), number, np.float16)], 4)
        if number % 5 == 1:
            raise ValueError("awkward")
        if number == 2:
            self.kept = features
        batch = {"first": features, "again": features, "part": features[:, 1:], "kept": getattr(self, "kept", features)}
        return send_small_by_value(batch)


@pytest.mark.slow
def test_awkward_batches():
    batches = iter(loader(Awkward(40)))
    held, places = [], set()
    for number in range(40):
        if number % 5 == 1:
            with pytest.raises(ValueError, match="awkward"):
                next(batches)
            continue
        batch = next(batches)
        places.add(batch["first"].data_ptr())
        held.append((batch["again" if number % 2 else "part"], number))
        assert batch["first"].unique().tolist() == [number]
        assert batch["kept"].unique().tolist() == [2 if number > 1 else number]
    assert all(tensor.unique().tolist() == [number] for tensor, number in held)
    with pytest.raises(StopIteration):
        next(batches)
    assert len(places) < 10
