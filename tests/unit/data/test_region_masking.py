"""Strategies of masking regions: images by hand, shares over 10,000 examples, what a strategy of one's own may do."""

from itertools import product

import h5py
import numpy as np
import pytest

from stores import make_store
from tiny import PAPER_RATES, folder, line_regions, lm_dataset, pretraining_task
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.device_regions import RegionTables
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import REGIONS, MaskingRates, generator
from vtlm_fairseq.data.region_masking import RegionMasking, get_region_masking, register_region_masking
from vtlm_fairseq.data.share_schedule import ShareSchedule
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import Regions, RegionStore

EXAMPLES = 10_000
A, B, C, D = boxes = [[0, 0, 0.4, 0.5], [0.1, 0, 0.5, 0.5], [0, 0, 0.4, 0.2], [0.6, 0.6, 0.9, 0.9]]
"""IoU of A and B 0.6, of A and C 0.4, of B and C 0.06 / 0.22; D touches none."""
ALL_MASKED = MaskingRates(select=0.4, keep=0, random=0)
LABELS, SCORES = [1, 0, 1, 2], [0.8, 0.7, 0.5, 0.1]


def one_image(*, labels=LABELS, scores=SCORES, examples: int) -> LineRegions:
    """Examples of one image, with regions A, B, C and D."""
    lines = line_regions([4], np.zeros(examples, dtype=int))
    lines.store.images[0] = Regions(
        lines.store[0].features, np.array(boxes, np.float32), np.array(labels), np.array(scores, np.float32)
    )
    return lines


def dataset(name: str, *, examples: int, rates=PAPER_RATES, overlap: float = 0.5, regions=None, **more):
    """Training examples of that image, masked by a strategy."""
    regions = regions or one_image(examples=examples)
    strategy = get_region_masking(name)({"region_mask_overlap": overlap}.get)
    text = [[10, 2]] * examples
    return lm_dataset(text, text, regions=regions, region_rates=rates, region_masking=strategy, train=True, **more)


def draws(made) -> list[np.ndarray]:
    """Selected, masked, random [examples, R]."""
    found = [made.__getitems__(list(range(at, min(at + 500, len(made))))) for at in range(0, len(made), 500)]
    return [np.concatenate([part.draw[k].reshape(len(part), -1) for part in found]) for k in range(3)]


def assert_shares(hits: np.ndarray, shares) -> None:
    """[examples, R] within three standard deviations of a share for each region."""
    shares = np.asarray(shares)
    assert (np.abs(hits.mean(axis=0) - shares) <= 3 * np.sqrt(shares * (1 - shares) / len(hits))).all(), hits.mean(0)


def test_random_is_the_draw_of_each_example():
    """Of the example's own generator, asked for alone and with others."""
    made = dataset("random", examples=20, seed=7)
    made.set_epoch(3)
    for index, together in enumerate(made.__getitems__(list(range(20)))):
        rng = generator(seed=7, epoch=3, index=index, stream=REGIONS)
        expected = [part.tolist() for part in PAPER_RATES.draw(rng, 4)]
        assert [part.tolist() for part in together["draw"][:3]] == expected
        assert [part.tolist() for part in made[index]["draw"][:3]] == expected


@pytest.mark.parametrize(
    ("overlap", "hides"),
    [(0.5, {0: "AB", 1: "AB", 2: "C", 3: "D"}), (0.39, {0: "ABC", 1: "AB", 2: "AC", 3: "D"}),
     (0.61, {0: "A", 1: "B", 2: "C", 3: "D"}), (0.2, {0: "ABC", 1: "ABC", 2: "ABC", 3: "D"})],
)  # fmt: skip
def test_overlap_by_hand(overlap, hides):
    """What each region hides, for all 16 choices of what is predicted; what is merely hidden is not predicted."""
    made = dataset("overlap", examples=400, rates=ALL_MASKED, overlap=overlap)
    selected, masked, random = draws(made)
    seen = set()
    for chosen, hidden in zip(selected, masked, strict=True):
        expected = {name for region in np.flatnonzero(chosen) for name in hides[region]}
        assert {"ABCD"[k] for k in np.flatnonzero(hidden)} == expected
        seen.add(tuple(chosen))
    assert seen == set(product([True, False], repeat=4)) and not random.any()
    batch = made.collater(made.__getitems__([0, 1, 2]))
    assert (batch["region_target"].numpy() == np.where(selected[:3], LABELS, -1)).all()
    assert (batch["net_input"]["region_mask"].numpy() == masked[:3]).all()
    alone, _, _ = draws(dataset("random", examples=400, rates=ALL_MASKED))
    assert (selected == alone).all()


