"""Masking: exact boundaries, shares over 10,000 examples, and what a mask may depend on."""

import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores import make_store
from tiny import PAPER_RATES, folder, line_regions, lm_dataset, pretraining_task
from vtlm_fairseq.data.masking import REGIONS, WORDS, generator, mask_words
from vtlm_fairseq.data.translation_lm_dataset import IGNORE

MASK, PAD, EOS, UNK = 45, 1, 2, 3
EXAMPLES = 10_000


class Script:
    """A generator that returns what it is told."""

    def __init__(self, *answers):
        self.answers = [np.array(a) for a in answers]

    def random(self, count):
        return self.answers.pop(0)[:count]

    def integers(self, high, size):
        return self.answers.pop(0)[:size]


# ---- exact


def test_boundaries_of_the_draw():
    rng = Script([0.0, 0.149, 0.15, 0.1, 0.1, 0.1, 0.1], [0.5, 0.05, 0.05, 0.099, 0.1, 0.199, 0.2])
    selected, masked, random = PAPER_RATES.draw(rng, 7)
    assert selected.tolist() == [True, True, False, True, True, True, True]
    assert random.tolist() == [False, True, False, True, False, False, False]
    assert masked.tolist() == [True, False, False, False, False, False, True]


def test_mask_words_by_hand():
    tokens = np.array([2, 10, 11, 12, 13, 2])
    rng = Script([0.1] * 4 + [0.9, 0.1], [0.5, 0.5, 0.05, 0.15, 0.5, 0.05], [0, 0, 1, 2, 0, 1])
    source, target = mask_words(
        tokens, maskable=tokens > 3, rates=PAPER_RATES, mask_idx=45, pad_idx=1, random_words=np.array([20, 21, 22]),
        rng=rng,
    )  # fmt: skip
    assert source.tolist() == [2, 45, 21, 12, 13, 2]  # masked, random, kept, not selected; </s> untouched
    assert target.tolist() == [1, 10, 11, 12, 1, 1]
    assert tokens.tolist() == [2, 10, 11, 12, 13, 2]


def test_seed_epoch_example_and_stream_each_change_the_draw():
    base = {"seed": 1, "epoch": 2, "index": 3, "stream": WORDS}
    draws = [generator(**base).random(8)]
    draws += [generator(**{**base, name: 5}).random(8) for name in base]
    assert len({draw.tobytes() for draw in draws}) == 5
    assert generator(**base).random(8).tobytes() == draws[0].tobytes()
    swapped = generator(**{**base, "seed": 3, "index": 1}).random(8)
    assert swapped.tobytes() != draws[0].tobytes()


# ---- shares


@pytest.fixture(scope="module")
def corpus():
    """10,000 examples of 8 + 6 real words (and a literal <mask>, an unknown word and a madeupword), 4 to 6 regions."""
    rng = np.random.default_rng(5)
    real = rng.integers(4, 45, (EXAMPLES, 14))
    source = [torch.tensor([*row[:8], MASK, UNK, EOS]) for row in real]
    target = [torch.tensor([*row[8:], 46, EOS]) for row in real]
    regions = line_regions(rng.integers(4, 7, 500), rng.integers(0, 500, EXAMPLES))
    dataset = lm_dataset(source, target, regions=regions, train=True, seed=7)
    return SimpleNamespace(real=real, dataset=dataset, items=[dataset[i] for i in range(EXAMPLES)])


def assert_share(hits, total, probability):
    """Within three standard deviations of a binomial share."""
    deviation = np.sqrt(probability * (1 - probability) / total)
    assert abs(hits / total - probability) < 3 * deviation, f"{hits / total} is not {probability} +- {3 * deviation}"


@pytest.mark.slow
def test_word_shares_of_10000_examples(corpus):
    """Selected 15 %, of these 80 % <mask>, 10 % random, 10 % kept; no special token, <mask> or madeupword."""
    source = np.stack([item["tokens"] for item in corpus.items])
    target = np.stack([item["target"] for item in corpus.items])
    words = [*range(1, 9), *range(13, 19)]  # </s> w*8 <mask> <unk> </s> </s> w*6 madeupword </s>
    others = [0, 9, 10, 11, 12, 19, 20]
    assert (target[:, others] == PAD).all()
    assert (source[:, others] == [EOS, MASK, UNK, EOS, EOS, 46, EOS]).all()
    source, target = source[:, words], target[:, words]
    selected = target != PAD
    assert (target[selected] == corpus.real[selected]).all()
    assert (source[~selected] == corpus.real[~selected]).all()
    count = selected.sum()
    assert_share(count, selected.size, 0.15)
    assert_share((source[selected] == MASK).sum(), count, 0.8)
    same = 0.1 / 41  # a random word may be the word itself
    assert_share((source[selected] == target[selected]).sum(), count, 0.1 + same)
    random = source[selected & (source != MASK) & (source != target)]
    assert_share(len(random), count, 0.1 - same)
    seen = np.bincount(random, minlength=48)
    assert seen[:4].sum() == seen[45:].sum() == 0
    expected = len(random) / 41
    assert ((seen[4:45] - expected) ** 2 / expected).sum() < 40 + 3 * np.sqrt(80)


