"""fairseq-hydra-train with a YAML that names parts by ``_name:``."""

import re

import pytest

from harness import USER_DIR

COMMON = """
common: {{user_dir: {user_dir}, cpu: true, log_format: json, log_interval: 1}}
checkpoint: {{save_dir: {folder}, no_epoch_checkpoints: true}}
dataset: {{batch_size: 8, valid_subset: valid9}}
optimization: {{max_update: 2, lr: [0.001]}}
optimizer: {{_name: adam}}
lr_scheduler: {{_name: fixed}}
task: {{_name: {task}, data: {data}, regions: {regions}}}
model: {{_name: {model}}}
criterion: {{_name: {criterion}}}
hydra: {{run: {{dir: .}}}}
"""
PARTS = {
    "vtlm": ("visual_translation_lm", "vtlm"),
    "multimodal_transformer": ("multimodal_translation", "label_smoothed_cross_entropy"),
}


def hydra_train(run, corpus, folder, model):
    """A run that ends when the model is built: there is no such split."""
    task, criterion = PARTS[model.removesuffix("_base").removesuffix("_tiny")]
    text = COMMON.format(user_dir=USER_DIR, folder=folder, task=task, data=corpus.data, regions=corpus.regions,
                         model=model, criterion=criterion)  # fmt: skip
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return run("fairseq_cli.hydra_train", "--config-dir", folder, "--config-name", "recipe", cwd=folder, ok=False)


def parameter_count(output: str) -> int:
    (count,) = re.findall(r"num\. shared model params: ([\d,]+)", output)
    return int(count.replace(",", ""))


@pytest.mark.parametrize("size", ["", "_base", "_tiny"])
@pytest.mark.parametrize("model", list(PARTS))
def test_parameter_counts(run, corpus, tmp_path, model, size):
    """PITFALLS 30: for each arch the count by fairseq-train is that by fairseq-hydra-train."""
    name = model + size
    by_hydra = hydra_train(run, corpus, tmp_path, name)
    train = run.pretrain if model == "vtlm" else run.train
    by_options = train(corpus.data, tmp_path, "--valid-subset", "valid9", arch=name, regions=corpus.regions, ok=False)
    by_hydra.fault("no split 'valid9'")
    by_options.fault("no split 'valid9'")
    assert parameter_count(by_hydra.output) == parameter_count(by_options.output)
