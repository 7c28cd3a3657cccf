"""Every recipe of the examples, as it stands, for two updates; only sizes are overridden, to be small."""

import shutil

import pytest
import torch
from recipes import RECIPES

from harness import ROOT, USER_DIR

SMALL = ("optimization.max_update=2", "dataset.batch_size=8", "dataset.num_workers=0", "common.cpu=true",
         "common.log_interval=1", "model.encoder_embed_dim=32", "model.encoder_ffn_embed_dim=64",
         "model.encoder_layers=2", "model.encoder_attention_heads=4")  # fmt: skip
STARTS = {"tlm_nmt": "tlm", "tlm_mmt": "tlm"}
"""Recipes that start from TLM; the others that start from something start from VTLM."""


@pytest.fixture(scope="module")
def joined(run, corpus, second, tmp_path_factory):
    """The folder of NMT+CC, as the README makes it."""
    folder = tmp_path_factory.mktemp("joined") / "bin"
    script = ROOT / "examples/conceptual_captions/join_corpora.py"
    run(script, second.data, corpus.data, "--out", folder)
    return folder


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe(run, corpus, joined, request, tmp_path, name):
    """Two updates of the whole recipe, with regions, pre-trained weights and selection as it says."""
    path = RECIPES[name]
    text = path.read_text(encoding="utf-8")
    data = joined if "data: joined-bin" in text else corpus.data
    overrides = [*SMALL, f"common.user_dir={USER_DIR}", f"task.data={data}", f"checkpoint.save_dir={tmp_path}"]
    if "regions: none" not in text:
        overrides.append(f"task.regions={corpus.regions}")
    if "pretrained:" in text:
        start = request.getfixturevalue(STARTS.get(name, "vtlm"))
        overrides.append(f"model.pretrained={start}")
    trained = run("fairseq_cli.hydra_train", "--config-dir", path.parent, "--config-name", name, *overrides,
                  cwd=tmp_path)  # fmt: skip
    assert [update["num_updates"] for update in trained.updates()] == [1, 2]
    assert ("transfer:" in trained.output) == ("pretrained:" in text)
    best = torch.load(tmp_path / "checkpoint_best.pt", weights_only=True)
    metric = "mlm_accuracy" if "_name: vtlm " in text else "loss"
    assert best["extra_state"]["best"] == pytest.approx(trained.validations()[-1][metric], abs=1e-3)
    assert (best["cfg"]["model"]["region_dim"] > 0) == ("regions: none" not in text)
    if name == "nmt_cc":
        assert "train en-de 21 examples" in trained.output and "train1 en-de 45 examples" in trained.output


def test_relative_paths_and_several_seeds_in_one_call(run, corpus, vtlm, tmp_path):
    """hydra stays in the folder of the call, with --multirun too, and a seed trains as in a call of its own."""
    shutil.copytree(corpus.data, tmp_path / "data")
    shutil.copytree(corpus.regions, tmp_path / "regions")
    shutil.copy(vtlm, tmp_path / "start.pt")
    argv = ["--config-dir", ROOT / "examples/multi30k", "--config-name", "vtlm_mmt", *SMALL,
            f"common.user_dir={USER_DIR}", "task.data=data", "task.regions=regions",
            "model.pretrained=start.pt"]  # fmt: skip
    folders = ("checkpoint.save_dir=several/${common.seed}", "checkpoint.save_dir=one/${common.seed}")
    run("fairseq_cli.hydra_train", "--multirun", *argv, "common.seed=1,2", folders[0], cwd=tmp_path)
    run("fairseq_cli.hydra_train", *argv, "common.seed=2", folders[1], cwd=tmp_path)
    first, second, alone = (
        torch.load(tmp_path / name / "checkpoint_best.pt", weights_only=True)["model"]
        for name in ("several/1", "several/2", "one/2")
    )
    name = "encoder.layers.0.fc1.weight"
    assert torch.equal(second[name], alone[name]) and not torch.equal(first[name], second[name])


def test_join_corpora(run, corpus, second, tmp_path):
    """CC is ``train``, Multi30k ``train1``; valid and test sets are Multi30k's; other dictionaries are refused."""
    script = ROOT / "examples/conceptual_captions/join_corpora.py"
    out = tmp_path / "joined"
    run(script, second.data, corpus.data, "--out", out)
    for name, source in (("train.images", second.data / "train.images"), ("valid.images", corpus.data / "valid.images"),
                         ("train1.images", corpus.data / "train.images"),
                         ("train.en-de.de.bin", second.data / "train.en-de.de.bin"),
                         ("train1.en-de.de.bin", corpus.data / "train.en-de.de.bin"),
                         ("valid.en-de.en.bin", corpus.data / "valid.en-de.en.bin")):  # fmt: skip
        assert (out / name).read_bytes() == source.read_bytes(), name
    other = tmp_path / "other"
    shutil.copytree(second.data, other)
    lines = (other / "dict.en.txt").read_text(encoding="utf-8").split("\n")
    (other / "dict.en.txt").write_text("\n".join([lines[1], lines[0], *lines[2:]]), encoding="utf-8")
    run(script, other, corpus.data, "--out", tmp_path / "x", ok=False).fault("dict.en.txt", "at symbol 4", "--dict")
    assert not (tmp_path / "x").exists()
