"""Training in reduced precision on a GPU: the loss falls and the loss scale settles."""

import sys

import pytest

from harness import USER_DIR, shell

PRECISIONS = {
    "fp16": ["--fp16", "--layernorm-eps", "1e-5"],
    "bf16": ["--autocast", "bf16"],
    "amp": ["--amp", "--autocast", "fp16"],
}


def train(corpus, folder, *argv):
    """200 updates of a VTLM of width 64."""
    line = [corpus / "bin", "--user-dir", USER_DIR, "--task", "visual_translation_lm", "--arch", "vtlm_tiny"]
    line += ["--encoder-embed-dim", "64", "--encoder-ffn-embed-dim", "256", "--criterion", "vtlm"]
    line += ["-s", "en", "-t", "de", "--regions", corpus / "regions.h5", "--batch-size", "64", "--lr", "1e-3"]
    line += ["--clip-norm", "5", "--max-update", "200", "--log-format", "json", "--log-interval", "1"]
    line += ["--no-epoch-checkpoints", "--validate-interval", "100", "--validate-interval-updates", "200"]
    line += ["--save-dir", folder, *argv]
    return shell(sys.executable, "-m", "fairseq_cli.train", *line, cwd=folder, timeout=600)


@pytest.mark.parametrize("optimizer", ["adam", "fused_adam"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_loss_falls(gpu_corpus, tmp_path, precision, optimizer):
    """200 updates: no spiral of overflows, and a loss far below that of guessing (5.5 + 3 bits)."""
    trained = train(gpu_corpus, tmp_path, "--optimizer", optimizer, *PRECISIONS[precision])
    assert trained.status == 0, trained.output[-4000:]
    losses = [update["loss"] for update in trained.updates()]
    assert len(losses) >= 190  # an update that overflows is not logged
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert trained.output.count("overflow detected") <= 10
    if precision != "bf16":
        scales = [update["loss_scale"] for update in trained.updates()]
        assert min(scales) >= 1
    assert trained.validations()[-1]["loss"] < 0.8 * losses[0]


@pytest.mark.parametrize("objectives", ["mrc", "mrc,mrfr,itm"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_regions_on_the_device(gpu_corpus, tmp_path, precision, objectives):
    """Features that are gathered on the GPU are those that the loader sends: losses agree, a GPU adds in any order."""
    runs = []
    for name, more in (("sent", []), ("there", ["--regions-on-device", "--num-workers", "2"])):
        (tmp_path / name).mkdir()
        argv = ["--optimizer", "adam", "--dropout", "0", "--max-update", "12", *PRECISIONS[precision], *more]
        argv += ["--region-objectives", objectives]
        runs.append(train(gpu_corpus, tmp_path / name, *argv))
        assert runs[-1].status == 0, runs[-1].output[-4000:]
    losses = [[update["loss"] for update in trained.updates()] for trained in runs]
    assert len(losses[0]) > 4 and losses[1] == pytest.approx(losses[0], rel=0.02)
    assert "features of" in runs[1].output and "on cuda" in runs[1].output


def test_on_the_cpu(gpu_corpus, tmp_path, monkeypatch):
    """``--cpu`` beside the GPU: with ``--clip-norm`` one line says how, and so it trains."""
    refused = train(gpu_corpus, tmp_path, "--optimizer", "adam", "--cpu", "--max-update", "2")
    refused.fault("--cpu with --clip-norm", "CUDA_VISIBLE_DEVICES=")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    trained = train(gpu_corpus, tmp_path, "--optimizer", "adam", "--cpu", "--max-update", "2")
    assert trained.status == 0, trained.output[-4000:]
    assert [update["num_updates"] for update in trained.updates()] == [1, 2]
