"""Names from files and options that become paths stay in their folders: each kind, through its command."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction import encoded
from PIL import Image
from preparation import annotation, oracle_cli, prepare_cli, write
from region_sources import coco, convert, fails

from originals import random_original
from stores import ends_with, fault, make_store
from tiny import folder as data_folder
from tiny import translation_task
from vtlm_fairseq.checkpoints import read_model_config
from vtlm_fairseq.cli import convert as convert_command
from vtlm_fairseq.corpora.flickr30k_entities import read_entities
from vtlm_fairseq.evaluation.report.pictures import load_pictures
from vtlm_fairseq.files.names import MAX_BYTES, find_inside, name_fault
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.text.pipeline import TextPipeline

OUTSIDE = ("../x", "/../../x", "/etc/x", "..", "a/../../x", "a//b", "x\0", "x\n", "\x1b[2J", "", "x" * 256, "\udc80")


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_a_name_is():
    for name in OUTSIDE:
        assert name_fault(name) and name_fault(name, nested=True), name
    for name in ("en", "pt-BR", "zh_Hans", "img 1", "写真", "a.b", "...", "x" * MAX_BYTES):
        assert name_fault(name) is None and name_fault(f"sub/{name}", nested=True) is None, name
    assert name_fault("a/b") and name_fault(None) and name_fault(3)


@pytest.mark.parametrize("language", ["/../../x", "a/b", "..", "x\0", "\x1b[2J", "a b"])
def test_languages_of_the_authors_checkpoints(tmp_path, language):
    """`dict.LANG.txt` is written beside --out: a name with folders in it was written elsewhere."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    torch.save(random_original(languages=("en", "img", language)), tmp_path / "x.pth")
    argv = ["checkpoint", str(tmp_path / "x.pth"), "--out", str(inner / "m.pt"), "-s", "en", "-t", language]
    assert "language" in ends_with(convert_command.main, argv)
    assert files_of(tmp_path) == ["a", "a/b", "x.pth"]


@pytest.mark.parametrize("change", [{"source_lang": "../x"}, {"langs": "de,../x"}, {"target_lang": "\x1b[2J"}])
def test_languages_of_fairseqs_checkpoints(tmp_path, change):
    config = {"_name": "vtlm_tiny", "langs": "de,en", "source_lang": "en", "target_lang": "de", **change}
    state = {"args": None, "cfg": {"model": config, "task": {"_name": "visual_translation_lm"}}}
    torch.save({**state, "model": {"w": torch.zeros(1)}}, tmp_path / "m.pt")
    assert "language" in fault(read_model_config, str(tmp_path / "m.pt"))


