"""Kill -9 in a step, in validation, while a checkpoint is written or copied; tests/qa/faults/kills.py has more."""

import signal

import pytest
from qa.faults.trainings import differences, newest, place, training

from harness import ROOT, Result

SCRIPT = ROOT / "tests" / "qa" / "faults" / "interrupted_train.py"
UPDATES = 10


def killed_and_resumed(run, argv, folder, moments) -> list[Result]:
    """The results of all starts of a training that is killed at these moments, and then left to end."""
    results = []
    for moment in moments:
        results.append(run(SCRIPT, *argv, *newest(run, folder), env={"KILL_AT": moment}, ok=None))
        assert results[-1].status == -signal.SIGKILL, results[-1].output[-3000:]
        assert place(results[-1], folder) == moment.split(":")[0]
    return [*results, run("fairseq_cli.train", *argv, *newest(run, folder))]


@pytest.mark.parametrize(
    ("kind", "workers", "moments"),
    [
        ("pretraining", 2, ["step:4", "saving:2", "validation:4"]),
        ("finetuning", 0, ["validation:2", "copying:2", "step:2", "saving:1"]),
    ],
)
def test_killed_training_ends_as_one_that_was_not(run, corpus, vtlm, tmp_path, kind, workers, moments):
    """PITFALLS 20: weights, optimiser, position in the data and logged figures are equal bit for bit."""

    def argv(name):
        return training(kind, corpus, tmp_path / name, workers=workers, updates=UPDATES, pretrained=vtlm)

    whole = run("fairseq_cli.train", *argv("whole"))
    assert [int(update["num_updates"]) for update in whole.updates()] == list(range(1, UPDATES + 1))
    results = killed_and_resumed(run, argv("killed"), tmp_path / "killed", moments)
    assert int(results[-1].updates()[0]["num_updates"]) > 1
    assert differences(tmp_path / "whole", tmp_path / "killed", [whole], results) == []


def test_best_checkpoint_whose_copying_was_killed(run, corpus, tmp_path):
    """The first validation stays the best, and its checkpoint is a half when the kill comes: it is copied again."""

    def argv(name):
        base = training("pretraining", corpus, tmp_path / name, workers=0, updates=UPDATES, pretrained=None)
        return [*base, "--maximize-best-checkpoint-metric"]

    whole = run("fairseq_cli.train", *argv("whole"))
    killed = run(SCRIPT, *argv("killed"), env={"KILL_AT": "copying:1"}, ok=None)
    cut, first = tmp_path / "killed/checkpoint_best.pt", tmp_path / "killed/checkpoint_1_2.pt"
    assert cut.stat().st_size == first.stat().st_size // 2
    assert newest(run, cut.parent) == ["--restore-file", str(first)]
    resumed = run("fairseq_cli.train", *argv("killed"), "--restore-file", first)
    assert not first.exists()  # of the numbered ones the last two are kept
    assert differences(tmp_path / "whole", tmp_path / "killed", [whole], [killed, resumed]) == []


def test_a_difference_is_seen(run, corpus, tmp_path):
    """The comparison above names what differs: here all that another seed changes, and four updates more."""

    def argv(name, *more):
        return [*training("pretraining", corpus, tmp_path / name, workers=0, updates=4, pretrained=None), *more]

    first = run("fairseq_cli.train", *argv("first"))
    second = run("fairseq_cli.train", *argv("second", "--seed", "2", "--max-update", "8"))
    found = "\n".join(differences(tmp_path / "first", tmp_path / "second", [first], [second]))
    for part in ("files", "last.pt: weights", "last.pt: optimiser", "last.pt: updates", "last.pt: position",
                 "last.pt: validation", "log of ('valid', 2)", "log of ('update', 5)"):  # fmt: skip
        assert part in found, found
