"""Draws of many examples at once: those of numpy's generator of each."""

import multiprocessing
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import PAPER_RATES, line_regions, lm_dataset, sentences
from vtlm_fairseq.data import masking
from vtlm_fairseq.data.draws import Draws, make_draws
from vtlm_fairseq.data.masking import MaskingRates, generator

WORD = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(WORD, WORD, st.lists(WORD, min_size=1, max_size=5), st.sampled_from([0, 1]), st.integers(1, 40), WORD)
def test_they_are_numpys(seed, epoch, indices, stream, count, limit):
    """Numbers within [0, 1), then integers; those of a generator that rejects a number are left out."""
    limit += 1
    draws = make_draws(seed=seed, epoch=epoch, indices=np.array(indices), streams=(7, stream))[1]
    for row, index in enumerate(indices):
        theirs = generator(seed=seed, epoch=epoch, index=index, stream=stream)
        rows, places = np.full(count, row), np.arange(count)
        assert draws.uniform(rows, places).tobytes() == theirs.random(count).tobytes()
        found = draws.below(limit, rows[:1], count, np.full(1, count))[0]
        expected = theirs.integers(limit, size=count)
        assert (found == expected).all() or (limit > 1000 and (found == -1).all())


@pytest.mark.parametrize("rejecting", [False, True])
@pytest.mark.parametrize("rates", [PAPER_RATES, MaskingRates(select=0.5, keep=0, random=0.5), MaskingRates(0.5, 0, 0)])
def test_a_batch_is_its_examples(rates, rejecting, monkeypatch):
    """Examples asked for together, as the loader does, have what each has alone; also where numbers are rejected."""
    if rejecting:
        below = Draws.below
        monkeypatch.setattr(Draws, "below", lambda self, limit, rows, *rest: np.where(
            rows[:, None] % 3 == 1, -1, below(self, limit, rows, *rest)))  # fmt: skip
    counts = [3, 0, 5, 2, 1, 4, 0, 7, 2, 2]
    dataset = lm_dataset(
        sentences(10), sentences(10, seed=1), rates=rates, region_rates=rates, regions=line_regions(counts), train=True
    )
    dataset.set_epoch(3)
    order = [4, 0, 9, 1, 2, 3, 8, 5, 6, 7]
    together, apart = dataset.__getitems__(order), [dataset[i] for i in order]
    for one, other in zip(together, apart, strict=True):
        assert one.keys() == other.keys() and one["id"] == other["id"]
        for name in ("tokens", "target", "positions", "langs"):
            assert one[name].tolist() == other[name].tolist()
        assert [part.tolist() for part in one["draw"]] == [part.tolist() for part in other["draw"]]
        assert [part.tolist() for part in one["regions"][:3]] == [part.tolist() for part in other["regions"][:3]]
    assert dataset.collater(dataset.__getitems__([])) == {}  # a rank without a batch
    batches = dataset.collater(together), dataset.collater(apart)
    for name, values in batches[0]["net_input"].items():
        other = batches[1]["net_input"][name]
        assert values == other if isinstance(values, bool) else values.equal(other), name
    assert batches[0]["region_target"].equal(batches[1]["region_target"])


def test_a_process_forked_while_another_thread_draws(monkeypatch):
    """As a loader's worker is, which begins while a loader without workers reads ahead: it waits for no lock."""
    parent, begun, go_on = os.getpid(), threading.Event(), threading.Event()

    def slow(**options) -> list[Draws]:
        if os.getpid() == parent:
            begun.set()
            go_on.wait()
        return make_draws(**options)

    monkeypatch.setattr(masking, "make_draws", slow)
    dataset = lm_dataset(sentences(10), sentences(10, seed=1), train=True)
    reader = threading.Thread(target=dataset.__getitems__, args=(range(10),))
    reader.start()
    begun.wait()
    worker = multiprocessing.get_context("fork").Process(target=dataset.__getitems__, args=(range(10),))
    worker.start()
    worker.join(30)
    ended = worker.exitcode
    worker.kill()
    go_on.set()
    reader.join()
    assert ended == 0