def test_file_names_of_a_checkpoint_folder(tmp_path, capsys):
    """`--restore-file "$(vtlm-convert latest DIR)"` takes one line."""
    for name, updates in (("checkpoint1.pt", 1), ("checkpoint\n2.pt", 2), ("checkpoint\x1b[2J.pt", 3)):
        state = {"model": {"w": torch.zeros(1)}, "optimizer_history": [{"num_updates": updates}]}
        torch.save(state, tmp_path / name)
    assert convert_command.main(["latest", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path}/checkpoint1.pt\n"
    assert said.err.count("skipped: ") == 2 == said.err.count("\n") and "\x1b" not in said.err


@pytest.mark.parametrize("name", ["../x", "..", "x\0", "\x1b[2J", "a/b"])
def test_names_in_text_json(tmp_path, name):
    """With a zero in it a name ended in a stack; `..` was read as if it were a file."""
    for lang in ("en", "de"):
        (tmp_path / f"dict.{lang}.txt").write_text("x 1\n")
    TextPipeline("en", "de").save(tmp_path)
    content = json.loads((tmp_path / "text.json").read_text())
    for change in ({"source_lang": name}, {"sha256": {**content["sha256"], name: "0"}}):
        (tmp_path / "text.json").write_text(json.dumps({**content, **change}))
        message = fault(TextPipeline.load, tmp_path)
        assert "text.json" in message and repr(name) in message
    (tmp_path / "text.json").write_text(json.dumps({**content, "bpe": {"kind": "subword_nmt", "file": name}}))
    assert "text.json" in fault(TextPipeline.load, tmp_path)


@pytest.mark.slow
def test_languages_and_splits_of_options(tmp_path):
    argv = ["--raw", str(tmp_path), "--image-splits", str(tmp_path), "--vocab-size", "9", "-s", "../en"]
    assert "../en" in ends_with(prepare_cli.main, ["multi30k", *argv, "--out", str(tmp_path / "out")])
    make_store(tmp_path / "secret.h5")
    (tmp_path / "regions").mkdir()
    assert "'../secret'" in fault(store_files, str(tmp_path / "regions"), "../secret")
    make_store(tmp_path / "regions" / "test.h5")
    assert store_files(str(tmp_path / "regions"), "test") == [str(tmp_path / "regions" / "test.h5")]
    task = translation_task(data_folder(tmp_path / "data", {"test": 3}).path)
    assert "split '../test'" in ends_with(task.load_dataset, "../test")
    with pytest.raises(SystemExit, match="language '../en'"):
        translation_task(tmp_path / "data", "-s", "../en", "-t", "de")


def test_splits_and_images_of_oracle_regions(tmp_path):
    """The split is the name of the store that is written; the image that of the files that are read."""
    write(tmp_path / "x.txt", "1.jpg\n")
    argv = ["--entities", str(tmp_path), "--raw", str(tmp_path), "--image-splits", str(tmp_path / "lists")]
    message = ends_with(oracle_cli.main, [*argv, "--splits", "../x", "--out", str(tmp_path / "out")])
    assert "--splits" in message and files_of(tmp_path) == ["x.txt"]
    for name in ("..", "a\0b", "\x1b[2J.jpg"):
        write(tmp_path / "lists" / "train.txt", f"{name}\n")
        message = ends_with(oracle_cli.main, [*argv, "--splits", "train", "--out", str(tmp_path / "out")])
        assert "train.txt line 1" in message


@pytest.mark.parametrize("name", ["../../x", "/x", "a\0"])
def test_images_of_entities(tmp_path, name):
    """Ids of `{split}.images` name the files: those outside the folder were read."""
    for folder in ("e/Sentences", "e/Annotations"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "x.txt", "[/EN#1/people A man] .\n")
    write(tmp_path / "x.xml", annotation(9, 9, []))
    assert "image id" in fault(lambda: list(read_entities(tmp_path / "e", [name])))


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda outer: "../../x", lambda outer: str(outer / "x")], ids=["up", "absolute"])
def test_feature_files_of_coco(tmp_path, make):
    """The id of an image names its file of features: one outside the folder was read."""
    folder = tmp_path / "a"
    folder.mkdir()
    image = make(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.float32))
    images = [{"id": image, "width": 9, "height": 9, "file_name": "no.jpg"}]
    coco(folder, images=images, annotations=[{"image_id": image, "category_id": 3, "bbox": [0, 0, 1, 1]}])
    argv = ("--coco-json", folder / "coco.json", "--features", folder / "f", "--out", folder / "s.h5")
    assert "none of no.jpg.npy, no.npy" in fails("convert", *argv)
    (folder / "f" / "sub").mkdir()
    np.save(folder / "f" / "sub" / "x.npy", np.ones((1, 3), np.float32))
    images[0]["id"] = "sub/x"
    coco(folder, images=images, annotations=[{"image_id": "sub/x", "category_id": 3, "bbox": [0, 0, 1, 1]}])
    store = convert(folder / "s.h5", "--coco-json", folder / "coco.json", "--features", folder / "f")
    assert store[0].features.tolist() == [[1, 1, 1]] and store.ids() == ["no.jpg"]


def test_pictures_of_a_report(tmp_path, monkeypatch):
    """The right way up, in nested folders, without another program, and none from outside."""
    inner = tmp_path / "in"
    (inner / "sub").mkdir(parents=True)
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is stored on the left is at the top
    data = encoded(Image.fromarray(pixels), "JPEG", exif=exif)
    for path in (inner / "a.jpg", inner / "sub" / "b.jpg", tmp_path / "c.jpg"):
        path.write_bytes(data)
    found = load_pictures(inner, ["a", "sub/b", "../c", str(tmp_path / "c"), "..", "a\0", "sub"])
    assert sorted(found) == ["a", "sub/b"]
    assert (found["a"].width, found["a"].height) == (20, 40)
    assert find_inside(inner, "../c", (".jpg",)) is None
    marker = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (inner / "e.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "e.jpg: no image" in fault(load_pictures, inner, ["e"])
    assert not marker.exists()
    (inner / "f.png").write_bytes(b"P5 20000 20000 255\n" + bytes(100))
    assert "20000 x 20000 pixels" in fault(load_pictures, inner, ["f"])
