"""The datasets of pre-training and of translation: layout, batches, regions, what no example may lose."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from equality import equal
from torch.utils.data import DataLoader

from stores import fault, make_store
from tiny import dictionary, folder, line_regions, lm_dataset, pair_dataset, pretraining_task, sentences
from vtlm_fairseq.data.batching import FAULT, raise_fault
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.translation_lm_dataset import IGNORE, TranslationLMDataset
from vtlm_fairseq.regions.store import RegionStoreWriter

NOTHING = MaskingRates(select=0, keep=0, random=0)
ALL_MASKED = MaskingRates(select=1, keep=0, random=0)
ALL_KEPT = MaskingRates(select=1, keep=1, random=0)
ALL_RANDOM = MaskingRates(select=1, keep=0, random=1)
SOURCE = [[10, 11, 2], [12, 2], [13, 14, 15, 2]]
TARGET = [[20, 2], [21, 22, 2], [23, 2]]
PAIR = [[10, 2], [11, 12, 13, 2], [14, 15, 2]], [[20, 21, 2], [22, 2], [23, 24, 25, 26, 2]]


def whole_batch(dataset) -> dict:
    return dataset.collater([dataset[i] for i in range(len(dataset))])


# ---- layout


def test_pair_layout_positions_and_languages():
    batch = whole_batch(lm_dataset(SOURCE, TARGET, rates=NOTHING, languages=(2, 0)))
    net = batch["net_input"]
    assert net["src_tokens"].tolist() == [
        [2, 10, 11, 2, 2, 20, 2, 1],
        [2, 12, 2, 2, 21, 22, 2, 1],
        [2, 13, 14, 15, 2, 2, 23, 2],
    ]
    lengths = net["src_lengths"].tolist()
    assert lengths == [7, 7, 8]
    positions = [row[:n] for row, n in zip(net["positions"].tolist(), lengths, strict=True)]
    assert positions == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3], [0, 1, 2, 3, 4, 0, 1, 2]]
    langs = [row[:n] for row, n in zip(net["langs"].tolist(), lengths, strict=True)]
    assert langs == [[2] * 4 + [0] * 3, [2] * 3 + [0] * 4, [2] * 5 + [0] * 3]
    assert (batch["target"] == 1).all()
    assert (batch["ntokens"], batch["nsentences"], batch["id"].tolist()) == (22, 3, [0, 1, 2])
    assert "features" not in net and "region_target" not in batch


def test_masked_words_are_predicted_and_nothing_else():
    words = dictionary()
    dataset = lm_dataset([[10, 45, 3, 46, 2]], [[44, 2]], rates=ALL_MASKED, dictionary=words)
    batch = whole_batch(dataset)
    assert batch["net_input"]["src_tokens"].tolist() == [[2, 45, 45, 3, 46, 2, 2, 45, 2]]
    assert batch["target"].tolist() == [[1, 10, 1, 1, 1, 1, 1, 44, 1]]


# ---- regions


def test_regions_of_a_batch_are_padded_and_labels_are_the_original():
    regions = line_regions([2, 0, 3], rows=[2, 1, 0])
    batch = whole_batch(lm_dataset(SOURCE, TARGET, regions=regions, region_rates=ALL_MASKED))
    net, store = batch["net_input"], regions.store
    assert net["region_padding_mask"].tolist() == [[False] * 3, [True] * 3, [False, False, True]]
    assert net["region_mask"].tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert batch["region_target"].tolist() == [
        store[2].labels.tolist(), [IGNORE] * 3, [*store[0].labels.tolist(), IGNORE]
    ]  # fmt: skip
    np.testing.assert_array_equal(net["features"][0], store[2].features)  # the model masks, not the data
    np.testing.assert_array_equal(net["boxes"][2, :2], store[0].boxes)
    assert not net["features"][1].any() and not net["boxes"][2, 2].any()


def test_images_without_regions_leave_one_padded_place():
    """The region parameters take part in every batch, so DDP sees no unused ones."""
    net = whole_batch(lm_dataset(SOURCE, TARGET, regions=line_regions([0, 0, 0])))["net_input"]
    assert net["features"].shape == (3, 1, 4) and net["region_padding_mask"].all()


@pytest.mark.parametrize("argv", [("--region-leave-unmasked-prob", "1"),
                                  ("--region-leave-unmasked-prob", "0", "--region-mask-fill", "zero")])  # fmt: skip
def test_labels_are_predicted_without_the_mask_embedding(tmp_path, argv):
    """The paper's best variant leaves the input as it is; --region-mask-fill zero changes features, nothing else."""
    data = folder(tmp_path / "bin", {"train": 9})
    make_store(tmp_path / "r.h5", 4)
    dataset = loaded(data.path, tmp_path / "r.h5", "--region-mask-prob", "0.5", "--region-random-prob", "0", *argv)
    batch = whole_batch(dataset)
    net, chosen = batch["net_input"], batch["region_target"] != IGNORE
    assert 0 < chosen.sum() < chosen.numel() and not net["region_mask"].any()
    for i in range(9):
        regions, mine = dataset.regions[i], chosen[i].numpy()
        filled = np.where(mine[:, None] & ("zero" in argv), 0, regions.features)
        np.testing.assert_array_equal(net["features"][i], filled)
        np.testing.assert_array_equal(net["boxes"][i], regions.boxes)
        assert batch["region_target"][i][mine].tolist() == regions.labels[mine].tolist()


