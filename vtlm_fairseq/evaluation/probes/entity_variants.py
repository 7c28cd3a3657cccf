"""Test sets whose nouns or colour words are masked or removed (paper, section 3.2, "Entity masking in MT")."""

import html
import os
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder

from vtlm_fairseq.corpora.flickr30k_entities import (
    COLOURS,
    Caption,
    ImageEntities,
    Phrase,
    find_translated,
    letters_and_digits,
    read_entities,
)
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder, write_lines
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.tasks.splits import read_image_names
from vtlm_fairseq.text.pipeline import TextPipeline
from vtlm_fairseq.text.subwords import MASK

_WHERE_FROM = "this probe needs a data folder that a preparation script made, with text.json and references/"
UNTOUCHED, MASKED, REMOVED = "untouched", "MASK", "REMOVE"

Span = tuple[int, int]
"""First token of a source sentence that is masked, and the one behind the last."""


@dataclass(frozen=True)
class Choice:
    """What is masked.

    Attributes:
        what: ``noun``, the last word of each marked phrase, or ``colour``, colour words in marked phrases.
        whole_phrase: with ``noun``, the phrase instead of its last word.
        boxed_only: only phrases that a box belongs to.
        count: at most so many a sentence, the first ones; None: all.
    """

    what: str = "noun"
    whole_phrase: bool = False
    boxed_only: bool = False
    count: int | None = None

    def __post_init__(self) -> None:
        if self.whole_phrase and self.what != "noun":
            raise VTLMError(f"--whole-phrase masks phrases, --what {self.what} words; give one of them")


@dataclass(frozen=True)
class Alignment:
    """Caption words and source tokens.

    Attributes:
        tokens: for each caption word the source tokens that it is, ascending; none for a missing mark.
        exact: the two are the same, token for token, but for marks at the end of the caption that the source lacks.
    """

    tokens: tuple[tuple[int, ...], ...]
    exact: bool


def align(caption: Sequence[str], source: Sequence[str]) -> Alignment | None:
    """Align the words of an Entities caption with the tokenised source sentence that was made from it.

    Where they are not the same token for token, they are joined by their letters and digits.

    Returns:
        None where not even letters and digits are the same.
    """
    plain = [_plain(word) for word in caption]
    same = [_plain(token) for token in source]
    while len(plain) > len(same) and not letters_and_digits(plain[-1]):
        plain.pop()
    if plain == same:
        return Alignment(tuple((i,) if i < len(same) else () for i in range(len(caption))), exact=True)
    ours, theirs = _owners(caption), _owners(source)
    if [character for character, _ in ours] != [character for character, _ in theirs]:
        return None
    found: list[list[int]] = [[] for _ in caption]
    for (_, word), (_, token) in zip(ours, theirs, strict=True):
        if token not in found[word]:
            found[word].append(token)
    return Alignment(tuple(map(tuple, found)), exact=False)


def _plain(word: str) -> str:
    text = unicodedata.normalize("NFD", html.unescape(word).lower())
    return "".join(character for character in text if unicodedata.category(character) != "Mn")


def _owners(words: Sequence[str]) -> list[tuple[str, int]]:
    return [(character, i) for i, word in enumerate(words) for character in letters_and_digits(word)]


def phrase_words(caption: Caption, phrase: Phrase) -> range:
    """Places of a phrase's words among the blank-separated words of its caption."""
    before = caption.text[: phrase.start]
    first = len(before.split()) - bool(before and not before[-1].isspace())  # glued to the word before it
    return range(first, first + len(phrase.words))


def find_spans(image: ImageEntities, caption: Caption, alignment: Alignment, choice: Choice) -> list[Span]:
    """What is masked in a sentence, in order; no two overlap.

    Args:
        image: says which chains have a box.
        caption: the one that was translated.
        alignment: of its words with the source.
        choice: what is masked.
    """
    boxed = {chain for box in image.boxes for chain in box.chains}
    spans: set[Span] = set()
    for phrase in caption.phrases:
        if phrase.chain in boxed or not choice.boxed_only:
            spans.update(phrase_spans(caption, phrase, alignment, choice))
    kept: list[Span] = []
    for span in sorted(spans):
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept[: choice.count]


