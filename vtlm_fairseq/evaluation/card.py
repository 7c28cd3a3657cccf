"""A model card, as Markdown: what a checkpoint, the record of its training and tables of scores say of a model.

It says nothing that these files do not; what only people know stands there as a line to fill in. No path of the machine
that trained the model gets in.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vtlm_fairseq.checkpoints import check_config, load_checkpoint, num_updates
from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.files import write_text
from vtlm_fairseq.files.inputs import refuse_existing, refuse_input
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.hub import find_checkpoint
from vtlm_fairseq.models.description import MODEL_OPTIONS, Description, plain
from vtlm_fairseq.ranges import option
from vtlm_fairseq.text.pipeline import FILE_NAME, TextPipeline
from vtlm_fairseq.version import __version__

RECORD = "run.json"
"""The record of a training that examples/multi30k/table1.sh leaves beside its checkpoints."""
TRAINING = {
    "criterion": ("_name", "label_smoothing", "mrc_weight"),
    "optimizer": ("_name", "adam_betas", "weight_decay"),
    "lr_scheduler": ("_name", "warmup_updates"),
    "optimization": ("lr", "clip_norm", "update_freq"),
    "dataset": ("batch_size", "max_tokens"),
    "common": ("seed", "fp16", "bf16", "amp"),
    "task": ("autocast",),
    "model": ("dropout", "attention_dropout", "activation_dropout"),
}
"""Options by part of fairseq's configuration; of a ``_name`` the part is the option."""
_ASK = "*To fill in:*"


def run(args: argparse.Namespace) -> None:
    """``vtlm-convert card``.

    Raises:
        VTLMError: a file cannot be read or written, or is none of its kind.
    """
    if args.out is not None:
        inputs = [args.checkpoint, *args.scores, *filter(None, [args.run])]
        refuse_input(args.out, inputs, label=f"--out {args.out}")
        refuse_existing(args)  # lines may be filled in
    text = make_card(find_checkpoint(args.checkpoint), record=args.run, scores=args.scores, title=args.title)
    if args.out is None:
        print(text, end="")
    else:
        write_text(args.out, text, label=f"--out {args.out}")


