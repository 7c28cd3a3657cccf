"""What needs no model loads neither PyTorch nor fairseq: --help of every command, and the whole of vtlm-regions."""

import configparser
import subprocess
import sys

import numpy as np
import pytest

from harness import ROOT, environment
from stores import make_store

SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
COMMANDS = [line.split(" = ")[1] for line in SETUP["options.entry_points"]["console_scripts"].strip().splitlines()]

HEAVY = 'assert not {"torch", "fairseq"} & set(sys.modules), "a command without a model loads them"\n'
SCRIPT = """
import contextlib, os, runpy, sys
sys.argv = [sys.argv[1], "--help"]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
with contextlib.suppress(SystemExit):
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
HELP = """
import argparse, contextlib, importlib, io, sys
module = importlib.import_module(sys.argv[1])
parsers = [action for action in module.build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
for line in [["--help"], *([name, "--help"] for action in parsers for name in action.choices)]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        module.main(line)
    assert "usage: " in printed.getvalue(), line
"""
# each in a child: PyTorch is imported once
FIRST = """
import os, sys, torch, omegaconf, hydra
later, *names = sys.argv[1:]
for name in names:
    if not os.fork():
        if name == "-":
            exec(later)
        else:
            exec(f"import vtlm_fairseq as package, vtlm_fairseq.{name} as first, vtlm_fairseq.tasks.captions")
            assert first is sys.modules[first.__name__] is getattr(package, name)
        os._exit(0)
    assert os.wait()[1] == 0, name
"""
LATER = """
import argparse, logging, os, vtlm_fairseq
from fairseq import utils
utils.import_user_module(argparse.Namespace(user_dir=os.path.dirname(vtlm_fairseq.__file__)))
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
assert "multimodal_translation" in TASK_REGISTRY and "vtlm_tiny" in ARCH_MODEL_REGISTRY
assert logging.root.level == logging.WARNING and not logging.root.handlers
"""
SCRIPTS = sorted(path for path in ROOT.glob("preprocess/*.py") if "__main__" in path.read_text(encoding="utf-8"))
REGIONS = """
import sys
from vtlm_fairseq.cli.regions import main
for line in sys.argv[1:]:
    assert main(line.split()) == 0, line
"""


REFUSED = """
import importlib, sys
for line in sys.argv[1:]:
    command, *argv = line.split()
    try:
        importlib.import_module(f"vtlm_fairseq.cli.{command}").main(argv)
    except SystemExit as error:
        print(error)
"""


def runs(code: str, *argv, cwd=None) -> str:
    """Runs Python code in a process of its own, which must not load the heavy ones; what it prints."""
    command = [sys.executable, "-c", code + HEAVY, *map(str, argv)]
    done = subprocess.run(command, env=environment(), cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("entry", COMMANDS)
def test_help(entry):
    runs(HELP, entry.partition(":")[0])


def test_targets_that_cannot_be_made(tmp_path):
    """Refused before anything heavy is loaded."""
    (tmp_path / "there").mkdir()
    lines = (
        "report bin --path ckpt --regions r.h5 --out no/page", "probe incongruent bin --system V=ckpt --out no/table",
        "probe attention bin --system V=ckpt --regions r.h5 --plot layers.xyz",
        "probe entity bin --entities e --write there", "plot log --out curves.xyz",
        "convert average ckpt --out no/ckpt", "convert check ckpt --reference r.npz --dump no/dump",
        "convert card ckpt --out no/card", "prepare contrastive bin --regions r.h5 --out there",
        "prepare captions --train a --valid b --out there",
        "prepare multi30k --raw r --image-splits i --vocab-size 9 --out there",
    )  # fmt: skip
    found = runs(REFUSED, *lines, cwd=tmp_path).splitlines()
    assert len(found) == len(lines)
    for line, message in zip(lines, found, strict=True):
        assert message.startswith("error: ") and line.split()[-1] in message


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts(script):
    assert "usage: " in runs(SCRIPT, script)


@pytest.mark.slow
def test_any_module_may_come_first():
    """Also those that fairseq's import, which registers the package, needs itself: there is one of each.

    And fairseq itself: its own functions find the tasks, with the package as --user-dir or without; its logging stays
    as it was.
    """
    names = ["compatibility", "health", "hub", "loading", "-"]
    subprocess.run([sys.executable, "-c", FIRST, LATER, *names], env=environment(), check=True, timeout=600)


def test_region_stores(tmp_path):
    """Every part of vtlm-regions that makes, joins or judges a store."""
    ids = {name: [f"{name}{k}" for k in range(4)] for name in "ab"}
    for name, images in ids.items():
        for image_id, image in make_store(tmp_path / f"{name}.h5", images).items():
            (tmp_path / name).mkdir(exist_ok=True)
            np.savez(tmp_path / name / f"{image_id}.npz", **image)
        (tmp_path / f"{name}.images").write_text("".join(f"{image}\n" for image in images))
    (tmp_path / "train.images").write_text("a0\n")
    (tmp_path / "names").write_text("".join(f"class{k}\n" for k in range(5)))
    layout = "container: npz\nfeatures: features\nshape: regions\nlabels: labels\nlabel_offset: 0\n"
    (tmp_path / "own.yaml").write_text(layout)
    lines = (
        "info a.h5", "validate a.h5 --images a.images --images train.images", "merge a.h5 b.h5 --out m.h5", "info m.h5",
        "convert --npz b --class-names names --detector d --out c.h5", "validate c.h5",
        "convert --layout own.yaml --input b --class-names names --out d.h5", "validate d.h5",
    )  # fmt: skip
    runs(REGIONS, *lines, cwd=tmp_path)


def test_completion_in_the_shell(tmp_path):
    """What the shell asks for at Tab: options of a sub-command, and choices; without the heavy imports, too."""
    pytest.importorskip("argcomplete", reason="argcomplete is not installed (the extra `completion`)")
    found = {}
    for line in ("vtlm-regions validate --im", "vtlm-prepare con", "vtlm-probe mrc data-bin --text hi"):
        out = tmp_path / "out"
        command = line.split()[0]
        shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n",
                 "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}  # fmt: skip
        code = f"from vtlm_fairseq.cli.{command[5:]} import main\nmain()"
        subprocess.run([sys.executable, "-c", code], env={**environment(), **shell}, check=True, timeout=60)
        found[line] = out.read_text().split()
    assert list(found.values()) == [["--images"], ["contrastive"], ["hidden"]]
