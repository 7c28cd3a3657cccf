"""Sub-words to words in the report, and attention between words worked out by hand."""

import pytest
import torch

from vtlm_fairseq.evaluation.report.words import Word, join_pieces, word_attention


@pytest.mark.parametrize(
    ("bpe", "pieces", "words"),
    [
        ("sentencepiece", "</s> ▁a ▁base ball ▁cap </s>", ["</s>", "a", "baseball", "cap", "</s>"]),
        ("sentencepiece", "▁a <mask> ball ▁cap", ["a", "<mask>", "ball", "cap"]),
        ("sentencepiece", "▁a <unk> ▁ é", ["a", "<unk>", "é"]),
        ("subword_nmt", "</s> a base@@ ball cap", ["</s>", "a", "baseball", "cap"]),
        ("subword_nmt", "base@@ <mask> ball", ["base", "<mask>", "ball"]),
        ("none", "a ▁b c@@ d", ["a", "▁b", "c@@", "d"]),
        ("none", "man &apos;s &lt;b&gt;", ["man", "'s", "<b>"]),
        ("none", "", []),
    ],
)
def test_words(bpe, pieces, words):
    found = join_pieces(pieces.split(), bpe)
    assert [word.text for word in found] == words
    assert [place for word in found for place in word.places] == list(range(len(pieces.split())))


def test_escapes_stay_where_the_text_has_none():
    assert join_pieces(["&apos;"], "none", unescape=False)[0].text == "&apos;"


def test_attention_between_words():
    """Rows of a word's sub-words are averaged, columns added; padding between words and regions is left out."""
    # 2 layers, 3 target positions, columns: 3 sub-words, 1 padded word, 2 regions, 1 padded region
    first = [
        [0.1, 0.2, 0.3, 0.0, 0.4, 0.0, 0.0],
        [0.3, 0.2, 0.1, 0.0, 0.2, 0.2, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0],
    ]
    second = [[0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0, 0, 1.0, 0]]
    queries, keys = [Word("ab", (0, 1)), Word("c", (2,))], [Word("xy", (0, 1)), Word("z", (2,))]
    found = word_attention(torch.tensor([first, second]), queries=queries, keys=keys, first_region=4, num_regions=2)
    one = torch.tensor([[0.4, 0.2, 0.3, 0.1], [0.0, 1.0, 0.0, 0.0]])
    two = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(found, torch.stack([(one + two) / 2, one, two]))


def test_no_words():
    found = word_attention(torch.ones(2, 1, 3), queries=[], keys=[Word("x", (0,))], first_region=1, num_regions=2)
    assert found.shape == (3, 0, 3)
