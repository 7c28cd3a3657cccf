"""All five captions of Multi30k's training images, from Flickr30k Entities, of which Multi30k translates one.

A caption is called `image#number`, from 0 in the order of Entities. Its text is Multi30k's where Multi30k translates
it. The other captions need a translation: they are written first, and joined with it afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby, zip_longest
from pathlib import Path

from vtlm_fairseq.corpora.entities_regions import Corpus, caption_id
from vtlm_fairseq.corpora.multi30k import fairseq_name, read_lines
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder, write_lines
from vtlm_fairseq.files.lines import stream_lines

SPLITS = ("train", "val", "test_2016_flickr")
UNTRANSLATED, TRANSLATED = "untranslated.tsv", "translated.tsv"

_CLITIC = re.compile(r" (n't|'(?:s|re|ve|ll|d|m))(?= |$)", re.IGNORECASE)


def running_text(caption: str) -> str:
    """A caption of Entities, whose words are cut apart by blanks, with `'s`, `n't` and the like joined to their word.

    So Moses cuts it as Multi30k's text of the same caption.
    """
    return _CLITIC.sub(r"\1", " ".join(caption.split()))


def write_texts(corpus: Corpus, out: Path, *, raw: Path, source_lang: str = "en", target_lang: str = "de") -> None:
    """Make a folder of TSV files: what is translated already, and what is not.

    `untranslated.tsv` holds caption and source; `translated.tsv` (train), `valid.tsv` and that of the test set hold
    caption or image, source and target.

    Args:
        corpus: of `SPLITS`.
        out: folder to make, whole or not at all.
        raw: folder of Multi30k's `{split}.{lang}`.

    Raises:
        VTLMError: a file is missing or does not fit the others.
    """
    with new_folder(out) as folder:
        for split in SPLITS:
            images = corpus.images(split)
            sides = [read_lines(raw / f"{split}.{lang}", option="--raw") for lang in (source_lang, target_lang)]
            if {len(side) for side in sides} != {len(images)}:
                counts = " and ".join(str(len(side)) for side in sides)
                raise VTLMError(f"{raw}: {split} has {counts} lines for {len(images)} images; see --raw")
            ids = [image.image_id for image in images]
            if split == "train":
                ids = [caption_id(image_id, corpus.translated[image_id]) for image_id in ids]
            name = TRANSLATED if split == "train" else f"{fairseq_name(split)}.tsv"
            rows = zip(ids, *sides, strict=True)
            write_lines(folder / name, ("\t".join(" ".join(cell.split()) for cell in row) for row in rows))
        write_lines(folder / UNTRANSLATED, _untranslated(corpus))


def _untranslated(corpus: Corpus) -> Iterator[str]:
    for image in corpus.images("train"):
        for number, caption in enumerate(image.captions):
            if number != corpus.translated[image.image_id]:
                yield f"{caption_id(image.image_id, number)}\t{running_text(caption.text)}"


def join_texts(texts: Path, translations: Path, out: Path) -> int:
    """Write all captions of train, image by image, those of an image in their order; returns how many.

    Args:
        texts: the folder of `write_texts`.
        translations: `untranslated.tsv` with a third column.
        out: TSV file to make: caption, source, target.

    Raises:
        VTLMError: the files do not belong together.
    """
    count = 0

    def rows() -> Iterator[str]:
        nonlocal count
        others = groupby(_checked(texts / UNTRANSLATED, translations), key=_image)
        for fields in _rows(texts / TRANSLATED):
            image, found = next(others, (None, iter(())))
            of_image = [fields, *found]
            if image != _image(fields):
                raise VTLMError(f"{texts}: {_image(fields)} has no other caption; remove the folder to make it again")
            count += len(of_image)
            yield from ("\t".join(one) for one in sorted(of_image, key=lambda one: int(one[0].rpartition("#")[2])))

    write_lines(out, rows())
    return count


def _image(fields: list[str]) -> str:
    return fields[0].rpartition("#")[0]


def _checked(untranslated: Path, translations: Path) -> Iterator[list[str]]:
    """Rows of the translations, of which each is of the caption that stands in its line of the other file."""
    wanted = (line.split("\t")[0] for line in stream_lines(untranslated))
    for number, (caption, found) in enumerate(zip_longest(wanted, _rows(translations)), 1):
        if found is None or found[0] != caption:
            raise VTLMError(f"{translations} line {number}: is not of {caption}; remove the file to translate again")
        yield found


def _rows(path: Path) -> Iterator[list[str]]:
    for number, line in enumerate(stream_lines(path), 1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise VTLMError(f"{path} line {number}: {len(fields)} columns between tabs, not 3; remove the file")
        yield fields
