"""Pre-train and probe each cell of a grid of options: one table and one plot of what regions are worth.

    study.py quickstart.yaml --out study
    study.py multi30k.yaml --out study --data data-bin --regions regions

What a grid holds: the README beside this file. A second call runs what is not finished: a training that was stopped
goes on, cells and seeds that are new or changed are run, all others stay.
"""

import argparse
import contextlib
import io
import json
import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "multi30k"))  # its engine of stages

import stages  # noqa: E402
from study_grid import Run, flags, read_grid  # noqa: E402

from vtlm_fairseq.errors import VTLMError  # noqa: E402
from vtlm_fairseq.evaluation.paired import paired_t  # noqa: E402
from vtlm_fairseq.evaluation.plots import check_plot, save_plot  # noqa: E402
from vtlm_fairseq.evaluation.tables import Table  # noqa: E402
from vtlm_fairseq.terminal import command_line, say  # noqa: E402

MAKE_DATA = stages.ROOT / "examples" / "quickstart" / "make_data.py"
DIFFERENCES = {"given - shuffled": ("from", "to"), "log p, given - shuffled": ("log p from", "log p to")}
"""Columns of the probe that have an interval over seeds, and what its ends are called."""


class Study:
    """The stages of a grid: data, then each run's training and probe."""

    def __init__(self, args: argparse.Namespace) -> None:
        from vtlm_fairseq.precision import fast_options

        self.args = args
        fast = {name[2:]: value for name, value in fast_options(cpu=args.cpu).items()}
        self.grid, self.runs = read_grid(args.grid, fast)
        own = self.grid.quickstart is None
        if own == (args.data is None) or own == (args.regions is None):
            raise VTLMError(f"{args.grid}: {'give' if own else 'makes its own data, leave out'} --data and --regions")
        self.data, self.regions = (args.data, args.regions) if own else (Path("data-bin"), Path("data/regions"))
        self.fixed = {"regions": self.regions, "user-dir": args.user_dir or stages.USER_DIR, "cpu": args.cpu}

    def training(self, run: Run) -> list[str]:
        """Arguments of fairseq-train."""
        fixed = {"task": "visual_translation_lm", "seed": run.seed, "save-dir": f"runs/{run.name}", **self.fixed}
        return [str(self.data), *flags({**run.options, **fixed})]

    def probing(self, run: Run) -> list[str]:
        """Arguments of vtlm-probe."""
        system = f"VTLM=runs/{run.name}/checkpoint_{self.grid.checkpoint}.pt"
        fixed = {"system": system, "format": "json", "out": f"probes/{run.name}.json", **self.fixed}
        return ["masked-noun", str(self.data), *flags({**self.grid.probe, **fixed})]

    def check(self) -> None:
        """Read all options as the commands will, before the first of them starts.

        Raises:
            VTLMError: one is unknown, or has a value that it cannot have.
        """
        from fairseq import options

        from vtlm_fairseq.cli import probe
        from vtlm_fairseq.data.region_masking import get_region_masking
        from vtlm_fairseq.data.share_schedule import ShareSchedule
        from vtlm_fairseq.data.word_mixture import WordChoice
        from vtlm_fairseq.objectives import read_objectives
        from vtlm_fairseq.user_dir import import_user_dir

        def parsed(parse: Callable, line: list[str]) -> argparse.Namespace:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    return parse(line)
            except SystemExit:
                raise VTLMError(f"{self.args.grid}: {said.getvalue().strip().rpartition('error: ')[2]}") from None

        import_user_dir(str(self.fixed["user-dir"]))
        parsed(probe.build_parser().parse_args, self.probing(self.runs[0]))
        for run in self.runs[: len(self.runs) // len(self.grid.seeds)]:
            args = parsed(partial(options.parse_args_and_arch, options.get_training_parser()), self.training(run))
            readers = {"region_masking": get_region_masking, "word_masking": WordChoice.parse,
                       "region_mask_schedule": ShareSchedule.parse, "region_objectives": read_objectives}  # fmt: skip
            for name, read in readers.items():
                if (value := getattr(args, name, None)) is not None:
                    read(value)

    def plan(self) -> list[stages.Stage]:
        """All of them."""
        made, inputs, facts, words = [], [], [], []
        if self.grid.quickstart is not None:
            made = self.data_stages()
        else:
            inputs = [path for path in sorted(self.data.glob("*")) if path.suffix in (".bin", ".txt", ".images")]
            stores = sorted(self.regions.glob("*")) if self.regions.is_dir() else [self.regions]
            facts = [f"{path.name} {path.stat().st_size}" for path in stores if path.exists()]
            words = [path for path in [self.args.out / str(self.grid.probe.get("words", ""))] if path.is_file()]
        needs = tuple(stage.name for stage in made)
        for run in self.runs:
            title, folder = f"{', '.join(run.labels)}, seed {run.seed}", f"runs/{run.name}"
            made.append(stages.Stage(
                f"train.{run.name}", title, ("-P", "-m", "fairseq_cli.train", *self.training(run)), (folder,), needs,
                recover=partial(stages.mend_last_checkpoint, self.args.out / folder), inputs=tuple(inputs),
                facts=tuple(facts),
            ))  # fmt: skip
            made.append(stages.Stage(
                f"probe.{run.name}", f"{title}, probe", ("-P", "-m", "vtlm_fairseq.cli.probe", *self.probing(run)),
                (f"probes/{run.name}.json",), (f"train.{run.name}",), partial(self.figures, run), inputs=tuple(words),
            ))  # fmt: skip
        return made

    def data_stages(self) -> list[stages.Stage]:
        """The quickstart's data."""
        out = self.args.out

        def finish() -> None:
            from vtlm_fairseq.text.pipeline import TextPipeline

            for path in (out / "data").glob("*.images"):
                shutil.copy(path, out / "data-bin")
            TextPipeline(source_lang="en", target_lang="de", steps=(), bpe="none").save(out / "data-bin")

        prefixes = {"trainpref": "data/train", "validpref": "data/valid", "testpref": "data/test"}
        text = {"task": "visual_translation_lm", "source-lang": "en", "target-lang": "de", "joined-dictionary": True}
        make = (str(MAKE_DATA), *flags({"out": "data", **self.grid.quickstart}))
        binarise = (*stages.fairseq("preprocess"), *flags({**text, **prefixes}))
        return [stages.Stage("data", "data", make, ("data",), inputs=(MAKE_DATA,)),
                stages.Stage("data-bin", "binarised data", binarise, ("data-bin",), ("data",), finish)]  # fmt: skip

    def figures(self, run: Run) -> dict[str, Any]:
        """The row of the probe's table that the grid asks for, with the table's notes.

        Raises:
            VTLMError: there is none, or it is of no noun.
        """
        found = json.loads((self.args.out / f"probes/{run.name}.json").read_text(encoding="utf-8"))
        rows = [row for row in found["rows"] if self.grid.figure.items() <= row.items() and row["number"]]
        if len(rows) != 1:
            columns = [name for name in self.grid.figure if name in found["columns"]]
            there = [", ".join(f"{name}: {row[name]}" for name in columns) for row in found["rows"] if row["number"]]
            raise VTLMError(
                f"{self.args.grid}: figure {self.grid.figure} is {len(rows)} rows with nouns of {self.args.out}/probes/"
                f"{run.name}.json, not one; it has {'; '.join(dict.fromkeys(there)) or 'none'}"
            )
        return {**rows[0], "notes": found["notes"][1:]}

    def results(self) -> Table:
        """A row a cell: means over seeds, and intervals of the differences."""
        axes, columns = list(self.grid.axes), ["number", "given", "shuffled", "hidden"]
        made = Table([*axes, "seeds", "nouns", *columns[1:]], [])
        for difference, ends in DIFFERENCES.items():
            made.columns += [difference, *ends]
        made.notes = [f"masked-noun, {', '.join(map(' '.join, self.grid.figure.items()))}; accuracy in per cent",
                      "mean and 95 % interval (t) over seeds"]  # fmt: skip
        for labels in dict.fromkeys(run.labels for run in self.runs):
            found = [self.figures(run) for run in self.runs if run.labels == labels]
            row = [*labels, len(found), *(fmean(one[name] for one in found) for name in columns)]
            for difference in DIFFERENCES:
                values = np.array([one[difference] for one in found], dtype=float)
                row += [None if math.isnan(x) else x for x in paired_t(values, np.arange(len(values)))[:3]]
            made.rows.append(row)
        made.notes += found[0]["notes"]
        made.precision = {"nouns": 0}
        return made


def plot(table: Table, axes: Sequence[str], path: Path) -> None:
    """Draw given - shuffled against the last axis, a line for each point of the others."""
    from matplotlib.figure import Figure

    last, at = len(axes) - 1, table.columns.index("given - shuffled")
    ticks = list(dict.fromkeys(row[last] for row in table.rows))
    lines = list(dict.fromkeys(tuple(row[:last]) for row in table.rows))
    figure = Figure(figsize=(1.5 + max(3.5, 0.25 * len(table.rows)), 3.4), layout="constrained")
    panel = figure.subplots()
    for number, line in enumerate(lines):
        rows = [row for row in table.rows if tuple(row[:last]) == line]
        places = [ticks.index(row[last]) + 0.5 * ((number + 0.5) / len(lines) - 0.5) for row in rows]
        half = [0.0 if row[at + 1] is None else row[at + 2] - row[at] for row in rows]
        panel.errorbar(places, [row[at] for row in rows], yerr=half, marker="os^Dv*"[number % 6], linestyle="none",
                       capsize=3, label=", ".join(line))  # fmt: skip
    panel.axhline(0, color="0.5", linestyle="--", linewidth=1)
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set(xlabel=axes[last], ylabel="given - shuffled regions, points")
    if last:
        panel.legend(frameon=False, fontsize="small", title=", ".join(axes[:last]))
    save_plot(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    logging.basicConfig(level=logging.WARNING)  # fairseq sets the root logger to DEBUG unless it is set up before
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = {"type": lambda text: Path(text).absolute(), "metavar": "PATH"}
    parser.add_argument("grid", **{**where, "metavar": "GRID.yaml"})
    parser.add_argument("--out", required=True, help="folder for everything", **where)
    parser.add_argument("--data", help="binarised data, unless the grid makes its own", **where)
    parser.add_argument("--regions", help="their regions", **where)
    parser.add_argument("--user-dir", help="of your own, with what the grid names (docs/extend.md)", **where)
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with command_line():
        study = Study(args)
        study.check()
        stages.prepare_folder(args.out)
        check_plot(args.out / "grounding.png", option="the plot")
        (args.out / "probes").mkdir(exist_ok=True)
        try:
            stages.Runner(
                args.out, study.plan(), root=stages.ROOT, environment=stages.environment(), screen=sys.stderr
            ).run()
        except KeyboardInterrupt as end:
            say("\nStopped; the same command goes on with this stage.", file=sys.stderr)
            raise SystemExit(128 + getattr(end, "number", signal.SIGINT)) from None
        table = study.results()
        stages.write_atomically(args.out / "grounding.md", table.render("markdown") + "\n")
        stages.write_atomically(args.out / "grounding.json", table.render("json") + "\n")
        plot(table, list(study.grid.axes), args.out / "grounding.png")
        say(table.render())


if __name__ == "__main__":
    main()
