"""Decoding on a GPU in float32 gives what the CPU gives."""

import sys

import pytest

from harness import USER_DIR, shell


@pytest.fixture(scope="module")
def model(gpu_corpus, tmp_path_factory):
    """An MMT model that has learnt something, trained on the GPU."""
    folder = tmp_path_factory.mktemp("mmt")
    line = [gpu_corpus / "bin", "--user-dir", USER_DIR, "--task", "multimodal_translation", "-s", "en", "-t", "de"]
    line += ["--arch", "multimodal_transformer_tiny", "--criterion", "cross_entropy", "--optimizer", "fused_adam"]
    line += ["--regions", gpu_corpus / "regions.h5", "--batch-size", "64", "--lr", "3e-3", "--clip-norm", "5"]
    line += ["--max-update", "150", "--save-dir", folder, "--no-epoch-checkpoints", "--disable-validation"]
    trained = shell(sys.executable, "-m", "fairseq_cli.train", *line, cwd=folder, timeout=600)
    assert trained.status == 0, trained.output[-4000:]
    return folder / "checkpoint_last.pt"


def generate(corpus, path, *argv):
    line = [corpus / "bin", "--user-dir", USER_DIR, "--task", "multimodal_translation", "--path", path]
    line += ["--regions", corpus / "regions.h5", "--beam", "5", "--max-len-b", "12", "--batch-size", "16", *argv]
    decoded = shell(sys.executable, "-m", "fairseq_cli.generate", *line, cwd=path.parent, timeout=600)
    assert decoded.status == 0, decoded.output[-4000:]
    return decoded


def test_float32_equals_cpu(gpu_corpus, model):
    """The same hypotheses, scores to 1e-3; TF32 is off unless asked for."""
    gpu, cpu = generate(gpu_corpus, model), generate(gpu_corpus, model, "--cpu")
    assert gpu.ids() == cpu.ids() == list(range(40))
    assert gpu.hypotheses() == cpu.hypotheses()
    assert gpu.scores() == pytest.approx(cpu.scores(), abs=1e-3)
    assert len(set(gpu.hypotheses())) > 20  # it does not say the same to all


def test_fp16_decodes(gpu_corpus, model):
    """``--autocast fp16`` and ``--fp16`` on a float32 model: nearly the same scores."""
    scores = generate(gpu_corpus, model).scores()
    for argv in (["--autocast", "fp16"], ["--autocast", "bf16"]):
        assert generate(gpu_corpus, model, *argv).scores() == pytest.approx(scores, abs=0.1)
