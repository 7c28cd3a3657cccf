"""Corpora that options name, and how often each example of them is seen."""

from collections import Counter

import numpy as np
import pytest

from stores import fault
from tiny import lm_dataset, sentences
from vtlm_fairseq.data.corpora import read_corpora
from vtlm_fairseq.data.corpora_dataset import CorporaDataset, share_out
from vtlm_fairseq.data.masking import MaskingRates


@pytest.fixture
def folders(tmp_path):
    """Names of binarised files: pairs whose languages have hyphens, captions, several pairs in one folder."""
    for name in ("a/train.pt-BR-en.en.idx", "a/train.pt-BR-en.pt-BR.idx", "b/train.pt-BR-None.pt-BR.idx",
                 "c/en-de/train.en-de.en.idx", "c/en-de/train.en-de.de.idx", "c/train.en-fr.en.idx",
                 "c/train.en-fr.fr.idx", "c/train.cs-en.cs.idx", "c/train.cs-en.en.idx"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def found(lang_pairs, data, regions="none"):
    return [(one.name, one.languages, one.folder, one.regions) for one in read_corpora(lang_pairs, str(data), regions)]


def test_what_options_name(folders):
    """In either direction; a folder each, or one for all; stores likewise; one side of a pair is captions."""
    a, b, c = (f"{folders}/{name}" for name in "abc")
    assert found("en-pt-BR,pt-BR,pt-BR-en", f"{a}:{b}:{a}", "x:none:y") == [
        ("en-pt-BR", ("en", "pt-BR"), a, "x"),
        ("pt-BR", ("pt-BR",), b, "none"),
        ("pt-BR-en", ("pt-BR", "en"), a, "y"),
    ]
    assert found("en-de, en-fr,en-fr,cs", c, "x") == [
        ("en-de", ("en", "de"), f"{c}/en-de", "x"),
        ("en-fr", ("en", "fr"), c, "x"),
        ("en-fr.2", ("en", "fr"), c, "x"),
        ("cs", ("cs",), c, "x"),
    ]


@pytest.mark.parametrize(
    ("pairs", "data", "named"),
    [
        ("en-de,en", "c", ("en-fr", "cs-en", "'en'", "--only-source")),  # a side of two pairs
        ("en-de,", "c", ("''",)),
        ("en-de,en-fr", "a:b:c", ("3", "2", "--lang-pairs")),
        ("pt", "a", ("pt-BR-en", "'pt'")),
        ("en-de", "d", ("d", "fairseq-preprocess")),
        ("de-en", ".", ("DATA", "./de-en")),
    ],
)
def test_what_cannot_be_meant(folders, pairs, data, named):
    said = fault(read_corpora, pairs, ":".join(f"{folders}/{name}" for name in data.split(":")), "none")
    assert [part for part in named if part not in said] == []


def test_shares():
    """By hand: 1:16 of 85 examples; as 1:4 at 2, as 1:2 at 4; an empty corpus has none, a tiny one at least one."""
    sizes = np.array([5, 80])
    assert [share_out(sizes, t).tolist() for t in (1, 2, 4)] == [[5, 80], [17, 68], [28, 57]]
    assert share_out(np.array([0, 3, 10**9]), 0.5).tolist() == [0, 1, 10**9 + 3]


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1, 2, 4, 1000])
def test_every_example_is_seen_as_often(temperature):
    """Over 9 epochs, in other orders with another seed; twice in an epoch it has other masks."""
    half = MaskingRates(select=0.5, keep=0, random=0)
    parts = {
        name: lm_dataset(sentences(size, seed=k), sentences(size, seed=9), rates=half, seed=3, train=True)
        for k, (name, size) in enumerate((("a", 5), ("b", 80)))
    }
    made, other = (CorporaDataset(parts, temperature=temperature, seed=seed, train=True) for seed in (3, 4))
    shares, seen, differ = dict(zip(parts, made.shares.tolist(), strict=True)), Counter(), 0
    for epoch in range(1, 10):
        chosen = []
        for dataset in (made, made, other):
            dataset.set_epoch(epoch)
            np.random.seed(7)
            indices = dataset.ordered_indices()
            assert len(set(indices.tolist())) == len(indices) == len(dataset) == 85
            chosen.append(indices.tolist())
        assert chosen[0] == chosen[1]
        differ += sorted(chosen[0]) != sorted(chosen[2])
        masks = {}
        for batch in made.batch_by_size(np.array(chosen[0]), max_sentences=8):
            collated = made.collater(made.__getitems__(batch))
            name = collated["corpus"]
            assert {made[index]["corpus"] for index in batch} == {name}
            seen.update((name, line) for line in collated["id"].tolist())
            for line, target in zip(collated["id"].tolist(), collated["target"].tolist(), strict=True):
                masks.setdefault((name, line), []).append(tuple(target))
        repeated = [found for found in masks.values() if len(found) > 1]
        assert sum(len(set(found)) for found in repeated) >= 0.9 * sum(map(len, repeated))
    for name, size in (("a", 5), ("b", 80)):
        counts = [seen[name, line] for line in range(size)]
        assert sum(counts) == 9 * shares[name] and max(counts) - min(counts) <= 1
    assert differ == (0 if temperature == 1 else 9)


def test_captions():
    """One sentence: its row, its positions, its cost; a long one is left out by its own length."""
    made = lm_dataset([[5, 6, 2], [7, 2]], None, languages=(2,), rates=MaskingRates(select=0, keep=0, random=0))
    batch = made.collater([made[0], made[1]])
    assert batch["net_input"]["src_tokens"].tolist() == [[2, 5, 6, 2], [2, 7, 2, 1]]
    assert batch["net_input"]["langs"].tolist() == [[2] * 4, [2] * 4]
    assert batch["net_input"]["positions"].tolist() == [[0, 1, 2, 3], [0, 1, 2, 0]]
    assert made.num_tokens(0) == 4 and made.filter_indices_by_size(np.arange(2), (3, 3))[0].tolist() == [1]
