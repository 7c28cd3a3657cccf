"""Long runs: NaN gradients and loss spikes name the ids; TensorBoard and W&B show mlm and mrc apart."""

import json
import re

import pytest

from harness import pretraining
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
    """The last value of each scalar of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


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
    argv = pretraining(corpus.data, tmp_path, "--wandb-project", "p", "--no-save", regions=corpus.regions)
    result = run(script, *argv)
    rows = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    shown = {(step, name): value for step, values in rows for name, value in values.items()}
    assert {step for step, _ in shown} == {1, 2, 3}
    for split, logged in (("valid", result.validations()[-1]), ("train_inner", result.updates()[-1])):
        for part in PARTS:
            assert shown[3, f"{split}/{part}"] == pytest.approx(logged[part], abs=0.006), (split, part)


def test_a_training_says_how_far_it_is(run, corpus, tmp_path):
    """At each update and batch of a validation here, where a minute is no time."""
    impatient = tmp_path / "impatient"
    impatient.mkdir()
    (impatient / "__init__.py").write_text(
        "import vtlm_fairseq\nfrom vtlm_fairseq.tasks import time_left\n\ntime_left.EVERY = 0.0\n", encoding="utf-8"
    )
    argv = ("--max-epoch", "2", "--max-update", "999", "--update-freq", "2", "--no-save")  # 45 pairs in batches of 8
    line = pretraining(corpus.data, tmp_path / "run", *argv, regions=corpus.regions, user_dir=impatient)
    output = run("fairseq_cli.train", *line).output
    found = re.findall(
        r"time_left.*\b(?:update (\d) of 6, \S+ s each, at most .* left|validating after update (\d))", output
    )
    updates, validations = (list(dict.fromkeys(filter(None, numbers))) for numbers in zip(*found, strict=True))
    assert (updates, validations) == (list("23456"), list("36"))
