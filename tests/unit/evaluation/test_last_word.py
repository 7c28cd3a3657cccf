"""Last words: where they are, when they are right, and the figures of the table, all worked out by hand."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.data import Dictionary

from stores import fault
from tiny import line_regions
from vtlm_fairseq.evaluation.probes import last_word
from vtlm_fairseq.evaluation.probes.last_word import (
    Accuracy,
    Ending,
    SplitProbe,
    find_last_word,
    is_punctuation,
)
from vtlm_fairseq.evaluation.splits import in_order


def make_dictionary(*symbols: str) -> Dictionary:
    made = Dictionary()
    for symbol in symbols:
        made.add_symbol(symbol)
    return made


def ids(words: Dictionary, text: str) -> torch.Tensor:
    return words.encode_line(text, add_if_not_exist=False, append_eos=True).long()


def test_punctuation():
    """Moses' escapes are read as the characters that they stand for; a number or <unk> is a word."""
    assert all(map(is_punctuation, [".", "...", "&quot;", "&apos;", "–", "?!", "&#93;"]))
    assert not any(map(is_punctuation, ["a.", "'s", "&apos;s", "3", "<unk>", "amp"]))


@pytest.mark.parametrize(
    ("options", "sentence", "masked"),
    [
        ({}, "▁a ▁wom an", "▁a <mask> <mask>"),
        ({"last_token": True}, "▁a ▁wom an", "▁a ▁wom <mask>"),
        ({"keep_punctuation": True}, "▁a ▁wom an ▁. ▁&quot;", "▁a <mask> <mask> ▁. ▁&quot;"),
        ({"keep_punctuation": True, "last_token": True}, "▁a ▁wom an ▁. ▁&quot;", "▁a ▁wom <mask> ▁. ▁&quot;"),
    ],
)
def test_last_word_before_final_punctuation(options, sentence, masked):
    words = make_dictionary("▁a", "▁wom", "an", "▁.", "▁&quot;", "<mask>")
    found = find_last_word(ids(words, "▁a ▁wom an ▁. ▁&quot;"), words, bpe="sentencepiece", **options)
    assert words.string(found.tokens) == sentence
    assert words.string(found.masked(words.index("<mask>"))) == masked
    assert found.tokens[-1] == words.eos()


def test_no_word():
    words = make_dictionary("a", ".")
    assert find_last_word(ids(words, ". ."), words, bpe="none") is None
    assert find_last_word(ids(words, ""), words, bpe="none") is None
    assert words.string(find_last_word(ids(words, ". a ."), words, bpe="none").tokens) == ". a"


def test_accuracy_and_wilson_interval():
    """Of 10, 9 right: Wilson's interval is 59.6 to 98.2; none right of 13: 0 to 3.8415 / (13 + 3.8415)."""
    nine = Accuracy(9, 10)
    assert nine.share == 90
    assert nine.interval == pytest.approx((59.585, 98.212), abs=1e-3)
    assert Accuracy(0, 13).interval == pytest.approx((0, 100 * 3.841459 / 16.841459), abs=1e-4)


class StubModel:
    """Predicts what a table says: (first word of the source, place among the masks) -> id."""

    source_lang, target_lang, mask_idx = "en", "de", 9

    def __init__(self, answers):
        self.answers, self.calls = answers, []

    def predict(self, sources, targets, *, regions, batch_size):
        self.calls.append(regions)
        for number in reversed(range(len(sources))):  # order is free
            masks = int((sources[number] == 9).sum() + (targets[number] == 9).sum())
            log_probs = torch.full((masks, 10), -5.0)
            for place in range(masks):
                log_probs[place, self.answers(number, place, regions)] = -0.1
            yield number, log_probs


def endings(*pairs) -> list[tuple[Ending, Ending]]:
    """Pairs of (tokens, start, end) without ``</s>``."""
    return [tuple(Ending(torch.tensor([*tokens, 2]), start, end) for tokens, start, end in pair) for pair in pairs]


