"""Measure trained runs as PROTOCOL-2.md says, and leave records in results2/SPLIT.

    results2.py --runs runs --data data-bin --regions regions --noise-regions regions-noise
        --entities flickr30k_entities.tgz --split valid --out measured

A run is RUNS/SYSTEM.SEED (names: results2_systems.py) with checkpoint_best.pt and a file `done`, which says that it has
ended; its log, if it is there, gives the learning curve. What is measured already is skipped. Tables of the records:
results_page.py tables.
"""

import argparse
import csv
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # python -P leaves the folder of the script out

from results2_systems import BEST, SPLITS, find_runs  # noqa: E402

SEARCH = ("--beam", "8", "--lenpen", "1", "--max-len-a", "1.5", "--max-len-b", "10")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; paths become absolute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runs", type=Path, required=True, metavar="DIR", help="folder of SYSTEM.SEED")
    add("--only", type=lambda text: text.split(","), metavar="RUNS", help="these, commas between them (default: all)")
    add("--data", type=Path, required=True, metavar="DIR", help="binarised Multi30k")
    add("--regions", type=Path, required=True, metavar="DIR", help="its oracle regions")
    add("--noise-regions", type=Path, metavar="DIR", help="the same with features that are noise")
    add("--noboxes-regions", type=Path, metavar="DIR", help="and with boxes that are the whole image")
    add("--entities", type=Path, metavar="PATH", help="Flickr30k Entities, folder or .tgz: for masked entities")
    add(
        "--split", choices=SPLITS, required=True, help="test: test_2016_flickr, once, after PROTOCOL-2.md was committed"
    )
    add("--repeats", type=int, default=5, metavar="K", help="derangements (default: %(default)s)")
    add("--least", default="5", metavar="N", help="of vtlm-prepare contrastive (default: %(default)s)")
    add("--any-detector", action="store_true", help="other regions than those of training, on purpose")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for what is on the way, logs and stamps")
    add("--records", type=Path, default=HERE / "results2", metavar="DIR", help="default: results2 beside this script")
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        if isinstance(value, Path):
            setattr(args, name, value.absolute())
    return args


