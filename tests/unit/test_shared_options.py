"""Options of the same name are the same option in every command."""

import argparse
import importlib

import pytest

from vtlm_fairseq.options import OPTIONS

COMMANDS = ("convert", "extract", "oracle", "prepare", "probe", "regions", "report", "score", "translate")
OTHERS = {
    "--images": "ids, pictures to show, pictures to read",
    "--lines": "a file of numbers, or numbers",
    "--system": "a checkpoint, or a pattern of outputs",
    "--path": "one checkpoint, an ensemble, or --system",
    "--model": "file of a detector, folder of a translation model",
    "--detector": "what ran, or what is to run",
    "--out": "whatever is made",
    "--scores": "a file of them, or whether they are written",
    "--format": "how results are printed, or what caption files are",
    "--max-tokens": "a batch, or a sentence",
}
"""Of one name, and yet of another kind."""
WRONG = ("0", "-1", "1.5", "nan", "inf", "x", "@@ ", "9999999999999")


def actions(parser: argparse.ArgumentParser):
    """Every option, those of sub-commands too."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from ((f"{name} {where}", one) for where, one in actions(sub))
        elif action.option_strings:
            yield "", action


def taken(action: argparse.Action) -> list:
    """What an option makes of values that one could give it, and its choices."""
    found = [action.choices, action.nargs]
    for text in WRONG:
        try:
            found.append(text if action.type is None else action.type(text))
        except (ValueError, argparse.ArgumentTypeError):
            found.append("refused")
    return list(map(str, found))


def test_one_name_one_option():
    """Ranges and choices; of the table's options also what the help says, but for that of prepare."""
    found: dict[str, dict[str, argparse.Action]] = {}
    modules = {command: importlib.import_module(f"vtlm_fairseq.cli.{command}") for command in COMMANDS}
    for command, module in modules.items():
        parser = module.build_parser()
        for where, action in actions(parser):
            for name in action.option_strings:
                found.setdefault(name, {})[f"{command} {where}"] = action
    del found["--seed"]["score "]  # of resampling; sacreBLEU takes 0 for none
    shared = {name: uses for name, uses in found.items() if len(uses) > 1 and name not in OTHERS}
    assert {"--regions", "--beam", "--seed", "--batch-size", "--post-process", "--max-regions"} <= set(shared)
    for name, uses in shared.items():
        kinds = {where: taken(action) for where, action in uses.items()}
        assert len(set(map(tuple, kinds.values()))) == 1, (name, kinds)
    said = {
        name: {action.help for where, action in uses.items() if not where.startswith("prepare")}
        for name, uses in shared.items()
        if name in OPTIONS
    }
    assert all(len(said[name]) == 1 for name in ("--regions", "--any-detector", "--beam", "--lenpen", "--max-len-b"))


def test_kinds_of_subwords_as_fairseq_names_them_and_the_largest_seed():
    read = OPTIONS["--post-process"]["type"]
    assert [read(text) for text in ("@@ ", "@@", "sentencepiece", "none")] == ["subword_nmt"] * 2 + [
        "sentencepiece",
        "none",
    ]
    with pytest.raises(argparse.ArgumentTypeError, match="wordpiece: not one of sentencepiece"):
        read("wordpiece")
    with pytest.raises(argparse.ArgumentTypeError, match="4294967295"):
        OPTIONS["--seed"]["type"]("4294967296")


@pytest.mark.parametrize("name", ["--beam", "--batch-size", "--max-regions", "--repeats"])
def test_counts_begin_with_one(name):
    read = OPTIONS[name]["type"]
    assert read("1") == 1
    for text in ("0", "-3", "nan", "1.5"):
        with pytest.raises((ValueError, argparse.ArgumentTypeError)):
            read(text)
