"""examples/flickr30k: every caption of a mini Entities archive, its German by a tiny NMT of this package."""

import tarfile
from io import BytesIO

import pytest
from preparation import annotation, write

from harness import ROOT, write_lines
from vtlm_fairseq.corpora.flickr30k_captions import running_text
from vtlm_fairseq.regions.store import RegionStore

MAKE = ROOT / "examples" / "flickr30k" / "make.py"
CAPTIONS = ["A man 's dog runs .", "The dog runs .", "A man walks .", "Dogs do n't walk .", "A ball ."]
MARKED = ["[/EN#1/people A man] 's [/EN#2/animals dog] runs .", "[/EN#2/animals The dog] runs .",
          "[/EN#1/people A man] walks .", "[/EN#2/animals Dogs] do n't walk .", "[/EN#3/other A ball] ."]  # fmt: skip
IMAGES = {"train": ["11", "12", "13"], "val": ["21"], "test_2016_flickr": ["31"]}
SHIFT = {"11": 0, "12": 1, "13": 4, "21": 2, "31": 3}  # which caption is the translated one


@pytest.fixture(scope="module")
def world(run, tmp_path_factory):
    """The two downloads, and an NMT that was trained for one update on them."""
    folder = tmp_path_factory.mktemp("flickr30k")
    files = {}
    for split, images in IMAGES.items():
        write_lines(folder / "splits" / f"{split}.txt", [f"{image}.jpg" for image in images])
        lines = [running_text(CAPTIONS[SHIFT[image]]) for image in images]
        write_lines(folder / "raw" / f"{split}.en", lines)
        write_lines(folder / "raw" / f"{split}.de", [f"Mensch {image} ." for image in images])
        for image in images:
            files[f"Sentences/{image}.txt"] = "\n".join(MARKED)
            boxes = [((0, 0, 9, 9), (1,)), ((0, 0, 5, 5), (2,)), ((0, 0, 2, 2), (3,))]
            files[f"Annotations/{image}.xml"] = annotation(9, 9, boxes)
    with tarfile.open(folder / "entities.tgz", "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"Flickr30kEntities/{name}")
            member.size = len(text)
            archive.addfile(member, BytesIO(text.encode()))
    run("vtlm_fairseq.cli.prepare", "multi30k", "--raw", folder / "raw", "--image-splits", folder / "splits",
        "--any-counts", "--vocab-size", "40", "--out", folder / "bin")  # fmt: skip
    run.train(folder / "bin", folder / "nmt", "--max-update", "1", "--disable-validation")
    return folder


def make(run, world, *argv, **kwargs):
    options = ("--entities", world / "entities.tgz", "--raw", world / "raw", "--image-splits", world / "splits",
               "--nmt", world / "nmt", "--checkpoint", "checkpoint_last.pt", "--block", "5", "--cpu")  # fmt: skip
    return run(MAKE, *options, "--feature-dim", "8", "--out", world / "out", *argv, **kwargs)


def test_every_caption(run, world):
    """15 captions of three images in order, human German where there is some; regions without what a caption says; no
    image of val and test in training. What is there is not made again, and what is missing is made as it was."""
    make(run, world)
    out = world / "out"
    rows = [line.split("\t") for line in (out / "train.tsv").read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in rows] == [f"{image}#{k}" for image in IMAGES["train"] for k in range(5)]
    assert [row[1] for row in rows] == [running_text(caption) for caption in CAPTIONS] * 3
    assert running_text(CAPTIONS[3]) == "Dogs don't walk ."
    human = [row for row in rows if row[0] in ("11#0", "12#1", "13#4")]
    assert [row[2] for row in human] == ["Mensch 11 .", "Mensch 12 .", "Mensch 13 ."]
    german = [line.split("\t") for line in (out / "german.tsv").read_text(encoding="utf-8").splitlines()]
    assert sorted(german) == sorted(row for row in rows if row not in human) and len(german) == 12

    store = RegionStore.open(str(out / "regions"), "train")
    assert store.ids() == [row[0] for row in rows]
    names = list(store.class_names)
    labels = [[names[label] for label in store[row].labels] for row in range(5)]
    assert labels == [["man", "dog", "ball"]] * 4 + [["man", "dog"]]
    for name, image in (("valid", "21"), ("test_2016_flickr", "31")):
        assert RegionStore.open(str(out / "regions"), name).ids() == [image]
        assert (out / "data-bin" / f"{name}.images").read_text().split() == [image]
    assert (out / "data-bin" / "train.images").read_text().split() == [row[0] for row in rows]
    for file in ("bpe.model", "dict.de.txt"):
        assert (out / "data-bin" / file).read_bytes() == (world / "nmt" / file).read_bytes()

    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    make(run, world)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times
    run.pretrain(out / "data-bin", world / "vtlm", "--max-update", "1", regions=out / "regions")

    whole = (out / "german.tsv").read_bytes()
    for name in ("german.tsv", "train.tsv"):
        (out / name).unlink()
    make(run, world, "--entities", world / "nowhere")  # is not read again
    assert (out / "german.tsv").read_bytes() == whole


def test_faults(run, world):
    """Translations of other captions, and a model with another direction, are one line each."""
    out = world / "out"
    lines = (out / "german.tsv").read_text(encoding="utf-8").splitlines()
    (out / "train.tsv").unlink()
    write_lines(out / "german.tsv", [*lines[:3], *lines[4:]])
    make(run, world, ok=False).fault("german.tsv line 4", "remove")
    write_lines(out / "german.tsv", lines)
    make(run, world)
    argv = ("--model", world / "nmt", "--checkpoint", "checkpoint_last.pt", "--input", world / "raw" / "train.en")
    direction = ("-s", "de", "-t", "en", "--cpu", "--out", world / "x")
    run("vtlm_fairseq.cli.prepare", "translate", *argv, *direction, ok=False).fault("en to de", "-s")
    write(world / "long.en", "dog " * 3000 + "\n\nA man walks .\n")
    argv = ("--model", world / "nmt", "--checkpoint", "checkpoint_last.pt", "--input", world / "long.en", "--cpu")
    done = run("vtlm_fairseq.cli.prepare", "translate", *argv, "--out", world / "long.de")
    assert "1 sentences of this run were too long" in done.output
    assert len((world / "long.de").read_text(encoding="utf-8").splitlines()) == 3