@pytest.mark.slow
def test_region_shares_of_10000_examples(corpus):
    """Selected 15 %, of these 80 % masked, 10 % donated, 10 % kept; donors are real regions, mostly of other images."""
    store = corpus.dataset.regions.store
    owner = np.concatenate([np.full(len(image.labels), row) for row, image in enumerate(store.images)])
    everything = np.concatenate([image.features for image in store.images])
    total = selected = masked = replaced = kept = other_image = 0
    places = []
    for start in range(0, EXAMPLES, 20):
        items = corpus.items[start : start + 20]
        batch = corpus.dataset.collater(items)
        net, labels = batch["net_input"], batch["region_target"]
        for i, item in enumerate(items):
            row = corpus.dataset.regions.line_rows[item["id"]]
            image = store.images[row]
            count = len(image.labels)
            chosen = labels[i] != IGNORE
            assert not chosen[count:].any() and not net["region_mask"][i, count:].any()
            assert net["region_padding_mask"][i].tolist() == [j >= count for j in range(len(chosen))]
            assert (labels[i][chosen].numpy() == image.labels[chosen[:count].numpy()]).all()
            assert (net["boxes"][i, :count].numpy() == image.boxes).all()
            features = net["features"][i, :count].numpy()
            changed = (features != image.features).any(axis=1)
            mask = net["region_mask"][i, :count].numpy()
            assert not (changed & ~chosen[:count].numpy()).any() and not (changed & mask).any()
            assert not (mask & ~chosen[:count].numpy()).any()
            donors = features[changed, 0].astype(int)
            assert (features[changed] == everything[donors]).all()  # whole vectors, of real regions
            draw = item["draw"]
            random = draw.random & draw.selected
            total, selected = total + count, selected + int(chosen.sum())
            masked, replaced = masked + int(mask.sum()), replaced + int(random.sum())
            kept += int((draw.selected & ~draw.masked & ~draw.random).sum())
            other_image += int((owner[features[random, 0].astype(int)] != row).sum())
            places += list(draw.donor[random])
    assert_share(selected, total, 0.15)
    assert_share(masked, selected, 0.8)
    assert_share(replaced, selected, 0.1)
    assert_share(kept, selected, 0.1)
    assert other_image / replaced > 0.9
    assert abs(np.mean(places) - 0.5) < 3 * np.sqrt(1 / 12 / len(places))  # any region of the batch alike


@pytest.mark.slow
def test_text_and_regions_are_uncorrelated(corpus):
    """Counts, and draws at equal places (two streams with one generator would agree at each place)."""
    words = np.stack([item["target"] != PAD for item in corpus.items])
    regions = np.stack([item["draw"].selected[:4] for item in corpus.items])
    limit = 3 / np.sqrt(EXAMPLES)
    assert abs(np.corrcoef(words.sum(1), regions.sum(1))[0, 1]) < limit
    for place in range(1, 4):
        assert abs(np.corrcoef(words[:, place], regions[:, place])[0, 1]) < limit
    one = {"seed": 1, "epoch": 1, "index": 1}
    assert generator(**one, stream=WORDS).random() != generator(**one, stream=REGIONS).random()


# ---- what a mask depends on


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("masking")
    folder(path / "bin", {"train": 29, "valid": 13}, images=6)
    make_store(path / "r.h5", 6, regions=[9, 4, 0, 12, 7, 1])
    return path


ITERATORS = []


@pytest.fixture(autouse=True)
def end_workers():
    """End the workers of a test: left to garbage collection, each costs five seconds (a fault of fairseq's)."""
    yield
    while ITERATORS:
        loader = getattr(ITERATORS.pop()._cur_epoch_itr, "_itr", None)
        if hasattr(loader, "_shutdown_workers"):
            loader._shutdown_workers()


def iterate(data, *argv, epoch, split="train", workers=0, batch=8, max_tokens=None):
    """A fresh task's iterator, at the beginning of an epoch."""
    shares = ("--region-mask-prob", "0.5", "--mask-prob", "0.5")
    task = pretraining_task(data / "bin", "--regions", data / "r.h5", *shares, "--seed", "3", *argv)
    task.load_dataset(split, epoch=epoch)
    iterator = task.get_batch_iterator(
        task.dataset(split), max_tokens=max_tokens, max_sentences=batch, max_positions=task.max_positions(),
        required_batch_size_multiple=8, seed=3, num_workers=workers, epoch=epoch,
    )  # fmt: skip
    ITERATORS.append(iterator)
    return iterator


