"""Files of lines with hostile ends mean the same to every command that reads them."""

import base64
import gzip
import io
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from preparation import annotation

from stores import fault
from vtlm_fairseq import hub, inference
from vtlm_fairseq.cli import regions, score, translate
from vtlm_fairseq.corpora import entities_regions, multi30k, translate_captions
from vtlm_fairseq.corpora.flickr30k_entities import read_entities
from vtlm_fairseq.evaluation.probes.contrastive import ContrastiveSet
from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses
from vtlm_fairseq.extract import images
from vtlm_fairseq.files.lines import read_lines, stream_lines
from vtlm_fairseq.regions.formats.bottom_up_tsv import BottomUpImages
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.tasks.splits import read_image_names
from vtlm_fairseq.text.caption_files import CaptionFile
from vtlm_fairseq.text.image_ids import ImageMap
from vtlm_fairseq.text.overlap import shared_images
from vtlm_fairseq.text.pipeline import load_bpe

ODD = "a\xa0\u2028\u2029\x85\x0b\x0c\x1cb"
"""Blanks, and what ends a line for Python's splitlines, for terminals or for editors."""
Write = Callable[..., Path]
"""Makes a file of lines with the ends that are tried, and returns its path."""


def scored(write: Write, *hypotheses: str) -> list[str]:
    """vtlm-score, with references, raw references and a subset; what it writes of each sentence."""
    argv = [write("hyp", *hypotheses)]
    for option, content in {"--ref": ("c d", ODD), "--raw-ref": ("c d", ODD), "--subset": ("2", "1")}.items():
        argv += [option, write(option, *content)]
    out = argv[0].with_name("sentences")
    score.main([*map(str, argv), "--steps", "none", "--lang", "en", "--sentences", str(out)])
    return [line.split("\t")[1] for line in out.read_bytes().decode().split("\n")[1:-1]]


def converted(write: Write) -> object:
    """vtlm-regions convert and validate: ids, sizes of images, class names."""
    ids = write("ids", ODD, "c.jpg")
    boxes = np.array([[[1.0, 0, 2, 2]]] * 2)
    arrays = {"npy": np.ones((2, 1, 3), np.float32), "labels": np.zeros((2, 1), int), "boxes": boxes}
    argv = ["convert", "--ids", ids, "--class-names", write("names", ODD, "y"), "--box-units", "pixels",
            "--image-sizes", write("sizes", f"{ODD}\t4\t4", "c.jpg\t8\t2"), "--overwrite"]  # fmt: skip
    for name, array in arrays.items():
        np.save(ids.with_name(f"{name}.npy"), array)
        argv += [f"--{name}", ids.with_name(f"{name}.npy")]
    store = ids.with_name("s.h5")
    assert regions.main([str(part) for part in (*argv, "--out", store)]) == 0
    assert regions.main(["validate", str(store), "--images", str(write("x.images", ODD, "c.jpg"))]) == 0
    made = RegionStore([str(store)])
    return list(made.class_names), [made[row].boxes[0].tolist() for row in made.rows([ODD, "c.jpg"])]


def captions(write: Write, layout: str) -> list[tuple[str, ...]]:
    """prepare_captions.py."""
    if layout == "lines":
        path = write("x.en", ODD, "two").with_suffix("")
        write("x.de", "eins", "zwei"), write("x.images", "i", "j")
    elif layout == "tsv":
        path = write("x.tsv", f"i\t\t{ODD}\teins", "j\t\ttwo\tzwei")
    else:
        rows = [{"image": "i", "en": ODD, "de": "eins"}, {"image": "j", "en": "two", "de": "zwei"}]
        path = write("x.jsonl", *(json.dumps(row, ensure_ascii=False) for row in rows))
    columns = (
        {"image": "1", "en": "3", "de": "4"} if layout == "tsv" else {name: name for name in ("image", "en", "de")}
    )
    return [pair[:3] for pair in CaptionFile(str(path), source_lang="en", target_lang="de", columns=columns)]


def raw_multi30k(write: Write) -> object:
    """prepare_multi30k.py and entities_regions.py."""
    ids = multi30k.read_image_ids(write("val.txt", "1.jpg#0", "2.jpg").parent, "val")
    numbers = entities_regions.read_translated(write("numbers", "1\t3", "2\t4"))
    return ids, numbers, multi30k.read_lines(write("val.en", ODD, "c"), option="--raw")


