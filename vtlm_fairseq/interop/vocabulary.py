"""The original's vocabulary as a fairseq dictionary, and back.

The original has ``<s> </s> <pad> <unk>``, ten special symbols of which ``<special1>`` is the mask, then the BPE words.
Here that becomes fairseq's ``<s> <pad> </s> <unk>``, the words in the same order, ``<mask>``, and the nine specials
that have no use as ``madeupword`` lines, which are never drawn nor generated. The number of symbols stays the same.
"""

import io
import os
import re

import torch
from fairseq.data import Dictionary
from torch import Tensor

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import write_text
from vtlm_fairseq.text.subwords import MASK

SPECIALS = tuple(f"<special{i}>" for i in range(10))
ORIGINAL_START = ("<s>", "</s>", "<pad>", "<unk>", *SPECIALS)
MASK_SPECIAL = "<special1>"
UNUSED = len(SPECIALS) - 1
_TO_FAIRSEQ = {"<s>": 0, "</s>": 2, "<pad>": 1, "<unk>": 3}


def make_dictionary(words: list[str], counts: list[int], *, path: str) -> Dictionary:
    """The fairseq dictionary of an original vocabulary.

    Args:
        words: the vocabulary by id.
        counts: of each word.
        path: file it was read from, for messages.

    Raises:
        VTLMError: it does not begin with the original's special symbols, or holds a word that ``dict.txt`` cannot.
    """
    if tuple(words[: len(ORIGINAL_START)]) != ORIGINAL_START:
        raise VTLMError(
            f"{path}: its vocabulary does not begin with {' '.join(ORIGINAL_START)}, as the paper's code writes it"
        )
    dictionary = Dictionary()
    for word, count in zip(words[len(ORIGINAL_START) :], counts[len(ORIGINAL_START) :], strict=True):
        if word in dictionary.indices or word == MASK:
            raise VTLMError(f"{path}: the word {word!r} is there twice, or is one of fairseq's own symbols")
        if len(word.split()) != 1 or word != word.strip() or not _is_utf8(word):
            raise VTLMError(f"{path}: the word {word!r} cannot be written to dict.txt")
        dictionary.add_symbol(word, n=count)
    dictionary.add_symbol(MASK, n=0)
    names = (f"madeupword{i:04d}" for i in range(len(words)))
    for name in [name for name in names if name not in dictionary.indices][:UNUSED]:
        dictionary.add_symbol(name, n=0)
    return dictionary


def our_ids(symbols: list[str]) -> Tensor:
    """For each id of the original, ours, [V] int64; from the symbols that a converted checkpoint carries.

    Raises:
        VTLMError: the symbols are not in the layout of a converted checkpoint.
    """
    size = len(symbols)
    first_unused = size - UNUSED
    layout = size >= len(ORIGINAL_START) and symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    if not layout or symbols[first_unused - 1] != MASK or not all(map(_is_padding, symbols[first_unused:])):
        raise VTLMError(
            "the checkpoint's dictionary is not that of a converted one (words, <mask>, nine madeupword lines); "
            "convert the original with vtlm-convert checkpoint"
        )
    unused = iter(range(first_unused, size))
    start = [_TO_FAIRSEQ.get(symbol, first_unused - 1) for symbol in ORIGINAL_START]
    for i, symbol in enumerate(ORIGINAL_START):
        if symbol in SPECIALS and symbol != MASK_SPECIAL:
            start[i] = next(unused)
    return torch.tensor([*start, *range(4, first_unused - 1)])


def write_dictionaries(dictionary: Dictionary, folder: str, languages: list[str]) -> None:
    """Write ``dict.{language}.txt``.

    Raises:
        VTLMError: the folder has another dictionary already, or cannot be written.
    """
    for path in (os.path.join(folder, f"dict.{language}.txt") for language in languages):
        content = io.StringIO()
        dictionary.save(content)
        if os.path.exists(path):
            with open(path, "rb") as old:
                if old.read() != content.getvalue().encode("utf-8"):
                    raise VTLMError(f"{path} is another dictionary; give --out in a folder of its own")
        else:
            write_text(path, content.getvalue(), parents=True)


def _is_padding(symbol: str) -> bool:
    return re.fullmatch(r"madeupword\d+", symbol) is not None


def _is_utf8(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
