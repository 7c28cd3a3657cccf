"""Trainings one after the other in one process: each is the same training in a process of its own."""

import re
from pathlib import Path

import torch

from harness import USER_DIR, pretraining

RECIPE = """
common: {{user_dir: {user_dir}, cpu: true, log_format: json, log_interval: 1}}
checkpoint: {{save_dir: checkpoints, patience: 1}}
dataset: {{batch_size: 8}}
optimization: {{max_epoch: 4, lr: [0.003]}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
task: {{_name: visual_translation_lm, data: {data}, regions: {regions}}}
model: {{_name: vtlm_tiny}}
criterion: {{_name: vtlm}}
hydra: {{run: {{dir: alone}}, sweep: {{dir: sweep}}}}
"""
TWICE = """
import sys, threading
from fairseq_cli import train
for line in {lines!r}:
    sys.argv = ["fairseq-train", *line]
    try:
        train.cli_main()
        print("==", sum("watch" in thread.name for thread in threading.enumerate()), "threads")
    except SystemExit as end:
        print(end)
"""
MORE = """
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli.train import main
cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), {line!r}))
for updates in (3, 3, 5):
    cfg.optimization.max_update = updates
    main(cfg)
"""


def same_trainings(one: Path, other: Path) -> None:
    """The same files with the same weights, meters and best score."""
    names = sorted(path.name for path in other.glob("*.pt"))
    assert sorted(path.name for path in one.glob("*.pt")) == names
    assert "checkpoint_best.pt" in names
    for name in names:
        ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (one, other))
        assert all(torch.equal(ours["model"][key], tensor) for key, tensor in theirs["model"].items())
        assert ours["extra_state"]["best"] == theirs["extra_state"]["best"]
        assert ours["extra_state"]["val_loss"] == theirs["extra_state"]["val_loss"]


def test_multirun(run, corpus, tmp_path):
    """fairseq-hydra-train --multirun: the second learns worse than the first, and still has its best checkpoint."""
    text = RECIPE.format(user_dir=USER_DIR, data=corpus.data, regions=corpus.regions)
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    argv = ("--config-dir", tmp_path, "--config-name", "recipe")
    slow = "optimization.lr=[0.0001]"
    swept = run("fairseq_cli.hydra_train", "--multirun", *argv, "optimization.lr=[0.003],[0.0001]", cwd=tmp_path)
    alone = run("fairseq_cli.hydra_train", *argv, slow, cwd=tmp_path)
    same_trainings(tmp_path / "sweep" / "1" / "checkpoints", tmp_path / "alone" / "checkpoints")
    found = alone.validations()
    assert len(found) == 4
    times = ("wall", "ups", "wps", "train_wall")
    for ours, theirs in zip(swept.validations()[-4:], found, strict=True):
        assert {k: v for k, v in ours.items() if k not in times} == {k: v for k, v in theirs.items() if k not in times}


def test_twice(run, corpus, tmp_path):
    """cli_main after a call that failed and one that trained: its files, its logs, and no thread of the other's."""

    def line(where, *more):
        folder = tmp_path / where
        logs = ["--log-file", folder / "log.txt", "--tensorboard-logdir", folder / "board"]
        argv = ["--max-epoch", "3", "--max-update", "99", "--patience", "1", *logs, *more]
        return pretraining(corpus.data, folder, *argv, regions=corpus.regions)

    for name in ("first", "second", "alone"):
        (tmp_path / name).mkdir()
    script = tmp_path / "twice.py"
    first, second = line("first", "--lr", "3e-3"), line("second", "--lr", "1e-4")
    script.write_text(TWICE.format(lines=[line("second", "--valid-subset", "no"), first, second]), encoding="utf-8")
    twice = run(script)
    run("fairseq_cli.train", *line("alone", "--lr", "1e-4"))
    same_trainings(tmp_path / "second", tmp_path / "alone")
    assert twice.output.count("== 1 threads") == 2
    logs = {name: (tmp_path / name / "log.txt").read_text(encoding="utf-8") for name in ("first", "second", "alone")}
    for text in logs.values():
        assert re.findall(r'"train_num_updates": "(\d+)"', text) == ["6", "12", "18"]
    boards = {name: sorted(path.name for path in (tmp_path / name / "board").glob("*")) for name in logs}
    assert boards["first"] == boards["second"] == boards["alone"]


def test_more_updates(run, corpus, tmp_path):
    """A configuration that was complete: with more updates its training goes on."""
    line = pretraining(corpus.data, tmp_path / "run", "--max-update", "3", regions=corpus.regions)
    script = tmp_path / "more.py"
    script.write_text(MORE.format(line=line), encoding="utf-8")
    updates = run(script).updates()
    assert [int(update["num_updates"]) for update in updates] == [1, 2, 3, 4, 5]
