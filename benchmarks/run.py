#!/usr/bin/env python
"""All measurements on one machine in one run: tables, and JSON with every time.

    python benchmarks/run.py [--only NAME,...] [--device cpu|cuda] [--json FILE] [--repeats 5] [--threads N]

Sections: pretrain (with the machine's matrix products), finetune, decode, loading, lengths (training on sentences as
long as Multi30k's, with padding and the loader in the loop), corpus. What is compared is timed
in turn; a figure is the median of --repeats, a speed-up the median of the ratios within a turn. All data are generated.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import corpora
import loading
import pretraining
import torch
import translation
from fairseq.logging import metrics
from generated import SIZES
from machine import DTYPES, cores, describe
from setups import quiet

from vtlm_fairseq.files import check_writable, write_text
from vtlm_fairseq.precision import is_fast

SECTIONS = ("pretrain", "finetune", "decode", "loading", "lengths", "corpus")


def main(argv: list[str] | None = None) -> int:
    """Run the sections asked for."""
    args = parse(argv)
    if args.json:
        check_writable(args.json)
    torch.set_num_threads(args.threads)
    size = SIZES[args.size]
    report = {
        "machine": describe(args.device, args.threads),
        "size": args.size,
        "repeats": args.repeats,
        "sections": {},
    }
    machine = report["machine"]
    print(f"{machine.get('gpu', machine['cpu'])}; {machine['cores']} cores, {machine['threads']} threads, PyTorch "
          f"{machine['torch']}, load {machine['load_average'][0]:.2f}, size {args.size}, "
          f"{' and '.join(args.precisions)}")  # fmt: skip
    with quiet(), tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        folder = args.data or Path(temporary)
        for name in args.only:
            section = run_section(name, folder, size, args)
            for table in section["tables"]:
                print(f"\n{table.render()}")
            print("\n" + "\n".join(f"{key}: {value:.4g}" for key, value in section["figures"].items()), flush=True)
            tables = [json.loads(table.render("json")) for table in section["tables"]]
            report["sections"][name] = {**section, "tables": tables}
            if args.json:
                write_text(args.json, json.dumps(report, indent=2) + "\n")
        if args.profile:
            print(f"\n{pretraining.profile(folder, size, precisions=args.precisions, device=args.device)}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, comma-separated (default: %(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where models run")
    parser.add_argument(
        "--precisions",
        type=lambda text: text.split(","),
        help="of pretrain and finetune: float32,bf16 (default: bf16 only where the device has instructions for it)",
    )
    parser.add_argument("--size", choices=list(SIZES), default="paper", help="tiny: to see that it runs")
    parser.add_argument("--repeats", type=int, default=5, help="times each measurement is made (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), help="PyTorch's threads (default: all cores)")
    parser.add_argument("--json", type=Path, help="write all figures here, after each section")
    parser.add_argument("--data", type=Path, help="keep generated data in this folder and use what is there")
    parser.add_argument("--store-gb", type=float, default=5, help="features of the loading section (default: 5 GB)")
    parser.add_argument("--at-least", type=float, default=0.5, help="seconds a turn of one measurement takes at least")
    parser.add_argument(
        "--updates", type=int, default=30, help="updates of loading, lengths, corpus (default: %(default)s)"
    )
    parser.add_argument("--profile", action="store_true", help="print the top operators of an update of VTLM")
    args = parser.parse_args(argv)
    args.only = [name for name in args.only.split(",") if name]
    for name in args.only:
        if name not in SECTIONS:
            parser.error(f"--only {name}: not one of {', '.join(SECTIONS)}")
    if args.precisions is None:
        args.precisions = [name for name in DTYPES if name == "float32" or is_fast(name, args.device)]
    if "float32" not in args.precisions or not set(args.precisions) <= set(DTYPES):
        parser.error(f"--precisions {','.join(args.precisions)}: float32, or float32,bf16")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device")
    for name, smallest in (("repeats", 1), ("threads", 1), ("updates", 4)):
        if getattr(args, name) < smallest:
            parser.error(f"--{name} {getattr(args, name)}: at least {smallest}")
    return args


def run_section(name: str, folder: Path, size, args: argparse.Namespace) -> dict:
    """``tables``, ``figures`` and ``seconds`` of a section."""
    metrics.reset()  # fairseq's criteria log values of different kinds under the same names
    timing = {"device": args.device, "repeats": args.repeats}
    if name == "pretrain":
        return pretraining.measure(folder, size, precisions=args.precisions, at_least=args.at_least, **timing)
    if name == "finetune":
        return translation.fine_tuning(folder, size, precisions=args.precisions, at_least=args.at_least, **timing)
    if name == "decode":
        return translation.decoding(folder, size, at_least=args.at_least, **timing)
    if name == "loading":
        return loading.measure(folder, size, gigabytes=args.store_gb, updates=args.updates, **timing)
    if name == "lengths":
        return loading.real_lengths(folder, size, device=args.device, updates=args.updates)
    return corpora.measure(folder, size, repeats=args.repeats, updates=args.updates)


if __name__ == "__main__":
    sys.exit(main())
