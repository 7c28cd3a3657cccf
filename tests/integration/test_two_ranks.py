"""Training over two gloo ranks on the CPU, against one rank with twice the update frequency."""

import shutil

import pytest
import torch
from programs import write_programs

from harness import GLOO, ROOT, pretraining, shell, translation, write_lines

EXACT = ["--dropout", "0", "--attention-dropout", "0", "--lr", "1e-3", "--no-epoch-checkpoints"]


def weights(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


@pytest.mark.parametrize("kind", ["pretraining", "strategies", "translation"])
def test_loss_curve(run, corpus, tmp_path, kind):
    """PITFALLS 2, 18, 19: two ranks have the losses of one with --update-freq 2, to 1e-4; so are the weights.

    20 updates; 45 pairs are 6 batches, three for each rank. Optimizer ``fused_adam``. Donors of random regions come
    from the micro-batch, which is the same in both.
    """
    argv = [*EXACT, "--optimizer", "fused_adam", "--max-update", "20"]
    line, data = translation if kind == "translation" else pretraining, corpus.data
    if kind == "strategies":
        data = tmp_path / "bin"
        shutil.copytree(corpus.data, data)
        words = write_lines(tmp_path / "words", [f"word{k}" for k in range(0, 30, 2)])
        run("vtlm_fairseq.cli.prepare", "nouns", data, "--words", words)
        argv += ["--word-masking", "aligned-nouns:0.7,whole-word:0.3", "--mask-prob", "0.5"]
        argv += ["--region-masking", "overlap", "--region-mask-overlap", "0.1"]
        argv += ["--region-mask-schedule", "cosine:0.1:0.8:4"]
    one = run("fairseq_cli.train", *line(data, tmp_path / "one", *argv, "--update-freq", "2", regions=corpus.regions))
    two, second = run.two_ranks(line(data, tmp_path / "two", *argv, regions=corpus.regions))
    assert second.updates() == second.validations() == []  # the first rank logs
    ours, theirs = ([update["loss"] for update in result.updates()] for result in (two, one))
    assert len(ours) == len(theirs) == 20
    assert ours == pytest.approx(theirs, rel=1e-4)
    for name in ("gnorm", "bsz", *(("mlm_loss", "mrc_loss") if kind == "pretraining" else ())):
        ours_, theirs_ = ([update[name] for update in result.updates()] for result in (two, one))
        assert ours_ == pytest.approx(theirs_, abs=2e-3), name
    assert len(two.validations()) == len(one.validations()) == 7
    for found, expected in zip(two.validations(), one.validations(), strict=True):
        for name in ("loss", *(("mlm_loss", "mrc_loss", "accuracy") if kind == "pretraining" else ())):
            assert found[name] == pytest.approx(expected[name], abs=2e-3), name
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
    two, _ = run.two_ranks(line)
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
    python = f"PYTHON={write_programs(run, tmp_path) / 'python'}"
    script = ("env", python, "bash", ROOT / "examples/scaling/torchrun.sh")
    trained = shell(*script, 2, *line, *GLOO[2:], cwd=tmp_path)
    assert trained.status == 0, trained.output[-4000:]
    one = run.pretrain(corpus.data, tmp_path / "one", *argv, "--update-freq", "2", regions=corpus.regions)
    ours, theirs = ([update["loss"] for update in result.updates()] for result in (trained, one))
    assert len(ours) == 2
    assert ours == pytest.approx(theirs, rel=1e-4)
    run("fairseq_cli.train", *line, *GLOO, "--distributed-port", 29555, ok=False).fault(
        "--distributed-port", "torchrun"
    )
    refused = shell(*script, corpus.data, "--cpu", cwd=tmp_path)
    assert refused.status == 2 and "torchrun.sh N DATA" in refused.output


def test_goes_on(run, corpus, tmp_path):
    """On two ranks, stopped in mid-epoch: resumed, restored with --reset-*, and fine-tuned, with the same line.

    Resumed, with dropout and --update-freq 2, the run ends with the weights of one that never stopped, bit for bit.
    Restored with all state reset and fine-tuned are the same by fairseq's definition, and as on one rank.
    """
    argv = ["--update-freq", "2", "--max-update", "6", "--save-interval-updates", "3", "--lr", "1e-3"]

    def line(save_dir, *more):
        return pretraining(corpus.data, tmp_path / save_dir, *argv, *more, regions=corpus.regions)

    run.two_ranks(line("whole"))
    half = tmp_path / "whole" / "checkpoint_2_3.pt"
    (tmp_path / "resumed").mkdir()
    shutil.copy(half, tmp_path / "resumed" / "checkpoint_last.pt")
    resumed, _ = run.two_ranks(line("resumed"))
    assert [update["num_updates"] for update in resumed.updates()] == [4, 5, 6]
    ours, theirs = weights(tmp_path / "resumed"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())

    before = (tmp_path / "resumed" / "checkpoint_last.pt").read_bytes()
    assert not run.two_ranks(line("resumed"))[0].updates()  # complete
    assert (tmp_path / "resumed" / "checkpoint_last.pt").read_bytes() == before

    shutil.copy(half, tmp_path / "resumed" / "checkpoint_last.pt")  # on one rank, whose batches are others
    alone = run("fairseq_cli.train", *line("resumed"))
    assert [update["num_updates"] for update in alone.updates()] == [4, 5, 6]
    assert "whose batches are others here (--distributed-world-size 2 -> 1)" in alone.output

    argv = [*EXACT, "--max-update", "3", "--disable-validation"]
    reset = [f"--reset-{state}" for state in ("optimizer", "lr-scheduler", "meters", "dataloader")]
    run.two_ranks(line("restored", "--restore-file", half, *reset))
    run.two_ranks(line("tuned", "--finetune-from-model", half))
    run("fairseq_cli.train", *line("one", "--finetune-from-model", half, "--update-freq", "2"))
    restored, tuned, one = (weights(tmp_path / name) for name in ("restored", "tuned", "one"))
    before = torch.load(half, weights_only=True)["model"]
    for name, tensor in tuned.items():
        assert torch.equal(restored[name], tensor)
        assert torch.allclose(one[name], tensor, atol=1e-5)
    assert max((tensor - before[name]).abs().max() for name, tensor in tuned.items()) > 1e-3
