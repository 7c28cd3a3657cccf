"""Fuzz Flickr30k Entities: annotations in XML, captions, and the archive that holds them."""

import io
import random
import tarfile
from pathlib import Path

from fuzzing import Case
from mutations import NUMBERS, damage, word

from vtlm_fairseq.corpora.flickr30k_entities import MAX_SIDE, parse_annotation, parse_caption, read_entities

XML = (
    "<annotation><size><width>100</width><height>50</height></size>"
    "<object><name>7</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    "<object><name>8</name><scene>1</scene></object></annotation>"
)
CAPTION = "[/EN#7/people A man] in [/EN#8/clothing a red shirt] rides [/EN#0/notvisual it] ."
DOCTYPES = ("<!DOCTYPE annotation>", '<!DOCTYPE a [<!ENTITY e "7">]>',
            '<!DOCTYPE a [<!ENTITY e SYSTEM "/etc/passwd">]>',
            '<!DOCTYPE a [<!ENTITY % e SYSTEM "/etc/passwd"> %e;]>')  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1", "cp1252", "utf-32", "utf-7",
             "cp037")  # fmt: skip


def setup(folder: Path) -> Case:
    """Single files, and now and then an archive of two images."""
    path = folder / "e.tgz"

    def case(rng: random.Random) -> None:
        kind = rng.random()
        if kind < 0.3:
            caption = parse_caption(_caption(rng))
            assert all(phrase.words and phrase.chain for phrase in caption.phrases), "an empty phrase"
        elif kind < 0.8:
            xml, declared = _annotation(rng)
            width, height, boxes = parse_annotation(xml, where="a.xml")
            assert not declared, "a document type was read"
            assert 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE, "no image is that large"
            assert all(0 <= b.xyxy[0] <= b.xyxy[2] <= width and 0 <= b.xyxy[1] <= b.xyxy[3] <= height for b in boxes)
        else:
            path.write_bytes(_archive(rng))
            for image in read_entities(path, ["1", "2"]):
                assert image.captions is not None and image.image_id in ("1", "2"), "another image"

    return case


def _caption(rng: random.Random) -> str:
    text = CAPTION
    for _ in range(rng.randint(0, 4)):
        at = rng.randrange(len(text) + 1)
        put = rng.choice((word(rng), "[/EN#", "]", "[", f"[/EN#{10**400}/a b]", ""))
        text = text[:at] + put + text[at + rng.randint(0, 3) :]
    return text


def _annotation(rng: random.Random) -> tuple[bytes, bool]:
    """A file, and whether its text declares a document type that no damage has touched."""
    text = XML
    for _ in range(rng.choice((0, 0, 1, 2))):
        old = rng.choice(("100", "50", "7", "30", "40", "<object>", "annotation", "</size>"))
        new = rng.choice((str(rng.choice(NUMBERS)), "-1", str(10**400), "9" * 5000, "&e;", word(rng), ""))
        text = text.replace(old, new)
    doctype = rng.choice(DOCTYPES) if rng.random() < 0.3 else ""
    encoding = rng.choice(ENCODINGS)
    declared = rng.choice((encoding.removesuffix("-sig").removesuffix("-le").removesuffix("-be"), "utf-8", "x"))
    data = f'<?xml version="1.0" encoding="{declared}"?>{doctype}{text}'.encode(encoding, "replace")
    if rng.random() < 0.3:
        return damage(rng, data), False
    return data, bool(doctype)


def _archive(rng: random.Random) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=rng.choice(("w:gz", "w"))) as archive:
        for image in ("1", "2"):
            files = {f"Sentences/{image}.txt": _caption(rng).encode("utf-8", "replace")}
            files[f"Annotations/{image}.xml"] = XML.encode() if rng.random() < 0.7 else _annotation(rng)[0]
            for name, data in files.items():
                member = tarfile.TarInfo(rng.choice(("", "a/", "../", "/")) + name)
                member.size, member.type = len(data), tarfile.REGTYPE if rng.random() < 0.9 else tarfile.SYMTYPE
                archive.addfile(member, io.BytesIO(data))
    return damage(rng, buffer.getvalue()) if rng.random() < 0.5 else buffer.getvalue()
