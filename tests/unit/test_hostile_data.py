"""Data made to mislead or to stop a command: archives, XML, JSON and numbers; each ends in one line, soon."""

import gzip
import io
import json
import resource
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from extraction import extract_regions, write_grids
from extraction import images as image_lists
from fairseq import tasks
from PIL import Image
from preparation import annotation, entities_regions, write
from region_sources import coco, fails

from stores import fault, make_store
from tiny import folder as data_folder
from tiny import translation_config
from vtlm_fairseq.corpora import flickr30k_entities
from vtlm_fairseq.corpora.flickr30k_entities import parse_annotation, read_entities
from vtlm_fairseq.evaluation.scoring.outputs import read_line_numbers
from vtlm_fairseq.text.caption_files import CaptionFile
from vtlm_fairseq.text.pipeline import TextPipeline

HUGE = 10**400
XML = annotation(100, 50, [((1, 2, 30, 40), (7,))])
LAUGHS = "<!DOCTYPE a [" + "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9)) + '<!ENTITY l0 "ha">]>'


# ---- XML


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "iso-8859-1", "cp1252"])
def test_document_types_are_refused_in_every_encoding(tmp_path, encoding):
    """Looked for as ASCII bytes, one in UTF-16 was read."""
    (tmp_path / "secret").write_text("9")
    declared = "utf-16" if encoding == "utf-16-le" else encoding
    for doctype in (LAUGHS, f'<!DOCTYPE a [<!ENTITY l9 SYSTEM "{tmp_path}/secret">]>', "<!DOCTYPE annotation>"):
        text = doctype + XML.replace("<name>7</name>", "<name>&l9;</name>" if "l9" in doctype else "<name>7</name>")
        data = f'<?xml version="1.0" encoding="{declared}"?>{text}'
        data = b"\xff\xfe" * (encoding == "utf-16-le") + data.encode(encoding)
        assert "a.xml" in fault(parse_annotation, data, where="a.xml")
    sound = f'<?xml version="1.0" encoding="{declared}"?>{XML}'
    sound = b"\xff\xfe" * (encoding == "utf-16-le") + sound.encode(encoding)
    assert parse_annotation(sound, where="a.xml")[:2] == (100, 50)


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * 200_000,
        "<annotation>" * 50_000 + "</annotation>" * 50_000,
        XML.replace("100", str(HUGE)).replace(">30<", f">{10**399}<"),
        annotation(0, 0, [((0, 0, 0, 0), (7,))]),
        XML.replace("100", "1" * 5000),
        XML.replace("<name>7", "<name>" + "7" * 5000),
    ],
    ids=["open", "deep", "huge", "empty", "digits", "chain"],
)
def test_annotations_that_do_not_fit(text):
    assert "a.xml" in fault(parse_annotation, text.encode(), where="a.xml")


# ---- tar files


def header(name: str, kind: bytes, size: int | bytes) -> bytes:
    """The block of a member; a size as bytes is written as it is."""
    block = bytearray(tarfile.TarInfo(name).tobuf())
    block[156:157] = kind
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[148:156] = b"%06o\0 " % sum(block[:148] + b" " * 8 + block[156:])
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(**records: str) -> bytes:
    data = b""
    for name, value in records.items():
        line = f" {name}={value}\n".replace("_", ".").encode()
        size = len(line) + len(str(len(line) + 3))
        data += str(size).encode() + line
    return header("pax", b"x", len(data)) + padded(data)


END = bytes(1024)
SPARSE = pax(GNU_sparse_major="1", GNU_sparse_minor="0") + header("b.jpg", b"0", 512)
NEGATIVE = b"\xff" * 11 + b"\x00"  # base 256: -256
TARS = {
    "many extended headers": b"".join(pax(comment=str(i)) for i in range(3000)) + header("a.jpg", b"0", 0) + END,
    "many long names": (header("x", b"L", 4) + padded(b"a.jp")) * 3000 + header("a.jpg", b"0", 0) + END,
    "a header of 8 GB": header("pax", b"x", (1 << 33) - 1) + bytes(1024),
    "a name of 8 GB": header("x", b"L", (1 << 33) - 1) + bytes(1024),
    "a member of negative size": header("a.jpg", b"0", 0) + header("b.jpg", b"0", NEGATIVE) + END,
    "negative by an extended header": header("a.jpg", b"0", 0) + pax(size="-2048") + header("b.jpg", b"0", 0) + END,
    "a size that is no number": pax(size="9" * 400) + header("b.jpg", b"0", 0) + END,
    "a damaged sparse map": SPARSE + bytes(512) + END,
    "a sparse map without end": SPARSE + padded(b"9" * 40 + b"\n0\n") + END,
}


