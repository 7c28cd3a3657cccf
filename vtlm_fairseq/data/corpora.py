"""Corpora of a training: ``--lang-pairs``, their folders and their regions."""

import os
from dataclasses import dataclass

from fairseq import utils

from vtlm_fairseq.data.split_files import NO_LANGUAGE, check_held, language_pairs, pair_name
from vtlm_fairseq.errors import VTLMError


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs, or captions of one language.

    Attributes:
        name: in logs and metrics, such as ``en-de``, or ``en`` of captions.
        source, target: languages in the names of its files; target is `NO_LANGUAGE` where there is one.
        folder: of the binarised data.
        regions: a region store, or ``none``.
        captions: only the source is read.
    """

    name: str
    source: str
    target: str
    folder: str
    regions: str
    captions: bool = False

    @property
    def languages(self) -> tuple[str, ...]:
        """One or two."""
        return (self.source,) if self.captions else (self.source, self.target)

    def dictionaries(self) -> list[str]:
        """Their paths."""
        return [os.path.join(self.folder, f"dict.{lang}.txt") for lang in self.languages]

    def check_held(self, hint: str) -> None:
        """Refuse a folder without the dictionaries that holds another pair.

        Raises:
            VTLMError: names what it holds and gives the hint.
        """
        if not all(map(os.path.isfile, self.dictionaries())):
            check_held(self.folder, self.source, self.target, hint)


def read_corpora(lang_pairs: str, data: str, regions: str) -> list[Corpus]:
    """The corpora that options name.

    Args:
        lang_pairs: pairs, or a language alone for captions, comma-separated.
        data: a folder for each, separated by ``:``; one for all: its folder of the corpus' name, else itself.
        regions: a store for each, or ``none``, separated by ``:``; one for all.

    Raises:
        VTLMError: their numbers differ, or a folder does not hold a corpus.
    """
    entries = [entry.strip() for entry in lang_pairs.split(",")]
    folders = _for_each("DATA", data, entries)
    if len(utils.split_paths(data)) == 1:
        inside = [os.path.join(folder, entry) for folder, entry in zip(folders, entries, strict=True)]
        folders = [own if entry and os.path.isdir(own) else data for own, entry in zip(inside, entries, strict=True)]
    corpora: list[Corpus] = []
    for entry, folder, store in zip(entries, folders, _for_each("--regions", regions, entries), strict=True):
        pair, captions = _languages(entry, folder)
        number = sum(one.name.partition(".")[0] == entry for one in corpora)
        corpora.append(Corpus(f"{entry}.{number + 1}" if number else entry, *pair, folder, store, captions))
    return corpora


def _for_each(option: str, text: str, entries: list[str]) -> list[str]:
    found = utils.split_paths(text)
    if len(found) not in (1, len(entries)):
        raise VTLMError(
            f"{option} {text} names {len(found)} for {len(entries)} corpora (--lang-pairs {','.join(entries)}); give "
            "one for all, or one for each, in their order, separated by ':'"
        )
    return found * len(entries) if len(found) == 1 else found


def _languages(entry: str, folder: str) -> tuple[tuple[str, str], bool]:
    """Source and target of files, and whether the source is all that is meant.

    Where a name with hyphens is parted is seen from the files.
    """
    if not os.path.isdir(folder):
        raise VTLMError(f"data folder {folder!r} does not exist; prepare it with fairseq-preprocess")
    held = language_pairs(folder)
    both = [one for pair in held for one in (pair, pair[::-1])]
    for one in both:
        if "-".join(one) == entry and NO_LANGUAGE not in one:
            return one, False
    if (entry, NO_LANGUAGE) in held:
        return (entry, NO_LANGUAGE), True
    sides = [one for one in both if one[0] == entry]
    if len(sides) == 1:
        return sides[0], True
    names = [pair_name(pair) for pair in held]
    if not names and entry:
        inside = os.path.join(folder, entry)
        raise VTLMError(
            f"--lang-pairs {entry}: {folder} holds no binarised data, and there is no folder {inside}; give DATA a "
            "folder for each corpus, or one that holds them under their names"
        )
    what = f"{entry!r} is a side of several" if sides else f"not {entry!r}"
    more = ""
    if entry and (sides or "-" not in entry):
        more = f"; captions of one language have a folder of their own: fairseq-preprocess --only-source -s {entry}"
    raise VTLMError(f"--lang-pairs: {folder} holds {' and '.join(names) or 'no binarised data'}, {what}{more}")
