"""Task, model and criterion that do not go together, in every command: one line that names what to give."""

import re
import sys
from argparse import Namespace

import pytest
from fairseq import models, tasks
from fairseq.criterions import CRITERION_REGISTRY
from omegaconf import OmegaConf

import tiny
from harness import ROOT, TRAINING, USER_DIR, shell
from vtlm_fairseq.compatibility import check_command_line
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer

OURS = {"visual_translation_lm": "vtlm_tiny", "multimodal_translation": "multimodal_transformer_tiny"}
ANOTHER = {"_name": "translation", "max_source_positions": 9, "max_target_positions": 9, "truncate_source": False}


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
        ("validate", ("--task", task, "--batch-size", "8", "--model-overrides", str({"task": ANOTHER}))),
        ("eval_lm", ("--task", "translation")),
    ]
    if model == "nmt":
        evaluated = run("fairseq_cli.eval_lm", *line, "--task", task, ok=False)
        evaluated.fault("fairseq-eval-lm", "fairseq-validate")
    for command, argv in commands if model == "nmt" else commands[:1]:
        run(f"fairseq_cli.{command}", *line, *argv, ok=False, stdin="word1\n").fault(
            "--task translation", f"--task {task}"
        )


def hydra(corpus, folder, task: str, *argv) -> list[str]:
    """Arguments of fairseq-hydra-train."""
    line = (f"task={task}", f"task.data={corpus.data}", f"common.user_dir={USER_DIR}", f"hydra.run.dir={folder}")
    return [*line, "common.cpu=true", "optimizer=adam", "lr_scheduler=fixed", "dataset.batch_size=8", *argv]


def test_training_with_a_task_of_fairseqs(run, corpus, tmp_path):
    """fairseq-train, also where --task is forgotten, and fairseq-hydra-train."""
    line = (corpus.data, "--user-dir", USER_DIR, "--save-dir", tmp_path / "a", *TRAINING)
    for task, arch in OURS.items():
        for argv in ((), ("--task", "translation_lev", "--noise", "no_noise")):
            run("fairseq_cli.train", *line, *argv, "--arch", arch, ok=False).fault("--task", task)
        argv = hydra(corpus, tmp_path / "hydra", "translation", f"model={arch}", "criterion=cross_entropy")
        run("fairseq_cli.hydra_train", *argv, ok=False).fault("--task", task)


def test_fairseqs_hub(corpus, trained):
    """`from_pretrained` of the registered model, with another's task."""
    where = (str(trained / "nmt"), "checkpoint_last.pt", str(corpus.data))
    found = MultimodalTransformer.from_pretrained(*where)
    assert type(found.task).__name__ == "MultimodalTranslationTask"
    with pytest.raises(SystemExit, match="--task translation .*--task multimodal_translation"):
        MultimodalTransformer.from_pretrained(*where, task=ANOTHER)


def test_no_task_of_fairseqs_builds_our_models(corpus):
    """Every registered task but ours, whatever data it would need."""
    for task, arch in OURS.items():
        cfg = tiny.translation_config(corpus.data, "--arch", arch).model
        others = [kind for kind in tasks.TASK_REGISTRY.values() if not kind.__module__.startswith("vtlm_fairseq.")]
        assert len(others) > 20
        for kind in others:
            with pytest.raises(SystemExit, match=rf"give --task {task}$"):
                models.build_model(cfg, kind.__new__(kind))


FITTING = {
    "visual_translation_lm": {"vtlm"},
    "multimodal_translation": {
        "cross_entropy", "label_smoothed_cross_entropy", "label_smoothed_cross_entropy_with_alignment",
        "label_smoothed_cross_entropy_with_rdrop",
    },
}  # fmt: skip