@dataclass
class Measures:
    """The stages that measure runs.

    Attributes:
        args: of the command.
        split: fairseq's name of what is measured.
    """

    args: argparse.Namespace
    split: str

    def stages(self, runs: list) -> list:
        """Of all runs, and of what they share."""
        made = []
        if any(run.system.translates for run in runs):
            made += self.shared()
        for run in runs:
            made += self.translations(run) if run.system.translates else self.pretraining(run)
        return made

    def shared(self) -> list:
        """The contrastive set and the masked entities of the split."""
        data, split = str(self.args.data), self.split
        made = self._stage(
            "contrastive set", "vtlm_fairseq.cli.prepare", "contrastive", data, "--regions", str(self.args.regions),
            "--gen-subset", split, "--least", self.args.least, "--out", f"contrastive.{split}",
            outputs=(f"contrastive.{split}",),
        )  # fmt: skip
        if self.args.entities is None:
            return [made]
        return [made, self._stage(
            "entities", "vtlm_fairseq.cli.probe", "entity", data, "--entities", str(self.args.entities), "--gen-subset",
            split, "--count", "1", "--boxed-only", "--write", f"entities.{split}", outputs=(f"entities.{split}",),
        )]  # fmt: skip

    def pretraining(self, run) -> list:
        """Masked nouns and last words of a pre-training."""
        repeats = ("--repeats", str(self.args.repeats))
        probe = (str(self.args.data), "--system", self._system(run), "--regions", self._store(run.system.regions),
                 "--subsets", self.split, "--cpu", "--format", "json")  # fmt: skip
        orders = ("--region-order", "given", "--region-order", "shuffle") if run.system.regions else ()
        return [
            self._probe(run, "masked-noun", *probe, *repeats, sentences=noun_sums),
            self._probe(run, "last-word", *probe, *repeats, *orders, "--named", "--keep-punctuation"),
        ]

    def translations(self, run) -> list:
        """Translations of the split and of its sentences with a masked noun, contrastive margins, attention."""
        made = [self.decode(run, self.args.data, order, seed) for order, seed in self.orders(run)]
        folder, regions = f"contrastive.{self.split}", ()
        if run.system.regions:
            regions = ("--regions", self._store(run.system.regions))
        files = []
        for option, name in ("src", "src.mask.en"), ("correct", "correct.de"), ("incorrect", "incorrect.de"):
            files += [f"--{option}", f"{folder}/{name}"]
        files += ["--images", f"{folder}/images"]
        made.append(self._probe(
            run, "contrastive", "--system", self._system(run), *files, "--preprocessed", "--data", str(self.args.data),
            *regions, "--margins", "--repeats", str(self.args.repeats), "--cpu", "--format", "json",
            sentences=partial(margin_sums, images=self.args.out / folder / "images"), needs=("contrastive set",),
        ))  # fmt: skip
        if self.args.entities is not None:
            masked = self.args.out / f"entities.{self.split}" / "MASK"
            orders = [one for one in self.orders(run) if one[0] != "none"]
            made += [self.decode(run, masked, order, seed, prefix="mask.") for order, seed in orders]
        if run.system.regions:
            made.append(self._probe(run, "attention", str(self.args.data), "--gen-subset", self.split, "--system",
                                    self._system(run), *regions, "--cpu", "--format", "json"))  # fmt: skip
        return made

    def orders(self, run) -> list[tuple[str, int]]:
        """Orders of the regions that a run decodes with, each with its seed."""
        if not run.system.regions:
            return [("given", 1)]
        return [("given", 1), *(("shuffle", 1 + k) for k in range(self.args.repeats)), ("none", 1)]

    def decode(self, run, data: Path, order: str, seed: int, *, prefix: str = ""):
        """Translate, and keep the hypotheses."""
        from stages import fairseq, write_atomically

        from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses

        decoding = prefix + (f"shuffled{seed}" if order == "shuffle" else order)
        regions = ("--regions", "none")
        if run.system.regions:
            regions = ("--regions", self._store(run.system.regions), "--region-order", order)
            regions += ("--any-detector",) if self.args.any_detector else ()
        name = f"{self.split}.{run.name}.{decoding}"
        record = self.args.records / self.split / "hyp" / f"{run.name}.{decoding}.de"

        def finish() -> None:
            found = read_hypotheses(self.args.out / "logs" / f"{name}.log")
            found.require(len(found.references))
            write_atomically(record, "".join(f"{line}\n" for line in found.texts))

        return self._stage(
            f"{run.name}.{decoding}", "", str(data), "--path", self._checkpoint(run),
            "--task", "multimodal_translation", *regions, "--seed", str(seed), "--source-lang", "en", "--target-lang",
            "de", "--gen-subset", self.split, *SEARCH, "--batch-size", "64",
            *self.post_process(), "--required-batch-size-multiple", "1", "--log-format", "none", "--cpu",
            start=fairseq("generate"), outputs=(str(record),), run=run, finish=finish,
            needs=("entities",) if prefix else (),
        )  # fmt: skip

    def post_process(self) -> tuple[str, ...]:
        """Option that joins the data's sub-words."""
        from vtlm_fairseq.text.pipeline import TextPipeline
        from vtlm_fairseq.text.subwords import JOINT

        kind = TextPipeline.load(self.args.data).bpe
        return () if kind == "none" else ("--post-process", f"{JOINT} " if kind == "subword_nmt" else kind)

    def _probe(self, run, probe: str, *argv: str, sentences: Callable[[Path], dict] | None = None, needs=()):
        """A probe whose table, with what `sentences` makes of its sentences, is the record."""
        from stages import write_atomically

        name = f"{self.split}.{probe}.{run.name}"
        record = self.args.records / self.split / probe / f"{run.name}.json"
        table, lines = (self.args.out / f"{name}.{ending}" for ending in ("json", "tsv"))
        more = ("--sentences", str(lines)) if sentences else ()

        def finish() -> None:
            made = json.loads(table.read_text(encoding="utf-8"))
            more = {"sentences": sentences(lines)} if sentences else {}
            text = json.dumps({"run": run.name, "split": self.split, **made, **more}, ensure_ascii=False)
            write_atomically(
                record, text.replace('"rows": ', '\n"rows": ').replace('"sentences": ', '\n"sentences": ') + "\n"
            )

        if self.args.any_detector:
            more += ("--any-detector",)
        return self._stage(
            f"{probe}.{run.name}", "vtlm_fairseq.cli.probe", probe, *argv, *more, "--out", str(table),
            outputs=(str(table), str(record)), run=run, finish=finish, needs=needs,
        )  # fmt: skip

    def _stage(self, name: str, module: str, *argv: str, start=(), outputs, run=None, finish=lambda: None, needs=()):
        from stages import Stage

        inputs = [self.args.data / "text.json"] if run is None else [self.args.runs / run.name / BEST]
        return Stage(
            name=f"{self.split}.{name}",
            title=f"{self.split}, {name}",
            command=(*(start or ("-P", "-m", module)), *argv),
            outputs=outputs,
            needs=tuple(f"{self.split}.{need}" for need in needs),
            finish=finish,
            inputs=tuple(inputs),
        )

    def _checkpoint(self, run) -> str:
        return str(self.args.runs / run.name / BEST)

    def _system(self, run) -> str:
        return f"{run.name}={self._checkpoint(run)}"

    def _store(self, kind: str | None) -> str:
        from vtlm_fairseq.errors import VTLMError

        stores = {"noise": self.args.noise_regions, "noboxes": self.args.noboxes_regions}
        if (store := stores.get(kind, self.args.regions)) is None:
            raise VTLMError(f"a run needs the regions of a control: give --{kind}-regions")
        return str(store)


