"""fairseq's own options with this package, as ``fairseq_options.yaml`` lists them; it becomes docs/fairseq-options.md.

After a change of the table: ``PYTHONPATH=.:tests/support python tests/integration/test_fairseq_options.py``
"""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness import ROOT, Result

TABLE = yaml.safe_load((Path(__file__).parent / "fairseq_options.yaml").read_text(encoding="utf-8"))
PAGE = ROOT / "docs" / "fairseq-options.md"
BASE = ("--max-update", "8", "--dropout", "0", "--attention-dropout", "0")
HEAD = """\
# fairseq's options

Options of fairseq-train, fairseq-generate and fairseq-interactive, and what was found when they were tried with the
tasks of this package on a CPU. Those of this package are in [options.md](options.md).

Written by `PYTHONPATH=.:tests/support python tests/integration/test_fairseq_options.py` from a table beside that test,
which tries every row but those with a dash.

* **same**: it works, and the figures (losses and gradient norms of 8 updates and the validation, or hypotheses and
  their scores) are those of the run without it. **other**: it works, and they are not.
* **refused**: one line says why, and what to do instead.
* **fairseq**: fairseq's own fault, or something that it demands; it says so itself, mostly with a stack.
* **-**: not tried by that test. Another one holds it, or the note says why there is none.
"""
SECTIONS = {"training": "Training", "decoding": "Decoding and validation"}


def rows(section: str, *expected: str, alone: bool = False, of: str = "") -> list:
    """Rows of a section with one of the outcomes, for ``pytest.mark.parametrize``; their options are the ids."""
    found = [row for row in TABLE[section] if row["expect"] in expected and bool(row.get("alone")) == alone]
    found = [row for row in found if of in row.get("of", of)] if of else found
    return [pytest.param(row, id=row["option"].lstrip("-").replace(" ", "_")) for row in found]


def arguments(row: dict) -> list[str]:
    """What is tried of a row."""
    line, brace, literal = row.get("args", row["option"]).partition("{")  # a Python or JSON literal keeps its quotes
    return [*shlex.split(line), brace + literal] if brace else shlex.split(line)


def figures(trained: Result) -> dict:
    """Losses and gradient norms of the updates, and the last validation."""
    updates = [(update["loss"], update["gnorm"]) for update in trained.updates()]
    return {"updates": updates, "valid": [valid["loss"] for valid in trained.validations()][-1:]}


@pytest.fixture(scope="module")
def trainings(run, corpus, tmp_path_factory):
    """Trains a tiny model of a kind with options: result and names of the checkpoints."""

    def train(kind: str, *argv, ok: bool | None = True) -> tuple[Result, list[str]]:
        folder = tmp_path_factory.mktemp("options")
        command = run.pretrain if kind == "pretraining" else run.train
        done = command(corpus.data, folder, *BASE, *argv, regions=corpus.regions, ok=ok, cwd=folder)
        return done, sorted(path.name for path in folder.glob("*.pt"))

    return train


@pytest.fixture(scope="module")
def plain(trainings) -> dict[str, dict]:
    """Figures of the trainings without further options."""
    return {kind: figures(trainings(kind)[0]) for kind in ("pretraining", "translation")}


def close(ours: dict, theirs: dict) -> bool:
    """Whether figures are equal but for what another order of a sum makes."""
    return all(np.shape(ours[name]) == np.shape(theirs[name]) and np.allclose(ours[name], theirs[name], rtol=1e-3)
               for name in theirs)  # fmt: skip


@pytest.mark.parametrize("kind", ["pretraining", "translation"])
def test_training_options_that_change_no_figure(trainings, plain, kind):
    """All of them at once: the figures are those of a run without any."""
    argv = [arg for row in rows("training", "same") for arg in arguments(row.values[0])]
    trained, _ = trainings(kind, *argv)
    assert close(figures(trained), plain[kind])


@pytest.mark.parametrize("row", rows("training", "same", "other", alone=True) + rows("training", "other"))
def test_training_option(trainings, plain, row):
    """By itself: the figures are the same or others, as the table says, and these checkpoints are left."""
    kind = row.get("of", "translation")
    trained, files = trainings(kind, *arguments(row))
    found = figures(trained)
    if row["option"] == "--disable-validation":
        assert found["valid"] == [] and found["updates"] == plain[kind]["updates"]
    else:
        assert close(found, plain[kind]) == (row["expect"] == "same")
    assert files == row.get("files", files)


@pytest.mark.parametrize("row", rows("training", "refused", "fairseq"))
def test_training_option_that_ends(trainings, row):
    """One line of ours, or fairseq's own end."""
    trained, files = trainings("translation", *arguments(row), ok=False)
    assert not [name for name in files if name != "crash.pt"]
    if row["expect"] == "refused":
        trained.fault(row["line"])


