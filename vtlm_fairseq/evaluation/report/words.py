"""Sub-words to words, and attention between sub-words to attention between words, for the report."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vtlm_fairseq.text.pipeline import MASK

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", MASK)


@dataclass(frozen=True)
class Word:
    """A word and the places of its sub-words in the sentence."""

    text: str
    places: tuple[int, ...]


def join_pieces(pieces: Sequence[str], bpe: str, *, unescape: bool = True) -> list[Word]:
    """Words of a sentence of sub-words; ``</s>``, ``<unk>`` and ``<mask>`` are words of their own.

    Args:
        pieces: symbols of the dictionary.
        bpe: ``sentencepiece``, ``subword_nmt`` or ``none``.
        unescape: show ``&apos;`` as ``'``.
    """
    groups: list[list[int]] = []
    open_word = False
    for place, piece in enumerate(pieces):
        begins = {
            "sentencepiece": piece.startswith("\u2581") or not open_word,
            "subword_nmt": not (place and pieces[place - 1].endswith("@@") and open_word),
            "none": True,
        }[bpe]
        if piece in SPECIAL or begins:
            groups.append([place])
        else:
            groups[-1].append(place)
        open_word = piece not in SPECIAL
    words = []
    for group in groups:
        text = "".join(pieces[place].removesuffix("@@") if bpe == "subword_nmt" else pieces[place] for place in group)
        if bpe == "sentencepiece":
            text = text.replace("\u2581", " ").strip() or "\u2581"
        words.append(Word(html.unescape(text) if unescape else text, tuple(group)))
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
