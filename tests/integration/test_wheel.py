"""The wheel, built from the sdist, in a folder of its own: every command and a recipe, far from the checkout."""

import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import Distribution
from pathlib import Path

import fairseq
import pytest
from extraction import write_grids
from preparation import annotation, read_lines, write

from harness import ROOT, CommandLines, environment, write_lines

BUILD = "import sys; from setuptools import build_meta as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
SMALL = ("optimization.max_update=2", "dataset.batch_size=8", "dataset.num_workers=0", "common.cpu=true",
         "model.encoder_embed_dim=32", "model.encoder_ffn_embed_dim=64", "model.encoder_layers=2",
         "model.encoder_attention_heads=4")  # fmt: skip


def build(kind: str, source: Path, out: Path) -> Path:
    """Build a wheel or an sdist with the setuptools of this environment."""
    done = subprocess.run([sys.executable, "-c", BUILD, kind, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The wheel, installed beside fairseq, which looks there for a --user-dir."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "checkout"
    shutil.copytree(ROOT / "vtlm_fairseq", source / "vtlm_fairseq")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    with tarfile.open(build("sdist", source, folder)) as archive:
        archive.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", build("wheel", unpacked, folder)], check=True)
    (folder / "site/fairseq").mkdir()
    for part in Path(fairseq.__file__).parent.iterdir():
        (folder / "site/fairseq" / part.name).symlink_to(part)
    return folder / "site"


@pytest.fixture(scope="module")
def installed(site, tmp_path_factory) -> CommandLines:
    """The commands of the wheel, in an empty folder."""
    commands = CommandLines(tmp_path_factory.mktemp("elsewhere"), root=site)
    yield commands
    commands.close()


def test_files(site):
    """Every file of the package is there, and the licence."""
    ours = [path.relative_to(ROOT) for path in (ROOT / "vtlm_fairseq").rglob("*.*") if path.suffix != ".pyc"]
    assert [path for path in ours if not (site / path).is_file()] == []
    assert list(site.glob("vtlm_fairseq-*.dist-info/**/LICENSE"))


def test_commands(site, installed):
    """Each entry point answers, and starts as a program of its own."""
    (info,) = site.glob("vtlm_fairseq-*.dist-info")
    scripts = {entry.name: entry.module for entry in Distribution.at(info).entry_points}
    assert {"vtlm-extract", "vtlm-prepare", "vtlm-oracle", "vtlm-regions", "vtlm-report"} <= scripts.keys()
    for name, module in scripts.items():
        assert f"usage: {name} " in installed(module, "--help").output
    started = subprocess.run([site / "bin/vtlm-extract", "--help"], env=environment(site), cwd=installed.folder,
                             capture_output=True, text=True)  # fmt: skip
    assert started.returncode == 0 and "one of clip-regions, grid, litert-ssd, patches," in " ".join(
        started.stdout.split()
    )


def test_the_whole_way(site, installed):
    """Images and captions to regions and data, a recipe of each task, translations, a probe and a page."""
    run, here = installed, installed.folder
    ids = write_grids(here / "grids", 12)
    run("vtlm_fairseq.cli.extract", "--images", "grids", "--detector", "grid", "--out", "regions.h5", "--workers", 0)
    lines = [f"{image}\t\tA red ball & {i} more.\tEine rote Kugel & {i} mehr." for i, image in enumerate(ids * 2)]
    write_lines(here / "captions.tsv", lines)
    write_lines(here / "test.tsv", lines[:3])
    run("vtlm_fairseq.cli.prepare", "captions", "--train", "captions.tsv", "--valid-size", 3, "--test", "test=test.tsv",
        "--regions", "regions.h5", "--vocab-size", 60, "--workers", 1, "--out", "bin")  # fmt: skip
    recipe = 'exec "$0" -m fairseq_cli.hydra_train --config-dir "$("$0" -m vtlm_fairseq --recipes)" --config-name "$@"'
    data = ("task.data=bin", "task.regions=regions.h5", *SMALL)
    subprocess.run(["bash", "-euc", recipe, sys.executable, "vtlm", *data, "checkpoint.save_dir=vtlm"],
                   cwd=here, env=environment(site), check=True)  # fmt: skip
    run("fairseq_cli.hydra_train", "--config-dir", site / "vtlm_fairseq/recipes", "--config-name", "vtlm_mmt", *data,
        f"common.user_dir={site / 'vtlm_fairseq'}", "model.pretrained=vtlm/checkpoint_best.pt",
        "checkpoint.save_dir=mmt")  # fmt: skip
    run("vtlm_fairseq.cli.convert", "average", "mmt/checkpoint_best.pt", "mmt/checkpoint_last.pt",
        "--out", "mmt/average.pt")  # fmt: skip
    model = ("--path", "mmt/average.pt", "--regions", "regions.h5", "--cpu")
    task = ("--user-dir", site / "vtlm_fairseq", "--task", "multimodal_translation")
    generated = run("fairseq_cli.generate", "bin", *task, *model, "--beam", 2, "--max-len-b", 9)
    assert generated.ids() == [0, 1, 2]
    run("vtlm_fairseq.cli.translate", *model, "--max-len-b", 9, stdin=f"A red ball.\t{ids[0]}\n")
    run("vtlm_fairseq.cli.probe", "incongruent", "bin", *model, "--max-len-b", 9, "--repeats", 1)
    run("vtlm_fairseq.cli.probe", "last-word", "bin", "--path", "vtlm/checkpoint_best.pt", *model[2:])
    run("vtlm_fairseq.cli.report", "bin", *model, "--lines", 1, "--out", "report.html")
    page = (here / "report.html").read_text(encoding="utf-8")
    assert all(re.search(rf"<{part}[^>]*>\s*\S+.*</{part}>", page, re.S) for part in ("style", "script"))


def test_oracle(installed):
    """Flickr30k Entities and Multi30k's files to stores and data."""
    run, here = installed, installed.folder
    for split, image in (("train", "1"), ("val", "2")):
        write_lines(here / f"splits/{split}.txt", [f"{image}.jpg"])
        write_lines(here / f"raw/{split}.en", ["A dog."])
        write_lines(here / f"raw/{split}.de", ["Ein Hund."])
        write_lines(here / f"entities/Sentences/{image}.txt", ["A dog .", *["[/EN#1/animals A brown dog] runs ."] * 4])
        write(here / f"entities/Annotations/{image}.xml", annotation(9, 9, [((0, 0, 9, 9), (1,))]))
    files = ("--raw", "raw", "--image-splits", "splits")
    run("vtlm_fairseq.cli.oracle", "--entities", "entities", *files, "--splits", "train,val", "--out", "oracle")
    assert "oracle/valid.h5: ok" in run("vtlm_fairseq.cli.regions", "validate", "oracle/valid.h5").output
    run("vtlm_fairseq.cli.prepare", "multi30k", *files, "--any-counts", "--vocab-size", 14, "--out", "m30k")
    assert read_lines(here / "m30k/valid.images") == ["2"]
