"""Reader of Flickr30k Entities: captions whose phrases name chains, and boxes that carry chain ids."""

from __future__ import annotations

import html
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree
from xml.parsers import expat

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import split_lines
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.files.tar import tar_members
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing

MAX_FILE_BYTES = 1 << 20
"""No file of the collection is near this size; a larger one is refused before it is parsed."""

MAX_MEMBERS = 1_000_000
"""Of the archive, which has 64,000."""

MAX_SIDE = 1_000_000
"""Pixels of a side of an image."""

COLOURS = frozenset(
    "beige black blond blonde blue bright brown colorful dark gold gray green grey orange pink purple red silver "
    "striped tan white yellow".split()
)

_PHRASE = re.compile(r"\[/EN#(\d+)/\S+ ([^\]]*)\]")


@dataclass(frozen=True)
class Phrase:
    """A marked phrase of a caption.

    Attributes:
        chain: of co-referring phrases that it belongs to.
        words: its words.
        start: character of the caption's text at which it begins; not part of equality.
    """

    chain: int
    words: tuple[str, ...]
    start: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Caption:
    """One of the five captions of an image: its plain text and its marked phrases (chain 0 left out)."""

    text: str
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True)
class Box:
    """A drawn box in pixels, and the chains it belongs to."""

    xyxy: tuple[int, int, int, int]
    chains: tuple[int, ...]


@dataclass(frozen=True)
class ImageEntities:
    """All that the collection holds about one image."""

    image_id: str
    width: int
    height: int
    captions: tuple[Caption, ...]
    boxes: tuple[Box, ...]


class _Files(Protocol):
    def read(self, name: str) -> bytes: ...

    def ids(self) -> Iterable[str]: ...


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes:
        path = self._root / name
        if not path.is_file():
            raise KeyError(name)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise VTLMError(f"{path}: larger than {MAX_FILE_BYTES} bytes, not a file of Flickr30k Entities")
        return path.read_bytes()

    def ids(self) -> Iterable[str]:
        return (path.stem for path in (self._root / "Annotations").glob("*.xml"))


class _Archive:
    """The few files asked for, read in one pass: a compressed archive has no quick access to one of them."""

    def __init__(self, path: Path, image_ids: Iterable[str]) -> None:
        wanted = {name for image_id in image_ids for name in _names(image_id)}
        self._files: dict[str, bytes] = {}
        self._ids: list[str] = []
        hint = "give --entities the folder"
        for member, read in tar_members(path, mode="r", hint=hint, most=MAX_MEMBERS):
            name = "/".join(member.name.split("/")[-2:])
            if name.startswith("Annotations/") and name.endswith(".xml"):
                self._ids.append(name.removeprefix("Annotations/").removesuffix(".xml"))
            if name not in wanted:
                continue
            if member.size > MAX_FILE_BYTES:
                raise VTLMError(
                    f"{path}: {member.name} is larger than {MAX_FILE_BYTES} bytes, not a file of Flickr30k Entities"
                )
            self._files[name] = read()

    def read(self, name: str) -> bytes:
        return self._files[name]

    def ids(self) -> Iterable[str]:
        return self._ids


def _names(image_id: str) -> tuple[str, str]:
    return f"Sentences/{image_id}.txt", f"Annotations/{image_id}.xml"


def parse_caption(line: str, *, where: str = "caption") -> Caption:
    """Split one line of a `Sentences` file into its text and its marked phrases.

    Args:
        line: words, with phrases as `[/EN#chain/type words]`.
        where: file and line, for the message.

    Raises:
        VTLMError: a mark that is not of that form.
    """
    text, phrases, end = "", [], 0
    for mark in _PHRASE.finditer(line):
        text += line[end : mark.start()]
        phrases.append(Phrase(int(mark[1]), tuple(mark[2].split()), start=len(text)))
        text += mark[2]
        end = mark.end()
    text += line[end:]
    if "/EN#" in text:
        raise VTLMError(f"{where}: a phrase is not of the form [/EN#chain/type words]")
    return Caption(text=text, phrases=tuple(p for p in phrases if p.chain != 0 and p.words))


