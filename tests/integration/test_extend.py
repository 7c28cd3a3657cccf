"""The files of docs/extend.md, each from a folder of a user's own, through the commands."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from harness import ROOT, pretraining, write_lines
from vtlm_fairseq.regions.store import RegionStore

PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
FILES = re.compile(r"<!-- user file: (?P<path>\S+) -->\n```python\n(?P<text>.*?)```", re.S)


def section(title: str) -> str:
    """The text below a heading of the page."""
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return found


@pytest.fixture
def written(tmp_path):
    """A function that writes the files of a section and returns the folder for --user-dir."""

    def write(title: str):
        files = list(FILES.finditer(section(title)))
        for file in files:
            path = tmp_path / file["path"]
            path.parent.mkdir(exist_ok=True)
            assert file["text"].count("\n") < 30 and not path.exists()
            path.write_text(file["text"], encoding="utf-8")
        return tmp_path / files[0]["path"].split("/")[0]

    return write


def test_a_masking_strategy(run, corpus, written, tmp_path):
    """Two words a pair and the largest regions are predicted; the checkpoint knows how, and needs the folder."""
    folder, save_dir, store = written("A masking strategy"), tmp_path / "out", ("--regions", corpus.regions)
    masking = ("--region-masking", "largest", "--word-masking", "last-words", "--region-mask-prob", "0.4")
    line = pretraining(corpus.data, save_dir, *masking, regions=corpus.regions, user_dir=folder)
    trained = run("fairseq_cli.train", *line, "--num-workers", "1")
    (said,) = re.findall(
        r"train: in a sample of 45 pairs (\S+) % .* (\S+) % of the regions are predicted", trained.output
    )
    regions = RegionStore([str(corpus.store("train"))])
    counts = regions.counts(regions.rows(corpus.images("train")))
    shares = 2 * 45 / corpus.tokens("train"), np.ceil(0.4 * counts).sum() / counts.sum()
    assert said == tuple(f"{100 * share:.1f}" for share in shares)
    path = save_dir / "checkpoint_last.pt"
    options = torch.load(path, weights_only=True)["task_state"]["description"]["options"]
    assert (options["word_masking"], options["region_masking"]) == ("last-words", "largest")
    run.validate(corpus.data, path, *store, "--user-dir", folder)
    run.validate(corpus.data, path, *store, ok=False).fault("--word-masking last-words", "--user-dir")
    run.probe("mrc", corpus.data, "--system", path, *store, "--cpu", "--subsets", "valid")  # masks for itself


def test_an_objective(run, corpus, written, tmp_path):
    """A part of the loss, logged apart; it is resumed and validated; probes need the folder, an MMT does not."""
    folder, store = written("An objective"), ("--regions", corpus.regions)
    objectives = ("--region-objectives", "mrc,contrast:0.5", "--region-mask-prob", "0.9", "--lr", "5e-3")
    line = pretraining(corpus.data, tmp_path / "out", *objectives, regions=corpus.regions, user_dir=folder)
    _, then = (run("fairseq_cli.train", *line, "--max-update", updates) for updates in ("20", "30"))
    after = then.updates()[-1]
    assert after["contrast_loss"] > 1 and "contrast_accuracy" not in after
    total = after["mlm_loss"] + after["mrc_loss"] + 0.5 * after["contrast_loss"]
    assert after["loss"] == pytest.approx(total, abs=5e-3) and after["num_updates"] == 30
    path = tmp_path / "out" / "checkpoint_last.pt"
    assert "objective_heads.contrast.weight" in torch.load(path, weights_only=True)["model"]
    (validated,) = run.validate(corpus.data, path, *store, "--user-dir", folder).validations()
    assert validated["contrast_loss"] == then.validations()[-1]["contrast_loss"]
    probe = ("mrc", corpus.data, "--system", path, *store, "--subsets", "valid")
    run.probe(*probe, ok=False).fault("--region-objectives contrast", "--user-dir")
    run.probe(*probe, "--user-dir", folder)
    mmt = run.train(corpus.data, tmp_path / "mmt", "--pretrained", path, regions=corpus.regions)
    assert "objective_heads.contrast.weight" in mmt.output


def test_a_detector(run, written, tmp_path):
    """Five stripes of an image that is red on the left: the brightest first, with their colours."""
    folder, photo = written("A detector"), Image.new("RGB", (50, 10), (0, 0, 0))
    photo.paste((255, 0, 0), (0, 0, 10, 10))
    (tmp_path / "photos").mkdir()
    photo.save(tmp_path / "photos" / "a.png")
    argv = ("--images", tmp_path / "photos", "--detector", "stripes", "--detector-file", folder / "stripes.py")
    run("vtlm_fairseq.cli.extract", *argv, "--out", tmp_path / "s.h5", "--workers", "1")
    regions = RegionStore([str(tmp_path / "s.h5")])[0]
    assert regions.features.tolist() == [[1, 0, 0], *4 * [[0, 0, 0]]]
    assert np.allclose(regions.boxes[0], [0, 0, 0.2, 1])


def test_a_probe(run, corpus, vtlm, written, tmp_path):
    """The figures of fairseq-validate; without the folder there is no such probe."""
    folder, store = written("A probe"), ("--regions", corpus.regions)
    for order in ("given", "none"):
        argv = (corpus.data, "--system", f"VTLM={vtlm}", *store, "--region-order", order, "--gen-subset", "valid")
        measured = run.probe("word-loss", *argv, "--user-dir", folder, "--batch-size", "8", "--format", "json")
        (row,) = measured.table()["rows"]
        (logged,) = run.validate(corpus.data, vtlm, *store, "--region-order", order).validations()
        assert row["system"] == "VTLM" and row["nats"] / np.log(2) == pytest.approx(logged["mlm_loss"], abs=1e-3)
    assert "word-loss" in run.probe("word-loss", *argv, ok=False).output
    assert "Mean loss of masked words" in run.probe("--help", "--user-dir", folder).output


def test_a_language(run, written, tmp_path):
    """Words of the list, in the data and in translations; the data say which way they need."""
    folder, words = written("A language"), ("สุนัข", "แมว", "กิน", "ข้าว", "ปลา")
    lines = [(f"a{k} b{k % 3} c", words[k % 5] + words[(k + 2) % 5] + "กา") for k in range(30)]
    for name in ("train", "valid", "test"):
        for lang, side in zip(("en", "th"), zip(*lines, strict=True), strict=True):
            write_lines(tmp_path / f"{name}.{lang}", side)
        write_lines(tmp_path / f"{name}.images", [f"{name}{k}" for k in range(30)])
    argv = ["captions", "--out", tmp_path / "bin", "-s", "en", "-t", "th", "--vocab-size", "60", "--segment", "longest"]
    argv += [f"--train={tmp_path / 'train'}", f"--valid={tmp_path / 'valid'}", f"--test=test={tmp_path / 'test'}"]
    assert "longest" in run("vtlm_fairseq.cli.prepare", *argv, ok=False).last_line
    run("vtlm_fairseq.cli.prepare", *argv, "--user-dir", folder)
    prepared = (tmp_path / "bin" / "references" / "test.th").read_text(encoding="utf-8").splitlines()
    assert prepared[0] == "สุนัข กิน ก า" and prepared[4] == "ปลา แมว ก า"
    path, own = tmp_path / "out" / "checkpoint_last.pt", ("--user-dir", folder)
    run.train(tmp_path / "bin", tmp_path / "out", *own)
    asked = {"stdin": "a1 b1 c\na2 b2 c\n"}
    translated = run.translate(path, *own, "--detokenize", "--max-len-b", "9", **asked).output.splitlines()[-2:]
    assert all(line and " " not in line.strip() for line in translated)
    run.translate(path, **asked, ok=False).fault("longest", "--user-dir")
