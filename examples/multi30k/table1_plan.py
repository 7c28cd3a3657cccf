"""The stages of the runner: trainings, decodings and inference copies, from the rows and the settings of a size."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages import Stage, fairseq, mend_last_checkpoint, write_atomically
from table1_data import CONTROLS, FOLDERS, Data
from table1_rows import GIVEN, PRETRAININGS, ROWS, Decoding, Phase, Pretraining, Row, Size, decodings_of

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses
from vtlm_fairseq.files import copy_file
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.text.pipeline import TextPipeline

BEST = "checkpoint_best.pt"
PRETRAINING_SEED = 1
_POST_PROCESS = {"sentencepiece": ("--post-process", "sentencepiece"), "subword_nmt": ("--post-process", "@@ "),
                 "none": ()}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """What a stage trains: a row with a seed, or a pre-training.

    Attributes:
        system: the row or the pre-training.
        seed: of the training.
        corpus: it is trained on, see `FOLDERS`.
        folder: of its checkpoints, in the output folder.
        start: the training whose best checkpoint it starts from.
    """

    system: Row | Pretraining
    seed: int
    corpus: str
    folder: str
    start: "Training | None" = None

    @property
    def stage(self) -> str:
        """Name of its stage."""
        return self.folder.replace("/", ".")


@dataclass(frozen=True)
class Decoded:
    """One decoding of a trained row."""

    training: Training
    test_set: str
    decoding: Decoding

    @property
    def stage(self) -> str:
        """Name of its stage."""
        return f"decode.{self.training.stage}.{self.test_set}.{self.decoding.name}"

    def path(self, target: str) -> str:
        """Its hypotheses, in the output folder."""
        return f"hyp/{self.test_set}/{self.training.stage}.{self.decoding.name}.{target}"


@dataclass(frozen=True)
class Plan:
    """What is to be run, in order, and what the names of the stages stand for."""

    stages: tuple[Stage, ...]
    trainings: dict[str, Training]
    decoded: dict[str, Decoded]
    skipped: tuple[str, ...]


class Planner:
    """Makes the stages of the rows and seeds that are asked for.

    Args:
        out: the output folder.
        data: see `table1_data`.
        size: settings.
        precision: ``bf16`` or ``fp32``, instead of the size's.
        keep: folder of the inference copies; None: none are made.
    """

    def __init__(
        self, out: Path, data: Data, size: Size, *, precision: str | None = None, keep: Path | None = None
    ) -> None:
        self.out, self.data, self.size, self.keep = out, data, size, keep
        self.precision = precision or size.precision

    def plan(self, rows: Sequence[str], seeds: Sequence[int]) -> Plan:
        """The stages of rows and seeds: data, each pre-training once, then row by row."""
        stages = {stage.name: stage for stage in self.data.stages}
        trainings: dict[str, Training] = {}
        decoded: dict[str, Decoded] = {}
        wanted, skipped = self._feasible(rows)
        for row in wanted:
            for seed in seeds:
                training = self._training_of(row, seed)
                for item in filter(None, (training.start, training)):
                    trainings[item.stage] = item
                    stages.setdefault(item.stage, self.train(item))
                for item in self._decoded_of(training):
                    decoded[item.stage] = item
                    stages[item.stage] = self.decode(item)
                if self.keep and not row.stock:
                    stages[f"keep.{training.stage}"] = self.inference_copy(training)
        needed = self._needed(stages, trainings)
        return Plan(tuple(s for s in stages.values() if s.name in needed), trainings, decoded, tuple(skipped))

    def _needed(self, stages: dict[str, Stage], trainings: dict[str, Training]) -> set[str]:
        """All but the data stages that nothing needs."""
        needed = {stage.name for stage in stages.values()} - {stage.name for stage in self.data.stages}
        for stage in reversed(stages.values()):
            if stage.name in needed:
                needed.update(stage.needs)
        return needed

    def _feasible(self, rows: Sequence[str]) -> tuple[list[Row], list[str]]:
        """The rows that the data allow, and a line for each of the others."""
        wanted, skipped = [], []
        for row in (ROWS[name] for name in rows):
            pretraining = PRETRAININGS.get(row.pretraining or "")
            if row.corpus in CONTROLS and not self.data.has_stage(FOLDERS[row.corpus][1]):
                skipped.append(f"{row.name} is left out: its regions are made from --entities")
            elif row.corpus == "joined" and not self.data.has_cc:
                skipped.append(f"{row.name} is left out: it needs Conceptual Captions (--cc-data)")
            elif pretraining and pretraining.corpus == "m30k" and not self.data.has_cc:
                skipped.append(f"{row.name} is left out: without --cc-data it is the row vtlm_mmt")
            elif (
                pretraining
                and pretraining.regions
                and self._corpus(pretraining) == "cc"
                and not (self.data.has_cc_regions)
            ):
                skipped.append(f"{row.name} is left out: VTLM on Conceptual Captions needs --cc-regions")
            else:
                wanted.append(row)
        return wanted, skipped

    def _corpus(self, pretraining: Pretraining) -> str:
        if pretraining.corpus == "cc":
            return "cc" if self.data.has_cc else "m30k"
        return pretraining.corpus

    def _training_of(self, row: Row, seed: int) -> Training:
        start = None
        if row.pretraining:
            pretraining = PRETRAININGS[row.pretraining]
            start = Training(pretraining, PRETRAINING_SEED, self._corpus(pretraining), pretraining.name)
        return Training(row, seed, row.corpus, f"{row.name}/{seed}", start)

    def _decoded_of(self, training: Training) -> list[Decoded]:
        """Text-only rows decode every test set once; MMT rows those with regions, in each order."""
        if not training.system.regions:
            return [Decoded(training, name, GIVEN) for name in self.data.test_sets]
        sets = [name for name in self.data.test_sets if name in self.data.region_sets]
        return [Decoded(training, name, decoding) for name in sets for decoding in decodings_of(training.system)]

    # -- commands ------------------------------------------------------------------------------------------------

    def _phase(self, training: Training) -> Phase:
        if isinstance(training.system, Row):
            return self.size.phases[training.system.phase]
        return self.size.phases["pretrain" if training.corpus == "cc" else "pretrain_m30k"]

    def train(self, training: Training) -> Stage:
        """The stage of a training; a killed one goes on from its newest whole checkpoint, a stock one starts anew."""
        system = training.system
        stock = isinstance(system, Row) and system.stock
        needs = self.data.needs(training.corpus, regions=system.regions)
        return Stage(
            name=training.stage,
            title=f"{system.name} {training.seed}" if isinstance(system, Row) else f"pre-train {system.name}",
            command=(*fairseq("train"), *self.training_options(training)),
            outputs=(training.folder,),
            needs=needs + ((training.start.stage,) if training.start else ()),
            facts=self.data.facts(training.corpus, regions=system.regions),
            # `vtlm-convert latest` reads this package's checkpoints only
            recover=None if stock else lambda: mend_last_checkpoint(self.out / training.folder),
        )

    def training_options(self, training: Training) -> tuple[str, ...]:
        """Options of fairseq-train but for ``--user-dir``."""
        phase, system, size = self._phase(training), training.system, self.size
        text, store = FOLDERS[training.corpus]
        stock = isinstance(system, Row) and system.stock
        return (
            text,
            *("--save-dir", training.folder, "--seed", str(training.seed)),
            *("--source-lang", self.data.pair[0], "--target-lang", self.data.pair[1]),
            *self._task(system),
            *(() if stock else ("--regions", store if system.regions else "none")),
            *self._dimensions(stock=stock),
            *("--dropout", phase.dropout, "--attention-dropout", "0.1", "--activation-fn", "gelu"),
            *("--optimizer", "adam" if stock else size.optimizer, "--lr", phase.lr),
            *("--weight-decay", "0", "--clip-norm", size.clip),
            *phase.flags,
            *("--batch-size", str(size.batch), "--max-update", str(phase.updates)),
            *("--num-workers", str(size.workers), "--distributed-world-size", "1"),
            *("--no-epoch-checkpoints", "--log-format", "json", "--log-interval", str(min(100, phase.updates // 2))),
            *self._save_updates(phase),
            *(("--autocast", "bf16") if self.precision == "bf16" and not stock else ()),
            *(("--pretrained", f"{training.start.folder}/{BEST}") if training.start else ()),
            *system.flags,
        )

    def _task(self, system: Row | Pretraining) -> tuple[str, ...]:
        """Task, architecture, criterion, and what the best checkpoint is chosen by."""
        if isinstance(system, Pretraining):
            selection = ("--best-checkpoint-metric", "mlm_accuracy", "--maximize-best-checkpoint-metric")
            return ("--task", "visual_translation_lm", "--arch", "vtlm", "--criterion", "vtlm", *selection)
        task = ("--task", "multimodal_translation", "--arch", "multimodal_transformer")
        if system.stock:
            task = ("--task", "translation", "--arch", "transformer")
        if self.size.smoothing == 0:
            return (*task, "--criterion", "cross_entropy", "--best-checkpoint-metric", "loss")
        smoothing = ("--label-smoothing", str(self.size.smoothing), "--best-checkpoint-metric", "nll_loss")
        return (*task, "--criterion", "label_smoothed_cross_entropy", *smoothing)

    def _dimensions(self, *, stock: bool) -> tuple[str, ...]:
        size = self.size
        options = []
        for side in ("encoder", "decoder") if stock else ("encoder",):
            options += [f"--{side}-embed-dim", str(size.width), f"--{side}-ffn-embed-dim", str(size.ffn)]
            options += [f"--{side}-layers", str(size.layers), f"--{side}-attention-heads", str(size.heads)]
        if stock:  # what fairseq's transformer has in common with ours; it keeps the last batch of a split only so
            options += ["--layernorm-embedding", "--encoder-learned-pos", "--decoder-learned-pos"]
            options += ["--share-decoder-input-output-embed", "--no-scale-embedding"]
            options += ["--max-source-positions", "512", "--max-target-positions", "512"]
            options += ["--required-batch-size-multiple", "1"]
        return tuple(options)

    @staticmethod
    def _save_updates(phase: Phase) -> tuple[str, ...]:
        if phase.save_updates is None:
            return ()
        return ("--save-interval-updates", str(phase.save_updates), "--keep-interval-updates", "1")

    def decode(self, item: Decoded) -> Stage:
        """The stage of a decoding (section 2.4: beam 8); lines go to `Decoded.path`."""
        training = item.training
        row, target = training.system, self.data.pair[1]
        corpus = "m30k" if row.corpus == "joined" else row.corpus
        text, store = FOLDERS[corpus]
        task = ("--task", "translation", "--required-batch-size-multiple", "1")
        if not row.stock:
            task = ("--task", "multimodal_translation", "--regions", store if row.regions else "none")
        log = self.out / "logs" / f"{item.stage}.log"

        def finish() -> None:
            found = read_hypotheses(log)
            found.require(len(self.references(item.test_set) or found.ids))
            write_atomically(self.out / item.path(target), "".join(f"{text}\n" for text in found.texts))
            if self.references(item.test_set) is None:
                references = "".join(f"{text}\n" for text in found.references)
                write_atomically(self.out / "hyp" / item.test_set / f"references.{target}", references)

        return Stage(
            name=item.stage,
            title=f"decode {row.name} {training.seed}, {item.decoding.name}",
            command=(
                *fairseq("generate"),
                *(text, "--path", f"{training.folder}/{BEST}", *task, *item.decoding.flags),
                *("--source-lang", self.data.pair[0], "--target-lang", target, "--gen-subset", item.test_set),
                *("--beam", "8", "--lenpen", "1", "--max-len-a", "1.5", "--max-len-b", "10", "--batch-size", "64"),
                *(*_POST_PROCESS[self.data.bpe], "--log-format", "none"),
            ),
            outputs=(item.path(target),),
            needs=self.data.needs(corpus, regions=row.regions) + (training.stage,),
            facts=self.data.facts(corpus, regions=row.regions),
            finish=finish,
        )

    def references(self, test_set: str) -> list[str] | None:
        """Tokenised references of a test set: those beside the data, else as fairseq-generate printed them."""
        target = self.data.pair[1]
        for path in (f"data-bin/references/{test_set}.{target}", f"hyp/{test_set}/references.{target}"):
            if (self.out / path).is_file():
                return read_lines(self.out / path)
        return None

    def inference_copy(self, training: Training) -> Stage:
        """The stage that keeps a half-precision copy without optimiser state, with what raw text needs."""
        folder = self.keep / training.folder
        copy = folder / BEST

        def finish() -> None:
            data = self.out / "data-bin"
            names = [f"dict.{lang}.txt" for lang in self.data.pair]
            if (data / "text.json").is_file():
                names += TextPipeline.load(data).files()
            for name in dict.fromkeys(names):
                copy_file(data / name, folder / name)
            copy_file(self.out / training.folder / "run.json", folder / "run.json")

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VTLMError(f"--keep {self.keep}: cannot be used ({error.strerror}); name another folder") from None
        return Stage(
            name=f"keep.{training.stage}",
            title=f"keep {training.system.name} {training.seed}",
            command=(
                *("-P", "-m", "vtlm_fairseq.cli.convert", "average", f"{training.folder}/{BEST}"),
                *("--half", "--out", str(copy)),
            ),
            outputs=(str(copy),),
            needs=(training.stage,),
            finish=finish,
        )