def letters_and_digits(text: str) -> str:
    """What is left of a text in lower case without escapes, accents, blanks and punctuation."""
    plain = unicodedata.normalize("NFD", html.unescape(text).lower())
    return "".join(character for character in plain if character.isalnum())


def find_translated(captions: Sequence[Caption], line: str) -> int | None:
    """Index of the caption that has the letters and digits of `line`, or None."""
    wanted = letters_and_digits(line)
    return next((i for i, c in enumerate(captions) if letters_and_digits(c.text) == wanted), None)


def parse_annotation(data: bytes, *, where: str) -> tuple[int, int, tuple[Box, ...]]:
    """Image width, height and boxes of one `Annotations` file. Objects without a box are left out.

    Raises:
        VTLMError: the file is not an annotation, or a box does not lie in the image.
    """
    try:
        _refuse_document_type(data, where)
        root = ElementTree.fromstring(data)
        width, height = (int(root.findtext(f"size/{side}", "")) for side in ("width", "height"))
        boxes = []
        for item in root.iter("object"):
            corners = item.find("bndbox")
            if corners is None:
                continue
            xyxy = tuple(int(corners.findtext(corner, "")) for corner in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append(Box(xyxy=xyxy, chains=tuple(int(name.text or "") for name in item.iter("name"))))
    except (ElementTree.ParseError, expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, VTLMError):
            raise
        raise VTLMError(f"{where}: not a Flickr30k Entities annotation ({error})") from None
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise VTLMError(f"{where}: an image of {width} x {height} pixels is none of Flickr30k; unpack the file again")
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        if not (0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height):
            raise VTLMError(f"{where}: box {box.xyxy} does not lie in the image of {width} x {height} pixels")
    return width, height, tuple(boxes)


def _refuse_document_type(data: bytes, where: str) -> None:
    """Look for a document type, which may define entities, as the parser sees it: in whatever encoding.

    Raises:
        VTLMError: it has one.
        ExpatError: it is not well-formed.
    """

    def refuse(*_: object) -> None:
        raise VTLMError(f"{where}: document type declarations are not read")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.Parse(data, True)


def read_entities(source: Path, image_ids: list[str]) -> Iterator[ImageEntities]:
    """Yield captions and boxes of each image, in the order asked for.

    Args:
        source: the unpacked folder (the one that holds `Annotations` and `Sentences`, or its parent), or the
            `.tgz`.
        image_ids: image file names without extension.

    Raises:
        VTLMError: the source is neither, an id is no file name, an image is not in it, or a file cannot be read.
    """
    for image_id in image_ids:
        check_name(image_id, f"{source}: image id", hint="Flickr30k Entities has no such image")
    files = _open(source, image_ids)
    for image_id in image_ids:
        sentences_name, annotation_name = _names(image_id)
        try:
            sentences = files.read(sentences_name)
            annotation = files.read(annotation_name)
        except KeyError as error:
            raise VTLMError(
                f"{source}: no {error.args[0]}; Flickr30k Entities covers train, val and test_2016_flickr only, "
                f"see --entities and --splits{explain_missing([image_id], files.ids(), BY_HAND)}"
            ) from None
        lines = split_lines(io.BytesIO(sentences), f"{source}: {sentences_name}", hint="unpack it again")
        captions = tuple(
            parse_caption(line, where=f"{sentences_name} line {number}")
            for number, line in enumerate(lines, 1)
            if line.strip()
        )
        width, height, boxes = parse_annotation(annotation, where=annotation_name)
        yield ImageEntities(image_id, width, height, captions, boxes)


def _open(source: Path, image_ids: Iterable[str]) -> _Files:
    if source.is_file():
        return _Archive(source, image_ids)
    for root in (source, source / "Flickr30kEntities"):
        if (root / "Sentences").is_dir() and (root / "Annotations").is_dir():
            return _Folder(root)
    raise VTLMError(f"{source}: neither an archive nor a folder with Sentences and Annotations, see --entities")
