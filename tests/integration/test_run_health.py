"""Long runs: NaN gradients and loss spikes name the ids; TensorBoard and W&B show mlm and mrc apart."""

import json
import struct
import sys

import pytest

from harness import USER_DIR, pretraining, shell
from vtlm_fairseq.health import WARM_UP

ALL = " ".join(map(str, range(45)))  # a batch of the whole training split
PARTS = ("mlm_loss", "mlm_ppl", "mlm_accuracy", "mrc_loss", "mrc_accuracy")


def lines_with(result, *parts: str) -> list[str]:
    return [line for line in result.output.splitlines() if all(part in line for part in parts)]


@pytest.mark.parametrize("task", ["pretrain", "train"])
def test_gradients_that_are_not_finite_name_the_ids(run, corpus, tmp_path, task):
    """fairseq ends the run; before, it repeats the update, and each batch of it is named."""
    argv = ("--lr", "1e30", "--batch-size", "64", "--required-batch-size-multiple", "1", "--clip-norm", "0",
            "--max-update", "30", "--disable-validation")  # fmt: skip
    result = getattr(run, task)(corpus.data, tmp_path, *argv, regions=corpus.regions, ok=False)
    assert result.last_line == "FloatingPointError: gradients are Nan/Inf"
    (line,) = lines_with(result, "update 1: gradients are not finite")
    assert "ERROR" in line and "vtlm_fairseq.health" in line and line.endswith(f"ids (line numbers from 0): {ALL}")


def test_a_loss_spike_names_the_ids(run, corpus, tmp_path):
    """Three epochs of 45 updates at a learning rate near zero; the first update after them spoils the model."""
    argv = ("--lr", "1e-9,1e-9,1e-9,3", "--batch-size", "1", "--required-batch-size-multiple", "1", "--max-epoch", "4",
            "--max-update", "999", "--disable-validation", "--no-save")  # fmt: skip
    result = run.pretrain(corpus.data, tmp_path, *argv, regions=corpus.regions)
    lines = lines_with(result, "WARNING", "vtlm_fairseq.health")
    updates = [int(line.split("update ")[1].split(":")[0]) for line in lines]
    ids = [line.split("from 0): ")[1] for line in lines]
    assert WARM_UP < 136 and updates and set(updates) <= set(range(136, 180))
    assert len(set(ids)) == len(ids) and set(ids) <= set(ALL.split())


def test_tensorboard_shows_the_parts_of_the_loss_apart(run, corpus, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    argv = ("--max-update", "3", "--tensorboard-logdir", tmp_path / "tb")
    result = run.pretrain(corpus.data, tmp_path / "ckpt", *argv, regions=corpus.regions)
    for name in ("train_inner", "train", "valid"):
        assert scalars(tmp_path / "tb" / name).keys() >= {*PARTS, "loss", "accuracy"}, name
    shown, logged = scalars(tmp_path / "tb" / "valid"), result.validations()[-1]
    for part in PARTS:
        assert shown[part] == pytest.approx(logged[part], abs=0.006), part


def scalars(folder) -> dict[str, float]:
    """The last value of each scalar of a run; the files are TFRecords of Event messages."""
    from tensorboard.compat.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack_from("<Q", data)
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            found.update({value.tag: value.simple_value for value in event.summary.value})
    return found


STAND_IN = """
import json, sys, types
from fairseq.logging import progress_bar

def log(values, step):
    with open({log!r}, "a") as file:
        print(json.dumps([step, values]), file=file)

ignore = lambda *args, **kwargs: None
progress_bar.wandb = types.SimpleNamespace(
    init=ignore, log=log, config=types.SimpleNamespace(update=ignore), run=types.SimpleNamespace(name="run")
)
from fairseq_cli.train import cli_main
cli_main()
"""


def test_wandb_is_given_the_parts_of_the_loss_apart(run, corpus, tmp_path):
    """With a stand-in for the wandb package, which needs an account."""
    script = tmp_path / "train.py"
    script.write_text(STAND_IN.format(log=str(tmp_path / "log")))
    argv = ["--user-dir", USER_DIR, "--task", "visual_translation_lm", "--arch", "vtlm_tiny", "--criterion", "vtlm",
            "--regions", corpus.regions, "--optimizer", "adam", "--lr", "1e-3", "--batch-size", "16", "--max-update",
            "3", "--cpu", "--no-save", "--save-dir", tmp_path, "--wandb-project", "p", "--log-interval",
            "1"]  # fmt: skip
    run(script, corpus.data, *argv)
    given = {name for line in (tmp_path / "log").read_text().splitlines() for name in json.loads(line)[1]}
    assert given >= {f"{split}/{part}" for split in ("train_inner", "valid") for part in PARTS}


def test_wandb_writes_the_parts_of_the_loss_apart(corpus, tmp_path, monkeypatch):
    """The real package, in its offline mode; the last row of each split holds what the log says."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    argv = pretraining(corpus.data, tmp_path, "--wandb-project", "p", "--no-save", regions=corpus.regions)
    result = shell(sys.executable, "-m", "fairseq_cli.train", *argv, cwd=tmp_path, timeout=300)
    assert result.status == 0, result.output[-3000:]
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    shown = history(path)
    assert {step for step, _ in shown} == {1, 2, 3}
    for split, logged in (("valid", result.validations()[-1]), ("train_inner", result.updates()[-1])):
        for part in PARTS:
            assert shown[3, f"{split}/{part}"] == pytest.approx(logged[part], abs=0.006), (split, part)


def history(path) -> dict[tuple[int, str], float]:
    """Numbers by step and name of a W&B offline run: protobuf messages in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, message, found = path.read_bytes(), 7, b"", {}
    block = 1 << 15
    while position < len(data):
        if (left := block - position % block) < 7:  # too short for a header: zeros
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        message = (b"" if kind in (1, 2) else message) + data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole message, or the last part of one
            row = Record.FromString(message).history
            for item in row.item:
                value = json.loads(item.value_json)
                if isinstance(value, (int, float)):
                    found[row.step.num, item.key or "/".join(item.nested_key)] = value
    return found
