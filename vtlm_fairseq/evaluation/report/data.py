"""What the report shows of a sentence: words, regions, attention, and what a pre-trained model predicts."""

import os
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from fairseq.data import Dictionary
from torch import Tensor

from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.translation_lm_dataset import IGNORE, TranslationLMDataset
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.attention_weights import cross_attention, self_attention
from vtlm_fairseq.evaluation.probes.attention import hypothesis_inputs
from vtlm_fairseq.evaluation.report.words import Word, join_pieces, word_attention
from vtlm_fairseq.evaluation.systems import LoadedModel
from vtlm_fairseq.text.pipeline import FILE_NAME, TextPipeline
from vtlm_fairseq.text.subwords import BOUNDARY, MASK, subword_kind

TOP = 5
END = "</s>"
REGION_INPUTS = ("features", "boxes", "region_padding_mask", "region_mask")

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
    """A word of a shown line; ``query`` and ``key`` are its row and column of the attention, if it has one."""

    text: str
    query: int | None = None
    key: int | None = None
    predicted: bool = False


@dataclass
class ShownLine:
    """A line of text: its name, language, and words."""

    name: str
    lang: str
    words: list[ShownWord]


@dataclass
class Prediction:
    """A sub-word that had to be predicted: its line's name, itself, what the model saw, and its guesses."""

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
    """

    number: int
    image: str | None
    lines: list[ShownLine]
    regions: list[Region]
    attention: Tensor
    predictions: list[Prediction] = field(default_factory=list)


@dataclass(frozen=True)
class Spelling:
    """How the symbols of a data folder are shown: the kind of BPE, and whether words are escaped."""

    bpe: str
    escaped: bool

    @classmethod
    def of_data(cls, data: str, dictionary: Dictionary, bpe: str | None) -> "Spelling":
        """That of ``text.json``; without one, BPE is read off the dictionary. ``bpe`` overrules both."""
        if not os.path.exists(os.path.join(data, FILE_NAME)):
            return cls(bpe or subword_kind(dictionary.symbols) or "none", escaped=False)
        pipeline = TextPipeline.load(data)
        return cls(bpe or pipeline.bpe, "escape" in pipeline.steps)

    def words(self, pieces: Sequence[str]) -> list[Word]:
        """Words of a sentence of symbols."""
        return join_pieces(pieces, self.bpe, unescape=self.escaped)


def collect(loaded: LoadedModel, lines: Sequence[int] | None, *, spelling: Spelling, beam: int) -> list[Sentence]:
    """Run a model of either task on some lines.

    Args:
        loaded: the model and the split.
        lines: numbers, from 0; None: the first ten, or as many as there are.
        spelling: how words are shown.
        beam: of decoding.

    Raises:
        VTLMError: a line that the split does not have.
    """
    lines = range(min(10, len(loaded.dataset))) if lines is None else lines
    for line in lines:
        if not 0 <= line < len(loaded.dataset):
            raise VTLMError(f"--lines: no line {line + 1}, the split has {len(loaded.dataset)}")
    if isinstance(loaded.dataset, TranslationLMDataset):
        return [pretraining_sentence(loaded, line, spelling=spelling) for line in lines]
    generator = loaded.task.build_generator([loaded.model], Namespace(beam=beam))
    return [translation_sentence(loaded, line, generator, spelling=spelling) for line in lines]


def translation_sentence(loaded: LoadedModel, line: int, generator, *, spelling: Spelling) -> Sentence:
    """Translate a line; attention of the best hypothesis to source words and regions."""
    sample = loaded.lines([line])
    net_input = {**sample["net_input"], "prev_output_tokens": hypothesis_inputs(loaded, generator, sample)}
    weights = cross_attention(loaded.model, net_input).mean(1)[:, 0].cpu()  # L x T x S
    cfg, words = loaded.task.cfg, loaded.task.source_dictionary
    tokens = net_input["src_tokens"][0]
    source = spelling.words([words[i] for i in tokens.tolist() if i != words.pad()])
    inputs = net_input["prev_output_tokens"][0].tolist()
    hypothesis = spelling.words([words[i] for i in inputs[1:]])  # row t predicts word t + 1 of the inputs
    regions, image = line_regions(loaded, line)
    shown = [
        ShownLine("Source", cfg.source_lang, [ShownWord(word.text, key=k) for k, word in enumerate(source)]),
        ShownLine("Hypothesis", cfg.target_lang, [ShownWord(word.text, query=q) for q, word in enumerate(hypothesis)]),
    ]
    if "target" in sample and sample["target"] is not None:
        reference = [words[i] for i in sample["target"][0].tolist()]
        reference = spelling.words([symbol for symbol in reference if symbol != END])
        shown.append(ShownLine("Reference", cfg.target_lang, [ShownWord(word.text) for word in reference]))
    attention = word_attention(
        weights, queries=hypothesis, keys=source, first_region=len(tokens), num_regions=len(regions)
    )
    return Sentence(line + 1, image, shown, regions, attention)


@torch.no_grad()
def pretraining_sentence(loaded: LoadedModel, line: int, *, spelling: Spelling) -> Sentence:
    """Predict the masked words and regions of a pair, words with and without its image.

    The masks are those of validation, which never change. Attention is self-attention between all words and regions.
    """
    sample = loaded.lines([line])
    net_input, target = sample["net_input"], sample["target"]
    dictionary = loaded.task.source_dictionary
    masked = target.ne(dictionary.pad())
    selected = sample["region_target"].ne(IGNORE) if "region_target" in sample else None
    weights = self_attention(loaded.model, net_input)
    with_image, region_logits = loaded.model(**net_input, masked_tokens=masked, selected_regions=selected)
    without = None
    if "features" in net_input:
        text_only = {name: value for name, value in net_input.items() if name not in REGION_INPUTS}
        without, _ = loaded.model(**text_only, masked_tokens=masked)
    regions, image = line_regions(loaded, line)
    if selected is not None:
        draw = loaded.dataset[line]["draw"]
        names = loaded.dataset.regions.store.class_names
        rankings = iter(() if region_logits is None else top(region_logits, names))
        for k, region in enumerate(regions):
            region.masked = bool(draw.masked[k])
            if selected[0, k] and region_logits is not None:
                region.predictions = next(rankings)
    tokens = net_input["src_tokens"]
    length = int(tokens.ne(dictionary.pad()).sum())
    seen = [dictionary[i] for i in tokens[0].tolist()]
    truth = [dictionary[i] for i in torch.where(masked, target, tokens)[0, :length].tolist()]
    second = net_input["positions"][0].eq(0).nonzero()[1].item()  # positions start again with the translation
    words = [*spelling.words(truth[:second])]
    words += [Word(w.text, tuple(place + second for place in w.places)) for w in spelling.words(truth[second:])]
    predicted = set(masked[0].nonzero()[:, 0].tolist())
    cfg = loaded.task.cfg
    shown = [ShownLine("Source", cfg.source_lang, []), ShownLine("Target", cfg.target_lang, [])]
    for k, word in enumerate(words):
        side = shown[word.places[0] >= second]
        side.words.append(ShownWord(word.text, query=k, key=k, predicted=not predicted.isdisjoint(word.places)))
    sentence = Sentence(
        line + 1,
        image,
        shown,
        regions,
        word_attention(
            weights[:, 0].cpu(), queries=words, keys=words, first_region=len(masked[0]), num_regions=len(regions)
        ),
    )
    is_word = torch.from_numpy(word_mask(dictionary))
    with_rankings = top(with_image.cpu(), dictionary.symbols, allowed=is_word)
    without_rankings = top(without.cpu(), dictionary.symbols, allowed=is_word) if without is not None else None
    for k, place in enumerate(sorted(predicted)):
        side = shown[place >= second].name
        other = None if without_rankings is None else without_rankings[k]
        sentence.predictions.append(Prediction(side, truth[place], seen[place], with_rankings[k], other))
    return sentence


def line_regions(loaded: LoadedModel, line: int) -> tuple[list[Region], str | None]:
    """The regions that a line got, and the id of their image (with shuffled regions, another line's)."""
    by_line = loaded.dataset.regions
    if by_line is None:
        return [], None
    found = by_line[line]
    names = by_line.store.class_names
    regions = [
        Region(tuple(box), names[label], score)
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    return regions, by_line.store.image_id(int(by_line.line_rows[line]))


def top(logits: Tensor, names: Sequence[str], *, allowed: Tensor | None = None) -> list[Ranking]:
    """The most probable names of each row of n x V logits; probabilities are shares of all V.

    Args:
        allowed: V, False at names that are not listed.
    """
    probabilities = logits.float().softmax(-1)
    if allowed is not None:
        probabilities = probabilities.masked_fill(~allowed, 0)
    values, places = probabilities.topk(min(TOP, probabilities.size(-1)), dim=-1)
    return [
        [(names[i], p) for i, p in zip(row, shares, strict=True)]
        for row, shares in zip(places.tolist(), values.tolist(), strict=True)
    ]


def show_piece(symbol: str) -> str:
    """A sub-word in a table: with a dot for sentencepiece's word boundary."""
    return symbol if symbol == MASK else symbol.replace(BOUNDARY, "\u00b7")
