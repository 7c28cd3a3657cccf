"""``vtlm-plot``: the curves of its SVG are the figures that a training has logged, also after a resume."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness import ROOT, pretraining, write_lines
from vtlm_fairseq.evaluation.curves import TRAINING, read_run

SVG = "{http://www.w3.org/2000/svg}"


def plot(run, *argv, **kwargs):
    return run("vtlm_fairseq.cli.plot", *argv, **kwargs)


def panels(path: Path) -> list[list[list[float]]]:
    """Of each panel that has curves the heights of their points, from the SVG: curves are clipped paths."""
    found = []
    for group in ElementTree.parse(path).iter(f"{SVG}g"):
        if group.get("id", "").startswith("axes_"):
            paths = [
                one.get("d") for one in group.iter(f"{SVG}path") if one.get("clip-path") and "C0" not in one.attrib
            ]
            curves = [[float(y) for _, y in re.findall(r"[ML] (\S+) (\S+)", d)] for d in paths]
            found.append([curve for curve in curves if len(curve) > 2])
    return found


@pytest.fixture(scope="module")
def trained(run, corpus, tmp_path_factory) -> tuple[Path, list[dict], list[dict]]:
    """The page's first command, ended after 9 updates and gone on with; the figures that both parts printed."""
    folder = tmp_path_factory.mktemp("plot")
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    block = re.search(r"tested: \S+ runs.*?```bash\n(.*?)```", page, re.S)[1]
    first, second = block.splitlines()
    assert second == "vtlm-plot VTLM=vtlm.log --out curves.png"
    own = re.fullmatch(r"fairseq-train data-bin \$OPTIONS (.*)", first)[1].replace(
        "--log-interval 50", "--log-interval 2"
    )
    updates, validations = {}, {}
    for last in ("9", "14"):
        line = pretraining(corpus.data, "vtlm", "--max-update", last, "--validate-interval-updates", "3",
                           "--save-interval-updates", "4", *own.split(), regions=corpus.regions)  # fmt: skip
        if last == "14":
            (folder / "vtlm" / "checkpoint_last.pt").unlink()
            next((folder / "vtlm").glob("checkpoint_*_8.pt")).rename(folder / "vtlm" / "checkpoint_last.pt")
        done = run("fairseq_cli.train", *line, cwd=folder)
        updates |= {record["num_updates"]: record for record in done.updates()}
        validations |= {record["num_updates"]: record for record in done.validations()}
    write_lines(folder / "printed" / "log", [done.output])
    return folder, [updates[k] for k in sorted(updates)], [validations[k] for k in sorted(validations)]


def test_curves_are_what_was_logged(run, trained):
    """From --log-file, both parts in one file; update 9 was made twice, and the later figures count."""
    folder, updates, validations = trained
    curves = read_run(folder / "vtlm.log").curves
    assert len(updates) >= 6 and len(validations) >= 4
    for metric in ("loss", "mlm_loss", "mrc_accuracy", "lr"):
        assert curves[metric][TRAINING] == {int(one["num_updates"]): one[metric] for one in updates}
    for metric in ("loss", "mlm_accuracy"):
        assert curves[metric]["valid"] == {int(one["num_updates"]): one[metric] for one in validations}
    assert set(curves["wps"]) == {TRAINING}


def test_picture(run, trained, tmp_path):
    """One panel a metric; heights are the figures, turned and scaled; the same input gives the same file."""
    folder, updates, _ = trained
    argv = (f"A={folder / 'vtlm.log'}", folder / "printed", "--metric", "mlm_loss", "--metric", "lr")
    assert "mlm_loss, lr of 2 run(s)" in plot(run, *argv, "--out", tmp_path / "new" / "a.svg").output
    first, second = panels(tmp_path / "new" / "a.svg")
    logged = [one["mlm_loss"] for one in updates]
    curve = next(curve for curve in first if len(curve) == len(logged))
    scale = (curve[0] - curve[-1]) / (logged[0] - logged[-1])
    assert scale < 0
    assert [(y - curve[0]) / scale for y in curve] == pytest.approx([one - logged[0] for one in logged], abs=2e-3)
    assert len(second) == 2  # of validation there is no learning rate
    plot(run, *argv, "--out", tmp_path / "b.svg")
    assert (tmp_path / "b.svg").read_bytes() == (tmp_path / "new" / "a.svg").read_bytes()
    plot(run, folder / "vtlm.log", "--out", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_faults(run, trained, tmp_path):
    folder, _, _ = trained
    out = ("--out", tmp_path / "x.svg")
    plot(run, folder / "nothing", *out, ok=False).fault("nothing", "no such run")
    plot(run, tmp_path, *out, ok=False).fault(str(tmp_path), "--log-file")
    text = write_lines(
        tmp_path / "some.log", ["2026 | INFO | train_inner | epoch 001:  2 / 6 loss=3", '{"epoch": 1, "up']
    )
    plot(run, text, *out, ok=False).fault(str(text), "--log-format json")
    plot(run, folder / "vtlm.log", *out, "--metric", "bleu", ok=False).fault("--metric bleu", "mlm_loss")
    plot(run, folder / "vtlm.log", folder / "vtlm.log", *out, ok=False).fault("twice")
    plot(run, folder / "vtlm.log", "--out", tmp_path / "x.gif", ok=False).fault("--out", ".svg")
    assert not (tmp_path / "x.svg").exists()