def decoded(done: Result) -> tuple[list[str], list[float]]:
    """Hypotheses and scores in corpus order."""
    return done.hypotheses(), done.scores()


@pytest.fixture(scope="module")
def generated(run, corpus, mmt) -> tuple[list[str], list[float]]:
    """What the model says without further options."""
    return decoded(run.generate(corpus.data, mmt, regions=corpus.regions))


def test_decoding_options_that_change_nothing(run, corpus, mmt, generated):
    """All at once."""
    found = [row.values[0] for row in rows("decoding", "same") if row.values[0].get("of") != "interactive"]
    argv = [arg for row in found for arg in arguments(row)]
    assert decoded(run.generate(corpus.data, mmt, *argv, regions=corpus.regions)) == generated


@pytest.mark.parametrize("row", rows("decoding", "same", alone=True) + rows("decoding", "other"))
def test_decoding_option(run, corpus, mmt, generated, row):
    """By itself; scores may differ by what another batch or precision makes of them."""
    texts, scores = decoded(run.generate(corpus.data, mmt, *arguments(row), regions=corpus.regions))
    same = texts == generated[0] and scores == pytest.approx(generated[1], abs=0.01)
    assert same == (row["expect"] == "same")


@pytest.mark.parametrize("row", rows("decoding", "refused", "fairseq"))
def test_decoding_option_that_ends(run, corpus, mmt, row):
    """One line of ours, or fairseq's own end."""
    done = run.generate(corpus.data, mmt, *arguments(row), regions=corpus.regions, ok=False)
    if row["expect"] == "refused":
        done.fault(row["line"])


def test_interactive_options(run, corpus, mmt):
    """In fairseq-interactive a larger buffer changes the order of output only."""
    lines = "".join(f"{line}\n" for line in corpus.lines("test", "en")[:6])
    (row,) = [row for row in TABLE["decoding"] if row.get("of") == "interactive"]
    one, other = (
        run.interactive(corpus.data, mmt, "--region-order", "none", *argv, stdin=lines) for argv in ([], arguments(row))
    )
    assert len(one.hypotheses()) == 6 and one.hypotheses() == other.hypotheses()


def test_every_option_of_fairseq_has_a_row():
    """A new release's options are missing here until somebody tries them."""
    from fairseq.dataclass import configs
    from fairseq.registry import REGISTRIES

    parts = {
        "training": (configs.CommonConfig, configs.DistributedTrainingConfig, configs.DatasetConfig,
                     configs.OptimizationConfig, configs.CheckpointConfig, configs.EMAConfig),
        "decoding": (configs.GenerationConfig, configs.CommonEvalConfig, configs.InteractiveConfig),
    }  # fmt: skip
    for section, classes in parts.items():
        listed = {row["option"].split()[0] for row in TABLE[section]}
        names = {field.name for config in classes for field in dataclasses.fields(config) if field.name != "_name"}
        assert {f"--{name.replace('_', '-')}" for name in names} - listed == set()
    values = {row["option"] for row in TABLE["training"]}
    for registry in ("optimizer", "lr_scheduler"):
        options = {f"--{registry.replace('_', '-')} {name}" for name in REGISTRIES[registry]["registry"]}
        assert options - values == set()


def page() -> str:
    """docs/fairseq-options.md."""
    lines = [HEAD]
    for section, title in SECTIONS.items():
        lines += [f"## {title}", "", "| option | tried as | outcome | held by | note |", f"|{' --- |' * 5}"]
        for row in TABLE[section]:
            option, _, rest = row["option"].partition(" ")
            name = f"`{option}` {rest}" if rest.startswith("(") else f"`{row['option']}`"
            tried = "" if row["expect"] == "-" else f"`{row['args']}`" if row.get("args", option) != option else "alone"
            held = [] if row["expect"] == "-" else ["test_fairseq_options.py"]
            held += [row["held"]] if "held" in row else []
            of = f"{row['of']} only" if "of" in row and row["of"] != "interactive" else row.get("of", "")
            note = "; ".join(filter(None, (of, row.get("note", ""))))
            lines.append(f"| {name} | {tried} | {row['expect']} | {', '.join(held)} | {note} |")
        lines.append("")
    return "\n".join(lines)


def test_the_page_is_that_of_the_table():
    """docs/fairseq-options.md is made from the table, and the tests that it names exist."""
    assert PAGE.read_text(encoding="utf-8") == page()
    for name in set(re.findall(r"\btest_\w+\.py\b", page())):
        assert list((ROOT / "tests").rglob(name)), name


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