def phrase_spans(caption: Caption, phrase: Phrase, alignment: Alignment, choice: Choice) -> Iterator[Span]:
    """What of a phrase is masked; arguments as those of `find_spans`."""
    words, places = caption.text.split(), phrase_words(caption, phrase)
    named = [i for i in places if letters_and_digits(words[i])]
    if choice.what == "colour":
        groups = [[i] for i in places if _plain(words[i]) in COLOURS]
    elif choice.whole_phrase:
        groups = [list(places)] if named else []
    else:
        groups = [named[-1:]] if named else []
    for group in groups:
        tokens = [token for i in group for token in alignment.tokens[i]]
        if tokens:
            yield min(tokens), max(tokens) + 1


def mask_spans(words: Sequence[str], spans: Iterable[Span]) -> list[str]:
    """A sentence with one ``<mask>`` in place of each span."""
    made, end = [], 0
    for first, behind in spans:
        made += [*words[end:first], MASK]
        end = behind
    return [*made, *words[end:]]


def remove_spans(words: Sequence[str], spans: Iterable[Span]) -> list[str]:
    """A sentence without its spans."""
    made, end = [], 0
    for first, behind in spans:
        made += words[end:first]
        end = behind
    return [*made, *words[end:]]


@dataclass(frozen=True)
class Variant:
    """A source text.

    Attributes:
        words: tokenised sentences.
        pieces: the same in sub-words.
        masks: ``<mask>`` symbols in it, as ids.
        unknown: ``<unk>`` in it, as ids.
        tokens: sub-words in all, ``</s>`` left out.
    """

    words: list[str]
    pieces: list[str]
    masks: int
    unknown: int
    tokens: int


@dataclass
class VariantSet:
    """A test set, untouched and with words masked and removed.

    Attributes:
        split: its name.
        pipeline: text pipeline of its data folder.
        variants: by name, ``untouched``, ``MASK``, ``REMOVE``.
        references: tokenised target sentences.
        images: image id of each line.
        spans: masked spans of each line.
        aligned: lines that align token for token.
        by_letters: lines (from 1) that align by letters and digits only, with their source.
        unaligned: lines (from 1) for which no caption was found; nothing is masked in them.
    """

    split: str
    pipeline: TextPipeline
    variants: dict[str, Variant]
    references: list[str]
    images: list[str]
    spans: list[list[Span]]
    aligned: int
    by_letters: dict[int, str] = field(default_factory=dict)
    unaligned: list[int] = field(default_factory=list)

    def notes(self, choice: Choice) -> list[str]:
        """What was masked and how well the captions align, in words."""
        masked, removed, untouched = (self.variants[name] for name in (MASKED, REMOVED, UNTOUCHED))
        total = sum(map(len, self.spans))
        what = {"noun": "whole phrases" if choice.whole_phrase else "head nouns", "colour": "colour words"}
        boxed = ", of phrases with a box" if choice.boxed_only else ""
        limit = f", at most {choice.count} a sentence" if choice.count else ""
        lines = [
            f"{total:,} {what[choice.what]}{boxed}{limit} in {sum(map(bool, self.spans)):,} of "
            f"{len(self.images):,} sentences of {self.split}",
            f"MASK: {masked.masks:,} <mask>, {masked.tokens:,} sub-words, {masked.unknown:,} <unk>; "
            f"REMOVE: {removed.tokens:,}, {removed.unknown:,} <unk>; "
            f"untouched: {untouched.tokens:,}, {untouched.unknown:,} <unk>",
            f"{self.aligned:,} of {len(self.images):,} captions align token for token",
        ]
        lines += [
            f"line {line} aligns by letters and digits only: {source}" for line, source in self.by_letters.items()
        ]
        if self.unaligned:
            lines.append(f"no caption found for lines {', '.join(map(str, self.unaligned))}: nothing is masked there")
        return lines


