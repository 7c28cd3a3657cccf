"""A full disk while a store, a checkpoint or prepared data are written: one line, earlier files intact, no halves.

Most tests mount a small tmpfs, which takes root; one limits the size of files of this process.
"""

import gc
import resource
import shutil
import subprocess

import h5py
import numpy as np
import pytest
import torch
from extraction import SCRIPT, contents, documented_detector, write_images
from qa.faults.trainings import different_parts, newest, training

from harness import ROOT, write_lines
from stores import fault, make_store
from vtlm_fairseq.cli.regions import main as regions_command
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions import writer as region_writer
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.store import RegionStore, validate


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of so many bytes, or gives it that size; returns its folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def resize(size: int):
        nonlocal mounted
        options = f"size={size}" + (",remount" if mounted else "")
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here ({made.stderr.strip()}); it takes root")
        mounted = True
        return folder

    yield resize
    if mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)  # a worker of the command may still be ending


@pytest.mark.parametrize("chunk", [1 << 10, 4 << 20])
def test_store_writer(small_disk, monkeypatch, capfd, chunk):
    """Written in pieces, and at the end alone: the older store stays as it was, and nothing lies beside it."""
    monkeypatch.setattr(region_writer, "CHUNK_BYTES", chunk)
    disk = small_disk(100_000)
    path = disk / "train.h5"
    make_store(path, 3, regions=1, feature_dim=1, seed=1)
    before = path.read_bytes()
    assert fault(make_store, path, 400, feature_dim=64, seed=2) == (
        f"{path}: cannot be written (No space left on device); make room and give the same command again"
    )
    assert path.read_bytes() == before and list(disk.iterdir()) == [path]
    gc.collect()
    assert capfd.readouterr() == ("", "")  # h5py prints, and drops, what fails when an object is let go of
    small_disk(8_000_000)
    assert len(make_store(path, 400, feature_dim=64, seed=2)) == 400 and validate(str(path)) == []