def test_overlap_at_the_limit():
    """IoU of exactly 0.5 with a limit of 0.5; a box without area overlaps nothing, itself included."""
    lines = one_image(examples=50)
    lines.store.images[0].boxes[:] = [[0, 0, 0.5, 0.5], [0, 0, 0.25, 0.5], [0.75, 0.75, 0.75, 0.75], [0.75, 0.75, 1, 1]]
    selected, masked, _ = draws(dataset("overlap", examples=50, rates=ALL_MASKED, regions=lines))
    assert (masked[:, :2] == selected[:, :2].any(axis=1, keepdims=True)).all() and len(np.unique(selected[:, :2])) == 2
    assert (masked[:, 2:] == selected[:, 2:]).all()


@pytest.mark.slow
def test_shares_of_overlap():
    """Predicted p; masked 1 - (1 - p)^k (1 - 0.8 p) with k others over it; replaced 0.1 p (1 - p)^k."""
    selected, masked, random = draws(dataset("overlap", examples=EXAMPLES, overlap=0.3))
    free = 0.85 ** np.array([2, 1, 1, 0])
    assert_shares(selected, [0.15] * 4)
    assert_shares(masked, 1 - free * (1 - 0.15 * 0.8))
    assert_shares(random, 0.15 * 0.1 * free)


@pytest.mark.slow
def test_siblings_are_masked_together():
    """A and C, of one label, have one fate; each region has the shares of `random`, and labels are independent."""
    selected, masked, random = draws(dataset("siblings", examples=EXAMPLES))
    for part, share in ((selected, 0.15), (masked, 0.15 * 0.8), (random, 0.15 * 0.1)):
        assert (part[:, 0] == part[:, 2]).all()
        assert_shares(part, [share] * 4)
    assert_shares(selected[:, :1] & selected[:, 1:2] & selected[:, 3:], [0.15**3])
    batch = dataset("siblings", examples=4, rates=MaskingRates(1, 0, 1)).__getitems__([0, 1, 2, 3])
    assert len(set(batch.draw.donor)) == 16  # of its own for each


@pytest.mark.slow
@pytest.mark.parametrize(("scores", "weights"), [(SCORES, [0.16, 0.14, 0.04, 0.009]), ([0] * 4, [1] * 4)])
def test_salient_by_score_and_area(scores, weights):
    """A share p of all regions; where one is predicted, each region in proportion to score x area."""
    regions = one_image(scores=scores, examples=EXAMPLES)
    selected, masked, random = draws(dataset("salient", examples=EXAMPLES, regions=regions))
    assert_shares(selected.reshape(-1, 1), [0.15])
    single = selected[selected.sum(axis=1) == 1]
    assert len(single) > 3000
    assert_shares(single, np.array(weights) / sum(weights))
    assert_shares(masked[selected][:, None], [0.8])
    assert_shares(random[selected][:, None], [0.1])
    alone, _, _ = draws(dataset("random", examples=200))
    assert (selected[:200].sum(axis=1) == alone.sum(axis=1)).all()


