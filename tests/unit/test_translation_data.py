"""The translation dataset: fairseq's pairs with a leading </s> and the regions of the line's image."""

import numpy as np
from fairseq.data import LanguagePairDataset

from tiny import dictionary, line_regions, sentences, text
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.translation_dataset import MultimodalTranslationDataset

SOURCE = [[10, 2], [11, 12, 13, 2], [14, 15, 2]]
TARGET = [[20, 21, 2], [22, 2], [23, 24, 25, 26, 2]]


def dataset_of(source=SOURCE, target=TARGET, *, regions=None, shuffle=False, **options):
    words = dictionary()
    source, target = text(source), target and text(target)
    pair = LanguagePairDataset(source, source.sizes, words, target, target and target.sizes, words, **options)
    return MultimodalTranslationDataset.from_pair(pair, regions=regions, shuffle=shuffle)


def whole_batch(dataset) -> dict:
    return dataset.collater([dataset[i] for i in range(len(dataset))])


def test_layout_of_source_target_and_decoder_input():
    batch = whole_batch(dataset_of(left_pad_source=True))  # padded on the right whatever fairseq's loader said
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
    batch = whole_batch(dataset_of(regions=regions))
    net = batch["net_input"]
    assert net["region_padding_mask"].tolist() == [[False, True, True], [False] * 3, [False, False, True]]
    for i, (line, count) in enumerate(((1, 1), (2, 3), (0, 2))):
        expected = regions.store[regions.rows[line]]
        np.testing.assert_array_equal(net["features"][i, :count], expected.features)
        np.testing.assert_array_equal(net["boxes"][i, :count], expected.boxes)


def test_hidden_regions_are_padding():
    net = whole_batch(dataset_of(regions=line_regions([1, 3, 2], order="none")))["net_input"]
    assert net["features"].shape == (3, 1, 4) and net["region_padding_mask"].all() and not net["features"].any()


def test_sizes_count_the_leading_eos_and_cost_counts_regions():
    """PITFALLS 12."""
    dataset = dataset_of(regions=line_regions([1, 7, 0]))
    assert [tuple(map(int, dataset.size(i))) for i in range(3)] == [(3, 3), (5, 2), (4, 5)]
    assert [dataset.num_tokens(i) for i in range(3)] == [4, 12, 5]
    assert dataset.num_tokens_vec(np.array([2, 1])).tolist() == [5, 12]
    assert dataset.ordered_indices().tolist() == [0, 2, 1]  # 4, 4, 12 source positions, then by target
    kept, ignored = dataset.filter_indices_by_size(np.arange(3), (4, 5))
    assert (list(kept), list(ignored)) == ([0, 2], [1])
    assert len(dataset.filter_indices_by_size(np.arange(3), (5, 5))[1]) == 0


def test_source_only():
    dataset = dataset_of(target=None, regions=line_regions([1, 7, 0]))
    assert [dataset.num_tokens(i) for i in range(3)] == [4, 12, 4]
    assert dataset.ordered_indices().tolist() == [0, 2, 1]
    assert whole_batch(dataset)["net_input"]["features"].shape == (3, 7, 4)


def test_only_training_shuffles():
    lines = sentences(60, longest=3)
    for shuffle in (True, False):
        dataset = dataset_of(lines, lines, shuffle=shuffle)
        orders = []
        for seed in (1, 2):
            np.random.seed(seed)
            orders.append(dataset.ordered_indices().tolist())
        assert (orders[0] == orders[1]) is not shuffle and sorted(orders[0]) == list(range(60))


def test_set_epoch_redraws_shuffled_regions():
    lines = sentences(30)
    dataset = dataset_of(lines, lines, regions=line_regions([1] * 30, order="shuffle", redraw=True))
    first = [float(dataset[i]["regions"].features[0, 0]) for i in range(30)]
    dataset.set_epoch(2)
    second = [float(dataset[i]["regions"].features[0, 0]) for i in range(30)]
    assert first != second and all(feature != i for i, feature in enumerate(second))


def test_no_example_is_lost():
    """PITFALLS 32."""
    dataset = dataset_of(sentences(13), sentences(13, seed=1), regions=line_regions([3] * 13))
    batches = dataset.batch_by_size(dataset.ordered_indices(), max_sentences=4, required_batch_size_multiple=8)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(13))


def test_faults_and_empty_batches():
    regions = line_regions([1, 7, 2])
    dataset = dataset_of(regions=regions)
    assert dataset.collater([]) == {}
    regions.store.images[1].features[6, 0] = np.nan
    assert "'img1.jpg'" in whole_batch(dataset)[FAULT]
    assert FAULT not in dataset.collater([dataset[0], dataset[2]])
