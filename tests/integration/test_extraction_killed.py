"""Kill -9 while regions are extracted, with the detector that docs/extraction.md shows."""

import signal

import numpy as np
from extraction import SCRIPT, contents, documented_detector, write_images

from harness import Result
from vtlm_fairseq.regions.store import RegionStore

KILLER = """
import os, signal, threading, time

def slow(detect):
    def slower(self, inputs):
        time.sleep(0.003 * len(inputs))
        return detect(self, inputs)
    return slower

Quarters.detect = slow(Quarters.detect)
threading.Timer(float(os.environ["KILL_AFTER"]), os.kill, (os.getpid(), signal.SIGKILL)).start()
"""
KILLS = 10


def test_killed_at_ten_random_moments(run, tmp_path):
    """200 images: however often it is killed, the restarted extraction ends with the arrays of an uninterrupted one."""
    ids = write_images(tmp_path / "in", 200)
    (tmp_path / "quarters.py").write_text(documented_detector())
    (tmp_path / "killed.py").write_text(documented_detector() + KILLER)

    def extract(out, file, **options) -> Result:
        return run(SCRIPT, "--images", tmp_path / "in", "--detector", "quarters", "--detector-file", tmp_path / file,
                   "--out", out, "--part-size", 8, "--batch-size", 3, "--workers", 1, ok=None, **options)  # fmt: skip

    whole = tmp_path / "whole.h5"
    assert extract(whole, "quarters.py").status == 0
    expected = contents(whole)
    store = RegionStore([str(whole)])
    assert store.ids() == ids and store.num_regions == 800
    assert np.all(np.diff(store[0].scores) <= 0) and len(np.unique(store[0].boxes, axis=0)) == 4

    rng = np.random.default_rng(4)
    kills, ended = 0, 0
    while kills < KILLS:
        delay = str(rng.uniform(0.05, 0.4))
        result = extract(tmp_path / f"{ended}.h5", "killed.py", env={"KILL_AFTER": delay})
        if result.status == -signal.SIGKILL:
            kills += 1
        else:  # the moment came too late: begin another one
            assert result.status == 0, result.output
            ended += 1
    assert extract(tmp_path / f"{ended}.h5", "quarters.py").status == 0
    for number in range(ended + 1):
        assert contents(tmp_path / f"{number}.h5") == expected
    assert not list(tmp_path.glob("*.parts")) and not list(tmp_path.glob("*.errors.tsv"))
