"""IBM model 1, worked out by hand."""

import numpy as np
import pytest

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.word_alignment import Direction, WordAlignment, evenly_spaced

PAIRS = [("the house".split(), "das Haus".split()), ("the book".split(), "das Buch".split()),
         ("a book".split(), "ein Buch".split())]  # fmt: skip


def test_one_iteration_by_hand():
    """the=1, a=2 heard; das=1, ein=2 said; pairs "the | das" and "the a | das ein", each with the empty word.

    Start: all alike. Counts: das in the first pair is half of the, half of none; in the second each word is a third
    of the, a, none. the: das 1/2 + 1/3, ein 1/3, so p(das | the) = 5/7; p(das | a) = 1/2.
    """
    made = Direction.train([(np.array([1]), np.array([1])), (np.array([1, 2]), np.array([1, 2]))],
                           width=3, iterations=1)  # fmt: skip
    found = made.probabilities(np.array([1, 2]), np.array([1, 2]))
    assert found == pytest.approx(np.array([[5 / 7, 2 / 7], [1 / 2, 1 / 2], [5 / 7, 2 / 7]]))


def test_words_meet_where_both_directions_agree():
    model = WordAlignment.train(PAIRS * 3)
    assert model.align("the book".split(), "das Buch".split()) == [0, 1]
    assert model.align("book a".split(), "ein Buch".split()) == [1, 0]
    assert model.align("the zebra".split(), "das Zebra".split()) == [0, None]  # never seen
    assert model.align([], ["das"]) == [] and model.align(["the"], []) == [None]


def test_a_word_that_stands_twice_meets_the_nearer_one():
    model = WordAlignment.train(PAIRS * 3)
    found = model.align("the book the house".split(), "das Buch das Haus".split())
    assert found == [0, 1, 2, 3]


def test_the_same_pairs_give_the_same_tables():
    one, two = WordAlignment.train(PAIRS), WordAlignment.train(PAIRS)
    assert (one.forward.values == two.forward.values).all() and (one.backward.keys == two.backward.keys).all()
    with pytest.raises(VTLMError, match="both sides"):
        WordAlignment.train([(["the"], [])])
    assert list(evenly_spaced(5, 10)) == [0, 1, 2, 3, 4] and list(evenly_spaced(25, 10)) == list(range(0, 25, 3))
