"""What a word is, to all that join, score, mask or show sub-words."""

import random

import pytest
from fairseq.data.data_utils import post_process

from vtlm_fairseq.text.subwords import BPE_KINDS, dictionary_kind, join_words, spell, split_words, subword_kind


@pytest.mark.parametrize(
    ("bpe", "pieces", "words"),
    [
        ("sentencepiece", "</s> ▁a ▁base ball ▁cap </s>", ["</s>", "a", "baseball", "cap", "</s>"]),
        ("sentencepiece", "an ▁a ▁wom an ▁.", ["an", "a", "woman", "."]),
        ("sentencepiece", "▁a <mask> ball ▁cap", ["a", "<mask>", "ball", "cap"]),
        ("sentencepiece", "▁a ▁ <unk> ▁Stra <unk> e", ["a", "<unk>", "Stra<unk>e"]),  # sentencepiece writes "▁ 狗"
        ("subword_nmt", "</s> a base@@ ball cap", ["</s>", "a", "baseball", "cap"]),
        ("subword_nmt", "a wom@@ a@@ n .", ["a", "woman", "."]),
        ("subword_nmt", "base@@ <mask> ball Stra@@ <unk>", ["base", "<mask>", "ball", "Stra<unk>"]),
        ("none", "a ▁b c@@ d", ["a", "▁b", "c@@", "d"]),
        ("none", "", []),
    ],
)
def test_words(bpe, pieces, words):
    """Every piece belongs to one word; joined, the words of the sentence."""
    pieces = pieces.split()
    found = split_words(pieces, bpe)
    assert [spell(pieces[word.start : word.stop], bpe) for word in found] == words
    assert [place for word in found for place in word] == list(range(len(pieces)))
    assert join_words(" ".join(pieces), bpe) == " ".join(words)


def test_joined_as_fairseq_joins():
    """Whatever pieces a model writes, in the form in which fairseq-generate --post-process gives them."""
    rng = random.Random(1)
    marked = {"sentencepiece": "▁a ▁ b ▁cd <unk> 狗", "subword_nmt": "a@@ b c@@@@ <unk> 狗@@", "none": "a ▁b c@@"}
    for bpe in BPE_KINDS * 300:
        text = " ".join(rng.choices(marked[bpe].split(), k=rng.randint(0, 7)))
        assert join_words(text, bpe) == " ".join(post_process(text, bpe).split())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("▁ein hund", "sentencepiece"),
        ("ein hu@@ nd", "subword_nmt"),
        ("ein hund@@", "subword_nmt"),
        ("schwarz @-@ weiß @ 5", None),
        ("a@@b _ c", None),
    ],
)
def test_marks_of_subwords(text, kind):
    assert subword_kind(["ohne", text]) == kind


def test_a_rare_mark_of_another_kind():
    """A character of the text that looks like a mark does not make a dictionary one of the other kind."""
    assert subword_kind(["hu@@", "▁", "ka@@", "tze"]) == "subword_nmt"
    assert subword_kind(["▁ein", "x@@", "▁hund"]) == "sentencepiece"


@pytest.mark.parametrize("symbol", ["▁", "bob@@"])
def test_words_of_which_one_looks_like_a_subword(symbol):
    """The kind would be that of all: every sentence of words one word."""
    words = [f"word{number}" for number in range(5_000)]
    assert dictionary_kind([*words, symbol]) is None
    assert dictionary_kind([*words, *[symbol] * 50]) is not None
    assert dictionary_kind(["▁", *"abcdefghijklmnopqrstuvwxyz"]) == "sentencepiece"  # of characters