def masks(batches) -> dict:
    """Everything that a mask decides, by example: input, targets, kinds; donors are the batch's and left out."""
    found = {}
    for batch in batches:
        net = batch["net_input"]
        for i, index in enumerate(batch["id"].tolist()):
            length, real = int(net["src_lengths"][i]), ~net["region_padding_mask"][i]
            parts = (net["src_tokens"][i][:length], batch["target"][i][:length])
            parts += (batch["region_target"][i][real], net["region_mask"][i][real])
            assert index not in found
            found[index] = tuple(tuple(part.tolist()) for part in parts)
    return found


@pytest.fixture(scope="module")
def reference(data):
    """Masks of epochs 1 to 3 without workers."""
    iterator = iterate(data, epoch=1)
    epochs = {epoch: masks(iterator.next_epoch_itr()) for epoch in (1, 2, 3)}
    assert all(sorted(found) == list(range(29)) for found in epochs.values())
    return epochs


def changed(one: dict, other: dict) -> int:
    return sum(one[index] != other[index] for index in one)


def test_each_epoch_has_its_own_masks(reference):
    for a, b in ((1, 2), (2, 3), (1, 3)):
        assert changed(reference[a], reference[b]) == 29


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_same_masks_with_forked_workers_in_every_epoch(data, reference, workers):
    """fairseq keeps its workers over epochs unless told otherwise; set_epoch would not reach them."""
    iterator = iterate(data, epoch=1, workers=workers)
    for epoch in (1, 2, 3):
        assert masks(iterator.next_epoch_itr()) == reference[epoch]


@pytest.mark.slow
def test_same_masks_with_a_spawned_worker(data, reference):
    """PITFALLS 2: a spawned worker knows nothing but what the pickled dataset brings along."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        assert masks(iterate(data, epoch=2, workers=1).next_epoch_itr()) == reference[2]
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_same_masks_after_resuming_in_the_middle_of_epoch_2(data, reference, workers):
    first = iterate(data, epoch=1)
    list(first.next_epoch_itr())
    batches = first.next_epoch_itr()
    seen = masks([next(batches), next(batches)])
    resumed = iterate(data, epoch=2, workers=workers)
    resumed.load_state_dict(first.state_dict())
    rest = masks(resumed.next_epoch_itr())
    assert not set(seen) & set(rest)
    assert {**seen, **rest} == reference[2]
    assert masks(resumed.next_epoch_itr()) == reference[3]


@pytest.mark.parametrize("limits", [{"batch": 3}, {"batch": 1}, {"batch": None, "max_tokens": 60}])
def test_same_masks_in_other_batches(data, reference, limits):
    assert masks(iterate(data, epoch=2, **limits).next_epoch_itr()) == reference[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "regions"),
    [("whole-word", "overlap"), ("named", "salient"), ("named:0.5,random:0.3,whole-word:0.2", "named"),
     ("random", "siblings")],
)  # fmt: skip
def test_every_strategy_depends_on_seed_epoch_and_example_alone(data, words, regions):
    """Other workers and batches, after resuming, with a share that goes up; validation has the same masks always."""
    (data / "lexicon").write_text("".join(f"w{k}\tclass{k % 5}\n" for k in range(0, 40, 3)))
    argv = ("--word-masking", words, "--region-masking", regions, "--class-lexicon", data / "lexicon",
            "--region-mask-overlap", "0.1", "--region-mask-schedule", "linear:0.2:0.9:3")  # fmt: skip
    whole = iterate(data, *argv, epoch=1)
    first, second = (masks(whole.next_epoch_itr()) for _ in range(2))
    assert changed(first, second) == 29
    spawned = pickle.loads(pickle.dumps(whole.dataset))
    for line in (0, 7, 28):
        assert [part.tolist() for part in spawned[line]["draw"]] == [p.tolist() for p in whole.dataset[line]["draw"]]
        assert spawned[line]["tokens"].tolist() == whole.dataset[line]["tokens"].tolist()
    forked = iterate(data, *argv, epoch=1, workers=2)
    assert masks(forked.next_epoch_itr()) == first
    batches = forked.next_epoch_itr()
    seen = masks([next(batches)])
    resumed = iterate(data, *argv, epoch=2, batch=8)
    resumed.load_state_dict(forked.state_dict())
    assert {**seen, **masks(resumed.next_epoch_itr())} == second
    assert masks(iterate(data, *argv, epoch=2, batch=3).next_epoch_itr()) == second
    valid = [masks(iterate(data, *argv, epoch=epoch, split="valid").next_epoch_itr(shuffle=False)) for epoch in (1, 4)]
    assert valid[0] == valid[1] and len(valid[0]) == 13


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_validation_masks_are_the_same_at_every_epoch(data, workers):
    iterator = iterate(data, epoch=1, split="valid", workers=workers)
    first, second, third = (masks(iterator.next_epoch_itr(shuffle=False)) for _ in range(3))
    assert first == second == third and sorted(first) == list(range(13))
    assert masks(iterate(data, epoch=5, split="valid").next_epoch_itr(shuffle=False)) == first
    assert len({found for found in first.values()}) == 13
