"""``--print-alignment``: from attention over text and regions to pairs of words."""

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
    """Take the ``</s>`` that sources of this package begin with out of soft alignments; hard ones have no symbols.

    Args:
        hypotheses: of sentences, as fairseq's generators return them. ``alignment`` is a list of (source word, target
            word) for ``hard``, of a list of the source's probabilities for each target token for ``soft``, else a
            tensor or None.

    Returns:
        the same, changed in place.
    """
    for hypothesis in (one for sentence in hypotheses for one in sentence):
        found = hypothesis.get("alignment")
        if isinstance(found, list):
            hypothesis["alignment"] = [row if isinstance(row, tuple) else row[1:] for row in found]
    return hypotheses
