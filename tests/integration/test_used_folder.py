"""A folder that has checkpoints already, or another training in it."""

import os
import shutil

import pytest
import torch

from harness import pretraining

BESIDE = """
import os, pathlib, re, signal, sys, time
from fairseq_cli import train
lines, folder = {lines!r}, pathlib.Path({folder!r})

def call(line):
    sys.argv = ["fairseq-train", *line]
    try:
        train.cli_main()
        print("== done")
    except SystemExit as end:
        print(end)

while not (folder / "checkpoint_last.pt").exists():
    time.sleep(0.1)
pid = re.search(r"process (\\d+) on", (folder / ".training.lock").read_text()).group(1)
try:
    call(lines[0])
    call(lines[1])
finally:
    os.kill(int(pid), signal.SIGKILL)
call(lines[2])
"""


@pytest.fixture(scope="module")
def stopped(run, corpus, vtlm, tmp_path_factory):
    """An MMT run that began from a pre-trained model and stopped after 3 of 6 batches of its first epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    argv = ("--pretrained", vtlm, "--disable-validation", "--lr-scheduler", "inverse_sqrt")
    run.train(corpus.data, folder, *argv, regions=corpus.regions)
    return folder


@pytest.fixture
def used(stopped, tmp_path):
    """A copy of that folder."""
    return shutil.copytree(stopped, tmp_path / "used")


def go_on(run, corpus, folder, *argv, data=None, **options):
    line = ("--lr-scheduler", "inverse_sqrt", "--disable-validation", "--max-update", "5", *argv)
    return run.train(data or corpus.data, folder, *line, regions=corpus.regions, **options)


@pytest.mark.parametrize(
    "argv, said, option",
    [
        ("--optimizer fused_adam", ("fused_adam", "--optimizer adam"), "--reset-optimizer"),
        ("--amp", ("FairseqAdam", "AMPOptimizer", "--fp16"), None),
        ("--criterion cross_entropy", ("--criterion label_smoothed_cross_entropy",), None),
        ("--lr-scheduler reduce_lr_on_plateau",
         ("inverse_sqrt", "reduce_lr_on_plateau"), "--reset-lr-scheduler"),
        ("--batch-size 32", ("has 3 here", "--batch-size 8 -> 32"), "--reset-dataloader"),
    ],
)  # fmt: skip
def test_refused(run, corpus, used, argv, said, option):
    """What fairseq ends with a stack about, in one line that names the choice; the choice works."""
    argv = argv.split()
    go_on(run, corpus, used, *argv, ok=False).fault(str(used / "checkpoint_last.pt"), *said, option or "")
    if option:
        assert go_on(run, corpus, used, *argv, option).updates()


def test_warned(run, corpus, used, vtlm, tlm, tmp_path):
    """Another --pretrained, --seed, data folder, store, batch size, scheduler: the run goes on, and says what it is."""
    data, regions = (shutil.copytree(folder, tmp_path / folder.name) for folder in (corpus.data, corpus.regions))
    argv = ("--pretrained", tlm, "--seed", "7", "--batch-size", "7", "--update-freq", "2", "--lr-scheduler", "fixed")
    result = go_on(run, corpus, used, *argv, "--regions", regions, data=data)
    last = used / "checkpoint_last.pt"
    for parts in (
        (f"--pretrained {tlm} is not read", f"from {last}", f"from {vtlm}"),
        ("--seed 7: ", f"from {last}", "seed 1;", "--save-dir"),
        (f"{last} was trained on {corpus.data}", f"with {data}"),
        (f"{last} was trained with --regions {corpus.regions}", f"with --regions {regions}"),
        ("stopped after 3 batches", "(--batch-size 8 -> 7, --seed 1 -> 7)"),
        ("--lr-scheduler is fixed", f"{last} was trained with inverse_sqrt"),
    ):
        assert result.says(*parts), parts
    assert [update["num_updates"] for update in result.updates()][0] == 4


def test_named(run, corpus, stopped, vtlm, tlm, tmp_path):
    """--restore-file names what it goes on from: only what is not read is told of."""
    argv = ("--restore-file", stopped / "checkpoint_last.pt", "--pretrained", tlm, "--seed", "7")
    result = go_on(run, corpus, tmp_path, *argv)
    assert result.says(f"--pretrained {tlm} is not read", f"began from {vtlm}", "--restore-file")
    assert "--seed 7: " not in result.output


def test_the_same_line(run, corpus, used, vtlm):
    """The command of the first call says nothing of the kind; another --update-freq is fairseq's own.

    Nor does a link to the store.
    """
    (used / "link").symlink_to(corpus.regions)
    result = go_on(run, corpus, used, "--pretrained", vtlm, "--update-freq", "3", "--regions", used / "link")
    assert [update["num_updates"] for update in result.updates()][0] == 4
    assert "WARNING:vtlm_fairseq.tasks.resume" not in result.output and "another --save-dir" not in result.output


def test_no_optimizer_state(run, corpus, used):
    """As after --no-save-optimizer-state: fairseq counts updates from 0 again, without a word."""
    last = used / "checkpoint_last.pt"
    state = torch.load(last, weights_only=True)
    del state["last_optimizer_state"]
    torch.save(state, last)
    result = go_on(run, corpus, used)
    assert result.says(f"WARNING:vtlm_fairseq.tasks.resume:{last} ", "optimizer")
    assert [update["num_updates"] for update in result.updates()][0] == 1


def test_more_data(run, corpus, used, tmp_path):
    """In mid-epoch, examples that were not there at first are told of."""
    data, regions = shutil.copytree(corpus.data, tmp_path / "more"), tmp_path / "stores"
    regions.mkdir()
    for name in os.listdir(data):
        if name.startswith("valid."):
            shutil.copy(data / name, data / name.replace("valid", "train1", 1))
    for k, split in enumerate(("train", "valid")):
        shutil.copy(corpus.store(split), regions / f"train.{k}.h5")
    result = go_on(run, corpus, used, "--regions", regions, data=data)
    assert "(45 -> 58 examples)" in result.output


def test_one_training_at_a_time(run, corpus, vtlm, tmp_path):
    """A second training in a folder is refused with the first one's name; decoding is not, nor the next after a kill.

    The loader's worker of the one that is killed lives on for some seconds.
    """
    folder = tmp_path / "f"
    folder.mkdir()

    def line(*argv):
        return pretraining(corpus.data, folder, *argv, regions=corpus.regions)

    endless = line("--max-update", "99999", "--max-epoch", "9999", "--save-interval-updates", "5", "--num-workers", "1")
    again = line("--restore-file", vtlm, "--max-update", "13")
    other = line("--restore-file", vtlm, "--max-update", "13", "--no-save")
    script = tmp_path / "beside.py"
    script.write_text(BESIDE.format(folder=str(folder), lines=[again, other, again]), encoding="utf-8")
    _, beside = run.together([("fairseq_cli.train", endless), (script, [])], ok=None)
    assert beside.status == 0, beside.output[-3000:]
    (refused,) = [text for text in beside.output.splitlines() if text.startswith("error:")]
    assert f"--save-dir {folder}: " in refused and "(process " in refused
    assert beside.output.count("== done") == 2
