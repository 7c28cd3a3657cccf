"""Memory of a loader worker that reads a large region store."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.regions.schema import SCHEMA_VERSION
from vtlm_fairseq.regions.store import RegionStore

IMAGES, REGIONS, DIM = 18_100, 36, 1536  # 2.0 GB of float16


def write_large_store(path: Path) -> None:
    """A store of 2 GB of zeros: allocated in the file, of which the file system keeps nothing but holes."""
    regions = IMAGES * REGIONS
    with h5py.File(path, "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple((regions, DIM)), layout)
        for name, shape, dtype in (
            ("boxes", (regions, 4), "f4"),
            ("labels", (regions,), "i2"),
            ("scores", (regions,), "f4"),
        ):
            file.create_dataset(name, data=np.zeros(shape, dtype))
        ids = np.array([f"{i:08d}.jpg".encode() for i in range(IMAGES)])
        file.create_dataset("ids", data=ids.astype(h5py.string_dtype("utf-8", ids.dtype.itemsize)))
        file.create_dataset("offsets", data=np.arange(IMAGES + 1, dtype=np.int64) * REGIONS)
        file.create_dataset("class_names", data=["thing"], dtype=h5py.string_dtype("utf-8"))
        file.attrs.update({"schema_version": SCHEMA_VERSION, "detector": "none", "created_by": "test",
                           "feature_dim": DIM, "num_classes": 1})  # fmt: skip


class PrivateMemory(Dataset):
    """Reads a line's regions and returns the reader's private memory in MB."""

    def __init__(self, regions: LineRegions):
        self.regions = regions

    def __len__(self) -> int:
        return len(self.regions)

    def __getitem__(self, line: int) -> float:
        assert self.regions[line].features.shape == (REGIONS, DIM)
        status = Path("/proc/self/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) / 1000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_worker_memory_does_not_grow(tmp_path):
    """PITFALLS 23: 1,000 random reads, 111 MB of features, of a 2 GB store."""
    write_large_store(tmp_path / "large.h5")
    assert (tmp_path / "large.h5").stat().st_size > 2e9
    store = RegionStore([str(tmp_path / "large.h5")])
    regions = LineRegions(store, np.arange(IMAGES), order="given", seed=1, split="train")
    lines = np.random.default_rng(0).choice(IMAGES, 1010, replace=False).tolist()
    loader = DataLoader(PrivateMemory(regions), batch_size=None, sampler=lines, num_workers=1)
    memory = [float(value) for value in loader]
    assert len(memory) == 1010
    grown = max(memory) - memory[9]  # after ten reads the file is open and the buffers are there
    assert grown < 100
    assert grown < 20  # far below what is read: nothing is kept
