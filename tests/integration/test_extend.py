"""The files of docs/extend.md, each from a folder of a user's own, through the commands."""

import re

import numpy as np
import pytest
import torch

from harness import ROOT, pretraining
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
