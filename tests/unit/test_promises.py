"""What CONTRIBUTING.md promises of a version: stores are read as they were written, options keep names and defaults.

Checkpoints: test_golden.py. `options.json` is written anew by ``python tests/unit/test_promises.py`` when options are
added; one that is lost, or has another default, needs an entry in CHANGELOG.md.
"""

import argparse
import importlib
import json
from numbers import Real
from pathlib import Path

import pytest
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY

import vtlm_fairseq  # noqa: F401  (registers tasks, models and criterion)
from vtlm_fairseq.models.description import DECISIONS, MODEL_OPTIONS, TASK_OPTIONS, Kind
from vtlm_fairseq.regions.store import RegionStore, validate

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
COMMANDS = ("convert", "extract", "oracle", "prepare", "probe", "regions", "report", "score", "translate")
PARTS = {
    "task": (TASK_DATACLASS_REGISTRY, ("visual_translation_lm", "multimodal_translation")),
    "arch": (MODEL_DATACLASS_REGISTRY, tuple(f"{model}{size}" for model in ("vtlm", "multimodal_transformer")
                                             for size in ("", "_base", "_tiny"))),
    "criterion": (CRITERION_DATACLASS_REGISTRY, ("vtlm",)),
}  # fmt: skip


def of_parser(parser: argparse.ArgumentParser, name: str) -> dict[str, argparse.Action]:
    """Each option and argument, sub-commands included."""
    found = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, sub in action.choices.items():
                found.update(of_parser(sub, f"{name} {command}"))
        elif not isinstance(action, argparse._HelpAction):
            found.update(
                {f"{name} {option}": action for option in action.option_strings or [action.metavar or action.dest]}
            )
    return found


def of_commands() -> dict[str, argparse.Action]:
    """Options and arguments of all commands."""
    found = {}
    for command in COMMANDS:
        found.update(
            of_parser(importlib.import_module(f"vtlm_fairseq.cli.{command}").build_parser(), f"vtlm-{command}")
        )
    return found


def options() -> dict[str, str]:
    """Name and default of every option of this package."""
    found = {}
    for kind, (registry, names) in PARTS.items():
        for name in names:
            config = registry[name]()
            for field in config._get_all_attributes():
                if field != "_name":
                    found[f"--{kind} {name} --{field.replace('_', '-')}"] = str(config._get_default(field))
    return found | {name: str(action.default) for name, action in of_commands().items()}


def test_options_keep_their_names_and_defaults():
    """A default may move to where it is filled in when neither a command nor a checkpoint says a value."""
    then, now = json.loads((GOLDEN / "options.json").read_text(encoding="utf-8")), options()
    assert len(then) > 350
    assert {name: now.get(name) if now.get(name) == then[name] else filled_in(name, now) for name in then} == then


def filled_in(name: str, found: dict[str, str]) -> str | None:
    """Default of an option that is not given, where the option says nothing itself."""
    decision = DECISIONS.get(name.rpartition("--")[2].replace("-", "_"))
    return str(decision.default) if found.get(name) == "None" and decision is not None else found.get(name)


def test_numbers_of_commands_have_a_range():
    """No option reads a number that is none, or is whatever a line says."""
    for name, action in of_commands().items():
        assert action.type not in (int, float), name
        for text in ("nan", "-inf"):
            try:
                value = (action.type or str)(text)
            except (ValueError, argparse.ArgumentTypeError):
                continue
            assert not isinstance(value, Real), name


@pytest.mark.parametrize(
    "argv",
    ["prepare captions --train t --valid v --out o --min-tokens -5", "prepare captions --train t --valid v --out o "
     "--max-tokens 0", "score h --ref r --seed 0",
     "regions convert --npz d --out o --num-classes 0", "regions convert --npz d --out o --num-classes 40000",
     "oracle --raw r --image-splits s --entities e --out o --noise nan"],
)  # fmt: skip
def test_numbers_out_of_their_range(argv, capsys):
    """Refused before anything is read."""
    command, *rest = argv.split()
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"vtlm_fairseq.cli.{command}").build_parser().parse_args(rest)
    assert f"argument {rest[-2]}: " in capsys.readouterr().err


def test_every_option_has_a_decision():
    """Each option of tasks, archs and criterion: kept with the model and compared, an experiment, or without effect."""
    fields = {
        field
        for registry, names in PARTS.values()
        for name in names
        for field in registry[name]()._get_all_attributes()
        if field != "_name"
    }
    assert len(fields) > 60
    assert {field for field in fields if field not in DECISIONS} == set()
    assert {name for name in DECISIONS if name not in fields} == set()  # nor one of an option that is gone
    assert all(decision.reason for decision in DECISIONS.values())
    compared = {name for name, decision in DECISIONS.items() if decision.kind is not Kind.IRRELEVANT}
    elsewhere = {"regions", "fixed_validation_seed"}  # as region_dim and detector, and as validation_seed
    assert compared - elsewhere == {*TASK_OPTIONS, *MODEL_OPTIONS}


def test_a_store_of_schema_version_1_is_read():
    """Written by hand with version 0.1.0; the regions of an image are stored best first."""
    path = str(GOLDEN / "regions.h5")
    store = RegionStore([path])
    assert store.ids() == ["a.jpg", "leer", "ü/b"] and store.class_names == ["Mann", "frühstück"]
    assert (store.feature_dim, store.detector, str(store.dtype)) == (4, "by hand", "float16")
    first, empty, last = (store[int(row)] for row in store.rows(["a.jpg", "leer", "ü/b"]))
    assert first.features.tolist() == [[1, 1, 1, 1], [0.5, -1, 2, 0]] and first.labels.tolist() == [0, 1]
    assert first.scores.tolist() == [0.75, 0.25] and first.boxes[1].tolist() == [0, 0.25, 0.5, 1]
    assert empty.features.shape == (0, 4)
    assert last.features.tolist() == [[3, 0, 0, -3]] and last.labels.tolist() == [1]
    assert validate(path) == []


if __name__ == "__main__":
    golden = GOLDEN / "options.json"
    then, now = json.loads(golden.read_text(encoding="utf-8")), options()
    kept = {name: then[name] for name in then if name in now and filled_in(name, now) == then[name]}
    golden.write_text(json.dumps({**now, **kept}, indent=0, sort_keys=True) + "\n", encoding="utf-8")