@pytest.fixture
def little_memory():
    """A limit of 3 GB more than is in use."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


WORDS = {
    "a header of 8 GB": "8,589,934,591 bytes",
    "a name of 8 GB": "8,589,934,591 bytes",
    "a member of negative size": "-256 bytes",
}


@pytest.mark.parametrize("name", TARS)
def test_hostile_tar_files(tmp_path, name, little_memory):
    path = tmp_path / "x.tar"
    path.write_bytes(TARS[name])
    message = fault(image_lists.list_images, str(path), (".jpg",))
    assert str(path) in message and WORDS.get(name, "") in message
    with gzip.open(tmp_path / "x.tgz", "wb", compresslevel=1) as file:
        file.write(TARS[name])
    assert "x.tgz" in fault(lambda: list(read_entities(tmp_path / "x.tgz", ["1"])))


def test_a_member_that_is_damaged(tmp_path):
    """Its fault is met while it is read, not while members are counted."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("Sentences/1.txt", "Annotations/1.xml"):
            member = tarfile.TarInfo(name)
            member.size = 100
            archive.addfile(member, io.BytesIO(b"x" * 100))
    packed = bytearray(gzip.compress(data.getvalue()[:1586]))
    packed[-6] ^= 1  # of the checksum
    (tmp_path / "x.tgz").write_bytes(packed)
    assert "x.tgz" in fault(lambda: list(read_entities(tmp_path / "x.tgz", ["1"])))


@pytest.mark.parametrize(
    ("name", "value"),
    [("boxes", np.nan), ("boxes", np.inf), ("boxes", -1e30), ("scores", np.nan), ("scores", np.inf)],
)
def test_regions_that_cannot_be_drawn(tmp_path, name, value):
    """`vtlm-regions show` of a store that nobody has validated."""
    make_store(tmp_path / "s.h5", ["a"], num_classes=1)
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file[name][0] = value
    Image.new("RGB", (30, 20)).save(tmp_path / "i.png")
    argv = ("show", tmp_path / "s.h5", "a", "--image", tmp_path / "i.png", "--out", tmp_path / "o.png")
    assert "cannot be drawn: not finite, or outside the image" in fails(*argv)


def test_an_archive_of_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(flickr30k_entities, "MAX_MEMBERS", 3)
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        for name in "abcd":
            archive.addfile(tarfile.TarInfo(name))
    assert "more than 3 members" in fault(lambda: list(read_entities(tmp_path / "x.tgz", ["1"])))


# ---- JSON


DEPTHS = (200, 900, 990, 1000, 100_000)


def refused(folder: Path) -> str:
    """What vtlm-regions convert says of a folder of COCO's."""
    argv = ("--coco-json", folder / "coco.json", "--features", folder / "f", "--out", folder / "s.h5")
    return fails("convert", *argv)


def nested(depth: int, inner: str = "1") -> str:
    return "[" * depth + inner + "]" * depth


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, HUGE, 1]}]},
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1], "score": HUGE}]},
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, float("inf"), 1]}]},
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, float("nan"), 1]}]},
        {"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1], "score": float("nan")}]},
        {"images": [{"id": 9, "width": HUGE, "height": 100, "file_name": "cat.jpg"}]},
        {"images": [{"id": 9, "width": float("inf"), "height": 100, "file_name": "cat.jpg"}]},
        {"images": [{"id": 9, "width": 200, "height": 100, "file_name": "cat\ud800.jpg"}]},
        {"images": [{"id": 9, "width": 200, "height": 100, "file_name": "cat\n.jpg"}]},
        {"categories": [{"id": 90, "name": "tree\0"}, {"id": 3, "name": "cat"}]},
        {"categories": [{"id": 90, "name": "tree\ud800"}, {"id": 3, "name": "cat"}]},
    ],
)
def test_numbers_and_texts_of_coco(tmp_path, change):
    """Whole numbers of JSON have no end, and its texts may hold what no file can."""
    coco(tmp_path, **change)
    np.save(tmp_path / "f" / "cat.npy", np.zeros((len(change.get("annotations", "12")), 3), np.float32))
    np.save(tmp_path / "f" / "9.npy", np.zeros((2, 3), np.float32))
    message = refused(tmp_path)
    if "categories" in change:
        assert "'tree" in message
    assert len(message) < 3000 and not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("key", ["images", "categories", "annotations", "x"])
