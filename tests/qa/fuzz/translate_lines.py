"""Fuzz the lines that vtlm-translate reads, up to the ids of the model's words."""

import codecs
import io
import random
from pathlib import Path
from types import SimpleNamespace

from captions import LINES
from fuzzing import Case
from mutations import ODD_CHARACTERS, encoded, sentence

from tiny import dictionary
from vtlm_fairseq.cli.translate import split_line
from vtlm_fairseq.files.lines import split_lines
from vtlm_fairseq.inference import TextModel
from vtlm_fairseq.text.pipeline import TextPipeline, learn_sentencepiece


def setup(folder: Path) -> Case:
    """Lines of sentence, tab and image id."""
    (folder / "bpe.model").write_bytes(learn_sentencepiece(LINES * 3, vocab_size=90))
    words = dictionary()
    for symbol in ("a", "man", "\u2581a", "\u2581man"):
        words.add_symbol(symbol)
    pipelines = [None, *(TextPipeline("en", "de", bpe=bpe, folder=folder) for bpe in ("sentencepiece", "none"))]
    task = SimpleNamespace(source_dictionary=words)
    translators = [SimpleNamespace(pipeline=pipeline, task=task) for pipeline in pipelines]

    def case(rng: random.Random) -> None:
        translator, needs_image = rng.choice(translators), rng.random() < 0.7
        lines = []
        for _ in range(rng.randint(0, 4)):
            image = rng.choice(("img0.jpg", "", "a b", rng.choice(ODD_CHARACTERS)))
            kinds = (sentence(rng) + "\t" + image, sentence(rng), sentence(rng).replace("\n", " ") + "\t")
            lines.append(rng.choice(kinds))
        data = encoded(rng, rng.choice(("\n", "\r\n")).join(lines) + rng.choice(("", "\n")))
        found = list(split_lines(io.BytesIO(data), "stdin"))
        data = data.removeprefix(codecs.BOM_UTF8)
        assert len(found) == data.count(b"\n") + (not data.endswith(b"\n") and bool(data)), "lines are lost or made"
        for number, line in enumerate(found, 1):
            text, image = split_line(line, f"line {number}", needs_image)
            assert not needs_image or image, "no image"
            ids = TextModel.ids(translator, text, "en")
            assert ids[-1] == words.eos() and 0 <= int(ids.min()) and int(ids.max()) < len(words), "ids out of range"
            assert translator.pipeline is not None or len(ids) == len(text.split()) + 1, "words are lost"

    return case
