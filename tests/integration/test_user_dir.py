"""The package as fairseq's --user-dir: paths, parsers, workers."""

import os
import pickle
import sys

from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from harness import USER_DIR, pretraining, shell

OURS = ("--mrc-weight", "0.5", "--region-mask-prob", "0.3", "--mask-prob", "0.2", "--region-layernorm")


def test_relative_path_from_another_folder(corpus, tmp_path):
    """PITFALLS 1, 2, 3: a relative --user-dir is the only import, in spawned workers too; all options parse."""
    here = tmp_path / "deep" / "er"
    here.mkdir(parents=True)
    argv = pretraining(corpus.data, "ckpt", *OURS, "--disable-validation", "--max-update", "6", "--num-workers", "1",
                       regions=corpus.regions, user_dir=os.path.relpath(USER_DIR, here))  # fmt: skip
    code = "import multiprocessing as m; m.set_start_method('spawn'); from fairseq_cli.train import cli_main as f; f()"
    trained = shell(sys.executable, "-c", code, *argv, cwd=here)
    assert trained.status == 0, trained.output[-4000:]
    assert len(trained.updates()) == 6
    assert (here / "ckpt/checkpoint_last.pt").exists()


def test_path_of_the_installed_package(run, corpus, tmp_path):
    """PITFALLS 1: ``python -m vtlm_fairseq`` prints the folder, and nothing else; it works when imported before."""
    printed = shell(sys.executable, "-m", "vtlm_fairseq", cwd=tmp_path)
    assert printed.output == f"{USER_DIR}\n"
    argv = pretraining(corpus.data, "ckpt", "--no-save", "--disable-validation", "--max-update", "1",
                       regions=corpus.regions, user_dir=printed.output.strip())  # fmt: skip
    trained = run("fairseq_cli.train", *argv, cwd=tmp_path)  # in a process that has imported it
    assert "has already been imported" in trained.output


def task_arguments(corpus, *argv) -> tuple:
    parser = options.get_training_parser()
    line = pretraining(corpus.data, "unused", *argv, regions=corpus.regions)
    return parser, options.parse_args_and_arch(parser, line)


def test_parser_has_every_field(corpus):
    """PITFALLS 3: every field of our dataclasses is an option of fairseq-train."""
    from vtlm_fairseq.criterions.vtlm import VTLMCriterionConfig
    from vtlm_fairseq.models.vtlm import VTLMConfig
    from vtlm_fairseq.tasks.visual_translation_lm import VisualTranslationLMConfig

    parser, args = task_arguments(corpus, *OURS)
    for config in (VTLMCriterionConfig, VTLMConfig, VisualTranslationLMConfig):
        for name in config.__dataclass_fields__:
            if name not in ("_name", "data", "path"):  # path is fairseq-generate's
                assert f"--{name.replace('_', '-')}" in parser._option_string_actions, name
    assert (args.mrc_weight, args.region_mask_prob, args.mask_prob, args.region_layernorm) == (0.5, 0.3, 0.2, True)


def test_dataset_in_a_fresh_interpreter(corpus, tmp_path):
    """PITFALLS 2, 21: a dataset unpickles where nothing has been imported, before and after its first access."""
    _, args = task_arguments(corpus)
    task = tasks.setup_task(convert_namespace_to_omegaconf(args).task)
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    code = "import pickle, sys; print([pickle.load(open(p, 'rb'))[12]['tokens'].tolist() for p in sys.argv[1:]])"
    (tmp_path / "unused").write_bytes(pickle.dumps(dataset))
    expected = dataset[12]["tokens"].tolist()
    (tmp_path / "used").write_bytes(pickle.dumps(dataset))
    unpickled = shell(sys.executable, "-c", code, tmp_path / "unused", tmp_path / "used", cwd=tmp_path)
    assert unpickled.last_line == str([expected, expected])