def translated(write: Write, *, stdin: bool) -> list[str]:
    """vtlm-translate; its model gives back what it got."""
    path, said = write("x", f"{ODD}\timg0", "b\timg1"), []

    def model(sentences: list[str], ids: list[str], **_: object) -> list[list]:
        said.extend(map("\t".join, zip(sentences, ids, strict=True)))
        return [[] for _ in sentences]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "find_checkpoint", str)
        made = SimpleNamespace(needs_images=True, gives_text=True, hypotheses=model)
        patch.setattr(inference, "Translator", lambda *_, **__: made)
        if stdin:
            patch.setattr(sys, "stdin", io.TextIOWrapper(open(path, "rb")))
        translate.main(["--path", "x.pt", *([] if stdin else [str(path)])])
    return said


def other_captions(write: Write) -> list[tuple[str, str]]:
    """translate_captions.py."""
    path = write("x.tsv", f"i\t{ODD}", "j\tb")
    return list(translate_captions.read_sentences(SimpleNamespace(input=str(path), column=2)))


def entities(write: Write) -> list[str]:
    """Flickr30k Entities, for the oracle and vtlm-probe entity."""
    root = write("Sentences/1.txt", f"[/EN#3/people A man] {ODD}", "[/EN#3/people he] runs").parents[1]
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "Annotations/1.xml").write_text(annotation(9, 9, [((0, 0, 1, 1), (3,))]))
    return [caption.text for image in read_entities(root, ["1"]) for caption in image.captions]


def bottom_up(write: Write) -> list[tuple[str, int]]:
    """vtlm-regions convert --bottom-up-tsv."""
    arrays = [base64.b64encode(np.ones(n, "<f4").tobytes()).decode() for n in (4, 2)]
    path = write("x.tsv", *("\t".join([image, "9", "9", "1", *arrays]) for image in (ODD, "b")))
    return [(image.image_id, image.features.size) for image in BottomUpImages(str(path))]


def training(write: Write) -> object:
    """`.images` files, and the look for images that train and test share."""
    train = write("train.images", ODD, "b")
    (doubt,) = shared_images([str(train)], [str(write("x.images", "x", ODD))])
    return read_image_names(
        str(train.parent), "train"
    ), f"1 of 2 images of x are in train too, such as {ODD!r}" in doubt


def listed(write: Write) -> list[tuple[str, str]]:
    """The list of images of extract_regions.py."""
    return [file[:2] for file in images.list_images(str(write("list", "x/1.jpg", f"i\t{ODD}")), (".jpg",))[0]]


def codes(write: Write) -> object:
    """Codes of subword-nmt."""
    kind, segment = load_bpe(write("codes", "#version: 0.2", "a b", "ab c</w>"))
    return kind, segment("abc abd")


def contrasts(write: Write) -> ContrastiveSet:
    """vtlm-probe contrastive."""
    files = {name: str(write(name, ODD, "b")) for name in ("src", "correct", "incorrect", "images")}
    return ContrastiveSet.read(**files)


READERS: dict[str, tuple[Callable, object]] = {
    "score": (scored, ["d", "a b"]),
    "score generated": (scored, ["a b", "d"]),
    "convert": (converted, ([ODD, "y"], [[0.25, 0, 0.5, 0.5], [0.125, 0, 0.25, 1]])),
    "tsv": (partial(captions, layout="tsv"), [("i", ODD, "eins"), ("j", "two", "zwei")]),
    "jsonl": (partial(captions, layout="jsonl"), [("i", ODD, "eins"), ("j", "two", "zwei")]),
    "line files": (partial(captions, layout="lines"), [("i", ODD, "eins"), ("j", "two", "zwei")]),
    "multi30k": (raw_multi30k, (["1", "2"], {"1": 3, "2": 4}, [ODD, "c"])),
    "image map": (lambda write: ImageMap(str(write("map", f"url\t{ODD}", "x\ty"))).get("url"), ODD),
    "image list": (listed, [("1", "x/1.jpg"), ("i", ODD)]),
    "translate": (partial(translated, stdin=False), [f"{ODD}\timg0", "b\timg1"]),
    "translate stdin": (partial(translated, stdin=True), [f"{ODD}\timg0", "b\timg1"]),
    "translate_captions": (other_captions, [(f"i\t{ODD}", ODD), ("j\tb", "b")]),
    "entities": (entities, [f"A man {ODD}", "he runs"]),
    "bottom-up": (bottom_up, [(ODD, 2), ("b", 2)]),
    "training": (training, ([ODD, "b"], True)),
    "codes": (codes, ("subword_nmt", "abc ab@@ d")),
    "contrastive": (contrasts, ContrastiveSet([ODD, "b"], [ODD, "b"], [ODD, "b"], [ODD, "b"])),
}  # fmt: skip
HYPOTHESES = {"score": ("d", ODD), "score generated": ("x", "H-1\t-1\td", f"H-0\t-1\t{ODD}")}
BOM = b"\xef\xbb\xbf"
ENDS = {
    "as Unix writes it": lambda raw: raw + b"\n",
    "no last newline": lambda raw: raw,
    "as Windows writes it": lambda raw: BOM + raw.replace(b"\n", b"\r\n") + b"\r\n",
    "a byte order mark, no last newline": lambda raw: BOM + raw,
    "cut within the last end": lambda raw: raw.replace(b"\n", b"\r\n") + b"\r",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "convert" else []) for name in READERS]
)
def test_every_reader(tmp_path, name):
    """Ends of Unix and Windows and a missing last one are the same; what would shift lines is one line."""
    reader, expected = READERS[name]

    def read(change: Callable[[bytes], bytes]) -> object:
        def write(file: str, *content: str) -> Path:
            path = tmp_path / "in" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(change("\n".join(content).encode()))
            return path

        return reader(write, *HYPOTHESES.get(name, ()))

    for kind, change in ENDS.items():
        assert read(change) == expected, kind
    for what, bad in {"a carriage return inside the line": b"\r", "not UTF-8 text": b"\xff"}.items():
        with pytest.raises((SystemExit, ValueError)) as caught:
            read(lambda raw, bad=bad: raw[:-1] + bad + raw[-1:] + b"\n")
        said = str(caught.value)
        assert (what in said and " line " in said and ", byte " in said) or (
            name == "codes" and "codes: neither" in said
        )