def test_coco_nested_without_end(tmp_path, key, depth):
    content = {key: "DEEP"} if key == "x" else {**coco(tmp_path), key: ["DEEP"]}
    (tmp_path / "f").mkdir(exist_ok=True)
    (tmp_path / "coco.json").write_text(json.dumps(content).replace('"DEEP"', nested(depth)))
    assert "coco.json" in refused(tmp_path)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("key", ["bpe", "steps", "sha256", "source_lang", "schema_version"])
def test_text_json_nested_without_end(tmp_path, key, depth):
    for lang in ("en", "de"):
        (tmp_path / f"dict.{lang}.txt").write_text("x 1\n")
    TextPipeline("en", "de").save(tmp_path)
    content = json.loads((tmp_path / "text.json").read_text())
    content[key] = {"kind": "DEEP", "DEEP": "DEEP"} if key in ("bpe", "sha256") else ["DEEP"]
    text = json.dumps(content).replace('"DEEP":', '"x":').replace('"DEEP"', nested(depth))
    (tmp_path / "text.json").write_text(text)
    assert "text.json" in fault(TextPipeline.load, tmp_path)
    content[key] = HUGE
    (tmp_path / "text.json").write_text(json.dumps(content))
    assert "text.json" in fault(TextPipeline.load, tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        '{"image": "a\\nb", "en": "x", "de": "y"}',
        '{"image": "a\\rb", "en": "x", "de": "y"}',
        '{"image": "a\\ud800", "en": "x", "de": "y"}',
        '{"image": "a", "en": "x\\ud800", "de": "y"}',
        '{"image": "a\\u0000", "en": "x", "de": "y"}',
        *(f'{{"image": "a", "en": {nested(depth)}, "de": "y"}}' for depth in DEPTHS),
        f'{{"image": {"1" * 5000}, "en": "x", "de": "y"}}',
    ],
)
def test_captions_in_json_lines(tmp_path, record):
    """An image id with a line end in it moved the images of all lines behind it."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"image": "z", "en": "x", "de": "y"}\n' + record)
    captions = CaptionFile(str(path), source_lang="en", target_lang="de", columns={n: n for n in ("image", "en", "de")})
    assert "x.jsonl line 2" in fault(list, captions)


@pytest.mark.parametrize("column", ["9" * 5000, "9" * 400, "٣" * 5000])
def test_columns_without_end(tmp_path, column):
    (tmp_path / "x.tsv").write_text("a\tb\tc\n")
    captions = CaptionFile(
        str(tmp_path / "x.tsv"), source_lang="en", target_lang="de", columns={"image": column, "en": "1", "de": "2"}
    )
    assert "--columns" in fault(list, captions)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", nested(100_000), "9" * 5000, '{"beam": 4} x'])
def test_options_that_take_json(tmp_path, text):
    """They ended in fairseq's stack."""
    data = data_folder(tmp_path / "data", {"train": 3}).path
    for option in ("--eval-bleu-args", "--eval-bleu-detok-args"):
        cfg = translation_config(data, "--eval-bleu", f"{option}={text}")
        with pytest.raises(SystemExit) as end:
            tasks.setup_task(cfg.task).build_model(cfg.model)
        assert end.value.code.startswith(f"error: {option}: ") and "\n" not in end.value.code


@pytest.mark.parametrize("text", ["", "[]", "{", nested(100_000)])
def test_what_a_killed_run_left_behind(tmp_path, text):
    write_grids(tmp_path / "in", 3)
    argv = ["--images", str(tmp_path / "in"), "--detector", "grid", "--workers", "0", "--out", str(tmp_path / "s.h5")]
    parts = tmp_path / "s.h5.parts"
    parts.mkdir()
    (parts / ".vtlm-fairseq").touch()
    (parts / "00000.h5").write_bytes(b"")
    (parts / "plan.json").write_text(text)
    with pytest.raises(SystemExit, match="plan.json.*--overwrite"):
        extract_regions.main(argv)


def test_line_numbers_without_end(tmp_path):
    write(tmp_path / "lines", "9" * 5000)
    assert "lines, line 1" in fault(read_line_numbers, tmp_path / "lines", 3, option="--subset")
    write(tmp_path / "captions", "1\t" + "9" * 5000)
    assert "captions line 1" in fault(entities_regions.read_translated, tmp_path / "captions")
