"""`benchmarks/converting.py` at a toy size: what it reads, and what it says of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from harness import ROOT

pytestmark = pytest.mark.slow
pytest.importorskip("lmdb", reason="lmdb is not installed")
pytest.importorskip("msgpack", reason="msgpack is not installed")
sys.path.insert(0, str(ROOT / "benchmarks"))

import converting  # noqa: E402

from vtlm_fairseq.regions.store import RegionStore  # noqa: E402


def test_rates_of_a_conversion(tmp_path):
    argv = ["--out", str(tmp_path), "--images", "70", "--record", "small", "--repeats", "1", "--json"]
    command = [sys.executable, str(ROOT / "benchmarks" / "converting.py"), *argv]  # it waits for all children it has
    figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert list(figures) == ["bytes", "arrays", "copied", "checked", "convert"]
    rates = figures["convert"]
    expected = rates["images_per_s"] / figures["arrays"]["images_per_s"]
    assert rates["rate_of_arrays"] == pytest.approx(expected) and rates["work_of_bytes"] > 1
    store = RegionStore([str(tmp_path / "store.h5")])
    values: list[dict] = []
    converting.read(tmp_path / "small-70", lambda value: values.append(converting.unpacked(value)))
    assert len(store) == len(values) == 70
    order = np.argsort(-values[66]["conf"], kind="stable")
    np.testing.assert_array_equal(store[66].features, values[66]["features"][order])
