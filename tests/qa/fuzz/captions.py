"""Fuzz captions through the text pipeline: raw sentence to words, pieces and back."""

import random
import unicodedata
from pathlib import Path

from fuzzing import Case
from mutations import sentence

from vtlm_fairseq.text.pipeline import STEPS, TextPipeline, learn_sentencepiece
from vtlm_fairseq.text.subwords import MASK

LINES = [
    "a man in a red shirt is riding a bike down the street .",
    "ein mann in einem roten hemd f\u00e4hrt mit dem fahrrad die stra\u00dfe hinunter .",
    "two dogs are running through the grass near the water .",
    "zwei hunde rennen durch das gras am wasser .",
]
MARKS = {"sentencepiece": "\u2581", "subword_nmt": "@@", "none": "\0"}


def setup(folder: Path) -> Case:
    """A pipeline of each kind of BPE, with and without steps."""
    (folder / "bpe.model").write_bytes(learn_sentencepiece(LINES * 3, vocab_size=90))
    (folder / "bpe.codes").write_text("#version: 0.2\na n</w>\ni n</w>\nd e\nu n\nde r</w>\n")
    pipelines = [
        TextPipeline("en", "de", steps=steps, bpe=bpe, folder=folder)
        for bpe in MARKS
        for steps in (STEPS[:4], STEPS, ())
    ]

    def case(rng: random.Random) -> None:
        pipeline, lang, raw = rng.choice(pipelines), rng.choice(("en", "de")), sentence(rng)
        words = pipeline.preprocess(raw, lang)
        check_line(words)
        assert words.split().count(MASK) == raw.count(MASK), "<mask> is lost or made"
        pieces = pipeline.encode(raw, lang)
        check_line(pieces)
        assert pieces.split().count(MASK) == raw.count(MASK), "<mask> is lost or made by BPE"
        back = pipeline.decode(pieces, lang)
        check_line(back)
        if MARKS[pipeline.bpe] not in words:
            assert back == words, "BPE is not undone"
        running = pipeline.decode(pieces, lang, detokenize=True)
        assert "\n" not in running, "a line end in running text"
        anything = pipeline.decode(sentence(rng), lang)  # a model can say anything that its dictionary holds
        assert anything == " ".join(anything.split()) and len(anything.splitlines()) < 2, "more than one line"

    return case


def check_line(words: str) -> None:
    """Single spaces, no character that fairseq, Python or a terminal takes for a line end."""
    assert words == " ".join(words.split()), "not single spaces"
    assert not any(unicodedata.category(c) == "Cc" or c in "\u2028\u2029" for c in words), "a control character is left"
