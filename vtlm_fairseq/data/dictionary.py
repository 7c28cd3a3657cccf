"""The joint dictionary: its file, ``<mask>``, real words, and comparing symbol by symbol."""

import codecs
import os
from collections.abc import Iterable

import numpy as np
from fairseq.data import Dictionary

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.subwords import MASK

logger = get_logger(__name__)

_MARK = "\ufeff"
_WITHOUT_MARK = "take it out of all text files (sed -i '1s/^\\xEF\\xBB\\xBF//' FILE) and prepare the data again"


def read_dictionary(filename: str) -> Dictionary:
    """Read ``dict.*.txt``; ``<mask>`` is appended if the dictionary was made by another task.

    Raises:
        VTLMError: no such file, or no dictionary.
    """
    if not os.path.isfile(filename):
        raise VTLMError(f"{filename}: no such dictionary; prepare the data with fairseq-preprocess")
    try:
        dictionary = Dictionary.load(filename)
    except Exception as error:  # fairseq raises plain Exception, among others
        raise VTLMError(f"{filename}: no dictionary ({error}); prepare the data again") from None
    if MASK not in dictionary.indices:
        logger.info("%s has no %s: appended as its last symbol", filename, MASK)
        dictionary.add_symbol(MASK, n=0)
    if marked := next((symbol for symbol in dictionary.symbols if symbol.startswith(_MARK)), None):
        logger.warning("%s: %r holds a byte order mark; %s", filename, marked, _WITHOUT_MARK)
    return dictionary


def refuse_marks(filenames: Iterable[str]) -> None:
    """Refuse text that begins with a byte order mark, which fairseq-preprocess takes for a part of the first word.

    Raises:
        VTLMError: names the first such file.
    """
    for filename in filenames:
        with open(filename, "rb") as file:
            if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                raise VTLMError(f"{filename}: begins with a byte order mark; {_WITHOUT_MARK}")


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
