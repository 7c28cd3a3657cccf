"""Feature norms from pre-training to decoding, through the commands."""

import torch

from toy import spoil

NORMS = "features have norm "


def test_norms_from_pretraining_to_decoding(run, corpus, vtlm, tmp_path):
    """Regions of another scale are said where a model begins from another, goes on, decodes and translates."""
    mine = corpus.copy(tmp_path / "corpus")
    for split in ("train", "valid", "test"):
        spoil(mine.store(split), "features", lambda values: values * 4)
    argv = ("--max-update", "1", "--disable-validation")
    tuned = run.train(mine.data, tmp_path / "mmt", "--pretrained", vtlm, *argv, regions=mine.regions)
    (line,) = [line for line in tuned.output.splitlines() if NORMS in line]
    assert f"train: {mine.store('train')}" in line and "those that the model it begins from was trained on" in line
    path = tmp_path / "mmt" / "checkpoint_last.pt"
    norms = [torch.load(file, weights_only=True)["task_state"]["feature_norms"][0] for file in (vtlm, path)]
    assert 3.9 < norms[1] / norms[0] < 4.1
    same, other = (run.generate(corpus.data, path, regions=c.regions) for c in (mine, corpus))
    assert NORMS not in same.output
    assert f"test: {corpus.store('test')}: {NORMS}" in other.output and len(other.hypotheses()) == 13
    argv = ("--max-update", "2", "--disable-validation")
    on = run.train(mine.data, tmp_path / "mmt", *argv, regions=corpus.regions)
    assert f"train: {corpus.store('train')}: {NORMS}" in on.output
    assert torch.load(path, weights_only=True)["task_state"]["feature_norms"][0] == norms[1]
