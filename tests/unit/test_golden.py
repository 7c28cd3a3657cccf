"""Checkpoints that an earlier version of this package saved still load and compute what they did then (PITFALLS 6)."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fairseq import checkpoint_utils

import vtlm_fairseq  # noqa: F401  (registers tasks, models and criterion)

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
TOKENS = torch.tensor([[2, 4, 9, 6, 2], [2, 8, 2, 1, 1]])
FEATURES = torch.arange(36).reshape(2, 3, 6) / 36
BOXES = torch.tensor([0.1, 0.2, 0.6, 0.9]).expand(2, 3, 4)
PADDING = torch.tensor([[False, False, False], [False, False, True]])
# first three logits of the first and of the last prediction, as the version that saved them printed
EXPECTED = {
    "vtlm": [[2.65227, -0.559381, 0.676718], [1.288468, -0.928649, -0.210934]],
    "mmt": [[1.669637, -1.486063, 0.937635], [1.905402, -1.536233, 1.200054]],
}


def load(path: Path):
    """The model, by fairseq's own loader."""
    overrides = {"data": str(GOLDEN), "region_order": "none", "source_lang": "en", "target_lang": "de"}
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    return model.eval()


def logits(name: str, path: Path) -> list[list[float]]:
    """Some logits on a fixed batch."""
    inputs = {"features": FEATURES, "boxes": BOXES, "region_padding_mask": PADDING}
    with torch.no_grad():
        if name == "vtlm":
            words = torch.zeros(2, 5, dtype=torch.bool)
            words[0, 1] = words[1, 1] = True
            found, _ = load(path)(TOKENS, masked_tokens=words, selected_regions=~PADDING, **inputs)
        else:
            found, _ = load(path)(TOKENS, torch.tensor([5, 3]), torch.tensor([[2, 5, 7], [2, 4, 4]]), **inputs)
            found = found[:, -1]
    return [found[0, 4:7].tolist(), found[-1, 4:7].tolist()]


@pytest.mark.parametrize("name", list(EXPECTED))
def test_golden_checkpoint(name):
    """PITFALLS 6."""
    assert logits(name, GOLDEN / f"{name}.pt") == [pytest.approx(row, abs=1e-5) for row in EXPECTED[name]]


@pytest.mark.parametrize(("name", "lost"), [("vtlm", "region_layernorm"), ("mmt", "init_cross_attention")])
def test_golden_checkpoint_with_other_fields(tmp_path, name, lost):
    """PITFALLS 6: fields that another version added, and one that it did not have, in model, task and criterion."""
    state = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    for part in ("model", "task", "criterion"):
        state["cfg"][part]["of_another_version"] = 3
    del state["cfg"]["model"][lost], state["cfg"]["task"]["autocast"]
    torch.save(state, tmp_path / "other.pt")
    assert logits(name, tmp_path / "other.pt") == [pytest.approx(row, abs=1e-5) for row in EXPECTED[name]]


def test_golden_checkpoint_with_a_namespace(tmp_path):
    """PITFALLS 29: parts that are configured the old way are saved as a Namespace, which restricted loading reads."""
    state = torch.load(GOLDEN / "mmt.pt", weights_only=True)
    state["cfg"]["lr_scheduler"] = Namespace(_name="fixed", lr=[0.1])
    torch.save(state, tmp_path / "old.pt")
    assert logits("mmt", tmp_path / "old.pt") == [pytest.approx(row, abs=1e-5) for row in EXPECTED["mmt"]]
