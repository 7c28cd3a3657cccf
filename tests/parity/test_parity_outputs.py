"""Converted checkpoints compute what the paper's code computed: every array of the recorded references."""

import re

import numpy as np
import pytest

from originals import FIXTURES, PAIRS, check, convert, reference


@pytest.fixture(scope="module", params=list(PAIRS))
def case(request, tmp_path_factory):
    """Name, converted checkpoint, and what the check prints and dumps."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, convert(FIXTURES / f"{request.param}.pth", folder)


def test_every_output_is_computed_and_agrees(case, tmp_path, capsys):
    """States and logits to 2e-5, losses to 1e-6, tokens equal, log-probabilities to 1e-4; one line an output."""
    name, path = case
    assert check(path, FIXTURES / f"{PAIRS[name]}.npz", "--dump", tmp_path / "dump.npz") is None
    lines = capsys.readouterr().out.splitlines()
    expected = reference(name)
    with np.load(tmp_path / "dump.npz") as file:
        dumped = dict(file)
    assert [line.split()[0] for line in lines] == list(dumped) == [key for key in expected if key in dumped]
    assert len(dumped) == (10 if name == "pretrained" else 12)
    for line, (key, values) in zip(lines, dumped.items(), strict=True):
        theirs = expected[key]
        assert values.shape == theirs.shape and values.dtype == theirs.dtype
        difference = np.abs(values.astype(float) - theirs.astype(float)).max()
        assert float(re.search(r"difference\| (\S+)", line)[1]) == pytest.approx(difference, rel=0.01)
        if key.endswith(("tokens", "pred_mask")):
            assert difference == 0
        elif key.endswith("loss"):
            assert difference <= 1e-6 * abs(theirs)
        else:
            assert difference <= (1e-4 if key.endswith("logprob") else 2e-5), key


def test_tolerance_is_that_of_states_and_logits(case, capsys):
    """Nothing agrees to 1e-12 but what is exact; losses keep their own bound."""
    name, path = case
    error = check(path, FIXTURES / f"{PAIRS[name]}.npz", "--tolerance", "1e-12")
    states = [key for key in reference(name) if re.search("hidden|logits|encoder_out", key)]
    assert error.split("above the tolerance: ")[1].split(", ") == states
    assert capsys.readouterr().out.count("ABOVE (1e-12)") == len(states)


def test_converting_twice_gives_the_same(case, tmp_path):
    """Bit for bit, and the dictionaries too; nothing else is left in the folder."""
    import torch

    name, path = case
    again = convert(FIXTURES / f"{name}.pth", tmp_path)
    ours, theirs = (torch.load(file, weights_only=True)["model"] for file in (path, again))
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dict.de.txt", "dict.en.txt", "model.pt"]
    assert (tmp_path / "dict.de.txt").read_bytes() == (path.parent / "dict.en.txt").read_bytes()