@pytest.mark.slow
def test_salient_reads_the_scores_of_a_store(tmp_path):
    """From shards, and where features are places in a table; the largest of equal scores comes first."""
    names = [f"img{i}.jpg" for i in range(9)]
    for k, some in enumerate((names[:4], names[4:])):
        make_store(tmp_path / f"{k}.h5", some, regions=[5, 0, 7, 3, 1][: len(some)], seed=k)
    store = RegionStore([str(tmp_path / "0.h5"), str(tmp_path / "1.h5")], 4)
    lines = LineRegions(store, np.array([8, 2, 1, 4, 0, 3, 2, 6]), split="train", seed=1, order="given")
    second = store[lines.rows[1]]
    weights = second.scores * np.prod(second.boxes[:, 2:] - second.boxes[:, :2], axis=1)
    found = lines.read(list(range(8)), scores=True)
    assert found.scores.tolist() == np.concatenate([store[row].scores for row in lines.rows]).tolist()
    made = dataset("salient", examples=8, regions=lines, rates=ALL_MASKED)
    before, hits = [], []
    for epoch in range(120):
        made.set_epoch(epoch)
        items = made.__getitems__(list(range(8)))
        before.append(items.draw.selected.tolist())
        hits.append(items[1]["draw"].selected)
    hits = np.array(hits)
    singles = hits[hits.sum(axis=1) == 1].mean(axis=0)
    assert singles.argmax() == weights.argmax()
    RegionTables().add(lines)
    again = []
    for epoch in range(120):
        made.set_epoch(epoch)
        again.append(made.__getitems__(list(range(8))).draw.selected.tolist())
    assert again == before


def test_schedule():
    """Linear and cosine by hand; before, at and behind the last epoch; what is no schedule."""
    linear, cosine = ShareSchedule.parse("linear:0.1:0.5:5"), ShareSchedule.parse("cosine:0.1:0.5:5")
    assert [linear.share(epoch) for epoch in (1, 2, 3, 5, 9)] == pytest.approx([0.1, 0.2, 0.3, 0.5, 0.5])
    assert [cosine.share(epoch) for epoch in (1, 2, 3, 5, 9)] == pytest.approx([0.1, 0.15857864, 0.3, 0.5, 0.5])
    assert ShareSchedule.parse("linear:0.5:0:2").share(2) == 0 and ShareSchedule.parse("none") is None
    wrong = ("linear:0.1:0.5", "linear:0.1:0.5:1", "linear:0.1:1.5:3", "square:0:1:3", "linear:0:nan:4")
    for text in ("", "linear", *wrong, "linear:0:1:3:4", "linear:0:1:2.5"):
        with pytest.raises(VTLMError, match="--region-mask-schedule"):
            ShareSchedule.parse(text)


@pytest.mark.slow
def test_the_share_follows_its_schedule():
    """In training; a constant schedule has the masks of the share alone, and validation never has one."""
    schedule = ShareSchedule("linear", 0.05, 0.45, 3)
    for name in ("random", "siblings"):
        made = dataset(name, examples=2000, region_schedule=schedule)
        for epoch, share in ((1, 0.05), (2, 0.25), (4, 0.45)):
            made.set_epoch(epoch)
            assert_shares(draws(made)[0], [share] * 4)
    made.train = False
    assert_shares(draws(made)[0], [0.15] * 4)
    constant = dataset("random", examples=500, region_schedule=ShareSchedule("cosine", 0.15, 0.15, 9))
    for one, other in zip(draws(constant), draws(dataset("random", examples=500)), strict=True):
        assert (one == other).all()


def test_no_regions_and_strategies_of_ones_own():
    """An image without regions is not asked for; epoch and tokens are seen; labels alone may decide."""
    asked = []

    class Own(RegionMasking):
        def draw(self, image, rates, rng):
            asked.append((image.epoch, image.tokens.tolist(), len(image.labels), image.scores.tolist()))
            return self.predict(image.labels == image.labels.max(), rates, rng)

    text = [[10, 2], [11, 12, 2], [13, 2]]
    made = lm_dataset(text, text, regions=line_regions([2, 0, 3]), region_masking=Own(), train=True,
                      region_rates=ALL_MASKED)  # fmt: skip
    made.set_epoch(4)
    batch = made.collater(made.__getitems__([0, 1, 2]))
    assert asked == [(4, [2, 10, 2, 2, 10, 2], 2, []), (4, [2, 13, 2, 2, 13, 2], 3, [])]
    for row in (0, 2):
        labels = made.regions[row].labels
        hidden = batch["net_input"]["region_mask"][row, : len(labels)].numpy()
        assert (hidden == (labels == labels.max())).all() and hidden.any()
    assert not batch["net_input"]["region_mask"][1].any()


