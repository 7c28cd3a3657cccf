"""Words of captions given as token ids, and those that name a class of regions."""

from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.nouns import Nouns
from vtlm_fairseq.text.subwords import JOINT, begins, spell

logger = get_logger(__name__)

_INSIDE = f"x{JOINT}"  # begins no word, and the word goes on behind it


class CaptionWords:
    """Where words begin, as :func:`vtlm_fairseq.text.subwords.split_words` has it, for many sentences at once.

    Args:
        symbols: [V], of the dictionary.
        bpe: one of :data:`vtlm_fairseq.text.subwords.BPE_KINDS`.
    """

    def __init__(self, symbols: Sequence[str], bpe: str) -> None:
        self.symbols = list(symbols)
        self.bpe = bpe
        self._opens = np.array([begins(_INSIDE, symbol, bpe) for symbol in self.symbols])
        self._closes = np.array([begins(symbol, _INSIDE, bpe) for symbol in self.symbols])

    def starts(self, tokens: np.ndarray) -> np.ndarray:
        """[n] bool, True at the first sub-word of each word of ``tokens`` [n]."""
        starts = self._opens[tokens]
        starts[1:] |= self._closes[tokens[:-1]]
        starts[:1] = True
        return starts

    def heads(self, tokens: np.ndarray) -> np.ndarray:
        """[n] int64, the place of the first sub-word of each token's word."""
        return np.maximum.accumulate(np.where(self.starts(tokens), np.arange(len(tokens)), 0))

    def spell(self, tokens: np.ndarray) -> str:
        """A word of sub-words, in lower case."""
        return spell([self.symbols[token] for token in tokens.tolist()], self.bpe).lower()


class ClassNames:
    """Words of captions, of either language, that name a class: they are its name, or their English singular is.

    A name of several words is found where these stand together, the longest first.

    Args:
        words: of the dictionary.
        names: of the classes; ``a,b`` is one class of two names.
        own: whether the classes' names name them; else only what is added does.
    """

    def __init__(self, words: CaptionWords, names: Sequence[str], *, own: bool = True) -> None:
        self._words = words
        self._classes = Nouns(names)
        self._nouns = self._classes if own else Nouns([])

    def add(self, word: str, name: str) -> bool:
        """A word, or several, of either language that names the class of a name; whether there is one."""
        if (number := self._classes.find(name)) is None:
            return False
        self._nouns.add(word, number)
        return True

    def find(self, tokens: np.ndarray) -> np.ndarray:
        """[K, 3] int64: ``tokens[a:b]`` name class c; for tokens [T]."""
        starts = np.flatnonzero(self._words.starts(tokens))
        ends = np.append(starts[1:], len(tokens)).tolist()
        spelled = [self._words.spell(tokens[a:b]) for a, b in zip(starts.tolist(), ends, strict=True)]
        found, place = [], 0
        while place < len(spelled):
            for length in range(min(self._nouns.beginnings.get(spelled[place], 1), len(spelled) - place), 0, -1):
                number = self._nouns.find(" ".join(spelled[place : place + length]))
                if number is not None:
                    found.append((starts[place], ends[place + length - 1], number))
                    break
            place += length
        return np.array(found, dtype=np.int64).reshape(-1, 3)


def names_of_store(words: CaptionWords, store: RegionStore, lexicon: str | None, *, own: bool = True) -> ClassNames:
    """Names of a store's classes, with those of ``--class-lexicon``.

    Args:
        words: of the dictionary.
        store: of the regions.
        lexicon: the file's path; None: there is none.
        own: as :class:`ClassNames`'s.

    Raises:
        VTLMError: the lexicon cannot be read, or is of other classes.
    """
    names = ClassNames(words, store.class_names, own=own)
    pairs = read_lexicon(lexicon) if lexicon else []
    unknown = [name for word, name in pairs if not names.add(word, name)]
    if pairs and len(unknown) == len(pairs):
        raise VTLMError(
            f"--class-lexicon {lexicon}: none of its classes ({unknown[0]!r}, ...) is one of "
            f"{', '.join(store.paths)}, see: vtlm-regions info"
        )
    if pairs:
        logger.info("%s: %d of %d words name a class of the store", lexicon, len(pairs) - len(unknown), len(pairs))
    return names


def read_lexicon(path: str) -> list[tuple[str, str]]:
    """Lines of ``--class-lexicon``: word, tabulator, name of a class.

    Raises:
        VTLMError: it cannot be read, is empty, or a line is not of that kind.
    """
    pairs = []
    for number, line in enumerate(read_lines(path, label=f"--class-lexicon {path}"), 1):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            raise VTLMError(f"--class-lexicon {path}: line {number} is {line[:99]!r}, not a word, a tab and a class")
        pairs.append((parts[0], parts[1]))
    if not pairs:
        raise VTLMError(f"--class-lexicon {path}: an empty file; a line is a word, a tab and a class")
    return pairs