@pytest.mark.parametrize("task", OURS)
def test_every_arch_and_criterion_with_our_tasks(corpus, task):
    """All that are registered: ours are built, others end in one line that names ours."""
    config = tiny.translation_config if task == "multimodal_translation" else tiny.pretraining_config
    made = tasks.setup_task(config(corpus.data).task)
    archs = {"visual_translation_lm": "vtlm", "multimodal_translation": "multimodal_transformer"}
    assert len(models.ARCH_MODEL_REGISTRY) > 100 and len(CRITERION_REGISTRY) > 20
    for arch in models.ARCH_MODEL_REGISTRY:
        if arch.startswith(f"{archs[task]}_tiny"):
            made.build_model(config(corpus.data, "--arch", arch).model)
        elif not re.fullmatch(rf"{archs[task]}(_base)?", arch):
            said = rf"--arch {arch} .*--task {task}\b.*--arch {archs[task]}\b"
            with pytest.raises(SystemExit, match=said):
                made.build_model(OmegaConf.create({"_name": arch}))
    for criterion in CRITERION_REGISTRY:
        cfg = OmegaConf.create({"_name": criterion, "sentence_avg": False, "mrc_weight": 1.0})
        if criterion in FITTING[task]:
            made.build_criterion(cfg)
        else:
            said = rf"--criterion {criterion} "
            with pytest.raises(SystemExit, match=said) as refused:
                made.build_criterion(cfg)
            assert criterion == "ctc" or all(name in str(refused.value) for name in FITTING[task])


@pytest.mark.parametrize("task", OURS)
def test_what_fits_trains(run, corpus, tmp_path, task):
    """An update with each criterion that is accepted."""
    for criterion in FITTING[task]:
        argv = ("--task", task, "--criterion", criterion, "--max-update", "1", "--no-save", "--disable-validation")
        trained = run.train(corpus.data, tmp_path, *argv, arch=OURS[task], regions=corpus.regions)
        assert len(trained.updates()) == 1


def test_command_lines_that_do_not_fit(run, corpus, tmp_path):
    """fairseq's default criterion, one of its own for masked words, and ours with another's model and task."""
    line = (corpus.data, "--user-dir", USER_DIR, "--save-dir", tmp_path, *TRAINING)
    pretraining = ("--task", "visual_translation_lm", "--regions", corpus.regions)
    for argv, parts in (
        ((*pretraining, "--arch", "vtlm_tiny"), ("cross_entropy", "--criterion vtlm")),
        ((*pretraining, "--arch", "vtlm_tiny", "--criterion", "masked_lm"), ("masked_lm", "--criterion vtlm")),
        ((*pretraining, "--arch", "transformer", "--criterion", "vtlm"), ("--arch transformer", "--arch vtlm")),
        (("--arch", "transformer", "--criterion", "vtlm"), ("vtlm reads no batches of --task translation", "--task")),
        (("--task", "multimodal_translation", "--arch", "transformer"), ("--arch multimodal_transformer",)),
    ):
        run("fairseq_cli.train", *line, *argv, ok=False).fault(*parts)
    argv = hydra(corpus, tmp_path, "visual_translation_lm")
    run("fairseq_cli.hydra_train", *argv, ok=False).fault("model=", "--arch")
    run("fairseq_cli.hydra_train", *argv, "model=vtlm_tiny", ok=False).fault("cross_entropy", "--criterion vtlm")


def test_options_that_are_forgotten(corpus, tmp_path):
    """fairseq's parser ends in a stack without them: seen as the user-dir is imported."""
    argv = (corpus.data, "--user-dir", USER_DIR, "--task", "visual_translation_lm", "--criterion", "vtlm")
    made = shell(sys.executable, "-m", "fairseq_cli.train", *argv, cwd=tmp_path)
    made.fault("--arch", "vtlm", "multimodal_transformer")
    for program in ("fairseq-validate", "/lib/fairseq_cli/validate.py"):
        said = "--task .*--task multimodal_translation or visual_translation_lm"
        with pytest.raises(SystemExit, match=said):
            check_command_line([program, "data", "--user-dir", "x", "--path", "a.pt"])
    enough = ["--optimizer", "adam", "--max-tok=99"]
    batches = "--batch-size .*--max-tokens"
    for line, said in (
        ("train --arch vtlm --task visual_translation_lm --max-tokens 9", "--optimizer is missing"),
        ("train -a vtlm --opt adam --batch-size-valid 9", batches),
        ("validate --task visual_translation_lm", batches),
        ("train --arch vtlm --regions x.h5", "--task is missing .*, --regions is an option of it"),
        ("generate data --path a.pt --region-order=none", "--task is missing .*, --region-order is an option"),
        ("generate data --path a.pt --seed -1", "--seed is -1"),
        ("train -a vtlm --optimizer adam --batch-size 8 --seed=4294967296", "--seed is 4294967296"),
    ):
        command, *rest = line.split()
        with pytest.raises(SystemExit, match=said):
            check_command_line([f"fairseq-{command}", *rest])
    check_command_line(["fairseq-validate", "data", "--task=multimodal_translation", "--max-sentences", "8"])
    for argv in (["fairseq-train", "data", "-a", "vtlm", *enough], ["fairseq-train", "--help"], ["train.py", "data"]):
        check_command_line(argv)
    for argv in (["fairseq-generate", "data", "--path", "a.pt", "--seed", "0"], [""], []):
        check_command_line(argv)


