"""Task, model and criterion that do not go together, in every command: one line that names what to give."""

import pytest
from fairseq import models, tasks

import tiny
from harness import TRAINING, USER_DIR
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer

OURS = {"visual_translation_lm": "vtlm_tiny", "multimodal_translation": "multimodal_transformer_tiny"}


@pytest.fixture(scope="module")
def trained(run, corpus, tmp_path_factory):
    """Folders of a VTLM, an MMT and an NMT model after one update."""
    folder = tmp_path_factory.mktemp("trained")
    run.pretrain(corpus.data, folder / "vtlm", "--max-update", "1", regions=corpus.regions)
    run.train(corpus.data, folder / "mmt", "--max-update", "1", regions=corpus.regions)
    run.train(corpus.data, folder / "nmt", "--max-update", "1")
    return folder


@pytest.mark.parametrize("model", ["nmt", "mmt", "vtlm"])
def test_decoding_without_the_task(run, corpus, trained, model):
    """fairseq's default is its own translation, which would decode with the wrong input and lose sentences."""
    task = "visual_translation_lm" if model == "vtlm" else "multimodal_translation"
    line = (corpus.data, "--user-dir", USER_DIR, "--path", trained / model / "checkpoint_last.pt", "--cpu")
    commands = [
        ("generate", ()),
        ("interactive", ()),
        ("generate", ("--task", "translation_lev")),
        ("validate", ("--task", task, "--batch-size", "8", "--model-overrides", "{'task': {'_name': 'translation'}}")),
        ("eval_lm", ("--task", "translation")),
    ]
    for command, argv in commands if model == "nmt" else commands[:1]:
        run(f"fairseq_cli.{command}", *line, *argv, ok=False, stdin="word1\n").fault("--task", task)


def test_training_with_a_task_of_fairseqs(run, corpus, tmp_path):
    """fairseq-train, also where --task is forgotten, and fairseq-hydra-train."""
    line = (corpus.data, "--user-dir", USER_DIR, "--save-dir", tmp_path / "a", *TRAINING)
    for task, arch in OURS.items():
        for argv in ((), ("--task", "translation"), ("--task", "translation_lev", "--noise", "no_noise")):
            run("fairseq_cli.train", *line, *argv, "--arch", arch, ok=False).fault("--task", task)
        hydra = ("task=translation", f"task.data={corpus.data}", f"model={arch}", "criterion=cross_entropy",
                 f"common.user_dir={USER_DIR}", "common.cpu=true", "optimizer=adam", "dataset.batch_size=8",
                 "lr_scheduler=fixed", f"hydra.run.dir={tmp_path}/hydra")  # fmt: skip
        run("fairseq_cli.hydra_train", *hydra, ok=False).fault("--task", task)


def test_fairseqs_hub(corpus, trained):
    """`from_pretrained` of the registered model, with another's task."""
    where = (str(trained / "nmt"), "checkpoint_last.pt", str(corpus.data))
    found = MultimodalTransformer.from_pretrained(*where)
    assert type(found.task).__name__ == "MultimodalTranslationTask"
    with pytest.raises(SystemExit, match="--task translation .*--task multimodal_translation"):
        MultimodalTransformer.from_pretrained(*where, task={"_name": "translation"})


def test_no_task_of_fairseqs_builds_our_models(corpus):
    """Every registered task but ours, whatever data it would need."""
    for task, arch in OURS.items():
        cfg = tiny.translation_config(corpus.data, "--arch", arch).model
        others = [kind for kind in tasks.TASK_REGISTRY.values() if not kind.__module__.startswith("vtlm_fairseq.")]
        assert len(others) > 20
        for kind in others:
            with pytest.raises(SystemExit, match=rf"give --task {task}$"):
                models.build_model(cfg, kind.__new__(kind))


def test_evaluation_as_a_language_model(run, corpus, trained):
    """fairseq-eval-lm with the right task."""
    line = (corpus.data, "--user-dir", USER_DIR, "--path", trained / "nmt/checkpoint_last.pt", "--cpu")
    evaluated = run("fairseq_cli.eval_lm", *line, "--task", "multimodal_translation", ok=False)
    evaluated.fault("fairseq-eval-lm is for language models", "fairseq-validate")
