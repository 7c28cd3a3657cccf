"""``--print-alignment``: from attention over text and regions to pairs of words."""

import torch
from torch import Tensor

Hypotheses = list[list[dict]]


def attention_to_text(attention: Tensor, src_tokens: Tensor) -> Tensor:
    """The part of cross-attention that falls on text.

    Args:
        attention: B x T x (S+R), text first.
        src_tokens: sentences x S.

    Returns:
        B x T x S; what is missing from a sum of 1 fell on regions.
    """
    return attention[..., : src_tokens.size(1)]


def align_words(hypotheses: Hypotheses) -> Hypotheses:
    """Number source words from 0 in the alignments that fairseq made; sources of this package begin with ``</s>``.

    Args:
        hypotheses: of sentences, as fairseq's generators return them. ``alignment`` is a list of (source, target) for
            ``hard``, of a list of source probabilities for each target word for ``soft``, and else a tensor or None.

    Returns:
        the same, changed in place.
    """
    for hypothesis in (one for sentence in hypotheses for one in sentence):
        found = hypothesis.get("alignment")
        if isinstance(found, torch.Tensor) or not found:
            continue
        hypothesis["alignment"] = [(pair[0] - 1, pair[1]) if isinstance(pair, tuple) else pair[1:] for pair in found]
    return hypotheses