def test_donated_features_leave_box_and_label():
    regions = line_regions([2, 0, 3])
    dataset = lm_dataset(SOURCE, TARGET, regions=regions, region_rates=ALL_RANDOM)
    items = [dataset[i] for i in range(3)]
    items[0]["draw"].donor[:] = [0.999, 0.0]  # of 5 real regions: the last, the first
    items[2]["draw"].donor[:] = [0.2, 0.39, 0.4]  # the second, the second, the third
    batch = dataset.collater(items)
    net = batch["net_input"]
    assert net["features"][0, :2, 0].tolist() == [4, 0]
    assert net["features"][2, :, 0].tolist() == [1, 1, 2]  # read before any replacement: not 0 from image 0
    everything = np.concatenate([image.features for image in regions.store.images])
    np.testing.assert_array_equal(net["features"][0, :2], everything[[4, 0]])
    for i, count in ((0, 2), (2, 3)):
        np.testing.assert_array_equal(net["boxes"][i, :count], regions.store[i].boxes)
        assert batch["region_target"][i, :count].tolist() == regions.store[i].labels.tolist()
    assert not net["region_mask"].any()
    np.testing.assert_array_equal(regions.store[0].features, everything[:2])  # the store's arrays are untouched


# ---- sizes and batches


def test_cost_counts_words_and_regions_but_the_limit_is_per_sentence():
    """PITFALLS 12."""
    dataset = lm_dataset(SOURCE, TARGET, regions=line_regions([36, 0, 5]))
    assert [dataset.num_tokens(i) for i in range(3)] == [43, 7, 13]
    assert dataset.num_tokens_vec(np.array([2, 0])).tolist() == [13, 43]
    assert [tuple(map(int, dataset.size(i))) for i in range(3)] == [(4, 3), (3, 4), (5, 3)]
    kept, ignored = dataset.filter_indices_by_size(np.arange(3), (4, 4))
    assert (kept.tolist(), list(ignored)) == ([0, 1], [2])
    kept, ignored = dataset.filter_indices_by_size(np.arange(3), (5, 3))
    assert (kept.tolist(), list(ignored)) == ([0, 2], [1])
    assert len(lm_dataset(SOURCE, TARGET).filter_indices_by_size(np.arange(3), (5, 4))[1]) == 0


@pytest.mark.parametrize("make", [lm_dataset, pair_dataset])
def test_order_is_by_size_and_ties_are_shuffled_in_training_only(make):
    lines = sentences(60, longest=4)
    for train in (True, False):
        dataset = make(lines, lines, train=train)
        orders = []
        for seed in (1, 2):
            np.random.seed(seed)
            orders.append(dataset.ordered_indices().tolist())
            sizes = [dataset.num_tokens(i) for i in orders[-1]]
            assert sizes == sorted(sizes) and sorted(orders[-1]) == list(range(60))
        assert (orders[0] == orders[1]) is not train
    np.testing.assert_array_equal(orders[0], np.argsort([dataset.num_tokens(i) for i in range(60)], kind="stable"))


