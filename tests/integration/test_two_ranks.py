"""Training over two gloo ranks on the CPU, against one rank with twice the update frequency."""

import shutil
import socket

import pytest
import torch

from harness import ROOT, USER_DIR, pretraining, shell

EXACT = ["--dropout", "0", "--attention-dropout", "0", "--lr", "1e-3", "--no-epoch-checkpoints"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_ranks(run, line):
    """Run fairseq-train on two ranks side by side; the first rank's result."""
    spread = ["--distributed-world-size", "2", "--distributed-init-method", f"tcp://127.0.0.1:{free_port()}",
              "--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]  # fmt: skip
    commands = [("fairseq_cli.train", [*line, *spread, "--distributed-rank", rank]) for rank in (0, 1)]
    first, _ = run.together(commands)
    return first


def weights(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def translation(corpus, save_dir, *argv):
    """Arguments of fairseq-train for MMT."""
    fixed = ["--user-dir", USER_DIR, "--task", "multimodal_translation", "--arch", "multimodal_transformer_tiny"]
    fixed += ["--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam", "--batch-size", "8", "--cpu"]
    fixed += ["--log-format", "json", "--log-interval", "1", "--regions", corpus.regions, "--save-dir", save_dir]
    return [corpus.data, *fixed, *argv]


@pytest.mark.parametrize("kind", ["pretraining", "translation"])
def test_loss_curve(run, corpus, tmp_path, kind):
    """20 updates: the losses of two ranks are those of one with --update-freq 2, to 1e-4; so are the weights.

    45 pairs are 6 batches, three for each rank. Optimizer ``fused_adam``. Donors of random regions come from the
    micro-batch, which is the same in both.
    """
    argv = [*EXACT, "--optimizer", "fused_adam", "--max-update", "20", "--disable-validation"]
    if kind == "pretraining":

        def line(save_dir, *more):
            return pretraining(corpus.data, save_dir, *argv, *more, regions=corpus.regions)
    else:

        def line(save_dir, *more):
            return translation(corpus, save_dir, *argv, *more)

    one = run("fairseq_cli.train", *line(tmp_path / "one", "--update-freq", "2"))
    two = two_ranks(run, line(tmp_path / "two"))
    ours, theirs = ([update["loss"] for update in result.updates()] for result in (two, one))
    assert len(ours) == len(theirs) == 20
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert theirs[-1] < theirs[0] - 0.1  # it has learnt: later losses depend on earlier gradients
    ours, theirs = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert all(torch.allclose(ours[name], tensor, atol=1e-4) for name, tensor in theirs.items())


@pytest.mark.parametrize("update_freq", [1, 2])
def test_an_odd_number_of_batches(run, corpus, tmp_path, update_freq):
    """PITFALLS 18: five batches over two ranks; both end after the same updates, and validate as one rank does.

    With --update-freq 2 the second rank's last micro-batch is a dummy beside a real one, and fairseq's trainer then
    counts that update wrongly; the updates and the validation before it are exact.
    """
    argv = [*EXACT, "--required-batch-size-multiple", "1", "--batch-size", "9", "--batch-size-valid", "5"]
    argv += ["--max-epoch", "1", "--max-update", "99", "--validate-interval-updates", "1"]
    one = run.pretrain(corpus.data, tmp_path / "one", *argv, "--update-freq", 2 * update_freq, regions=corpus.regions)
    line = pretraining(corpus.data, tmp_path / "two", *argv, "--update-freq", update_freq, regions=corpus.regions)
    two = two_ranks(run, line)
    updates = {1: 3, 2: 2}[update_freq]
    exact = {1: 3, 2: 1}[update_freq]
    assert len(two.updates()) == len(one.updates()) == updates
    for ours, theirs in zip(two.updates()[:exact], one.updates()[:exact], strict=True):
        for name in ("loss", "mlm_loss", "mrc_loss", "gnorm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name
    assert len(two.validations()) == len(one.validations()) >= updates
    for ours, theirs in zip(two.validations()[:exact], one.validations()[:exact], strict=True):
        for name in ("loss", "mlm_loss", "mrc_loss", "accuracy"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-4, abs=1e-3), name


def test_torchrun_script(run, corpus, tmp_path):
    """``examples/scaling/torchrun.sh`` starts ranks that train together, also where fairseq sees no GPU."""
    argv = [*EXACT, "--max-update", "2", "--disable-validation"]
    line = pretraining(corpus.data, tmp_path / "two", *argv, regions=corpus.regions)
    spread = ["--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    trained = shell("bash", ROOT / "examples/scaling/torchrun.sh", 2, *line, *spread, cwd=tmp_path)
    assert trained.status == 0, trained.output[-4000:]
    one = run.pretrain(corpus.data, tmp_path / "one", *argv, "--update-freq", "2", regions=corpus.regions)
    ours, theirs = ([update["loss"] for update in result.updates()] for result in (trained, one))
    assert len(ours) == 2
    assert ours == pytest.approx(theirs, rel=1e-4)
    refused = shell("bash", ROOT / "examples/scaling/torchrun.sh", corpus.data, "--cpu", cwd=tmp_path)
    assert refused.status == 2 and "torchrun.sh N DATA" in refused.output


def test_goes_on(run, corpus, tmp_path):
    """On two ranks, stopped in mid-epoch: resumed, restored with --reset-*, and fine-tuned, with the same line.

    Resumed, with dropout and --update-freq 2, the run ends with the weights of one that never stopped, bit for bit.
    Restored with all state reset and fine-tuned are the same by fairseq's definition, and as on one rank.
    """
    argv = ["--update-freq", "2", "--max-update", "6", "--save-interval-updates", "3", "--lr", "1e-3"]

    def line(save_dir, *more):
        return pretraining(corpus.data, tmp_path / save_dir, *argv, *more, regions=corpus.regions)

    two_ranks(run, line("whole"))
    half = tmp_path / "whole" / "checkpoint_2_3.pt"
    (tmp_path / "resumed").mkdir()
    shutil.copy(half, tmp_path / "resumed" / "checkpoint_last.pt")
    resumed = two_ranks(run, line("resumed"))
    assert [update["num_updates"] for update in resumed.updates()] == [4, 5, 6]
    ours, theirs = weights(tmp_path / "resumed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())

    shutil.copy(half, tmp_path / "resumed" / "checkpoint_last.pt")  # on one rank, whose batches are others
    alone = run("fairseq_cli.train", *line("resumed"))
    assert [update["num_updates"] for update in alone.updates()] == [4, 5, 6]
    assert "whose batches are others here (--distributed-world-size 2 -> 1)" in alone.output

    argv = [*EXACT, "--max-update", "3", "--disable-validation"]
    reset = [f"--reset-{state}" for state in ("optimizer", "lr-scheduler", "meters", "dataloader")]
    two_ranks(run, line("restored", "--restore-file", half, *reset))
    two_ranks(run, line("tuned", "--finetune-from-model", half))
    run("fairseq_cli.train", *line("one", "--finetune-from-model", half, "--update-freq", "2"))
    restored, tuned, one = (weights(tmp_path / name) for name in ("restored", "tuned", "one"))
    before = torch.load(half, weights_only=True)["model"]
    for name, tensor in tuned.items():
        assert torch.equal(restored[name], tensor)
        assert torch.allclose(one[name], tensor, atol=1e-5)
    assert max((tensor - before[name]).abs().max() for name, tensor in tuned.items()) > 1e-3