def probe(answers, regions=None) -> SplitProbe:
    """Two pairs; the last words are 5 6 / 7 and 5 / 8 8."""
    pairs = endings((([4, 5, 6], 1, 3), ([4, 7], 1, 2)), (([4, 5], 1, 2), ([8, 8], 0, 2)))
    return SplitProbe(StubModel(answers), "test", pairs, [0, 1], regions, [])


ARGS = SimpleNamespace(repeats=3, seed=1, batch_size=2)


def test_a_word_is_right_when_all_its_sub_words_are():
    """Pair 0 is predicted 5 6 | 7 (all right), pair 1 as 5 | 8 7 (the target's second sub-word is wrong).

    EN: both words right, 2 of 2. DE: masked alone, its predictions are the first ones: pair 0 gets 5 for 7, pair 1
    gets 5 8 for 8 8, so 0 of 2. BOTH: 5 6, 7 and 5 right, 8 7 wrong: 3 of 4.
    """
    made = probe(lambda number, place, regions: [[5, 6, 7], [5, 8, 7]][number][place])
    assert made.accuracies("none", ARGS) == {"EN": Accuracy(2, 2), "DE": Accuracy(0, 2), "BOTH": Accuracy(3, 4)}
    assert made.model.calls == [None] * 3


def test_shuffling_is_repeated_and_averaged():
    """The model is right (EN) only where line 0 has image 2's region: one draw of three here, so a third of 2 words."""
    images = line_regions([1, 1, 1])
    draws = [in_order(images, "shuffle", seed=seed).line_rows.tolist() for seed in (1, 2, 3)]
    lucky = sum(draw[0] == 2 for draw in draws)
    assert 0 < lucky < 3 and all(draw[i] != i for draw in draws for i in range(3))

    def answers(number, place, regions):
        return [[5, 6, 7], [5, 8, 8]][number][place] if regions.line_rows[0] == 2 else 4

    made = probe(answers, images)
    found = made.accuracies("shuffle", ARGS)
    assert found["EN"] == Accuracy(2 * lucky / 3, 2)
    assert found["BOTH"].share == pytest.approx(100 * lucky / 3)
    assert len(made.model.calls) == 9 and all(len(call) == 2 for call in made.model.calls)


def test_regions_of_some_lines_come_from_the_whole_split():
    """Lines 1 and 3 of four: what they get when all four are shuffled."""
    images = line_regions([1, 2, 3, 4])
    everything = in_order(images, "shuffle", seed=5).line_rows
    some = in_order(images, "shuffle", seed=5, lines=[1, 3])
    assert some.line_rows.tolist() == everything[[1, 3]].tolist()
    assert some.counts().tolist() == (everything[[1, 3]] + 1).tolist()
    assert in_order(images, "given", seed=5, lines=[3]).line_rows.tolist() == [3]
    assert in_order(images, "none", seed=5) is None and in_order(None, "given", seed=5) is None


def test_kind_of_bpe(tmp_path):
    """Without text.json, the marks in the text say it."""
    assert last_word.bpe_kind(str(tmp_path), ["a b", "wom@@ an"]) == "subword_nmt"
    assert last_word.bpe_kind(str(tmp_path), ["▁a"]) == "sentencepiece"
    assert last_word.bpe_kind(str(tmp_path), ["a woman"]) == "none"


def test_a_text_that_holds_masks_already(monkeypatch):
    words = make_dictionary("a", "<mask>")
    sides = {"src": [ids(words, "a"), ids(words, "a <mask>")], "tgt": [ids(words, "a")] * 2}
    text = type("Text", (), {**sides, "__len__": lambda self: 2})()
    monkeypatch.setattr(last_word, "load_split", lambda *a, **k: (text, None))
    model = SimpleNamespace(task=None, dictionary=words, mask_idx=words.index("<mask>"))
    args = SimpleNamespace(
        regions="none", lines=None, data="bin", named=False, keep_punctuation=False, last_token=False
    )
    assert "bin, test, line 2: " in fault(SplitProbe.load, model, "test", args)