def test_lines(tmp_path):
    """An empty line is a line, at the end too; an empty file has none; a packed file is read as what it holds."""
    path = tmp_path / "x"
    for content, expected in (
        (b"", []),
        (BOM, []),
        (b"\n", [""]),
        (b"a\n\n", ["a", ""]),
        (b"a\n\r", ["a", ""]),
        (b"\r\n\xef\xbb\xbfa", ["", "\ufeffa"]),
    ):
        path.write_bytes(content)
        assert read_lines(path) == expected
        assert len(expected) - content.count(b"\n") == (content not in (b"", BOM) and content[-1:] != b"\n")
    packed = tmp_path / "x.gz"
    packed.write_bytes(gzip.compress("\ufeffa\r\nb\r\n".encode()))
    assert read_lines(packed) == ["a", "b"]
    packed.write_bytes(gzip.compress(b"a\tb\tc\td\n" * 1000)[:-20])
    assert "x.gz: cannot be read" in fault(read_lines, packed)
    packed.write_bytes(b"")
    assert "x.gz: cannot be read" in fault(read_lines, packed)
    path.write_bytes(b"ok\n\nb\xff\n")
    assert f"{path} line 3, byte 5 of the file: not UTF-8 text; convert it" == fault(read_lines, path)
    path.write_bytes(b"ok\r\nold\rMac\r")
    assert f"{path} line 2, byte 7 of the file: a carriage return" in fault(read_lines, path)
    path.write_bytes(b"a\r\r")
    assert f"{path} line 1, byte 1 of the file: a carriage return" in fault(read_lines, path)
    path.write_text("a\n\n")
    assert "--ids X: line 2 is empty" in fault(read_lines, path, label="--ids X", filled=True)
    path.write_text("")
    assert "--ids X: line 1 is empty" in fault(read_lines, path, label="--ids X", filled=True)
    assert "none: cannot be read (No such file or directory); see --ref" in fault(
        read_lines, tmp_path / "none", hint="see --ref"
    )


@pytest.mark.parametrize("shift", range(8))
def test_many_lines(tmp_path, shift):
    """Lines and faults over the borders of what is read at once, which fall on each byte of a line of eight."""
    path = tmp_path / "x"
    content = ["s" * shift, *(f"{i:04}é" for i in range(10_000))]
    path.write_bytes(BOM + "\r\n".join(content).encode())
    assert list(stream_lines(path)) == content
    path.write_bytes(path.read_bytes().replace(b"9997", b"99\xff7"))
    assert f"x line 9999, byte {3 + shift + 2 + 9997 * 8 + 2} " in fault(read_lines, path)


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a\n" + bytes(1 << 25), 1))
    found = stream_lines(tmp_path / "x.gz")
    assert next(found) == "a" and f"x.gz line 2: more than {1 << 24:,} bytes" in fault(next, found)


def test_logs_with_progress_bars(tmp_path):
    """Carriage returns in the log around hypotheses are none of the text; an empty reference is one."""
    path = tmp_path / "out"
    path.write_bytes(b"\r 0%|\r 50%|\nS-0\ta\nT-0\t\nH-0\t-1.0\tb \nT-1\tc\nH-1\t-1.0\t\n")
    found = read_hypotheses(path)
    assert (found.texts, found.references) == (["b", ""], ["", "c"])
    path.write_bytes(b"a\rb\nc\n")
    assert "line 1" in fault(read_hypotheses, path)
