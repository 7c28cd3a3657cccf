"""The quickstart: make a small data set, pre-train VTLM, fine-tune MMT and NMT, decode, and show what the image does.

Takes about four minutes on two cores. Everything is written under --out; a second call goes on where the first
one stopped.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

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
        pretrain_updates=800,
        mmt_updates=600,
        nmt_updates=400,
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


def update_progress(last: int) -> Callable[[str], float | None]:
    """Progress of ``fairseq-train --log-format json`` towards update ``last``."""
    pattern = re.compile(r'"num_updates": "(\d+)"')

    def progress(line: str) -> float | None:
        found = pattern.search(line)
        return int(found[1]) / last if found else None

    return progress


def hypothesis_progress(total: int) -> Callable[[str], float | None]:
    """Progress of ``fairseq-generate`` through ``total`` sentences."""
    seen = 0

    def progress(line: str) -> float | None:
        nonlocal seen
        if not line.startswith("H-"):
            return None
        seen += 1
        return seen / total

    return progress


def _train_command(size: Size, args: argparse.Namespace, *, name: str, updates: int, lr: str) -> list[str]:
    """What the three trainings share: one checkpoint, saved now and then so that a killed training goes on."""
    command = ["-P", "-m", "fairseq_cli.train", "data-bin", "--user-dir", USER_DIR]
    command += ["--save-dir", name, "--seed", str(args.seed), "--max-update", str(updates)]
    command += ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)", "--clip-norm", "1.0"]
    command += ["--lr", lr, "--lr-scheduler", "inverse_sqrt", "--warmup-updates", str(max(1, updates // 8))]
    command += ["--batch-size", str(size.batch), "--num-workers", "0", "--distributed-world-size", "1"]
    command += ["--no-epoch-checkpoints", "--save-interval", "100000", "--keep-interval-updates", "1"]
    command += ["--save-interval-updates", str(max(5, updates // 5)), "--validate-interval", "100000"]
    command += ["--validate-interval-updates", str(updates)]
    command += ["--log-format", "json", "--log-interval", str(max(1, updates // 50))]
    return command + (["--cpu"] if args.cpu else [])


def _model_flags(size: Size, *, halves: Sequence[str]) -> list[str]:
    flags = []
    for half in halves:
        flags += [f"--{half}-embed-dim", str(size.width), f"--{half}-ffn-embed-dim", str(4 * size.width)]
        flags += [f"--{half}-layers", str(size.layers), f"--{half}-attention-heads", "4"]
    return flags


def build_stages(args: argparse.Namespace) -> list:
    """The stages of the quickstart, for the options of the command line."""
    from scoring import extract_hypotheses
    from stages import Stage, write_atomically

    out, size = args.out, SIZES[args.size]
    lines = 2 * size.test

    def finish_binarising() -> None:
        from vtlm_fairseq.data.text_pipeline import TextPipeline

        folder = out / "data-bin"
        for path in folder.glob("test1.*"):
            path.rename(folder / path.name.replace("test1.", "test_swapped.", 1))
        for split in ("train", "valid", "test", "test_swapped"):
            shutil.copyfile(out / "data" / f"{split}.images", folder / f"{split}.images")
        TextPipeline(source_lang="en", target_lang="de", steps=(), bpe="none").save(folder)

    def finish_decoding(name: str) -> Callable[[], None]:
        def finish() -> None:
            hypotheses = extract_hypotheses(out / "logs" / f"decode_{name}.log", count=lines)
            write_atomically(out / "hyp" / f"{name}.de", "".join(f"{text}\n" for text in hypotheses))

        return finish

    def decode(name: str, title: str, *, model: str, subset: str, flags: Sequence[str]) -> Stage:
        command = ["-P", "-m", "fairseq_cli.generate", "data-bin", "--user-dir", USER_DIR]
        command += ["--task", "multimodal_translation", "--path", f"{model}/checkpoint_last.pt"]
        command += ["--gen-subset", subset, "--beam", "8", "--max-len-b", "30", "--batch-size", "128"]
        command += ["--seed", str(args.seed), "--log-format", "none", *flags]
        return Stage(
            name=f"decode_{name}",
            title=title,
            command=tuple(command + (["--cpu"] if args.cpu else [])),
            outputs=(f"hyp/{name}.de",),
            needs=(model,),
            progress=hypothesis_progress(lines),
            finish=finish_decoding(name),
            seconds=20,
        )

    fine_tuning = [
        *("--task", "multimodal_translation", "--arch", "multimodal_transformer"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *_model_flags(size, halves=("encoder",)),
        *("--pretrained", "vtlm/checkpoint_last.pt"),
    ]
    sizes = [part for name in ("train", "valid", "test") for part in (f"--{name}-size", str(getattr(size, name)))]
    return [
        Stage(
            name="data",
            title="make the data",
            command=(str(HERE / "make_data.py"), "--out", "data", "--seed", str(args.seed), *sizes),
            outputs=("data",),
            inputs=tuple(HERE / f"{name}.py" for name in ("lexicon", "grammar", "scenes", "make_data")),
            seconds=8,
        ),
        Stage(
            name="binarise",
            title="binarise the text",
            command=(
                *("-P", "-m", "fairseq_cli.preprocess", "--user-dir", USER_DIR),
                *("--task", "visual_translation_lm", "--source-lang", "en", "--target-lang", "de"),
                *("--trainpref", "data/train", "--validpref", "data/valid"),
                *("--testpref", "data/test,data/test_swapped", "--joined-dictionary", "--destdir", "data-bin"),
            ),
            outputs=("data-bin",),
            needs=("data",),
            finish=finish_binarising,
            seconds=8,
        ),
        Stage(
            name="vtlm",
            title="pre-train VTLM",
            command=(
                *_train_command(size, args, name="vtlm", updates=size.pretrain_updates, lr="1e-3"),
                *("--task", "visual_translation_lm", "--arch", "vtlm", "--criterion", "vtlm"),
                *("--regions", "data/regions", "--dropout", "0.0"),
                *_model_flags(size, halves=("encoder",)),
            ),
            outputs=("vtlm",),
            needs=("binarise",),
            progress=update_progress(size.pretrain_updates),
            resumable=True,
            seconds=80,
        ),
        Stage(
            name="mmt",
            title="fine-tune MMT",
            command=(
                *_train_command(size, args, name="mmt", updates=size.mmt_updates, lr="1e-3"),
                *fine_tuning,
                *("--regions", "data/regions"),
            ),
            outputs=("mmt",),
            needs=("vtlm",),
            progress=update_progress(size.mmt_updates),
            resumable=True,
            seconds=60,
        ),
        Stage(
            name="nmt",
            title="fine-tune NMT",
            command=(
                *_train_command(size, args, name="nmt", updates=size.nmt_updates, lr="1e-3"),
                *fine_tuning,
                *("--regions", "none"),
            ),
            outputs=("nmt",),
            needs=("vtlm",),
            progress=update_progress(size.nmt_updates),
            resumable=True,
            seconds=40,
        ),
        decode(
            "mmt", "decode MMT", model="mmt", subset="test", flags=("--regions", "data/regions")
        ),
        decode(
            "mmt_swapped",
            "decode MMT, swapped",
            model="mmt",
            subset="test_swapped",
            flags=("--regions", "data/regions"),
        ),
        decode(
            "mmt_shuffled",
            "decode MMT, shuffled",
            model="mmt",
            subset="test",
            flags=("--regions", "data/regions", "--region-order", "shuffle"),
        ),
        decode("nmt", "decode NMT", model="nmt", subset="test", flags=("--regions", "none")),
    ]


def report(args: argparse.Namespace, seconds: dict[str, float]) -> str:
    """Write ``results.json`` from the hypothesis files and return what the screen shows."""
    from scoring import EXPECTED, SYSTEMS, minimal_pairs, outside_expected, read_records, score, table
    from stages import write_atomically

    records = read_records(args.out / "data" / "test.jsonl")
    hypotheses = {
        system: (args.out / "hyp" / f"{system}.de").read_text(encoding="utf-8").splitlines()
        for system in SYSTEMS
    }
    scores = {system: score(hypotheses[system], records) for system in SYSTEMS}
    versions = {name: metadata.version(name) for name in ("ve-fairseq", "torch", "numpy")}
    results = {
        "size": args.size,
        "seed": args.seed,
        "systems": {
            system: {"title": title, "hypotheses": f"hyp/{system}.de", **scores[system]}
            for system, title in SYSTEMS.items()
        },
        "expected": EXPECTED,
        "seconds": seconds,
        "seconds_in_all": round(sum(seconds.values()), 1),
        "versions": {"python": platform.python_version(), **versions},
    }
    write_atomically(args.out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    full = args.size == "full"
    text = f"\n{table(scores, expected=full)}\n\n{minimal_pairs(records, hypotheses)}\n"
    if full and (outside := outside_expected(scores)):
        text += "\nOutside the expected range: " + "; ".join(outside) + "\n"
    return f"{text}\nFigures: {args.out / 'results.json'}; hypotheses: {args.out / 'hyp'}; logs: {args.out / 'logs'}"


def _environment() -> dict[str, str]:
    """Of the commands: the checkout's package first, UTF-8, output at once, and no more threads than help."""
    environment = dict(os.environ, PYTHONUTF8="1", PYTHONUNBUFFERED="1")
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
    return environment


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("quickstart-out"), help="folder for everything (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of data and training (default: %(default)s)")
    parser.add_argument(
        "--size",
        choices=list(SIZES),
        default="full",
        help="tiny: a run of half a minute that learns nothing, to test the commands (default: %(default)s)",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="run on the CPU; if PyTorch is installed first, its small CPU build"
    )
    args = parser.parse_args(argv)
    args.out = args.out.absolute()

    sys.path.insert(0, str(ROOT))
    from stages import Runner, Screen

    from vtlm_fairseq.errors import VTLMError, exit_on_error

    screen = Screen(sys.stdout)
    with exit_on_error():
        if args.seed < 0:
            raise VTLMError(f"--seed {args.seed}: give a number from 0")
        runner = Runner(
            args.out, build_stages(args), root=ROOT, environment=_environment(), screen=screen
        )
        screen.say(f"Quickstart in {args.out}")
        try:
            seconds = runner.run()
        except KeyboardInterrupt:
            raise SystemExit("\nstopped; the same command goes on with this stage") from None
        screen.say(report(args, seconds))


if __name__ == "__main__":
    main()