def learning_curve(log: Path) -> list[dict]:
    """Each epoch of a pre-training by its log (``--log-format json``): updates, words and regions right, gradient."""
    found: dict[int, dict] = {}
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        start = line.find('{"epoch"')
        for split in ("train", "valid"):
            if f'"{split}_loss"' in line[start:] and start >= 0:
                of = {name.removeprefix(f"{split}_"): value for name, value in json.loads(line[start:]).items()}
                epoch = found.setdefault(int(of["num_updates"]), {"updates": int(of["num_updates"])})
                epoch |= {f"{split} words": float(of["mlm_accuracy"]), f"{split} regions": float(of["mrc_accuracy"])}
                epoch |= {"gradient": float(of["gnorm"])} if split == "train" else {}
    return [epoch for _, epoch in sorted(found.items()) if len(epoch) == 6]


def noun_sums(path: Path) -> dict[str, list[list]]:
    """Nouns masked in both languages: for each language [line, named, nouns, given, shuffled, hidden] of each line."""
    found: dict[str, list[list]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if row["masked"] == "both":
                sums = [number(row[name]) for name in ("line", "named", "nouns", "given", "shuffled", "hidden")]
                found.setdefault(row["word"], []).append(sums)
    return found


def margin_sums(path: Path, *, images: Path) -> list[list]:
    """[lines, margin, shuffled margin, right, shuffled right] of each image, sums over its lines."""
    from vtlm_fairseq.files.lines import read_lines

    found: dict[str, list] = {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row, image in zip(rows, read_lines(images), strict=True):
            sums = found.setdefault(image, [0, 0.0, 0.0, 0, 0.0])
            margins = [float(row[name] or 0) for name in ("margin", "shuffled margin", "shuffled right")]
            for k, value in enumerate((1, margins[0], margins[1], int(margins[0] > 0), margins[2])):
                sums[k] += value
    return [[round(value, 5) for value in sums] for sums in found.values()]


def number(text: str) -> float | int | None:
    """A cell: empty is None, a whole number int."""
    return None if not text else int(float(text)) if float(text).is_integer() else float(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    logging.basicConfig(level=logging.WARNING)  # fairseq sets the root logger to DEBUG unless it is set up before
    args = parse_arguments(argv)
    from stages import ROOT, Runner, environment, write_atomically

    from vtlm_fairseq.errors import VTLMError
    from vtlm_fairseq.terminal import command_line

    with command_line():
        runs = find_runs(args.runs, args.only)
        if not runs:
            raise VTLMError(f"{args.runs}: no run that has ended")
        stages = Measures(args, SPLITS[args.split]).stages(runs)
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        Runner(args.out, stages, root=ROOT, environment=environment(), screen=sys.stderr).run()
        for run in runs:
            log = args.runs / run.name / "log"
            if not run.system.translates and log.is_file():
                text = json.dumps({"run": run.name, "epochs": learning_curve(log)}).replace("}, ", "},\n")
                write_atomically(args.records / SPLITS[args.split] / "training" / f"{run.name}.json", text + "\n")


if __name__ == "__main__":
    main()
