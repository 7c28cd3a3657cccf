"""What the report shows of a sentence: words, regions, attention, and what a pre-trained model predicts."""

import html
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fairseq.data import Dictionary
from torch import Tensor

from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.evaluation.report.words import Word, join_pieces
from vtlm_fairseq.text.pipeline import FILE_NAME, TextPipeline, bpe_kind
from vtlm_fairseq.text.subwords import BOUNDARY, MASK

ESCAPE = re.compile(r"&(apos|quot|amp|lt|gt|#91|#93|#124);")
"""As Moses writes signs."""

Ranking = list[tuple[str, float]]
"""Names and probabilities, best first."""


@dataclass
class Region:
    """A region: box (x1, y1, x2, y2 within 0..1), detector label and score, and what became of it.

    Attributes:
        masked: its content was hidden from the model.
        predictions: what the model takes it for, where its label had to be predicted.
    """

    box: tuple[float, float, float, float]
    label: str
    score: float
    masked: bool = False
    predictions: Ranking = field(default_factory=list)


@dataclass
class ShownWord:
    """A word of a shown line; ``query`` and ``key`` are its row and column of the attention, if it has one.

    Attributes:
        predicted: it was masked, and the model had to say it.
        changed: it is not the same in the translations with and without the image.
    """

    text: str
    query: int | None = None
    key: int | None = None
    predicted: bool = False
    changed: bool = False


@dataclass
class ShownLine:
    """A line of text: its name, language, words, and a word on where it comes from."""

    name: str
    lang: str
    words: list[ShownWord]
    note: str = ""


@dataclass
class Prediction:
    """A sub-word that had to be predicted, as it is shown: its line's name, itself, what the model saw, its guesses."""

    line: str
    truth: str
    seen: str
    with_image: Ranking
    without_image: Ranking | None


@dataclass
class Sentence:
    """All that the report shows of a sentence.

    Attributes:
        number: line in the test set, from 1.
        image: id of the image whose regions the model got, None without regions.
        lines: of text.
        regions: best score first.
        attention: (1 + L) x queries x (keys + regions), the mean over layers first.
        predictions: of masked words.
        change: how much the image changes what the model says; sentences can be ordered by it.
        note: the same in words; empty without another image to compare with.
        mark: the same in few words, for the index.
    """

    number: int
    image: str | None
    lines: list[ShownLine]
    regions: list[Region]
    attention: Tensor
    predictions: list[Prediction] = field(default_factory=list)
    change: float = 0.0
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Spelling:
    """How the symbols of a data folder are shown: the kind of BPE, and whether words are escaped."""

    bpe: str
    escaped: bool

    @classmethod
    def of_data(cls, data: str, dictionary: Dictionary, bpe: str | None) -> "Spelling":
        """That of ``text.json``; without one, as the dictionary's symbols show. ``bpe`` overrules both."""
        if os.path.exists(os.path.join(data, FILE_NAME)):
            escaped = "escape" in TextPipeline.load(data).steps
        else:
            escaped = any(ESCAPE.search(symbol) for symbol in dictionary.symbols)
        return cls(bpe or bpe_kind(data, dictionary.symbols), escaped)

    def words(self, pieces: Sequence[str]) -> list[Word]:
        """Words of a sentence of symbols."""
        return join_pieces(pieces, self.bpe, unescape=self.escaped)

    def piece(self, symbol: str) -> str:
        """A symbol in a table: with a dot for sentencepiece's word boundary."""
        shown = symbol if symbol == MASK else symbol.replace(BOUNDARY, "\u00b7")
        return html.unescape(shown) if self.escaped else shown


def line_regions(by_line: LineRegions | None, line: int) -> tuple[list[Region], str | None]:
    """The regions that a line gets, and the id of their image (with shuffled regions, another line's)."""
    if by_line is None:
        return [], None
    found = by_line[line]
    names = by_line.store.class_names
    regions = [
        Region(tuple(box), names[label], score)
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    return regions, line_image(by_line, line)


def line_image(by_line: LineRegions, line: int) -> str:
    """The id of the image whose regions a line gets."""
    return by_line.store.image_id(int(by_line.line_rows[line]))
