"""Kill -9 while regions are extracted or converted: tests/qa/faults, in short.

The detector is the one that docs/extraction.md shows.
"""

import time

import numpy as np
from extraction import contents
from qa.faults import kills

from vtlm_fairseq.regions.store import RegionStore


def test_killed_at_random_moments(run, tmp_path):
    """200 images: however often it is killed, the restarted extraction ends with the arrays of an uninterrupted one."""
    places, _, differences = kills.campaign(kills.extract(run, tmp_path, workers=1), tmp_path, kills=10, seed=4)
    assert (places.total(), differences) == (10, []) and len(places) > 1, places
    store = RegionStore([str(tmp_path / "whole/store.h5")])
    assert store.ids() == [f"img{i:04}" for i in range(200)] and store.num_regions == 800
    assert np.all(np.diff(store[0].scores) <= 0) and len(np.unique(store[0].boxes, axis=0)) == 4


def test_conversion_killed_at_random_moments(run, tmp_path):
    """Ten times, by two processes that write parts, and while they are joined: each value is that of one run."""
    rng = np.random.default_rng(5)
    count, regions = 2000, 9
    features, corners = rng.random((count, regions, 512), np.float32), rng.random((count, regions, 2, 2))
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "boxes.npy", np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=2))
    (tmp_path / "ids").write_text("".join(f"img{i:04}.jpg\n" for i in range(count)))
    argv = ["convert", "--npy", tmp_path / "features.npy", "--ids", tmp_path / "ids", "--boxes", tmp_path / "boxes.npy"]
    argv += ["--part-size", 50, "--workers", 2, "--out"]
    run("vtlm_fairseq.cli.regions", *argv, tmp_path / "whole.h5")
    out = tmp_path / "s.h5"
    for wanted in [*sorted(rng.integers(1, 40, 8).tolist()), 40, 40]:
        running = kills.Running(run, "vtlm_fairseq.cli.regions", *argv, out)
        while running.status is None and not killed_enough(out, wanted):
            running.wait(running.computed + 0.001)
        time.sleep(rng.uniform(0, 0.02))
        running.kill()
    run("vtlm_fairseq.cli.regions", *argv, out)
    assert contents(out) == contents(tmp_path / "whole.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["boxes.npy", "features.npy", "ids", "s.h5", "whole.h5"]
    )
    store = RegionStore([str(out)])
    assert len(store) == count and store.image_id(1234) == "img1234.jpg"
    np.testing.assert_array_equal(store[1234].features, features[1234].astype(np.float16))


def killed_enough(out, parts):
    """Whether so many parts are there; of all of them, whether they are being joined."""
    folder = out.with_name(f"{out.name}.parts")
    if parts == 40:
        return out.exists() or any(out.parent.glob(f".{out.name}.*tmp"))
    return out.exists() or sum(1 for _ in folder.glob("[0-9]*.h5")) >= parts
