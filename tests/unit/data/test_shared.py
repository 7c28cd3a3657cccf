"""Batches from a loader's workers equal those made in the process itself, whatever way they are handed over."""

import h5py
import numpy as np
import pytest
import torch
from equality import equal
from stacks import stack_padded
from torch.utils.data import DataLoader

from vtlm_fairseq.data.shared import send_small_by_value
from vtlm_fairseq.regions.rows import Rows

COUNTS = (3, 0, 5, 1)


def arrays(dtype: str = "float16", width: int = 70_000) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=(count, width)).astype(dtype) for count in COUNTS]


def collate(dtypes: list[str]) -> dict:
    """A batch of large and small tensors of many kinds."""
    (dtype,) = dtypes
    return send_small_by_value(
        {
            "features": stack_padded(arrays(dtype), 5),
            "small": stack_padded(arrays(dtype, width=2), 6),
            "nested": [torch.arange(6).view(2, 3).t(), (torch.tensor(7.5), torch.zeros(0, 4, dtype=torch.bool))],
            "bf16": torch.ones(2, dtype=torch.bfloat16),
            "plain": (1, "two", None),
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("sharing", ["file_descriptor", "file_system"])
def test_workers_hand_over_what_the_process_itself_makes(dtype, sharing):
    """PITFALLS 20: values, dtypes and shapes, with both of PyTorch's ways of sharing memory."""
    expected = collate([dtype])
    stacked = np.zeros((4, 5, 70_000), dtype)
    for place, array in zip(stacked, arrays(dtype), strict=True):
        place[: len(array)] = array
    assert torch.equal(expected["features"], torch.from_numpy(stacked)) and expected["small"].shape == (4, 6, 2)
    usual = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy(sharing)
    try:
        found = list(DataLoader([dtype] * 3, batch_size=1, num_workers=2, collate_fn=collate))
    finally:
        torch.multiprocessing.set_sharing_strategy(usual)
    assert len(found) == 3
    for batch in found:
        assert equal(expected, batch)
        batch["features"] += 1  # writable, and nobody else's
        batch["nested"][0] += 1


@pytest.fixture
def layouts(tmp_path):
    """One dataset, 100 x 3, in all kinds of storage."""
    values = np.random.default_rng(1).integers(-9, 9, (100, 3)).astype(np.float32)
    with h5py.File(tmp_path / "layouts.h5", "w") as file:
        file.create_dataset("contiguous", data=values)
        file.create_dataset("chunks", data=values, chunks=(7, 3), maxshape=(None, 3))
        file.create_dataset("narrow chunks", data=values, chunks=(7, 2))
        file.create_dataset("compressed", data=values, chunks=(7, 3), compression="gzip")
        file.create_dataset("checksums", data=values, chunks=(7, 3), fletcher32=True)
        file.create_dataset("big endian", data=values.astype(">f4"))
        virtual = h5py.VirtualLayout((100, 3), np.float32)
        virtual[:] = h5py.VirtualSource(file["chunks"])
        file.create_virtual_dataset("virtual", virtual)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        space, kind = h5py.h5s.create_simple(values.shape), h5py.h5t.NATIVE_FLOAT
        h5py.h5d.create(file.id, b"compact", kind, space, compact).write(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return tmp_path / "layouts.h5", values


def test_rows_are_those_of_h5py(layouts):
    """Whatever the storage; the plain ones are read past HDF5, from the file that is given."""
    path, values = layouts
    past_hdf5 = set()
    with h5py.File(path) as file, open(path, "rb", buffering=0) as plain, open("/dev/zero", "rb", buffering=0) as zeros:
        for name in file:
            rows = Rows(file[name], plain)
            past_hdf5 |= set() if Rows(file[name], zeros)[0:100].any() else {name}
            for start, end in ((0, 100), (0, 0), (0, 7), (6, 8), (13, 29), (98, 100), (100, 100)):
                found = rows[start:end]
                assert found.dtype == file[name].dtype
                np.testing.assert_array_equal(found, values[start:end], err_msg=name)
    assert past_hdf5 == {"contiguous", "chunks"}


def test_a_file_with_a_user_block_is_read_through_h5py(tmp_path):
    """Places in such a file count from the end of the block."""
    values = np.arange(12.0).reshape(4, 3)
    with h5py.File(tmp_path / "block.h5", "w", userblock_size=512) as file:
        file.create_dataset("values", data=values)
    with h5py.File(tmp_path / "block.h5") as file, open(tmp_path / "block.h5", "rb", buffering=0) as plain:
        np.testing.assert_array_equal(Rows(file["values"], plain)[1:3], values[1:3])


def test_a_file_that_shrinks_is_an_error(layouts):
    path, _ = layouts
    with h5py.File(path) as file, open(path, "rb", buffering=0) as plain:
        rows = Rows(file["contiguous"], plain)
        with open(path, "r+b") as other:
            other.truncate(file["contiguous"].id.get_offset() + 50)
        with pytest.raises(OSError, match="shorter than it says"):
            rows[0:100]