@pytest.mark.parametrize("make", [lm_dataset, pair_dataset])
@pytest.mark.parametrize("count", [1, 7, 10, 13, 461])
@pytest.mark.parametrize("limits", [(1, None), (4, None), (8, None), (None, 200), (8, 100)])
def test_no_example_is_lost(make, count, limits):
    """PITFALLS 32: fairseq drops a last batch whose size is no multiple of 8."""
    sentence_limit, token_limit = limits
    dataset = make(sentences(count), sentences(count, seed=1), regions=line_regions([3] * count))
    batches = dataset.batch_by_size(
        dataset.ordered_indices(), max_tokens=token_limit, max_sentences=sentence_limit, required_batch_size_multiple=8
    )
    assert sorted(int(i) for batch in batches for i in batch) == list(range(count))
    for batch in batches:
        assert len(batch) > 0 and (sentence_limit is None or len(batch) <= sentence_limit)
        assert token_limit is None or max(dataset.num_tokens(i) for i in batch) * len(batch) <= token_limit


def test_no_examples_make_no_batches_and_a_pair_that_fits_none_is_named():
    """fairseq's dummy batches: a key in an empty one would break them (PITFALLS 18)."""
    dataset = lm_dataset(SOURCE, TARGET, regions=line_regions([0, 0, 0]))
    assert dataset.collater([]) == {}
    assert dataset.batch_by_size(np.array([], dtype=np.int64), max_sentences=4) == []
    assert "--max-tokens is 6" in fault(dataset.batch_by_size, np.arange(3), max_tokens=6)


# ---- joins and processes


def loaded(path: Path, store: Path, *argv):
    task = pretraining_task(path, "--regions", store, *argv)
    task.load_dataset("train")
    return task.dataset("train")


def test_a_permuted_store_gives_identical_batches(tmp_path):
    """PITFALLS 24: text and images meet by id."""
    data = folder(tmp_path / "bin", {"train": 13})
    stored = make_store(tmp_path / "a.h5", 4, regions=[3, 6, 0, 9])
    ids = list(stored)
    with_order = {"a": ids, "b": [ids[i] for i in (2, 0, 3, 1)]}
    names = [f"class{c}" for c in range(5)]
    with RegionStoreWriter(tmp_path / "b.h5", feature_dim=8, class_names=names, detector="random") as writer:
        for image in with_order["b"]:
            writer.add(image, **stored[image])
    one, other = (whole_batch(loaded(data.path, tmp_path / f"{name}.h5")) for name in "ab")
    assert one["net_input"]["features"].abs().sum() > 0
    assert equal(one, other)