def test_going_on_with_another_kind_of_model(run, corpus, trained, tmp_path):
    """The folder of a pre-training, its checkpoint by name, and that of a translation model in pre-training."""
    vtlm, nmt = (trained / name / "checkpoint_last.pt" for name in ("vtlm", "nmt"))
    for folder, argv in (
        (vtlm.parent, ()), (vtlm.parent, ("--reset-optimizer",)), (tmp_path, ("--restore-file", vtlm)),
        (tmp_path, ("--finetune-from-model", vtlm)),
    ):  # fmt: skip
        made = run.train(corpus.data, folder, *argv, regions=corpus.regions, ok=False)
        made.fault(str(vtlm), "a model of another kind, vtlm_tiny", "--save-dir", "--pretrained")
    run.pretrain(corpus.data, nmt.parent, "--reset-optimizer", ok=False).fault("multimodal_transformer_tiny")


def test_pairs_that_are_all_too_long(run, corpus, trained, tmp_path):
    """In training, and where the command leaves out what is too long; every sentence has two words or more."""
    data, skip = tmp_path / "data", ("--max-target-positions", "2", "--skip-invalid-size-inputs-valid-test")
    tiny.folder(data, {"train": 9, "valid": 9})
    said = ("all 9 pairs", "--max-source-positions", "--max-target-positions")
    run.train(data, tmp_path / "a", *skip, "--disable-validation", ok=False).fault(*said)
    run.train(data, tmp_path / "b", *skip, ok=False).fault(*said)
    run.pretrain(data, tmp_path / "c", *skip, ok=False).fault(*said)
    run.train(data, tmp_path / "d", "--max-update", "1", ok=True)
    decoded = run.generate(data, tmp_path / "d/checkpoint_last.pt", *skip, "--gen-subset", "valid", ok=False)
    decoded.fault(*said)


def test_ensemble_of_other_numbers_of_regions(run, corpus, trained, tmp_path):
    """Neither order decodes unless the command says a number that both can see; folders stand for checkpoints."""
    few, many = tmp_path / "few", trained / "mmt"
    run.train(corpus.data, few, "--max-update", "1", "--max-regions", "2", regions=corpus.regions)
    for order in ((few, many), (many, few)):
        path = ":".join(str(folder / "checkpoint_best.pt") for folder in order)
        made = run.generate(corpus.data, path, regions=corpus.regions, ok=False)
        made.fault("--max-regions 2 and 36" if order[0] == few else "--max-regions 36 and 2", "give --max-regions 2")
        run.generate(corpus.data, path, "--max-regions", "2", "--max-len-b", "3", regions=corpus.regions)
    store = ("--regions", corpus.store("test"), "--preprocessed", "--max-len-b", "3")
    line = f"word1\t{corpus.images('test')[0]}\n"
    made = run.translate(f"{many}:{few}", *store, stdin=line, ok=False)
    made.fault("--max-regions 36 and 2; give --max-regions 2")
    run.translate(f"{many}:{few}", *store, "--max-regions", "2", stdin=line)