def make_variants(data: Path, split: str, *, entities: Path, choice: Choice) -> VariantSet:
    """Make the masked and the removed variant of a test set.

    Args:
        data: folder that a preparation script made (``text.json``, ``references/``, ``{split}.images``).
        split: name of the test set.
        entities: Flickr30k Entities, folder or archive.
        choice: what is masked.

    Raises:
        VTLMError: a file is missing or does not fit, or a variant is not what it must be.
    """
    pipeline, source, references, images = _read_prepared(data, split)
    made = VariantSet(split, pipeline, {}, references, images, [], aligned=0)
    for line, (image, sentence) in enumerate(zip(_entities_of(images, entities), source, strict=True), 1):
        made.spans.append(_spans_of_line(made, line, image, sentence, choice))
    words = [sentence.split() for sentence in source]
    dictionary = Dictionary.load(os.fspath(data / f"dict.{pipeline.source_lang}.txt"))
    for name, change in ((UNTOUCHED, lambda w, s: w), (MASKED, mask_spans), (REMOVED, remove_spans)):
        lines = [" ".join(change(w, s)) for w, s in zip(words, made.spans, strict=True)]
        made.variants[name] = _variant(lines, pipeline, dictionary)
    check_variants(made, dictionary)
    return made


def _read_prepared(data: Path, split: str) -> tuple[TextPipeline, list[str], list[str], list[str]]:
    """Text pipeline of a data folder, and source sentences, references and image ids of a test set."""
    check_name(split, "split", nested=True, hint="see --gen-subset")
    pipeline = TextPipeline.load(data, hint=_WHERE_FROM)
    source, references = (
        read_lines(data / "references" / f"{split}.{lang}", hint=_WHERE_FROM)
        for lang in (pipeline.source_lang, pipeline.target_lang)
    )
    images = read_image_names(os.fspath(data), split)
    if not len(source) == len(references) == len(images):
        raise VTLMError(
            f"{data}: {split} has {len(source)} source lines, {len(references)} references and {len(images)} images; "
            "prepare the data again"
        )
    return pipeline, source, references, images


def _entities_of(images: Sequence[str], entities: Path) -> Iterator[ImageEntities]:
    return read_entities(entities, [Path(image).stem if image.endswith(".jpg") else image for image in images])


def boxed_heads(data: Path, split: str, *, entities: Path) -> list[dict[int, list[tuple[float, ...]]]]:
    """Head nouns of the phrases that have boxes.

    Args:
        data, split, entities: as `make_variants`.

    Returns:
        of each line: boxes (x1, y1, x2, y2 within 0..1) by the place of the noun among the words of the source; nothing
        where no caption is the line's.

    Raises:
        VTLMError: a file is missing or does not fit.
    """
    _, source, _, images = _read_prepared(data, split)
    made = []
    for image, sentence in zip(_entities_of(images, entities), source, strict=True):
        heads: dict[int, list[tuple[float, ...]]] = {}
        which = find_translated(image.captions, sentence)
        caption = Caption("", ()) if which is None else image.captions[which]
        alignment = align(caption.text.split(), sentence.split())
        for phrase in caption.phrases if alignment else ():
            boxes = [box.xyxy for box in image.boxes if phrase.chain in box.chains]
            for _, behind in phrase_spans(caption, phrase, alignment, Choice()) if boxes else ():
                sides = (image.width, image.height) * 2
                heads.setdefault(behind - 1, []).extend(tuple(np.divide(box, sides)) for box in boxes)
        made.append(heads)
    return made


def _spans_of_line(made: VariantSet, line: int, image: ImageEntities, sentence: str, choice: Choice) -> list[Span]:
    which = find_translated(image.captions, sentence)
    alignment = align(image.captions[which].text.split(), sentence.split()) if which is not None else None
    if alignment is None:
        made.unaligned.append(line)
        return []
    if alignment.exact:
        made.aligned += 1
    else:
        made.by_letters[line] = sentence
    return find_spans(image, image.captions[which], alignment, choice)


