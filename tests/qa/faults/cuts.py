"""Cut checkpoints and region stores off at random bytes, and give them to every command that reads them.

    python tests/qa/faults/cuts.py --cuts 50 --seed 1

Each answer must be one line that names the file, exit status 1 or 2, without a stack. ``fairseq-validate`` reads the
checkpoint before this package is asked anything and ends with a stack: it is counted apart.
"""

import argparse
import collections
import random
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(folder) for folder in (ROOT / "tests/support", ROOT) if str(folder) not in sys.path]

from harness import USER_DIR, CommandLines, Result, pretraining, translation  # noqa: E402
from toy import Corpus, make_corpus  # noqa: E402

TRANSLATION = ("--user-dir", USER_DIR, "--task", "multimodal_translation")
STDIN = "word1 word2\ttest-0-0\n"


def with_checkpoint(corpus: Corpus, path: Path, out: Path) -> dict[str, tuple[str, list]]:
    """Commands that read a checkpoint, by what they are: module or script, and arguments.

    Args:
        corpus: data that fit it.
        path: the checkpoint, which must be named ``checkpoint_last.pt``, with the dictionaries beside it.
        out: folder for what would be made.
    """
    regions = ["--regions", corpus.regions]
    train = partial(translation, corpus.data, regions=corpus.regions)
    decode = [corpus.data, *TRANSLATION, "--path", path, "--cpu", *regions]
    return {
        "resume": ("fairseq_cli.train", train(path.parent)),
        "--restore-file": ("fairseq_cli.train", train(out / "run", "--restore-file", path)),
        "--finetune-from-model": ("fairseq_cli.train", train(out / "run", "--finetune-from-model", path)),
        "--pretrained": ("fairseq_cli.train", train(out / "run", "--pretrained", path)),
        "fairseq-generate": ("fairseq_cli.generate", decode),
        "fairseq-interactive": ("fairseq_cli.interactive", [*decode, "--region-order", "none"]),
        "vtlm-translate": ("vtlm_fairseq.cli.translate", ["--path", path, "--cpu", "--preprocessed", *regions]),
        "vtlm-convert average": ("vtlm_fairseq.cli.convert", ["average", path, "--out", out / "average.pt"]),
        "vtlm-convert latest": ("vtlm_fairseq.cli.convert", ["latest", path.parent]),
        "vtlm-convert checkpoint": ("vtlm_fairseq.cli.convert", ["checkpoint", path, "--out", out / "new.pt"]),
    }


def with_store(corpus: Corpus, store: Path, checkpoint: Path, out: Path) -> dict[str, tuple[str, list]]:
    """Commands that read a region store.

    Args:
        corpus: data whose images the store has.
        store: the store.
        checkpoint: a whole translation model with regions.
        out: folder for what would be made.
    """
    decode = ["--path", checkpoint, "--cpu", "--regions", store]
    merge = ["merge", store, "--out", store.parent / "merged.h5"]
    return {
        "pre-training": ("fairseq_cli.train", pretraining(corpus.data, out / "run", regions=store)),
        "fairseq-generate": ("fairseq_cli.generate", [corpus.data, *TRANSLATION, *decode]),
        "vtlm-translate": ("vtlm_fairseq.cli.translate", ["--preprocessed", *decode]),
        "vtlm-regions info": ("vtlm_fairseq.cli.regions", ["info", store]),
        "vtlm-regions validate": ("vtlm_fairseq.cli.regions", ["validate", store]),
        "vtlm-regions merge": ("vtlm_fairseq.cli.regions", merge),
        "vtlm-regions merge --copy": ("vtlm_fairseq.cli.regions", [*merge, "--copy"]),
    }


def unclear(name: str, result: Result, path: Path) -> str:
    """What is wrong with the answer of a command to a file that is cut off; empty if nothing is."""
    if result.status not in (1, 2):
        return f"exit status {result.status}"
    if "Traceback" in result.output:
        return f"a stack, which ends in {result.last_line!r}"
    line = result.last_line
    if name == "vtlm-regions validate":
        return "" if line == f"{path}: 1 faults" and str(path) in result.output.splitlines()[-2] else line
    where = str(path.parent) if name == "vtlm-convert latest" else str(path)
    return "" if line.startswith("error: ") and where in line else f"last line {line!r}"


def main() -> int:
    """The command line; exit status 1 where an answer was not clear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=50, help="of each command (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    args = parser.parse_args()
    began = time.monotonic()
    rng = random.Random(args.seed)
    counts: collections.Counter[str] = collections.Counter()
    faults = []
    with tempfile.TemporaryDirectory(prefix="cuts-") as name:
        folder = Path(name)
        run = CommandLines(folder)
        corpus = make_corpus(run, folder / "corpus")
        run.pretrain(corpus.data, folder / "pre", regions=corpus.regions)
        run.train(corpus.data, folder / "mmt", "--pretrained", folder / "pre/checkpoint_last.pt",
                  regions=corpus.regions)  # fmt: skip
        whole = folder / "mmt/checkpoint_last.pt"
        cut = folder / "cut/checkpoint_last.pt"
        shutil.copytree(whole.parent, cut.parent)
        (cut.parent / "checkpoint_best.pt").unlink()
        store = folder / "stores/cut.h5"
        store.parent.mkdir()
        validate = ("fairseq_cli.validate", [corpus.data, "--user-dir", USER_DIR, "--path", cut, "--cpu"])
        for path, source, commands in (
            (cut, whole, with_checkpoint(corpus, cut, folder / "out")),
            (store, corpus.store("train"), with_store(corpus, store, whole, folder / "out")),
            (cut, whole, {"fairseq-validate (stock)": validate}),
        ):
            data = source.read_bytes()
            for kind, (module, argv) in commands.items():
                for _ in range(args.cuts):
                    size = rng.choice((rng.randrange(len(data)), rng.randrange(len(data)), rng.randrange(64),
                                       len(data) - 1 - rng.randrange(64)))  # fmt: skip
                    path.write_bytes(data[:size])
                    found = unclear(kind, run(module, *argv, ok=None, stdin=STDIN), path)
                    counts[kind] += bool(found)
                    if found and "stock" not in kind:
                        faults.append(f"{kind}, {size} of {len(data)} bytes: {found}")
                print(f"| {path.suffix} | {kind} | {args.cuts} | {counts[kind]} |", flush=True)
    print("\n".join(faults))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
