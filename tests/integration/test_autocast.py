"""``--autocast`` on the CPU."""

import pytest
import torch


def test_bf16(run, corpus, tmp_path):
    """bf16 pre-trains, fine-tunes, validates and decodes; losses are near those of float32."""
    losses = {}
    for kind in ("none", "bf16"):
        trained = run.pretrain(corpus.data, tmp_path / kind, "--autocast", kind, "--dropout", "0",
                               "--attention-dropout", "0", regions=corpus.regions)  # fmt: skip
        losses[kind] = [update["loss"] for update in trained.updates()] + [trained.validations()[-1]["loss"]]
    assert losses["bf16"] == pytest.approx(losses["none"], rel=0.02)
    assert losses["bf16"] != losses["none"]
    path = tmp_path / "bf16/checkpoint_last.pt"
    assert all(t.dtype == torch.float32 for t in torch.load(path, weights_only=True)["model"].values())
    assert run.validate(corpus.data, path).validations()[-1]["loss"] == pytest.approx(losses["bf16"][-1], rel=1e-4)

    run.train(corpus.data, tmp_path / "mmt", "--pretrained", path, "--autocast", "bf16", "--eval-bleu",
              "--eval-bleu-args", '{"max_len_b": 5}', regions=corpus.regions)  # fmt: skip
    tuned = tmp_path / "mmt/checkpoint_last.pt"
    scores = [
        run.generate(corpus.data, tuned, "--max-len-b", "5", *argv, regions=corpus.regions).scores()
        for argv in ((), ("--autocast", "bf16"))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=0.03)
    assert scores[0] != scores[1]


@pytest.mark.parametrize("task", ["pretrain", "train"])
def test_fp16_needs_gradient_scaling(run, corpus, tmp_path, task):
    """Training in fp16 without ``--amp`` is refused in one line."""
    train = getattr(run, task)
    train(corpus.data, tmp_path, "--autocast", "fp16", regions=corpus.regions, ok=False).fault("--amp", "bf16")