def test_store_never_loses_data_in_silence(small_disk, monkeypatch):
    """With room for less and less, a store is either refused or whole."""
    monkeypatch.setattr(region_writer, "CHUNK_BYTES", 1 << 12)
    path = small_disk(20_000_000) / "store.h5"
    make_store(path, 40)
    whole, size = contents(path), path.stat().st_blocks * 512
    outcomes = []
    for room in range(size + 12_288, 8_192, -size // 12):
        path.unlink(missing_ok=True)
        small_disk(room)
        try:
            make_store(path, 40)
        except VTLMError:
            assert list(path.parent.iterdir()) == []
            outcomes.append("refused")
        else:
            assert contents(path) == whole
            outcomes.append("whole")
    assert set(outcomes) == {"refused", "whole"}


@pytest.mark.parametrize("copy", [True, False])
def test_merge(small_disk, copy, capfd):
    """Copied and virtual; an earlier file of that name stays."""
    disk = small_disk(20_000_000)
    shards = [str(disk / f"shard{number}.h5") for number in range(2)]
    for number, shard in enumerate(shards):
        make_store(shard, [f"{number}-{i}" for i in range(300)], regions=20, seed=number)
    out = disk / "out.h5"
    make_store(out, 2)
    before, names = out.read_bytes(), sorted(disk.iterdir())
    small_disk(sum(path.stat().st_blocks * 512 for path in names) + 60_000)
    assert fault(merge_stores, shards, str(out), copy=copy).startswith(f"{out}: cannot be written (No space left on")
    gc.collect()
    assert capfd.readouterr() == ("", "")
    assert out.read_bytes() == before and sorted(disk.iterdir()) == names
    small_disk(20_000_000)
    merge_stores(shards, str(out), copy=copy)
    assert RegionStore([str(out)]).num_regions == 12_000 and validate(str(out)) == []


def test_convert_with_a_limit_on_file_sizes(tmp_path):
    """The command line of vtlm-regions convert under `ulimit -f`, which needs no root to try."""
    features = np.random.default_rng(0).normal(size=(50, 10, 100)).astype(np.float32)
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "labels.npy", np.zeros((50, 10), int))
    write_lines(tmp_path / "ids", range(50))
    argv = ["convert", "--npy", tmp_path / "features.npy", "--ids", tmp_path / "ids", "--labels",
            tmp_path / "labels.npy", "--num-classes", 3, "--out", tmp_path / "out.h5"]  # fmt: skip
    argv = [str(part) for part in argv]
    names = sorted(tmp_path.iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(SystemExit) as caught:
            regions_command(argv)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(caught.value.code).startswith(f"error: {tmp_path / 'out.h5'}")
    assert "00000.h5: cannot be written (File too large)" in str(caught.value.code)
    assert sorted(tmp_path.iterdir()) == names
    assert regions_command(argv) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert np.array_equal(file["features"][:], features.reshape(500, 100).astype(np.float16))


def test_extraction_goes_on_when_there_is_room(run, tmp_path, small_disk):
    """Parts that are whole are kept, and the store is that of an extraction that had room."""
    write_images(tmp_path / "images", 120)
    (tmp_path / "quarters.py").write_text(documented_detector(), encoding="utf-8")

    def extract(out, **options):
        return run(SCRIPT, "--images", tmp_path / "images", "--detector", "quarters", "--detector-file",
                   tmp_path / "quarters.py", "--out", out, "--part-size", 8, "--workers", 1, **options)  # fmt: skip

    extract(tmp_path / "whole.h5")
    disk = small_disk(100_000)
    extract(disk / "store.h5", ok=False).fault("No space left on device", "make room")
    parts = sorted((disk / "store.h5.parts").glob("*.h5"))
    assert 0 < len(parts) < 15 and [fault for part in parts for fault in validate(str(part))] == []
    assert not (disk / "store.h5").exists() and not list((disk / "store.h5.parts").glob(".*.h5.*"))
    small_disk(1_000_000)
    times = {part: part.stat().st_mtime_ns for part in parts}
    each = parts[0].stat().st_blocks * 512
    with open(disk / "filler", "wb") as filler:  # room for the parts, but not for the store that they become
        filler.write(bytes(shutil.disk_usage(disk).free - (15 - len(parts)) * each - 4096))
    extract(disk / "store.h5", ok=False).fault("No space left on device")
    assert {part: part.stat().st_mtime_ns for part in parts} == times  # not extracted again
    (disk / "filler").unlink()
    extract(disk / "store.h5")
    assert contents(disk / "store.h5") == contents(tmp_path / "whole.h5")
    assert [path.name for path in disk.iterdir()] == ["store.h5"]


def train(run, corpus, folder, *begin, updates: int, more=(), **options):
    """A pre-training that saves every two updates."""
    argv = training("pretraining", corpus, folder, workers=0, updates=updates, pretrained=None)
    return run("fairseq_cli.train", *argv, *more, *begin, **options)


def test_training_ends_before_it_writes_half_a_checkpoint(run, corpus, tmp_path, small_disk):
    """The numbered checkpoints fill the disk; all that is there is whole, and with room the run goes on bit-equal."""
    argv = {"updates": 10, "more": ("--keep-interval-updates", -1)}
    train(run, corpus, tmp_path / "whole", **argv)
    size = (tmp_path / "whole/checkpoint_last.pt").stat().st_size
    disk = small_disk(5 * size)
    line = train(run, corpus, disk, **argv, ok=False).fault(
        f"--save-dir {disk}", "make room", f"takes {size / 2**20:,.1f}"
    )
    assert "Traceback" not in line
    names = sorted(path.name for path in disk.iterdir())
    assert {"checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_1_2.pt", "checkpoint_1_4.pt"} < set(names)
    assert not [name for name in names if "tmp" in name]
    for name in names:
        if name.endswith(".pt"):
            assert torch.load(disk / name, weights_only=True)["optimizer_history"][-1]["num_updates"] >= 2
    small_disk(20 * size)
    train(run, corpus, disk, *newest(run, disk), **argv)
    assert different_parts(tmp_path / "whole/checkpoint_last.pt", disk / "checkpoint_last.pt") == []


def test_copying_a_checkpoint_to_a_full_disk(run, corpus, tmp_path, small_disk):
    """Room for one checkpoint, not for its copies: fairseq's own end, with a whole checkpoint to go on from."""
    train(run, corpus, tmp_path / "whole", updates=4)
    size = (tmp_path / "whole/checkpoint_last.pt").stat().st_size
    disk = small_disk(size + size // 2)
    ended = train(run, corpus, disk, updates=4, ok=False)
    assert "No space left on device" in ended.output
    assert newest(run, disk) == ["--restore-file", str(disk / "checkpoint_1_2.pt")]
    small_disk(20 * size)
    train(run, corpus, disk, *newest(run, disk), updates=4)
    assert different_parts(tmp_path / "whole/checkpoint_last.pt", disk / "checkpoint_last.pt") == []
    assert different_parts(tmp_path / "whole/checkpoint_best.pt", disk / "checkpoint_best.pt") == []


def test_average(run, mmt, small_disk):
    """vtlm-convert: an earlier file under that name stays, and nothing lies beside it."""
    disk = small_disk(mmt.stat().st_size // 8)  # the average holds no optimiser state
    (disk / "average.pt").write_bytes(b"earlier")
    run.convert("average", mmt, mmt, "--out", disk / "average.pt", ok=False).fault(
        f"{disk / 'average.pt'}: cannot be written", "No space left on device"
    )
    assert (disk / "average.pt").read_bytes() == b"earlier" and len(list(disk.iterdir())) == 1


def test_prepared_captions(run, tmp_path, small_disk):
    """preprocess/prepare_captions.py: the folder is not made."""
    lines = [f"img{i}.jpg\t\tA red ball {i} and {i % 7} more.\tEin Ball {i} und {i % 7} mehr." for i in range(900)]
    write_lines(tmp_path / "captions.tsv", lines)
    argv = (ROOT / "preprocess/prepare_captions.py", "--train", tmp_path / "captions.tsv", "--valid-size", 6,
            "--vocab-size", 90, "--workers", 1)  # fmt: skip
    for size in (100_000, 330_000):  # the text, and what fairseq-preprocess makes of it
        disk = small_disk(size)
        run(*argv, "--out", disk / "bin", ok=False).fault(f"{disk / 'bin'}", "No space left on device", "make room")
        assert list(disk.iterdir()) == []
