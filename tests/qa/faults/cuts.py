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
from pathlib import Path

import paths  # noqa: F401
from cut_commands import STDIN, unclear, with_checkpoint, with_store
from forked import ForkedCommands

from harness import USER_DIR
from toy import make_corpus


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
        run = ForkedCommands(folder)
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