def test_a_pretrained_model_does_not_translate(run, corpus, trained):
    """By itself and in an ensemble, with either task and in our commands; nor does it predict words after words."""
    vtlm, nmt = (trained / name / "checkpoint_last.pt" for name in ("vtlm", "nmt"))
    store = corpus.regions
    run.generate(corpus.data, vtlm, regions=store, ok=False).fault("vtlm_tiny", "--pretrained")
    run.generate(corpus.data, f"{nmt}:{vtlm}", ok=False).fault("vtlm_tiny", "--pretrained")
    pretraining = ("--task", "visual_translation_lm")
    run.generate(corpus.data, vtlm, *pretraining, regions=store, ok=False).fault(
        "--task visual_translation_lm", "--pretrained"
    )
    run.generate(corpus.data, nmt, *pretraining, ok=False).fault("is none of --task", "--task multimodal_translation")
    run.generate(corpus.data, nmt, "--lm-path", vtlm, ok=False).fault("--lm-path")
    hidden = (*pretraining, "--region-order", "none")
    run.interactive(corpus.data, vtlm, *hidden, ok=False, stdin="word1\n").fault("has no decoder", "--pretrained")
    for path in (vtlm, f"{nmt}:{vtlm}"):
        translated = run.translate(path, "--preprocessed", "--region-order", "none", ok=False, stdin="word1\n")
        translated.fault(str(vtlm), "a pre-trained model")
    for probe in ("attention", "incongruent"):
        argv = (probe, corpus.data, "--system", vtlm, "--regions", store)
        run.probe(*argv, ok=False).fault(str(vtlm), "a pre-trained model")


OUT_OF_RANGE = [
    *((f"dataset.{name}", value) for name in ("batch_size", "max_tokens", "batch_size_valid") for value in (0, -1)),
    ("dataset.num_workers", -1), ("dataset.required_batch_size_multiple", 0), ("optimization.update_freq", [0]),
    ("optimization.lr", [-1.0]), ("optimization.clip_norm", float("nan")), ("dataset.fixed_validation_seed", -1),
    ("common.seed", -1), ("common.seed", 2**32), ("task.max_source_positions", 2), ("task.max_target_positions", 1),
    ("task.upsample_primary", 0), ("model.encoder_layers", -1), ("model.encoder_attention_heads", 3),
    ("model.decoder_attention_heads", 5), ("model.encoder_attention_heads", 0), ("model.encoder_embed_dim", 0),
    ("model.encoder_ffn_embed_dim", 0), ("model.dropout", 1.0), ("model.dropout", -0.1),
    ("model.attention_dropout", 2.0), ("model.activation_dropout", float("nan")), ("model.max_positions", 2),
    ("model.layernorm_eps", -1.0), ("model.region_positions", -1), ("criterion.label_smoothing", 1.1),
    ("criterion.label_smoothing", -0.1),
]  # fmt: skip


def test_numbers_out_of_range_in_training(corpus):
    """Each ends in one line that names its option; the same configuration without it is built."""

    def build(changes):
        cfg = tiny.translation_config(corpus.data, "--criterion", "label_smoothed_cross_entropy")
        for name, value in changes.items():
            OmegaConf.update(cfg, name, value)
        task = tasks.setup_task(cfg.task)
        return task.build_model(cfg.model), task.build_criterion(cfg.criterion)

    build({"optimization.clip_norm": float("inf"), "common.seed": 0})
    build({"criterion.label_smoothing": 1.0, "optimization.clip_norm": -1.0, "model.dropout": 0.0,
           "model.layernorm_eps": 0.0})  # fmt: skip
    for name, value in OUT_OF_RANGE:
        option = name.partition(".")[2].replace("_", "-")
        named = "divide" if name.endswith("heads") and value > 0 else "range"
        with pytest.raises(SystemExit, match=rf"^error: --{option} .*{named}"):
            build({name: value})


