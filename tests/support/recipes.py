"""Recipes (YAML) and commands of ``examples/`` as fairseq reads them, to be compared."""

import contextlib
import re
import subprocess
import sys
import warnings
from argparse import Namespace
from functools import cache
from pathlib import Path

from fairseq import options
from fairseq.dataclass.initialize import add_defaults, hydra_init
from omegaconf import OmegaConf

import vtlm_fairseq  # noqa: F401  (registers tasks, models and criterion)
from harness import ROOT
from tiny import converted
from vtlm_fairseq.models.description import DECISIONS

EXAMPLES = ROOT / "examples"
sys.path[:0] = [str(EXAMPLES / "multi30k"), str(EXAMPLES / "conceptual_captions")]

RECIPES = {path.stem: path for path in sorted((ROOT / "vtlm_fairseq/recipes").glob("*.yaml"))}
FILLED = {("model", "source_lang"), ("model", "target_lang")}
"""What fairseq-train copies from the task's options and the task sets before it builds a model."""


@cache
def recipe(name: str, *overrides: str) -> dict:
    """The whole configuration that fairseq-hydra-train makes of a recipe and of what is given behind it."""
    from hydra import compose, initialize_config_dir

    path = RECIPES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hydra_init(path.stem)
        with initialize_config_dir(config_dir=str(path.parent), version_base="1.1"):
            cfg = compose(path.stem, overrides=list(overrides))
    add_defaults(cfg)
    return filled(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def arguments(argv) -> Namespace:
    """What fairseq-train's parser makes of its arguments, in the checkout."""
    with contextlib.chdir(ROOT):  # --user-dir is relative
        return options.parse_args_and_arch(options.get_training_parser(), list(argv))


def parsed(argv) -> dict:
    """The whole configuration that fairseq-train makes of its arguments."""
    cfg = converted(arguments(argv))
    return filled(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))


def filled(config: dict) -> dict:
    """The configuration with the defaults of options that are not given, which a task fills in."""
    for group in ("task", "model"):
        for name, value in config[group].items():
            if value is None and name in DECISIONS:
                config[group][name] = DECISIONS[name].default
    return config


def differences(first: dict, second: dict) -> dict[str, tuple]:
    """``group.key`` -> both values, where two configurations differ.

    ``scoring`` is left out: fairseq-train has a default for it, fairseq-hydra-train none, and training reads none.
    """
    found = {}
    for group in sorted((first.keys() | second.keys()) - {"scoring"}):
        ours, theirs = first.get(group), second.get(group)
        if not isinstance(ours, dict) or not isinstance(theirs, dict):
            ours, theirs = {"": ours}, {"": theirs}
        for key in sorted(ours.keys() | theirs.keys()):
            if (group, key) not in FILLED and ours.get(key, "missing") != theirs.get(key, "missing"):
                found[f"{group}.{key}"] = (ours.get(key, "missing"), theirs.get(key, "missing"))
    return found


@cache
def commands(readme: Path) -> dict[str, list[str]]:
    """Arguments of each fairseq-train of the tested block of a README, as bash passes them, by the last part of
    ``--save-dir``."""
    (block,) = re.findall(r"<!-- tested: \S*test_recipes.*?```bash\n(.*?)```", readme.read_text(encoding="utf-8"), re.S)
    script = 'fairseq-train() { printf "%s\\x1f" "$@"; printf "\\x1e"; }\n' + block
    done = subprocess.run(["bash", "-eu", "-c", script], capture_output=True, text=True, check=True)
    calls = [call.split("\x1f")[:-1] for call in done.stdout.split("\x1e")[:-1]]
    return {Path(call[call.index("--save-dir") + 1]).name: call for call in calls}
