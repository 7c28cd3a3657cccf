"""docs/first-run.md, command by command, and behind it the examples of --help, which use the files that it makes."""

import argparse
import contextlib
import importlib
import io
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from pages import MODULES, page_blocks, run_block, run_line
from PIL import Image
from preparation import annotation, read_lines, write

from harness import ROOT, write_lines
from vtlm_fairseq.cli.examples import EXAMPLES

FIXTURES = ROOT / "tests" / "fixtures"
QUICK = {
    "fairseq-train": "--encoder-embed-dim 32 --encoder-ffn-embed-dim 64 --batch-size 16 --num-workers 0",
    "fairseq-generate": "--beam 2 --max-len-b 12 --num-workers 0",
    "vtlm-translate": "--beam 2 --max-len-b 12",
    "vtlm-prepare translate": "--beam 1",
    "vtlm-prepare multi30k": "--vocab-size 30 --any-counts",
    "vtlm-probe incongruent": "--beam 2 --max-len-b 12 --repeats 1",
    "vtlm-probe entity": "--beam 1",
    "vtlm-report": "--beam 1",
}
"""What is put behind commands, whose models have learnt nothing and would go on for 200 words."""


@pytest.fixture(scope="module")
def first_run(run, tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """The folder that the page leaves, and what each kind of command printed last."""
    folder = tmp_path_factory.mktemp("first") / "first-run"
    folder.mkdir()
    (folder.parent / "examples").symlink_to(ROOT / "examples")
    printed = {}
    for block in page_blocks(ROOT / "docs" / "first-run.md"):
        block = block.replace("--out raw", "--out raw --images 40")
        for words, result in run_block(run, block, folder, options=QUICK, UPDATES="3"):
            printed[" ".join(words[: 2 if words[0] in ("vtlm-probe", "vtlm-regions") else 1])] = result.output
    return folder, printed


def test_what_the_page_promises(first_run):
    """Regions as it says, a translation for each sentence, scores, probes, a page, plots and a card."""
    folder, printed = first_run
    with h5py.File(folder / "regions.h5") as store:
        counts, width = np.diff(store["offsets"][:]), store["features"].shape[-1]
    assert width == 2048 and counts.min() >= 10 and 60 < counts.max() <= 100
    sentences = read_lines(folder / "raw/test.en")
    assert len(printed["vtlm-translate"].splitlines()) == len(sentences) == 20
    for system in ("mmt", "nmt"):
        assert len(re.findall(r"^H-\d+\t", (folder / f"{system}.txt").read_text(), re.M)) == len(sentences)
    assert {"BLEU", "chrF2"} <= set(re.findall(r"\w+", printed["vtlm-score"] + (folder / "scores.json").read_text()))
    for probe in ("incongruent", "last-word", "pointing"):
        assert printed[f"vtlm-probe {probe}"].strip()
    for picture in ("pointing.png", "curves.png"):
        assert Image.open(folder / picture).size > (300, 200)
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")
    card = (folder / "mmt/README.md").read_text(encoding="utf-8")
    assert "`mine`" in card and "`2048` wide" in card
    table = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    figures = [value for row in table["rows"] for value in row.values() if isinstance(value, float)]
    assert figures and all(f"{value:.2f}" in card for value in figures)


@pytest.fixture(scope="module")
def world(run, first_run) -> Path:
    """The same folder with the other files that examples name: photos, a table, Multi30k's and Entities'."""
    folder, _ = first_run
    shutil.copy(FIXTURES / "pretrained.pth", folder)
    shutil.copy(FIXTURES / "pretrain_forward.npz", folder)
    write(folder / "more/more-0.npz", "")
    shutil.copy(folder / "raw/features/test-0.npz", folder / "more/more-0.npz")
    (line,) = EXAMPLES["vtlm-regions convert"]
    run_line(run, line.replace("raw/features", "more").replace("regions.h5", "more.h5"), folder, options={})
    (folder / "photos").mkdir()
    Image.new("RGB", (64, 48), "grey").save(folder / "photos/test-0.jpg")
    raw = {name: read_lines(folder / f"raw/train.{name}") for name in ("images", "en", "fr")}
    write_lines(folder / "captions.tsv", map("\t".join, zip(*raw.values(), strict=True)))
    for split, count in (("train", 3), ("val", 2), ("test_2016_flickr", 2)):
        images = [f"{split}{k}" for k in range(count)]
        write_lines(folder / f"task1/image_splits/{split}.txt", [f"{image}.jpg" for image in images])
        for lang, line in (("en", "A dog runs."), ("de", "Ein Hund rennt.")):
            write_lines(folder / f"task1/raw/{split}.{lang}", [line] * count)
        for image in images:
            described(folder, image, ["A dog runs .", *["[/EN#1/animals A brown dog] runs ."] * 4])
    references, images = read_lines(folder / "data-bin/references/test.en"), read_lines(folder / "data-bin/test.images")
    for image in dict.fromkeys(images):
        lines = [line.split() for line, other in zip(references, images, strict=True) if other == image]
        marked = [f"[/EN#1/other {' '.join(line[:3])}] {' '.join(line[3:])}" for line in lines]
        described(folder, image, marked)
    return folder


def described(folder: Path, image: str, lines: list[str]) -> None:
    """An image in Flickr30k Entities."""
    write_lines(folder / f"flickr30k_entities/Sentences/{image}.txt", lines)
    write(folder / f"flickr30k_entities/Annotations/{image}.xml", annotation(9, 9, [((0, 0, 9, 9), (1,))]))


def helps() -> dict[str, str]:
    """What --help of every command and sub-command prints."""
    found = {}
    for name, module in MODULES.items():
        if name.startswith("vtlm-"):
            main = importlib.import_module(module)
            actions = main.build_parser()._actions
            subs = [sub for one in actions if isinstance(one, argparse._SubParsersAction) for sub in one.choices]
            for words in ([], *([sub] for sub in subs)):
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
                    main.main([*words, "--help"])
                found[" ".join([name, *words])] = printed.getvalue()
    return found


def test_every_help_ends_with_an_example_and_a_page():
    """Those of the table, each of its own command, and a page that is there."""
    shown = helps()
    assert len(shown) > 30 and set(shown) == set(EXAMPLES)
    for name, text in shown.items():
        examples = [line.strip() for line in re.findall(rf"^  {re.escape(name)} .*", text, re.M)]
        assert examples == list(EXAMPLES[name]) and examples, name
        assert (ROOT / re.search(r"^More: (\S+)$", text, re.M)[1]).is_file(), name


def test_examples_run(run, world):
    """All of them in their order, each as it is shown; a file that exists already is taken away before."""
    for line in dict.fromkeys(line for name, lines in EXAMPLES.items() if name != "vtlm-extract" for line in lines):
        out = re.search(r"--out (\S+)", line)
        if out and (made := world / out[1]).exists():
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        run_line(run, line, world, options=QUICK)
        assert not out or (world / out[1]).exists(), line


def test_example_of_extraction(run, world, ssd):
    shutil.copytree(ssd, world / "ssd", dirs_exist_ok=True)
    (line,) = EXAMPLES["vtlm-extract"]
    run_line(run, line, world, options={})
    with h5py.File(world / "photos.h5") as store:
        assert [image.decode() for image in store["ids"][:]] == ["test-0"]


def test_versions(run, tmp_path):
    from vtlm_fairseq.version import __version__

    for name, module in MODULES.items():
        if name.startswith("vtlm-"):
            assert run(module, "--version").output.split() == [name, "(vtlm-fairseq)", __version__]
