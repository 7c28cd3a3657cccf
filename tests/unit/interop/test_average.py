"""``vtlm-convert average``: mean of the parameters, what is kept and what is dropped."""

from fractions import Fraction

import pytest
import torch

from stores import ends_with, fault
from vtlm_fairseq.checkpoints import check_room
from vtlm_fairseq.cli import convert as command
from vtlm_fairseq.interop import averaging


def state(*, scale: float, symbols=("<s>", "a"), **parts) -> dict:
    """A small checkpoint with tied tensors, a counter, and an optimiser's state."""
    table = torch.tensor([[1.0, 2.0], [3.0, 5.0]]) * scale
    model = {"embed.weight": table, "head.weight": table, "bias": torch.tensor([1e-8, 1.0]) * scale,
             "steps": torch.tensor([7])}  # fmt: skip
    return {
        "args": None,
        "cfg": {
            "model": {"_name": "vtlm", "langs": "de,en", "source_lang": "en", "target_lang": "de"},
            "task": {"x": 1},
        },
        "model": model,
        "criterion": {"weight": torch.ones(1)},
        "optimizer_history": [{"num_updates": int(10 * scale)}],
        "task_state": {"symbols": list(symbols)},
        "extra_state": {"train_iterator": {"epoch": 3}, "best": 1.5},
        "last_optimizer_state": {"state": {0: torch.ones(100)}},
        **parts,
    }


def average(tmp_path, *states, half=False) -> dict:
    """Save, average through the command, load."""
    paths = []
    for i, content in enumerate(states):
        paths.append(str(tmp_path / f"{i}.pt"))
        torch.save(content, paths[-1])
    argv = ["average", *paths, "--out", str(tmp_path / "out.pt"), *(["--half"] if half else [])]
    assert command.main(argv) == 0
    return torch.load(tmp_path / "out.pt", weights_only=True)


def test_mean(tmp_path):
    """Of three; integers are the first's; nothing but the optimiser's and the criterion's state is lost."""
    result = average(tmp_path, state(scale=1), state(scale=2), state(scale=6))
    assert result["model"]["embed.weight"].tolist() == [[3.0, 6.0], [9.0, 15.0]]
    assert result["model"]["bias"].tolist() == pytest.approx([3e-8, 3.0])
    assert result["model"]["steps"].tolist() == [7] and result["model"]["steps"].dtype == torch.int64
    assert result["last_optimizer_state"] is None and result["criterion"] is None
    first = state(scale=1)
    for kept in ("args", "cfg", "task_state", "extra_state", "optimizer_history"):
        assert result[kept] == first[kept], kept


def test_a_checkpoint_with_itself(tmp_path):
    """PITFALLS 31: bit for bit the same tensors, the same file given three times."""
    path = str(tmp_path / "a.pt")
    torch.save(state(scale=0.1), path)
    assert command.main(["average", path, path, path, "--out", str(tmp_path / "out.pt")]) == 0
    result = torch.load(tmp_path / "out.pt", weights_only=True)["model"]
    for name, tensor in state(scale=0.1)["model"].items():
        assert torch.equal(result[name], tensor), name


def test_precision(tmp_path):
    """The sum is kept in float64: a thousandth beside 2^24 is not lost."""
    parts = [state(scale=1), state(scale=1), state(scale=1)]
    for content, value in zip(parts, (2.0**24, 1.0, -(2.0**24)), strict=True):
        content["model"]["bias"] = torch.tensor([value])
    assert average(tmp_path, *parts)["model"]["bias"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("half", [False, True])
def test_tied_tensors_stay_tied(tmp_path, half):
    model = average(tmp_path, state(scale=1), state(scale=3), half=half)["model"]
    assert model["embed.weight"].data_ptr() == model["head.weight"].data_ptr() != model["bias"].data_ptr()
    assert {t.dtype for t in model.values()} == {torch.float16 if half else torch.float32, torch.int64}


def test_what_a_training_goes_on_from_is_not_replaced(tmp_path):
    """An average holds no optimizer state; one made before is replaced."""
    average(tmp_path, state(scale=1), state(scale=3))
    assert average(tmp_path, state(scale=2), state(scale=4))["model"]["bias"][1] == 3
    torch.save(state(scale=5), tmp_path / "out.pt")
    before = (tmp_path / "out.pt").read_bytes()
    argv = ["average", *(str(tmp_path / f"{n}.pt") for n in (0, 1)), "--out", str(tmp_path / "out.pt")]
    assert "out.pt" in ends_with(command.main, argv)
    assert (tmp_path / "out.pt").read_bytes() == before


@pytest.mark.parametrize(
    "other",
    [{"symbols": ("<s>", "b")}, {"cfg": {"model": {"_name": "vtlm", "langs": "en,de"}}},
     {"model": {**state(scale=1)["model"], "bias": torch.ones(3)}}],
)  # fmt: skip
def test_models_of_other_data_are_refused(tmp_path, other):
    """Equal shapes do not make equal meaning: rows of other words or languages."""
    torch.save(state(scale=1), tmp_path / "a.pt")
    torch.save(state(scale=1, **other), tmp_path / "b.pt")
    message = fault(averaging.average, [str(tmp_path / f"{n}.pt") for n in "ab"], half=False)
    assert message.startswith(f"{tmp_path}/b.pt: ") and f"{tmp_path}/a.pt" in message


@pytest.mark.parametrize(
    ("argv", "named"),
    [(("latest", "none"), "none"), (("check", "x.pt", "--reference", "r", "--tolerance", "-1"), "--tolerance: -1"),
     (("average", "x.pt", "--out", "none/x.pt"), "--out none/x.pt"),
     (("average", "x.pt", "--out", f"{__file__}/x.pt"), f"--out {__file__}/x.pt")],
)  # fmt: skip
def test_other_faults_of_the_command(argv, named, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(argv)
    assert named in f"{end.value} {capsys.readouterr().err}"


def test_room_for_a_checkpoint(tmp_path):
    check_room(str(tmp_path), 1, 0.0)
    assert f"--save-dir {tmp_path}" in fault(check_room, str(tmp_path), 1 << 60, 0.0)


def test_a_checkpoint_that_cannot_be_read_is_not_replaced(tmp_path):
    """It may hold classes that are not allowed here; an empty file, as of mktemp, is nothing."""
    (tmp_path / "out.pt").touch()
    average(tmp_path, state(scale=1), state(scale=3))
    torch.save({"model": Fraction(1)}, tmp_path / "out.pt")
    before = (tmp_path / "out.pt").read_bytes()
    argv = ["average", *(str(tmp_path / f"{n}.pt") for n in (0, 1)), "--out", str(tmp_path / "out.pt")]
    assert "out.pt" in ends_with(command.main, argv) and (tmp_path / "out.pt").read_bytes() == before
