"""Kill -9 while regions are extracted, with the detector that docs/extraction.md shows: tests/qa/faults, in short."""

import numpy as np
from qa.faults import kills

from vtlm_fairseq.regions.store import RegionStore


def test_killed_at_random_moments(run, tmp_path):
    """200 images: however often it is killed, the restarted extraction ends with the arrays of an uninterrupted one."""
    places, _, differences = kills.campaign(kills.extract(run, tmp_path, workers=1), tmp_path, kills=10, seed=4)
    assert (places.total(), differences) == (10, []) and len(places) > 1, places
    store = RegionStore([str(tmp_path / "whole/store.h5")])
    assert store.ids() == [f"img{i:04}" for i in range(200)] and store.num_regions == 800
    assert np.all(np.diff(store[0].scores) <= 0) and len(np.unique(store[0].boxes, axis=0)) == 4
