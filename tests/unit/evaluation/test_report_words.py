"""Sub-words to words in the report, and attention between words worked out by hand."""

import torch
from fairseq.data import Dictionary

from vtlm_fairseq.evaluation.report.data import Spelling
from vtlm_fairseq.evaluation.report.words import Word, join_pieces, word_attention


def test_words_keep_the_places_of_their_pieces():
    """Words as elsewhere; a mark that no word follows is shown; escapes are undone where the text has some."""
    found = join_pieces("</s> ▁a ▁base ball ▁&apos; s ▁".split(), "sentencepiece")
    assert [(word.text, word.places) for word in found] == [
        ("</s>", (0,)), ("a", (1,)), ("baseball", (2, 3)), ("'s", (4, 5)), ("▁", (6,))]  # fmt: skip
    assert join_pieces(["&apos;"], "none", unescape=False)[0].text == "&apos;"


def test_escapes_without_text_json(tmp_path):
    """As the symbols of the dictionary show: French of Moses is `d'`, not `d&apos;`; text that has none keeps it."""
    for symbols, shown in ((("d&apos;", "eau"), ["d'", "eau", "&"]), (("d'", "eau"), ["d&apos;", "eau", "&"])):
        dictionary = Dictionary()
        for symbol in symbols:
            dictionary.add_symbol(symbol)
        spelling = Spelling.of_data(str(tmp_path), dictionary, None)
        assert [word.text for word in spelling.words(["d&apos;", "eau", "&"])] == shown
        assert [spelling.piece(symbol) for symbol in ("d&apos;", "eau", "&")] == shown


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
    found = word_attention(torch.ones(2, 1, 3), queries=[], keys=keys[:1], first_region=1, num_regions=2)
    assert found.shape == (3, 0, 3)