def test_numbers_out_of_range_in_decoding(run, corpus, trained):
    """fairseq's command and ours; also within ``--eval-bleu-args``."""
    nmt = trained / "nmt" / "checkpoint_last.pt"
    task = tiny.translation_task(corpus.data, "--regions", "none")
    model = task.build_model(tiny.translation_config(corpus.data).model)
    for name, value in (
        ("beam", 0), ("nbest", 0), ("lenpen", float("nan")), ("unkpen", float("inf")), ("max_len_a", -1.0),
        ("max_len_b", -1), ("max_len_b", 0), ("temperature", 0.0), ("prefix_size", -1), ("sampling_topk", 3),
        ("sampling_topp", 0.5), ("diverse_beam_groups", 3),
    ):  # fmt: skip
        with pytest.raises(SystemExit, match=f"--{name.replace('_', '-')} "):
            task.build_generator([model], Namespace(**{"beam": 5, name: value}))
    with pytest.raises(SystemExit, match="--beam 5 .*--diverse-beam-groups 3"):
        task.build_generator([model], Namespace(beam=5, diverse_beam_groups=3))
    with pytest.raises(SystemExit, match="--sampling-topk chooses words to draw from"):
        task.build_generator([model], Namespace(sampling_topk=0))
    with pytest.raises(SystemExit, match="--sampling-topp is 1.5"):
        task.build_generator([model], Namespace(sampling=True, sampling_topp=1.5))
    task.build_generator([model], Namespace(beam=6, diverse_beam_groups=3, lenpen=-1.0, min_len=0, max_len_b=0))
    run.generate(corpus.data, nmt, "--beam", "0", ok=False).fault("--beam is 0", "at least 1")
    run.generate(corpus.data, nmt, "--batch-size", "0", ok=False).fault("--batch-size is 0", "at least 1")
    argv = ("--eval-bleu", "--eval-bleu-args", '{"beam": 0}')
    run.train(corpus.data, trained / "never", *argv, ok=False).fault("--beam is 0")
    argv = ("--eval-bleu", "--eval-bleu-args", '{"beem": 3}')
    made = run.train(corpus.data, trained / "never", *argv, ok=False)
    made.fault("--eval-bleu-args", "beem", "lenpen")
    run.train(corpus.data, trained / "never", "-s", "en", "-t", "en", ok=False).fault("-s en -t en", "the same")
    for option, value in (("--beam", "0"), ("--lenpen", "nan"), ("--max-len-a", "-1"), ("--max-len-b", "-1")):
        translated = run.translate(nmt, "--preprocessed", option, value, ok=False, stdin="word1\n")
        assert f"error: argument {option}: out of its range" in translated.last_line
    translated = run.translate(nmt, "--preprocessed", "--max-len-b", "0", ok=False, stdin="word1\n")
    translated.fault("--max-len-b 0 is shorter than --min-len 1")


def test_numbers_out_of_range_in_other_commands(run, corpus, trained, tmp_path):
    """A stack, and --block 0, which wrote nothing and was content."""
    argv = ("--regions", corpus.regions, "--fixed-validation-seed", "-1")
    made = run.validate(corpus.data, trained / "vtlm" / "checkpoint_last.pt", *argv, ok=False)
    made.fault("--fixed-validation-seed is -1")
    probe = ("incongruent", corpus.data, "--system", trained / "mmt/checkpoint_last.pt", "--regions", corpus.regions)
    captions = ("--input", corpus.raw / "test.en", "--out", tmp_path / "out.txt", "--model", tmp_path)
    for command, argv, option, value in (
        ("vtlm_fairseq.cli.probe", probe, "--seed", "-1"),
        ("vtlm_fairseq.cli.probe", probe, "--max-len-b", "-1"),
        (ROOT / "preprocess/translate_captions.py", captions, "--block", "0"),
        (ROOT / "preprocess/translate_captions.py", captions, "--beam", "0"),
        (ROOT / "preprocess/translate_captions.py", captions, "--max-tokens", "0"),
        (ROOT / "preprocess/prepare_captions.py", ("--train", "a", "--valid", "b", "--out", "c"), "--bpe-sample", "0"),
    ):
        refused = run(command, *argv, option, value, ok=False)
        assert f"error: argument {option}: out of its range, must be at least" in refused.last_line, refused.output
