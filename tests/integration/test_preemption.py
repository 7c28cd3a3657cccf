"""SIGTERM and SIGHUP stop a training where it goes on as if it had never stopped: on one rank, on several."""

import os
import signal
import subprocess

import pytest
import torch
from qa.faults.trainings import differences, training

from harness import GLOO, ROOT, pretraining
from vtlm_fairseq.checkpoints import load_checkpoint, num_updates

SCRIPT = ROOT / "tests" / "qa" / "faults" / "interrupted_train.py"


def stopped(run, argv, moments) -> list:
    """A training that is signalled at these moments, one a start, and then left to end."""
    results = []
    for moment, update in moments.items():
        results.append(run(SCRIPT, *argv, env={"SIGNAL_AT": moment}, ok=None))
        name = moment.split(":")[1]
        assert results[-1].status == 128 + signal.Signals[f"SIG{name}"], results[-1].output[-3000:]
        results[-1].fault(name, f"update {update};", "checkpoint_last.pt")
        assert f"SIG{name}: stopping after update {update}" in results[-1].output
        options = torch.load(f"{argv[argv.index('--save-dir') + 1]}/checkpoint_last.pt", weights_only=True)["cfg"]
        assert options["optimization"]["max_update"] == 13 and not options["dataset"]["disable_validation"]
    return [*results, run("fairseq_cli.train", *argv)]


@pytest.mark.parametrize(
    ("kind", "workers", "moments"),
    [
        # the sixth update ends an epoch, the ninth validates without saving: the next one is the last
        ("pretraining", 2, {"6:TERM:group": 7, "9:HUP:self": 10}),
        # nothing is saved after the fifth; after the eighth the run validates and saves by itself
        ("finetuning", 0, {"5:TERM:self 5:TERM:group": 5, "8:TERM:self": 8}),
    ],
)
def test_a_stopped_training_ends_as_one_that_was_not(run, corpus, vtlm, tmp_path, kind, workers, moments):
    """Weights, optimiser, position, best score and logged figures are equal bit for bit."""

    def argv(name):
        return training(kind, corpus, tmp_path / name, workers=workers, updates=13, pretrained=vtlm)

    whole = run("fairseq_cli.train", *argv("whole"))
    results = stopped(run, argv("stopped"), moments)
    assert differences(tmp_path / "whole", tmp_path / "stopped", [whole], results) == []


def test_one_rank_of_two_is_signalled(run, corpus, tmp_path):
    """Both stop after the same update, the next one; the first saves, and what goes on is as if never stopped."""

    def both(name, **options):
        argv = ("--save-interval-updates", 2, "--update-freq", 2, "--max-update", 5)
        return run.two_ranks(
            pretraining(corpus.data, tmp_path / name, *argv, regions=corpus.regions), SCRIPT, **options
        )

    whole, _ = both("whole")
    stopped = both("stopped", env={"SIGNAL_AT": "2:HUP:self", "SIGNAL_RANK": "1"}, ok=None)
    assert [result.status for result in stopped] == [129, 129]
    stopped[0].fault("HUP", "update 3;")
    resumed, _ = both("stopped")
    assert differences(tmp_path / "whole", tmp_path / "stopped", [whole], [stopped[0], resumed]) == []


@pytest.mark.parametrize("whom", ["self", "group"])
def test_spawned_ranks(run, corpus, tmp_path, whom):
    """The process that spawned the ranks hands the signal on and waits; a rank that has it already takes it for one."""
    argv = pretraining(corpus.data, tmp_path, "--max-update", 9, "--num-workers", 1, "--disable-validation")
    env = {"RANKS": "2", "SIGNAL_AT": f"4:TERM:{whom}", "SIGNAL_RANK": "1"}
    run(SCRIPT, *argv, *GLOO, env=env, ok=False).fault("TERM", "update 5;")
    assert num_updates(load_checkpoint(tmp_path / "checkpoint_last.pt")) == 5


def test_a_second_signal_ends_at_once(run, corpus, tmp_path):
    """Its update is not finished and nothing is saved; what had been saved is whole."""
    argv = [*training("pretraining", corpus, tmp_path, workers=0, updates=9, pretrained=None), "--disable-validation"]
    killed = run(SCRIPT, *argv, env={"SIGNAL_AT": "4:TERM:self 4:HUP:self:2.1"}, ok=None)
    assert killed.status == -signal.SIGHUP
    assert [int(update["num_updates"]) for update in killed.updates()] == [1, 2, 3]
    assert num_updates(load_checkpoint(tmp_path / "checkpoint_last.pt")) == 2


def test_nohup_and_nothing_to_save(run, corpus, tmp_path):
    """SIGHUP stays ignored where it was; a training that leaves no checkpoint_last.pt ends at once."""
    argv = pretraining(corpus.data, tmp_path, "--disable-validation")
    assert run(SCRIPT, *argv, env={"SIGNAL_AT": "2:HUP:self", "NOHUP": "1"}).updates()[-1]["num_updates"] == 3
    ended = run(SCRIPT, *argv, "--no-save", "--max-update", 9, env={"SIGNAL_AT": "5:TERM:self"}, ok=None)
    assert ended.status == -signal.SIGTERM


def test_slurm_script(tmp_path):
    """SIGTERM to the batch script reaches the steps, and the job is queued again; local copies of a store are whole."""
    job = tmp_path / "job"
    stubs = {
        "srun": '[ "$1" = --kill-on-bad-exit=1 ] && shift; [ "$1" != train ] || exec bash -c "$TRAIN"; exec "$@"',
        "train": "",
        "scontrol": f'case "$1" in show) echo localhost;; *) echo "$@" >> {job};; esac',
        "scancel": f'echo cancel "$@" >> {job}; kill -TERM "$(cat step)"',
    }
    for name, text in stubs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    store, local = tmp_path / "regions", tmp_path / "local"
    (store / "sub").mkdir(parents=True)
    for name in ("train.000.h5", "sub/x.h5", "kept.h5"):
        (store / name).write_text(f"whole {name}")
    (local / "regions").mkdir(parents=True)
    (local / "regions/train.000.h5").write_text("who")  # what a killed copy leaves: newer than its source
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHON": "train", "GPUS": "1"}
    env |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1", "SLURM_SUBMIT_DIR": str(ROOT)}
    env |= {"REGIONS": str(store), "LOCAL_STORE": str(local)}
    script = ["bash", ROOT / "examples/scaling/slurm.sbatch", "data"]
    waiting = "for i in $(seq 300); do sleep 0.1; done"
    stopping = f"trap 'echo saved; exit 143' TERM; echo $$ > step; kill -TERM $PPID; {waiting}"
    ended = subprocess.run(script, env={**env, "TRAIN": stopping}, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (143, "saved\n"), ended.stderr
    assert job.read_text() == "cancel --signal=TERM 7\nrequeue 7\n"
    assert {path.relative_to(local / "regions").as_posix(): path.read_text() for path in local.rglob("*.*")} == {
        name: f"whole {name}" for name in ("train.000.h5", "sub/x.h5", "kept.h5")
    }
    job.unlink()
    ended = subprocess.run(script, env={**env, "TRAIN": "exit 3"}, cwd=tmp_path)
    assert ended.returncode == 3 and not job.exists()
