"""Every row of Table 1: pre-training, training, decoding, one table. See the README beside this file.

Everything is written under --out. Finished stages are skipped, a training that was cut off goes on from its newest
whole checkpoint; a second call prints the table.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from table1_rows import Size

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))  # python -P leaves the folder of the script out
# TensorFlow, which PyTorch's TensorBoard support imports where it is installed, would print its greeting
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

FORMATS = ("text", "markdown", "latex", "csv", "json")  # vtlm_fairseq.evaluation.tables, which --help does not import


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; paths become absolute."""
    from table1_rows import ROWS, SIZES

    table = [row.name for row in ROWS.values() if not row.extra]
    extra = [row.name for row in ROWS.values() if row.extra]
    parser = argparse.ArgumentParser(description=__doc__, prog="table1.sh")
    parser.add_argument("--out", type=Path, default=Path("table1-out"), help="folder for everything (%(default)s)")
    parser.add_argument("--size", choices=list(SIZES), default="small", help="tiny learns nothing (default: small)")
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=table,
        help=f"comma-separated, of {', '.join(table)} (default: all of these), {', '.join(extra)}",
    )
    parser.add_argument("--seeds", type=_seeds, default=[1, 2, 3], help="of each row (1,2,3); pre-training has seed 1")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep half-precision inference copies here")
    prepared = parser.add_argument_group("prepared data")
    prepared.add_argument("--data", type=Path, metavar="DIR", help="binarised Multi30k, see docs/data.md")
    prepared.add_argument("--regions", type=Path, metavar="PATH", help="its region store, a file or a folder")
    raw = parser.add_argument_group("or raw data, with oracle regions")
    raw.add_argument("--raw", type=Path, metavar="DIR", help="train.en, val.de, ... as published, plain or .gz")
    raw.add_argument("--image-splits", type=Path, metavar="DIR", help="train.txt, val.txt, ... of the same repository")
    raw.add_argument("--entities", type=Path, metavar="PATH", help="Flickr30k Entities: folder or .tgz")
    raw.add_argument(
        "--vocab-size",
        type=int,
        help="sentencepiece pieces (small 4,000, paper 10,000, tiny 1,000), unless --cc-data has some",
    )
    raw.add_argument("--any-counts", action="store_true", help="accept other line counts than Multi30k's")
    cc = parser.add_argument_group("Conceptual Captions (without them pre-training is on Multi30k)")
    cc.add_argument("--cc-data", type=Path, metavar="DIR", help="binarised, with the dictionary of Multi30k")
    cc.add_argument("--cc-regions", type=Path, metavar="PATH", help="region store of its images")
    for side, short, default in (("source", "-s", "en"), ("target", "-t", "de")):
        said = f"{side} language (default: of the prepared data, else {default})"
        parser.add_argument(short, f"--{side}-lang", metavar="LANG", help=said)
    parser.add_argument(
        "--test-sets",
        type=lambda text: text.split(","),
        default=["test_2016_flickr"],
        metavar="LIST",
        help="splits to decode (test_2016_flickr); MMT rows decode those that have regions",
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp32"),
        help="default: bf16 on a GPU, and for small on a CPU, that computes it at full speed; else fp32",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: OMP_NUM_THREADS, else all)")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone; where PyTorch is installed, a CPU build")
    parser.add_argument("--format", choices=FORMATS, default="text", help="of the printed table (default: text)")
    args = parser.parse_args(argv)
    for name in args.rows:
        if name not in ROWS:
            parser.error(f"--rows: {name!r} is none of {', '.join(ROWS)}")
    args.rows = [name for name in ROWS if name in args.rows]
    for name, value in vars(args).items():
        if isinstance(value, Path):
            setattr(args, name, value.absolute())
    return args


def _seeds(text: str) -> list[int]:
    """Distinct numbers, comma-separated."""
    seeds = [int(seed) for seed in text.split(",")]
    if len(set(seeds)) != len(seeds) or min(seeds) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give distinct numbers from 1, separated by commas")
    return seeds


def chosen_precision(args: argparse.Namespace, size: "Size") -> str:
    """What is asked for, else that of the size; ``bf16`` only where the device computes it at full speed."""
    from vtlm_fairseq.precision import default_precision

    return args.precision or (default_precision(cpu=args.cpu) if size.precision == "bf16" else size.precision)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    # fairseq, imported with the package, sets the root logger to DEBUG unless it is set up before.
    logging.basicConfig(level=logging.WARNING)
    args = parse_arguments(argv)
    from stages import ROOT, Runner, environment, prepare_folder
    from table1_data import Checksums, find_data
    from table1_plan import Planner
    from table1_results import Recorder, only_finished, seeds_found, tables, write_tables
    from table1_rows import ON_GPU, ROWS, SIZES

    from vtlm_fairseq.precision import fast_options
    from vtlm_fairseq.terminal import command_line

    if args.threads:
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
    if args.cpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    size = replace(SIZES[args.size], **(ON_GPU if fast_options(cpu=args.cpu) else {}))
    precision = chosen_precision(args, size)
    with command_line():
        prepare_folder(args.out)
        checksums = Checksums(args.out)
        data = find_data(args, vocab=args.vocab_size or size.vocab, checksums=checksums)
        planner = Planner(args.out, data, size, precision=precision, keep=args.keep)
        plan = planner.plan(args.rows, args.seeds)
        recorder = Recorder(planner, plan, checksums)
        runner = Runner(args.out, plan.stages, root=ROOT, environment=environment(), screen=sys.stderr, record=recorder)
        print(f"Table 1, size {args.size}, {precision}, in {args.out}; logs in {args.out / 'logs'}", file=sys.stderr)
        for line in plan.skipped:
            print(line, file=sys.stderr)
        try:
            runner.run()
        except KeyboardInterrupt as end:
            print("\nStopped; the same command goes on with this stage.", file=sys.stderr)
            raise SystemExit(128 + getattr(end, "number", signal.SIGINT)) from None
        # the table has all rows and seeds that are finished here, of this call and of earlier ones
        everything = Planner(args.out, data, size, precision=precision).plan(list(ROWS), seeds_found(args.out))
        done = Runner(args.out, everything.stages, root=ROOT, environment={}, screen=sys.stderr).finished()
        shown = replace(only_finished(everything, done), skipped=plan.skipped)
        made = tables(recorder, planner, shown, size=args.size)
        print(write_tables(args.out, made, lambda table: table.render(args.format)))


if __name__ == "__main__":
    main()
