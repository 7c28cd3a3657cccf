"""The stages of the quickstart: their commands, sizes and settings."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from commands import fairseq, hypothesis_progress, mend_last_checkpoint, update_progress
from probes import PROBES, extract_json
from scoring import extract_hypotheses
from stages import Stage, write_atomically

from vtlm_fairseq.files import copy_file
from vtlm_fairseq.text.pipeline import TextPipeline

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Size:
    """How much data, how large a model, how long a training.

    ``train``, ``valid``, ``test`` are numbers of English sentences (each has two lines).
    """

    train: int
    valid: int
    test: int
    width: int
    layers: int
    pretrain_batch: int
    pretrain_updates: int
    batch: int
    mmt_updates: int
    nmt_updates: int


SIZES = {
    "full": Size(
        train=4500,
        valid=90,
        test=603,
        width=128,
        layers=3,
        pretrain_batch=32,
        pretrain_updates=2000,
        batch=64,
        mmt_updates=200,
        nmt_updates=150,
    ),
    "tiny": Size(
        train=270,
        valid=9,
        test=18,
        width=16,
        layers=1,
        pretrain_batch=16,
        pretrain_updates=6,
        batch=16,
        mmt_updates=6,
        nmt_updates=6,
    ),
}
"""``tiny`` learns nothing; it is there to test the commands."""

_REGIONS = ("--regions", "data/regions")
_REGION_MODEL = (*_REGIONS, "--region-layernorm")
"""Of trainings: the numbers of a scene are larger than embeddings, and a LayerNorm makes them alike."""


def build_stages(args: argparse.Namespace) -> list[Stage]:
    """The stages for the options of the command line; commands run in ``args.out``, so paths are relative to it."""
    size = SIZES[args.size]
    # Half of the words are masked (the paper: 15 %). Where both nouns of a pair are, only the scene tells them, and
    # a training as short as this one has to meet that often to learn to look.
    pre_training = (
        *("--task", "visual_translation_lm", "--arch", "vtlm", "--criterion", "vtlm"),
        *("--dropout", "0.0", "--mask-prob", "0.5"),
    )
    fine_tuning = (
        *("--task", "multimodal_translation", "--arch", "multimodal_transformer"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--dropout", "0.1"),
        *("--pretrained", "vtlm/checkpoint_last.pt"),
    )
    stages = [
        _data(args, size),
        _binarise(args.out),
        _train(
            args,
            name="vtlm",
            title="pre-train VTLM",
            updates=size.pretrain_updates,
            batch=size.pretrain_batch,
            lr="2e-3",
            # The paper's best variant: region labels are predicted, regions are not masked.
            flags=(
                *(*pre_training, *_REGION_MODEL),
                *("--region-leave-unmasked-prob", "1", "--region-random-prob", "0"),
            ),
            needs="binarise",
            seconds=125,
        ),
        _train(
            args,
            name="mmt",
            title="fine-tune MMT",
            updates=size.mmt_updates,
            batch=size.batch,
            lr="3e-3",
            flags=(*fine_tuning, *_REGION_MODEL),
            needs="vtlm",
            seconds=40,
        ),
        _train(
            args,
            name="nmt",
            title="fine-tune NMT",
            updates=size.nmt_updates,
            batch=size.batch,
            lr="2e-3",
            flags=(*fine_tuning, "--regions", "none"),
            needs="vtlm",
            seconds=25,
        ),
        _decode(args, "mmt", title="decode MMT", flags=("--gen-subset", "test", *_REGIONS)),
        _decode(
            args,
            "mmt_swapped",
            title="decode MMT, swapped",
            flags=("--gen-subset", "test_swapped", *_REGIONS),
        ),
        _decode(
            args,
            "mmt_shuffled",
            title="decode MMT, shuffled",
            flags=("--gen-subset", "test", *_REGIONS, "--region-order", "shuffle"),
        ),
        _decode(args, "nmt", title="decode NMT", flags=("--gen-subset", "test", "--regions", "none")),
    ]
    if args.probes:
        stages.append(
            _train(
                args,
                name="tlm",
                title="pre-train TLM",
                updates=size.pretrain_updates,
                batch=size.pretrain_batch,
                lr="2e-3",
                flags=(*pre_training, "--regions", "none"),
                needs="binarise",
                seconds=90,
            )
        )
        stages += [_probe(args, name) for name in PROBES]
    return stages


def _data(args: argparse.Namespace, size: Size) -> Stage:
    sizes = [f"--{split}-size={getattr(size, split)}" for split in ("train", "valid", "test")]
    return Stage(
        name="data",
        title="make the data",
        command=(str(HERE / "make_data.py"), "--out", "data", "--seed", str(args.seed), *sizes),
        outputs=("data",),
        inputs=tuple(HERE / f"{name}.py" for name in ("lexicon", "grammar", "scenes", "make_data")),
        seconds=8,
    )


def _binarise(out: Path) -> Stage:
    def finish() -> None:
        folder = out / "data-bin"
        for path in folder.glob("test1.*"):  # fairseq-preprocess knows no other names
            path.rename(folder / path.name.replace("test1.", "test_swapped.", 1))
        for split in ("train", "valid", "test", "test_swapped"):
            copy_file(out / "data" / f"{split}.images", folder / f"{split}.images")
        TextPipeline(source_lang="en", target_lang="de", steps=(), bpe="none").save(folder)

    return Stage(
        name="binarise",
        title="binarise the text",
        command=(
            *fairseq("preprocess"),
            *("--task", "visual_translation_lm", "--source-lang", "en", "--target-lang", "de"),
            *("--trainpref", "data/train", "--validpref", "data/valid"),
            *("--testpref", "data/test,data/test_swapped", "--joined-dictionary", "--destdir", "data-bin"),
        ),
        outputs=("data-bin",),
        needs=("data",),
        finish=finish,
        seconds=8,
    )


def _train(
    args: argparse.Namespace,
    *,
    name: str,
    title: str,
    updates: int,
    batch: int,
    lr: str,
    flags: Sequence[str],
    needs: str,
    seconds: float,
) -> Stage:
    """A training into the folder ``name``; it is saved now and then, so that a killed one goes on from there."""
    size = SIZES[args.size]
    return Stage(
        name=name,
        title=title,
        command=(
            *fairseq("train"),
            *("data-bin", "--save-dir", name, "--seed", str(args.seed), *_device(args)),
            *("--distributed-world-size", "1", "--num-workers", "0"),
            *("--encoder-embed-dim", str(size.width), "--encoder-ffn-embed-dim", str(4 * size.width)),
            *("--encoder-layers", str(size.layers), "--encoder-attention-heads", "4"),
            *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--batch-size", str(batch)),
            *("--lr", lr, "--lr-scheduler", "polynomial_decay", "--warmup-updates", str(updates // 10)),
            *("--total-num-update", str(updates), "--max-update", str(updates)),
            *("--no-epoch-checkpoints", "--keep-interval-updates", "1"),
            *("--save-interval", "100000", "--save-interval-updates", str(max(2, updates // 5))),
            *("--validate-interval", "100000", "--validate-interval-updates", str(updates)),
            *("--log-format", "json", "--log-interval", str(max(1, updates // 50))),
            *flags,
        ),
        outputs=(name,),
        needs=(needs,),
        progress=update_progress(updates),
        recover=lambda: mend_last_checkpoint(args.out / name),
        seconds=seconds,
    )


def _decode(args: argparse.Namespace, name: str, *, title: str, flags: Sequence[str]) -> Stage:
    """Decode with the model whose name ``name`` begins with, into ``hyp/{name}.de``."""
    lines = 2 * SIZES[args.size].test
    model = name.split("_")[0]

    def finish() -> None:
        hypotheses = extract_hypotheses(args.out / "logs" / f"decode_{name}.log", count=lines)
        write_atomically(args.out / "hyp" / f"{name}.de", "".join(f"{text}\n" for text in hypotheses))

    return Stage(
        name=f"decode_{name}",
        title=title,
        command=(
            *fairseq("generate"),
            *("data-bin", "--task", "multimodal_translation", "--path", f"{model}/checkpoint_last.pt"),
            *("--beam", "8", "--max-len-b", "30", "--batch-size", "128", "--seed", str(args.seed)),
            *("--log-format", "none", *_device(args), *flags),
        ),
        outputs=(f"hyp/{name}.de",),
        needs=(model,),
        progress=hypothesis_progress(lines),
        finish=finish,
        seconds=15,
    )


def _probe(args: argparse.Namespace, name: str) -> Stage:
    """Run ``vtlm-probe {name}``; its table goes to ``probes/{name}.json``."""
    probe = PROBES[name]

    def finish() -> None:
        table = extract_json((args.out / "logs" / f"{name}.log").read_text(encoding="utf-8"))
        write_atomically(args.out / "probes" / f"{name}.json", table)

    return Stage(
        name=name,
        title=f"probe: {name}",
        command=(
            *("-P", "-m", "vtlm_fairseq.cli.probe", name, *probe.flags),
            *("--batch-size", "128", "--format", "json", *_device(args)),
        ),
        outputs=(f"probes/{name}.json",),
        needs=probe.needs,
        finish=finish,
        seconds=probe.seconds,
    )


def _device(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--cpu",) if args.cpu else ()
