"""What the report shows of a pre-trained model: masked words and regions, and what it takes them for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.translation_lm_dataset import IGNORE
from vtlm_fairseq.evaluation.attention_weights import self_attention
from vtlm_fairseq.evaluation.report.data import (
    Prediction,
    Ranking,
    Sentence,
    ShownLine,
    ShownWord,
    Spelling,
    line_regions,
)
from vtlm_fairseq.evaluation.report.words import Word, word_attention
from vtlm_fairseq.evaluation.systems import LoadedModel

TOP = 5
REGION_INPUTS = ("features", "boxes", "region_padding_mask", "region_mask")


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
    regions, image = line_regions(loaded.dataset.regions, line)
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
    without_rankings = [None] * len(with_rankings)
    if without is not None:
        without_rankings = top(without.cpu(), dictionary.symbols, allowed=is_word)
    for place, given, hidden in zip(sorted(predicted), with_rankings, without_rankings, strict=True):
        side, piece = shown[place >= second].name, spelling.piece
        rankings = [found and [(piece(symbol), p) for symbol, p in found] for found in (given, hidden)]
        sentence.predictions.append(Prediction(side, piece(truth[place]), piece(seen[place]), *rankings))
    if without is not None and predicted:
        right = target[masked]
        describe_change(sentence, given=of_right(with_image, right), hidden=of_right(without, right))
    return sentence


def describe_change(sentence: Sentence, *, given: Tensor, hidden: Tensor) -> None:
    """Say which predicted word's probability the image changes most.

    Args:
        given, hidden: of each predicted word with and without the image, [n].
    """
    change = (given - hidden).abs()
    place = int(change.argmax())
    word = sentence.predictions[place].truth
    sentence.change = float(change[place])
    sentence.mark = f"{word} {hidden[place]:.0%}, with the image {given[place]:.0%}"
    sentence.note = f"{word}: {hidden[place]:.0%} without the image, {given[place]:.0%} with it"


def of_right(logits: Tensor, right: Tensor) -> Tensor:
    """Probability of the right word in each row of n x V logits, [n]."""
    return logits.float().softmax(-1).gather(1, right[:, None])[:, 0]


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
