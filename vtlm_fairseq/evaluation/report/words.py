"""Sub-words to words, and attention between sub-words to attention between words, for the report."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtlm_fairseq.text.subwords import spell, split_words


@dataclass(frozen=True)
class Word:
    """A word and the places of its sub-words in the sentence."""

    text: str
    places: tuple[int, ...]


def join_pieces(pieces: Sequence[str], bpe: str, *, unescape: bool = True) -> list[Word]:
    """Words of a sentence of sub-words (see :func:`split_words`).

    Args:
        pieces: symbols of the dictionary.
        bpe: one of :data:`vtlm_fairseq.text.subwords.BPE_KINDS`.
        unescape: show ``&apos;`` as ``'``.
    """
    words = []
    for places in split_words(pieces, bpe):
        text = spell(pieces[places.start : places.stop], bpe) or "".join(pieces[places.start : places.stop])
        words.append(Word(html.unescape(text) if unescape else text, tuple(places)))
    return words


def word_attention(
    weights: Tensor, *, queries: Sequence[Word], keys: Sequence[Word], first_region: int, num_regions: int
) -> Tensor:
    """Attention from words to words and regions: mean over a query's sub-words, sum over a key's.

    Args:
        weights: L x T x S, S = sub-words, then regions, either perhaps padded.
        queries: words whose places are rows.
        keys: words whose places are columns.
        first_region: column of the first region.
        num_regions: regions that are not padding.

    Returns:
        (1 + L) x queries x (keys + regions), the mean over layers first.
    """
    if not queries:
        return weights.new_zeros(1 + len(weights), 0, len(keys) + num_regions)
    rows = torch.stack([weights[:, list(word.places)].mean(1) for word in queries], dim=1)
    columns = [rows[..., list(word.places)].sum(-1) for word in keys]
    columns += [rows[..., first_region + region] for region in range(num_regions)]
    layers = torch.stack(columns, dim=-1)
    return torch.cat([layers.mean(0, keepdim=True), layers])