class OwnItems(TranslationLMDataset):
    """Says that all words are to be predicted, and counts them."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {**item, "target": item["tokens"], "length": len(item["tokens"])}

    def collater(self, samples):
        return {**super().collater(samples), "lengths": [item["length"] for item in samples]}


class OwnBatches(TranslationLMDataset):
    """The same."""

    def collater(self, samples):
        for item in samples:
            item.update(target=item["tokens"], length=len(item["tokens"]))
        return {**super().collater(samples), "lengths": [item["length"] for item in samples]}


@pytest.mark.parametrize("own", [OwnItems, OwnBatches])
def test_items_and_batches_of_a_derived_class(own):
    """The loader asks it for what it says, not for what it derives from."""
    regions = line_regions([2, 1, 3])
    dataset = lm_dataset(SOURCE, TARGET, regions=regions, rates=ALL_MASKED)
    (expected,) = DataLoader(dataset, batch_size=3, collate_fn=dataset.collater)
    dataset.__class__ = own
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=dataset.collater)
    assert batch["lengths"] == expected["net_input"]["src_lengths"].tolist() == [7, 7, 8]
    assert equal(batch["net_input"], expected["net_input"]) and (batch["net_input"]["src_tokens"] == 45).any()
    assert batch["target"].equal(batch["net_input"]["src_tokens"])
    assert dataset.collater(dataset.__getitems__([]))["lengths"] == []


def test_pickles_before_and_after_the_first_access(tmp_path):
    """PITFALLS 21."""
    data = folder(tmp_path / "bin", {"train": 5})
    make_store(tmp_path / "r.h5", 4)
    dataset = loaded(data.path, tmp_path / "r.h5")
    before = pickle.loads(pickle.dumps(dataset))
    expected = whole_batch(dataset)
    after = pickle.loads(pickle.dumps(dataset))
    assert equal(whole_batch(before), expected)
    assert equal(whole_batch(after), expected)


@pytest.mark.parametrize("make", [lm_dataset, pair_dataset])
def test_a_non_finite_feature_travels_as_a_fault_and_ends_the_step(make):
    regions = line_regions([2, 1, 3])
    dataset = make(SOURCE, TARGET, regions=regions)
    assert dataset.collater([]) == {}
    raise_fault(whole_batch(dataset))
    raise_fault({})
    regions.store.images[2].features[1, 3] = np.inf if make is lm_dataset else np.nan
    batch = whole_batch(dataset)
    assert "'img2.jpg'" in batch[FAULT] and "memory.h5" in batch[FAULT] and "img0" not in batch[FAULT]
    with pytest.raises(SystemExit, match="error: .*'img2.jpg'.*vtlm-regions validate"):
        raise_fault(batch)
    assert FAULT not in dataset.collater([dataset[0], dataset[1]])


# ---- translation


def test_layout_of_source_target_and_decoder_input():
    batch = whole_batch(pair_dataset(*PAIR, left_pad_source=True))  # padded on the right whatever fairseq's loader said
    assert batch["id"].tolist() == [1, 2, 0]  # fairseq sorts a batch by source length
    assert batch["net_input"]["src_tokens"].tolist() == [[2, 11, 12, 13, 2], [2, 14, 15, 2, 1], [2, 10, 2, 1, 1]]
    assert batch["net_input"]["src_lengths"].tolist() == [5, 4, 3]
    assert batch["target"].tolist() == [[22, 2, 1, 1, 1], [23, 24, 25, 26, 2], [20, 21, 2, 1, 1]]
    assert batch["net_input"]["prev_output_tokens"].tolist() == [
        [2, 22, 1, 1, 1], [2, 23, 24, 25, 26], [2, 20, 21, 1, 1]
    ]  # fmt: skip
    assert (batch["ntokens"], batch["nsentences"]) == (10, 3)
    assert "features" not in batch["net_input"]


def test_regions_follow_the_sentence_through_fairseqs_sort():
    """PITFALLS 24."""
    regions = line_regions([1, 3, 0, 2], rows=[3, 0, 1])
    batch = whole_batch(pair_dataset(*PAIR, regions=regions))
    net = batch["net_input"]
    assert net["region_padding_mask"].tolist() == [[False, True, True], [False] * 3, [False, False, True]]
    for i, (line, count) in enumerate(((1, 1), (2, 3), (0, 2))):
        expected = regions.store[regions.rows[line]]
        np.testing.assert_array_equal(net["features"][i, :count], expected.features)
        np.testing.assert_array_equal(net["boxes"][i, :count], expected.boxes)
    net = whole_batch(pair_dataset(*PAIR, regions=line_regions([1, 3, 2], order="none")))["net_input"]  # hidden
    assert net["features"].shape == (3, 1, 4) and net["region_padding_mask"].all() and not net["features"].any()


def test_sizes_count_the_leading_eos_and_cost_counts_regions():
    """PITFALLS 12."""
    dataset = pair_dataset(*PAIR, regions=line_regions([1, 7, 0]))
    assert [tuple(map(int, dataset.size(i))) for i in range(3)] == [(3, 3), (5, 2), (4, 5)]
    assert [dataset.num_tokens(i) for i in range(3)] == [4, 12, 5]
    assert dataset.num_tokens_vec(np.array([2, 1])).tolist() == [5, 12]
    assert dataset.ordered_indices().tolist() == [0, 2, 1]  # 4, 4, 12 source positions, then by target
    kept, ignored = dataset.filter_indices_by_size(np.arange(3), (4, 5))
    assert (list(kept), list(ignored)) == ([0, 2], [1])
    assert len(dataset.filter_indices_by_size(np.arange(3), (5, 5))[1]) == 0
    alone = pair_dataset(PAIR[0], None, regions=line_regions([1, 7, 0]))  # as in decoding
    assert [alone.num_tokens(i) for i in range(3)] == [4, 12, 4]
    assert alone.ordered_indices().tolist() == [0, 2, 1]
    assert whole_batch(alone)["net_input"]["features"].shape == (3, 7, 4)


def test_set_epoch_redraws_shuffled_regions():
    lines = sentences(30)
    dataset = pair_dataset(lines, lines, regions=line_regions([1] * 30, order="shuffle", redraw=True))
    first = [float(dataset[i]["regions"].features[0, 0]) for i in range(30)]
    dataset.set_epoch(2)
    second = [float(dataset[i]["regions"].features[0, 0]) for i in range(30)]
    assert first != second and all(feature != i for i, feature in enumerate(second))