def make_card(path: str, *, record: str | None = None, scores: list[str], title: str | None = None) -> str:
    """The card.

    Args:
        path: of the checkpoint.
        record: ``run.json`` of its training; None: the one beside it, if there is one.
        scores: tables of vtlm-score or vtlm-probe, printed with ``--format json``.
        title: heading; None: the name of the checkpoint's folder.

    Raises:
        VTLMError: a file cannot be read, or is none of its kind.
    """
    state = load_checkpoint(path, mmap=True)
    check_config(state, path)
    folder = Path(path).resolve().parent
    if record is None and (folder / RECORD).is_file():
        record = str(folder / RECORD)
    run = parse_object(_text(record), record, hint="give the run.json of a training") if record else {}
    model = Model(state, path, run)
    pipeline = TextPipeline.load(folder) if (folder / FILE_NAME).is_file() else None
    parts = [
        _head(model),
        f"# {_plain(title or folder.name)}",
        model.sentence(),
        "## Use\n\n" + _use(model, pipeline, folder.name, os.path.basename(path)),
        "## Data\n\n" + _data(model, pipeline),
        "## Regions\n\n" + _regions(model),
        "## Training\n\n" + _training(model),
        "## Scores\n\n" + _scores(model, scores),
        "## Limits\n\n" + _limits(model, pipeline),
        f"Written by `vtlm-convert card` of vtlm-fairseq {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


class Model:
    """What the files say of the model, under short names."""

    def __init__(self, state: dict, path: str, run: Mapping[str, Any]) -> None:
        self.state, self.run = state, run
        self.cfg: dict[str, Any] = dict(state.get("cfg") or {})
        self.said = Description.of_checkpoint(state, path)
        self.config = self.said.model
        self.source, self.target = str(self.config.get("source_lang")), str(self.config.get("target_lang"))
        self.translates = any(name.startswith("decoder.") for name in state["model"])

    @property
    def kind(self) -> str:
        """As the paper calls it."""
        return ("MMT" if self.said.has_regions else "NMT") if self.translates else (
            "VTLM" if self.said.has_regions else "TLM"
        )  # fmt: skip

    def part(self, name: str) -> Mapping[str, Any]:
        """A part of fairseq's configuration."""
        found = self.cfg.get(name)
        return found if isinstance(found, Mapping) else getattr(found, "__dict__", {})

    def sentence(self) -> str:
        """What it is."""
        tied = {tensor.data_ptr(): tensor.numel() for tensor in self.state["model"].values()}
        does = {
            "MMT": "translates image captions, given regions of their image",
            "NMT": "translates text, without images",
            "VTLM": "is a pre-trained encoder, which predicts masked words of two captions and classes of regions",
            "TLM": "is a pre-trained encoder, which predicts masked words of two captions",
        }[self.kind]
        size = f"{sum(tied.values()):,} parameters"
        return (
            f"This {self.kind} model ({_code(f'{self.source}-{self.target}')}, arch {_code(self.config.get('_name'))}, "
            f"{size}) {does}. {_ASK} who made it, what for, and its licence."
        )


def _head(model: Model) -> str:
    """What the Hugging Face hub reads."""
    task = ["pipeline_tag: translation"] if model.translates else []
    tags = "".join(f"\n- {tag}" for tag in ("fairseq", "vtlm-fairseq", model.kind.lower()))
    languages = "".join(f"\n- {_plain(lang)}" for lang in str(model.config.get("langs")).split(","))
    return "\n".join(["---", f"language:{languages}", "library_name: fairseq", *task, f"tags:{tags}", "---"])


def _use(model: Model, pipeline: TextPipeline | None, folder: str, name: str) -> str:
    regions = " --regions regions.h5" if model.said.has_regions else ""
    path = f"{_plain(folder)}/{_plain(name)}"
    if not model.translates:
        return f"`fairseq-train ... --pretrained {path}{regions}`, or `VTLM.from_pretrained` from Python."
    raw = "" if pipeline else " --preprocessed"
    line = "sentence<TAB>image id" if regions else "a sentence"
    return f"`vtlm-translate --path {path}{regions}{raw} INPUT`; each line of INPUT is `{line}`."


def _data(model: Model, pipeline: TextPipeline | None) -> str:
    lines = [f"{_ASK} what the captions and images are, where they come from, and their licences."]
    symbols = (model.state.get("task_state") or {}).get("symbols")
    if isinstance(symbols, list):
        lines.append(f"Joint dictionary of {len(symbols):,} symbols.")
    if pipeline is not None:
        steps = ", ".join(pipeline.steps) or "none"
        lines.append(f"Text: steps {_code(steps)}; sub-words {_code(pipeline.bpe)}.")
    else:
        lines.append("Text: no `text.json` beside the checkpoint; it was prepared elsewhere.")
    text = "\n".join(f"* {line}" for line in lines)
    sums = [[kind, str(name), str(value)] for kind in ("data", "dictionary", "regions")
            for name, value in _mapping(model.run.get(kind)).items()]  # fmt: skip
    if not sums:
        return text
    return text + "\n\n" + _table(["what", "file", "sha256"], sums)


def _regions(model: Model) -> str:
    if not model.said.has_regions:
        return "None: the model has no input for images."
    detector, most = model.said.detector, model.said.options.get("max_regions")
    made = "a detector that the checkpoint does not name"
    if detector:
        made = f"{_code(detector.name)} (hash of its classes: {_code(detector.classes)})"
    width, classes = (_code(model.config.get(name)) for name in ("region_dim", "region_classes"))
    return f"Made by {made}: {width} wide, {classes} classes" + (f", at most {most} an image." if most else ".")


def _training(model: Model) -> str:
    rows = [["updates", num_updates(model.state)]]
    iterator = _mapping(_mapping(model.state.get("extra_state")).get("train_iterator"))
    rows += [["epoch", _epoch(iterator)]] if "epoch" in iterator else []
    pretrained = _mapping(model.run.get("pretrained")).get("system") or model.config.get("pretrained")
    rows += [["begins with", os.path.basename(str(pretrained))]] if pretrained else []
    for part, names in TRAINING.items():
        found = model.part(part)
        rows += [[option(part if name == "_name" else name), _value(found[name])] for name in names if name in found]
    rows += [[option(name), _value(value)] for name, value in model.said.options.items()]
    rows += [[option(name), _value(model.config.get(name))] for name in MODEL_OPTIONS]
    rows += [[name, str(version)] for name, version in _mapping(model.run.get("versions")).items()]
    rows += [[name, _value(model.run.get(name))] for name in ("commit", "device", "seconds")]
    return _table(["", "value"], [[name, value] for name, value in rows if value not in ("None", "")])


def _epoch(iterator: Mapping[str, Any]) -> object:
    """The epoch of the last update: at the end of one, fairseq notes the next."""
    epoch = iterator["epoch"]
    return epoch - 1 if isinstance(epoch, int) and epoch > 1 and iterator.get("iterations_in_epoch") == 0 else epoch


def _scores(model: Model, tables: list[str]) -> str:
    found = [_validation(model)]
    rows = [
        [test_set, order, figure, _mapping(content).get("value"), str(_mapping(content).get("signature") or "")]
        for test_set, orders in _mapping(model.run.get("scores")).items()
        for order, figures in _mapping(orders).items()
        for figure, content in _mapping(figures).items()
    ]
    if rows:
        found.append(_table(["test set", "regions", "", "value", "signature"], rows))
    for path in tables:
        content = parse_object(_text(path), path, hint="give a table printed with --format json")
        columns, lines = content.get("columns"), content.get("rows")
        if not isinstance(columns, list) or not isinstance(lines, list) or not all(isinstance(r, dict) for r in lines):
            raise VTLMError(f"{path}: no table; give one printed with --format json")
        found.append(_table([str(name) for name in columns], [[line.get(name) for name in columns] for line in lines],
                            title=str(content.get("title") or "")))  # fmt: skip
    if not rows and not tables:
        found.append(f"{_ASK} scores of test sets (`--scores`, a table of `vtlm-score --format json`).")
    return "\n\n".join(found)


def _validation(model: Model) -> str:
    extra, checkpoint = _mapping(model.state.get("extra_state")), model.part("checkpoint")
    value, metric = extra.get("val_loss"), checkpoint.get("best_checkpoint_metric", "loss")
    if not isinstance(value, int | float):
        return "The checkpoint holds no figure of its validation."
    best = extra.get("best")
    told = f"; the best of its run was {best:.4g}" if isinstance(best, int | float) and best != value else ""
    return f"Validation in training: {_code(metric)} {value:.4g}{told}."


def _limits(model: Model, pipeline: TextPipeline | None) -> str:
    return "\n".join(f"* {line}" for line in _limit_lines(model, pipeline))


def _limit_lines(model: Model, pipeline: TextPipeline | None) -> Iterator[str]:
    if model.translates:
        yield f"It translates {_code(model.source)} into {_code(model.target)}, with the words of its dictionary."
    else:
        yield "It does not translate; it predicts words of pairs as it was trained on."
    if model.said.has_regions:
        yield "Features of another detector mean nothing to it, also where they have the same width."
        detector = model.said.detector
        if detector and detector.name.startswith("none"):
            yield "Its regions were made without a detector: scores say nothing of images as a detector sees them."
        if model.translates:
            yield ("A good translation does not show that the image was used: `vtlm-probe incongruent` measures it.")
    if pipeline is not None and "lowercase" in pipeline.steps:
        yield "Its text is lower-cased."
    if most := model.config.get("max_positions"):
        yield f"A sentence has at most {most} positions."
    yield f"{_ASK} on which text and images it was not tried, and biases of captions and detector."


def _text(path: str) -> str:
    return "\n".join(read_lines(path))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _value(value: Any) -> str:
    value = plain(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def _plain(value: Any) -> str:
    """Text of a stranger without what Markdown and YAML read as more than text."""
    return "".join(char for char in printable(str(value)) if char not in "`|<>*[]#:")


def _code(value: Any) -> str:
    return "`" + "".join(char for char in printable(str(value)) if char not in "`|<>") + "`"


def _table(columns: list[str], rows: list[list[Any]], title: str = "") -> str:
    cells = [[_plain(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    return Table([_plain(name) for name in columns], cells, title=_plain(title)).render("markdown")
