"""``vtlm-convert card``: what is in the checkpoint and in run.json stands in the card, and no more."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from stores import ends_with
from vtlm_fairseq.checkpoints import load_checkpoint
from vtlm_fairseq.cli.convert import main
from vtlm_fairseq.text.pipeline import TextPipeline

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
RECORD = {
    "seed": 3, "device": "CPU: some", "seconds": 61.5, "versions": {"torch": "2.13.0"},
    "data": {"train.images": "abc123"}, "regions": {"train.h5": "def456"},
    "pretrained": {"system": "vtlm", "sha256": "0"},
    "scores": {"test_2016_flickr": {"given": {"BLEU": {"value": 38.0137, "signature": "nrefs:1|tok:none"}}}},
}  # fmt: skip


def card(capsys, *argv) -> str:
    """What the command prints."""
    assert main(["card", *map(str, argv)]) == 0
    return capsys.readouterr().out


def test_translation_model(tmp_path, capsys):
    """Sizes and figures of the checkpoint, beside it the text pipeline and the record; no path of the training."""
    shutil.copy(GOLDEN / "mmt.pt", tmp_path / "checkpoint_best.pt")
    for name in ("dict.en.txt", "dict.de.txt"):
        shutil.copy(GOLDEN / name, tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(RECORD))
    TextPipeline("en", "de", steps=("lowercase",), bpe="none").save(tmp_path)
    text = card(capsys, tmp_path, "--title", "My model")
    state = torch.load(GOLDEN / "mmt.pt", weights_only=True)
    tensors = {one.data_ptr(): one.numel() for one in state["model"].values()}
    assert "# My model" in text and f"{sum(tensors.values()):,} parameters" in text
    for fact in ("This MMT model (`en-de`", "- de\n- en", "`6` wide, `7` classes, at most 36 an image", "32 symbols",
                 "`loss` 4.365", "lower-cased", "at most 24 positions", "abc123", "def456", "38.01"):  # fmt: skip
        assert fact in text, fact
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = {line[1].strip(): line[2].strip() for line in cells}
    assert (rows["updates"], rows["epoch"], rows["--lr"], rows["--batch-size"]) == ("40", "14", "0.001", "8")
    assert rows["--criterion"] == "label_smoothed_cross_entropy" and rows["begins with"] == "vtlm"
    assert "elsewhere" not in text and str(tmp_path) not in text


def test_a_card_that_was_filled_in_stays(tmp_path, capsys):
    out = tmp_path / "card.md"
    argv = ("card", str(GOLDEN / "mmt.pt"), "--out", str(out))
    assert main(argv) == 0
    text = out.read_text()
    out.write_text("mine")
    assert "--overwrite" in ends_with(main, argv) and out.read_text() == "mine"
    assert main([*argv, "--overwrite"]) == 0 and out.read_text() == text


@pytest.mark.parametrize(("noted", "done", "epoch"), [(7, 0, "6"), (7, 3, "7"), (1, 0, "1")])
def test_the_epoch_of_the_last_update(tmp_path, capsys, noted, done, epoch):
    """At the end of an epoch the checkpoint already counts the next."""
    state = torch.load(GOLDEN / "vtlm.pt", weights_only=True)
    state["extra_state"]["train_iterator"] |= {"epoch": noted, "iterations_in_epoch": done}
    torch.save(state, tmp_path / "one.pt")
    (row,) = [line for line in card(capsys, tmp_path / "one.pt").splitlines() if line.startswith("| epoch ")]
    assert row.split("|")[2].strip() == epoch


def test_pretrained_model(capsys):
    text = card(capsys, GOLDEN / "vtlm.pt")
    assert "This VTLM model" in text and "does not translate" in text and "pipeline_tag" not in text
    assert "| --region-mask-prob" in text and "run.json" not in text


def test_words_of_strangers(tmp_path, capsys):
    """A detector's name cannot break out of its place."""
    state = load_checkpoint(str(GOLDEN / "vtlm.pt"))
    options = {"max_regions": 36}
    state["task_state"]["description"] = {
        "version": 1, "options": options, "masks": 1, "validation_seed": 1,
        "detector": {"name": "x`<script>\n# Title|\x1b[2J", "classes": "0" * 16},
    }  # fmt: skip
    torch.save(state, tmp_path / "a.pt")
    text = card(capsys, tmp_path / "a.pt")
    assert "<script" not in text and "\x1b" not in text and "\n# Title" not in text
    assert text.count("\n# ") == 1


@pytest.mark.parametrize("content", ["[1]", "{", "{}"])
def test_faults(tmp_path, content):
    """Of run.json and of a table; what is no checkpoint."""
    (tmp_path / "x.json").write_text(content)
    if content != "{}":
        assert "x.json" in ends_with(main, ["card", str(GOLDEN / "mmt.pt"), "--run", str(tmp_path / "x.json")])
    assert "x.json" in ends_with(main, ["card", str(GOLDEN / "mmt.pt"), "--scores", str(tmp_path / "x.json")])
    assert "x.json" in ends_with(main, ["card", str(tmp_path / "x.json")])


def test_record_of_another_form(tmp_path, capsys):
    """Values that are none of a record's are left out."""
    odd = {"scores": [1], "versions": 3, "data": None, "seconds": None, "pretrained": "x"}
    (tmp_path / "run.json").write_text(json.dumps(odd))
    assert "This MMT model" in card(capsys, GOLDEN / "mmt.pt", "--run", tmp_path / "run.json")
