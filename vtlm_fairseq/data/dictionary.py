"""The joint dictionary: ``<mask>``, real words, and comparing symbol by symbol."""

import numpy as np
from fairseq.data import Dictionary

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.subwords import MASK


def word_mask(dictionary: Dictionary) -> np.ndarray:
    """[V] bool: True at real words; False at special symbols, ``<mask>`` and the dictionary's padding entries."""
    return np.array(
        [
            i >= dictionary.nspecial
            and symbol != MASK
            and not (symbol.startswith("madeupword") and dictionary.count[i] == 0)
            for i, symbol in enumerate(dictionary.symbols)
        ]
    )


def first_difference(ours: list[str], theirs: list[str]) -> str | None:
    """Where two symbol lists differ first, in words; None if they are equal."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
        if a != b:
            return f"at symbol {i} ({a!r} and {b!r})"
    if len(ours) != len(theirs):
        return f"in length ({len(ours)} and {len(theirs)} symbols)"
    return None


def check_symbols(symbols: list[str] | None, dictionary: Dictionary, owner: str) -> None:
    """Compare the data's dictionary with a checkpoint's symbols (None: a checkpoint that holds none).

    Raises:
        VTLMError: names the first symbol that differs.
    """
    difference = first_difference(dictionary.symbols, symbols) if symbols is not None else None
    if difference:
        raise VTLMError(
            f"the dictionary of the data and that of {owner} differ {difference}; prepare the data with "
            "the checkpoint's dictionary (--dict of the preparation scripts, --srcdict of fairseq-preprocess)"
        )