@pytest.mark.parametrize(
    ("drawn", "message"),
    [(lambda n: (np.ones(n + 1, bool),) * 3 + (np.zeros(n),), "3 and 3 and 3 and 2 values for the 2 regions of pair 1"),
     (lambda n: (np.ones(n, bool),) * 3, "2 and 2 and 2 values"),
     (lambda n: (np.ones(n, bool), np.ones(n), np.zeros(n, bool), np.zeros(n)), "boolean"),
     (lambda n: (np.ones(n, bool),) * 3 + (np.zeros(n),), "both masked and random"),
     (lambda n: (np.ones(n, bool), np.zeros(n, bool), np.ones(n, bool), np.ones(n)), "donor")],
)  # fmt: skip
def test_a_strategy_that_fails_is_a_fault_of_the_batch(drawn, message):
    """Carried to the training process, which ends in one line with the class's name."""

    class Wrong(RegionMasking):
        def draw(self, image, rates, rng):
            return drawn(len(image.labels))

    made = lm_dataset([[10, 2]] * 2, [[20, 2]] * 2, regions=line_regions([2, 2]), region_masking=Wrong())
    for batch in (made.collater(made.__getitems__([0, 1])), made.collater([made[0], made[1]])):
        assert message in batch[FAULT] and "--region-masking: Wrong.draw" in batch[FAULT]


@pytest.mark.slow
def test_names(tmp_path):
    """One registers once; an unknown one, and numbers out of range, are answered at the start."""
    mine = type("Mine", (RegionMasking,), {})
    register_region_masking("of-this-test")(mine)
    assert get_region_masking("of-this-test") is mine
    with pytest.raises(VTLMError, match="--region-masking of-this-test"):
        register_region_masking("of-this-test")(mine)
    folder(tmp_path / "bin", {"train": 5, "valid": 5})
    make_store(tmp_path / "train.h5", 4)
    store = ("--regions", tmp_path)
    with pytest.raises(SystemExit, match=r"--region-masking rndom: .*overlap, random, salient, siblings.*--user-dir"):
        pretraining_task(tmp_path / "bin", *store, "--region-masking", "rndom").load_dataset("train")
    for argv in (("--region-mask-overlap", "0"), ("--region-mask-overlap", "1.1"), ("--region-mask-schedule", "up")):
        with pytest.raises(SystemExit, match=argv[0]):
            pretraining_task(tmp_path / "bin", *store, *argv)


@pytest.mark.slow
def test_what_is_said_at_the_start(tmp_path, caplog):
    """Shares of a sample, of strategies that are not the paper's; scores that are all equal."""
    folder(tmp_path / "bin", {"train": 40, "valid": 5})
    make_store(tmp_path / "train.h5", 4)
    caplog.set_level("INFO")
    argv = (tmp_path / "bin", "--regions", tmp_path)
    pretraining_task(*argv).load_dataset("train")
    assert "sample of" not in caplog.text
    more = ("--region-mask-prob", "0.5", "--region-leave-unmasked-prob", "1", "--region-random-prob", "0")
    pretraining_task(*argv, "--region-masking", "salient", *more).load_dataset("train")
    assert "in a sample of 40 pairs" in caplog.text and "0.0 % masked" in caplog.text
    assert "scores are equal" not in caplog.text
    equal = tmp_path / "equal" / "train.h5"
    make_store(equal, 4)
    with h5py.File(equal, "r+") as file:
        file["scores"][:] = 1
    pretraining_task(*argv[:2], equal.parent, "--region-masking", "salient").load_dataset("train")
    assert "scores are equal" in caplog.text and str(equal) in caplog.text