def _variant(lines: list[str], pipeline: TextPipeline, dictionary: Dictionary) -> Variant:
    pieces = [pipeline.apply_bpe(line) for line in lines]
    ids = [encode(dictionary, line) for line in pieces]
    return Variant(
        words=lines,
        pieces=pieces,
        masks=sum(line.count(dictionary.index(MASK)) for line in ids),
        unknown=sum(line.count(dictionary.unk()) for line in ids),
        tokens=sum(map(len, ids)),
    )


def encode(dictionary: Dictionary, pieces: str) -> list[int]:
    """Ids of a sentence in sub-words, without ``</s>``."""
    return dictionary.encode_line(pieces, add_if_not_exist=False, append_eos=False).tolist()


def check_variants(made: VariantSet, dictionary: Dictionary) -> None:
    """Check each line's ids: one ``<mask>`` a span, REMOVE shorter by the spans' sub-words, no other ``<unk>``.

    Raises:
        VTLMError: names the first line where it is otherwise.
    """
    mask, unknown = dictionary.index(MASK), dictionary.unk()
    if mask == unknown:
        raise VTLMError("the dictionary has no <mask>; prepare the data with this package")
    untouched, masked, removed = (made.variants[name] for name in (UNTOUCHED, MASKED, REMOVED))
    lines = zip(untouched.pieces, masked.pieces, removed.pieces, untouched.words, made.spans, strict=True)
    for line, (*three, words, spans) in enumerate(lines, 1):
        whole, with_masks, shorter = (encode(dictionary, pieces) for pieces in three)
        tokens = words.split()
        gone = [
            number
            for first, behind in spans
            for number in encode(dictionary, made.pipeline.apply_bpe(" ".join(tokens[first:behind])))
        ]
        right = (
            with_masks.count(mask) - whole.count(mask) == len(spans)
            and len(whole) - len(shorter) == len(gone)
            and len(with_masks) == len(shorter) + len(spans)
            and whole.count(unknown) == with_masks.count(unknown) + gone.count(unknown)
            and with_masks.count(unknown) == shorter.count(unknown)
        )
        if not right:
            raise VTLMError(
                f"{made.split} line {line}: its sub-words change when other words are masked; this BPE model does not "
                "keep to word boundaries and cannot be used for this probe"
            )


def write_variants(out: Path, made: VariantSet, *, data: Path) -> None:
    """Keep the variants: ``out/MASK`` and ``out/REMOVE``, each a data folder for fairseq-generate with its text.

    Args:
        out: folder to make.
        made: the variants.
        data: folder that gives dictionaries and BPE model.

    Raises:
        VTLMError: ``out`` exists, or cannot be made.
    """
    pipeline = made.pipeline
    source_lang, target_lang = pipeline.source_lang, pipeline.target_lang
    target_pieces = [pipeline.apply_bpe(line) for line in made.references]
    dictionary = Dictionary.load(os.fspath(data / f"dict.{source_lang}.txt"))
    with new_folder(out) as whole:
        for name in (MASKED, REMOVED):
            folder = whole / name
            for part in ("references", "pieces"):
                (folder / part).mkdir(parents=True)
            for file in pipeline.files():
                shutil.copyfile(data / file, folder / file)
            variant = made.variants[name]
            write_lines(folder / f"{made.split}.images", made.images)
            for lang, words, pieces in (
                (source_lang, variant.words, variant.pieces),
                (target_lang, made.references, target_pieces),
            ):
                write_lines(folder / "references" / f"{made.split}.{lang}", words)
                write_lines(folder / "pieces" / f"{made.split}.{lang}", pieces)
                prefix = folder / f"{made.split}.{source_lang}-{target_lang}.{lang}"
                write_binary(os.fspath(prefix), pieces, dictionary)


def write_binary(prefix: str, pieces: Iterable[str], dictionary: Dictionary) -> None:
    """Write sentences of sub-words as ``prefix.bin`` and ``prefix.idx``, as fairseq-preprocess does."""
    builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
    for line in pieces:
        builder.add_item(dictionary.encode_line(line, add_if_not_exist=False, append_eos=True))
    builder.finalize(f"{prefix}.idx")
