"""Text that is tokenised or escaped already is noticed by its signs; raw text, whatever it holds, is not."""

import pytest

from stores import fault
from vtlm_fairseq.text.pairs import Pair
from vtlm_fairseq.text.pipeline import TextPipeline
from vtlm_fairseq.text.tokenised import watched, with_hyphens

ESCAPING, PLAIN = TextPipeline("en", "de"), TextPipeline("en", "de", steps=("lowercase", "normalise", "tokenise"))


def read(source, target="ja", *, tokenised=None, pipeline=ESCAPING):
    """Reads pairs of these texts, 20 times over."""
    pairs = [Pair("i", text, target) for text in source * 20]
    found = watched({"train": pairs}, pipeline, tokenised)
    assert list(found["train"]) == pairs


@pytest.mark.parametrize(
    "lines",
    [
        ["a man , and a dog ."],
        ["the man &apos;s dog", "a dog"],
        ["the man 's dog", "a dog"],
        ["a well @-@ known dog", "a dog"],
        ["they do n't walk", "Mr. X walks .", *["a dog ."] * 18],  # an abbreviation among them
    ],
    ids=("blanks", "escapes", "PTB", "hyphens", "mostly"),
)
def test_signs(lines):
    message = fault(read, lines)
    assert message.startswith("train, en: of the first ") and "--tokenised" in message and "--no-tokenised" in message
    assert "\n" not in message
    read(lines, tokenised=False)
    pairs = [Pair("i", "ja", line) for line in lines * 20]
    assert "train, de: " in fault(list, watched({"train": pairs}, ESCAPING, None)["train"])


@pytest.mark.parametrize(
    "lines",
    [
        ["A man, and a dog.", "The man's dog", "He waits ."],
        ["Un chien ! Un homme : lui ? \u00ab oui \u00bb ; non"],  # French
        ["R&amp;D", *['the man\'s R&D "x"'] * 19],
        ["a - b", "mail @ home", "5 .5 ..."],
        ["a dog", ""],
    ],
)
def test_raw_text_is_not_suspected(lines):
    read(lines)


def test_what_is_said_to_be_tokenised_is_looked_at(tmp_path):
    words = ["the man &apos;s dog , a well @-@ known one ."]
    read(words, "der Hund .", tokenised=True)
    assert "--no-tokenised" in fault(read, words, "Der Hund, ja.", tokenised=True)
    assert "leave out --no-escape" in fault(read, words, tokenised=True, pipeline=PLAIN)
    unescaped = ["the man 's dog ."]
    assert "give --no-escape" in fault(read, unescaped, tokenised=True)
    read(unescaped, tokenised=True, pipeline=PLAIN)
    assert next(with_hyphens([Pair("i", words[0], "x @-@ y")]))[1:3] == (words[0].replace(" @-@ ", "-"), "x-y")


def test_only_the_first_thousand_lines_count():
    """A fault of the 1,000 is raised there, not at the end of the corpus."""
    pairs = watched({"train": [Pair("i", "a dog .", "x")] * 1000 + [Pair("i", "z", "x")]}, ESCAPING, None)["train"]
    seen = []
    assert "1,000 lines" in fault(seen.extend, pairs)
    assert len(seen) == 999
    read(["a dog."] * 60 + ["a dog ."] * 400)
