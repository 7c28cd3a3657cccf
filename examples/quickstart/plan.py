"""The stages of the quickstart: their commands, sizes and settings."""

import argparse
import contextlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scoring import extract_hypotheses
from stages import Stage, write_atomically

from vtlm_fairseq.cli import convert
from vtlm_fairseq.data.text_pipeline import TextPipeline

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
USER_DIR = str(ROOT / "vtlm_fairseq")


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
    batch: int
    pretrain_updates: int
    mmt_updates: int
    nmt_updates: int


SIZES = {
    "full": Size(
        train=4500,
        valid=90,
        test=603,
        width=128,
        layers=2,
        batch=64,
        pretrain_updates=700,
        mmt_updates=450,
        nmt_updates=250,
    ),
    "tiny": Size(
        train=270,
        valid=9,
        test=18,
        width=16,
        layers=1,
        batch=16,
        pretrain_updates=6,
        mmt_updates=6,
        nmt_updates=6,
    ),
}
"""``tiny`` learns nothing; it is there to test the commands."""

_REGIONS = ("--regions", "data/regions")


def build_stages(args: argparse.Namespace) -> list[Stage]:
    """The stages for the options of the command line; commands run in ``args.out``, so paths are relative to it."""
    size = SIZES[args.size]
    fine_tuning = (
        *("--task", "multimodal_translation", "--arch", "multimodal_transformer"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--dropout", "0.1"),
        *("--pretrained", "vtlm/checkpoint_last.pt"),
    )
    return [
        _data(args, size),
        _binarise(args.out),
        _train(
            args,
            name="vtlm",
            title="pre-train VTLM",
            updates=size.pretrain_updates,
            lr="2e-3",
            # The paper's best variant: region labels are predicted, regions are not masked.
            flags=(
                *("--task", "visual_translation_lm", "--arch", "vtlm", "--criterion", "vtlm", *_REGIONS),
                *("--dropout", "0.0", "--region-leave-unmasked-prob", "1", "--region-random-prob", "0"),
            ),
            needs="binarise",
            seconds=85,
        ),
        _train(
            args,
            name="mmt",
            title="fine-tune MMT",
            updates=size.mmt_updates,
            lr="3e-3",
            flags=(*fine_tuning, *_REGIONS),
            needs="vtlm",
            seconds=65,
        ),
        _train(
            args,
            name="nmt",
            title="fine-tune NMT",
            updates=size.nmt_updates,
            lr="2e-3",
            flags=(*fine_tuning, "--regions", "none"),
            needs="vtlm",
            seconds=35,
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
            shutil.copyfile(out / "data" / f"{split}.images", folder / f"{split}.images")
        TextPipeline(source_lang="en", target_lang="de", steps=(), bpe="none").save(folder)

    return Stage(
        name="binarise",
        title="binarise the text",
        command=(
            *_fairseq("preprocess"),
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
            *_fairseq("train"),
            *("data-bin", "--save-dir", name, "--seed", str(args.seed), *_device(args)),
            *("--distributed-world-size", "1", "--num-workers", "0"),
            *("--encoder-embed-dim", str(size.width), "--encoder-ffn-embed-dim", str(4 * size.width)),
            *("--encoder-layers", str(size.layers), "--encoder-attention-heads", "4"),
            *("--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--batch-size", str(size.batch)),
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
        progress=_update_progress(updates),
        recover=lambda: _mend_last_checkpoint(args.out / name),
        seconds=seconds,
    )


def _mend_last_checkpoint(folder: Path) -> None:
    """Make ``checkpoint_last.pt`` the newest whole checkpoint, or remove it where there is none.

    fairseq writes it as a copy in place: a kill at that moment leaves a part of it.
    """
    last, answer = folder / "checkpoint_last.pt", io.StringIO()
    try:
        with contextlib.redirect_stdout(answer), contextlib.redirect_stderr(io.StringIO()):
            convert.main(["latest", str(folder)])
    except SystemExit:
        last.unlink(missing_ok=True)
        return
    newest = Path(answer.getvalue().rstrip("\n"))
    if newest != last:
        partial = folder / ".checkpoint_last.partial"
        shutil.copyfile(newest, partial)
        partial.replace(last)


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
            *_fairseq("generate"),
            *("data-bin", "--task", "multimodal_translation", "--path", f"{model}/checkpoint_last.pt"),
            *("--beam", "8", "--max-len-b", "30", "--batch-size", "128", "--seed", str(args.seed)),
            *("--log-format", "none", *_device(args), *flags),
        ),
        outputs=(f"hyp/{name}.de",),
        needs=(model,),
        progress=_hypothesis_progress(lines),
        finish=finish,
        seconds=15,
    )


def _fairseq(command: str) -> tuple[str, ...]:
    """``fairseq-preprocess`` and so on, run by this interpreter; -P: not with modules of the output folder."""
    return ("-P", "-m", f"fairseq_cli.{command}", "--user-dir", USER_DIR)


def _device(args: argparse.Namespace) -> tuple[str, ...]:
    return ("--cpu",) if args.cpu else ()


def _update_progress(last: int) -> Callable[[str], float | None]:
    """Progress of ``fairseq-train --log-format json`` towards update ``last``."""
    pattern = re.compile(r'"num_updates": "(\d+)"')

    def progress(line: str) -> float | None:
        found = pattern.search(line)
        return int(found[1]) / last if found else None

    return progress


def _hypothesis_progress(total: int) -> Callable[[str], float | None]:
    """Progress of ``fairseq-generate`` through ``total`` sentences."""
    seen = 0

    def progress(line: str) -> float | None:
        nonlocal seen
        if not line.startswith("H-"):
            return None
        seen += 1
        return seen / total

    return progress
