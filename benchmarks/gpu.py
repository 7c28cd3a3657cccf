#!/usr/bin/env python
"""Ten minutes on one GPU: what it can do, and what this project, plain PyTorch and stock fairseq make of it.

    python benchmarks/gpu.py [--out gpu.json] [--minutes 10] [--phases machine,eager,...] [--baseline FOLDER]

Each phase has its share of the time; what it leaves goes to the others, and what it has measured when its time is up
stays. Where a phase or a part of it fails, the error is in the JSON and the next one runs. The JSON is written whole
after each phase, and the table that is made of it beside it (.md). What is compared is timed in turn, three times; a
ratio is the median of the ratios within a turn. On a CPU, --size tiny shows that the script works.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

sys.path.append(str(Path(__file__).resolve().parent))  # python -P leaves the folder of the script out

import pretraining  # noqa: E402
import torch  # noqa: E402
from fairseq.logging import metrics  # noqa: E402
from generated import SIZES, write_blocks, write_data  # noqa: E402
from loading import in_the_loop, write_real  # noqa: E402
from machine import cores, describe, products, timed  # noqa: E402
from setups import decoder, quiet  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from turns import TURNS, Bench, Step  # noqa: E402

from vtlm_fairseq.evaluation.tables import Table  # noqa: E402
from vtlm_fairseq.files import check_writable, write_text  # noqa: E402
from vtlm_fairseq.tasks.acceleration import graphs  # noqa: E402

BATCHES = {"paper": (64, 256, 1024), "tiny": (8,)}
UPDATES = {"paper": 200, "tiny": 4}
DATA_SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 operations a second, by a part of the GPU's name; MFU is the share of it."""


def machine(bench: Bench) -> None:
    """Versions, clocks, the rates of matrix products, of copies to the device, and of launches."""
    size, found, batch = bench.size, bench.found, BATCHES[bench.name][0]
    found["cudnn"] = torch.backends.cudnn.version()
    with bench.reported(found, "nvidia_smi"):
        query = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
        line = ["nvidia-smi", f"--query-gpu={query}", "--format=csv"] if bench.on_gpu else ["true"]
        found["nvidia_smi"] = subprocess.run(line, capture_output=True, text=True, timeout=10).stdout
    rows = batch * (size.word_positions + size.regions)
    shapes = [(rows, size.dim, size.ffn), (rows, size.ffn, size.dim), (rows, size.dim, 3 * size.dim),
              (4 * batch, size.dim, size.vocabulary)]  # fmt: skip
    rates = found["products"] = {}
    for precision in ("bf16", "TF32", "float32") if bench.on_gpu else ("bf16", "float32"):
        torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
        for k, shape in enumerate(shapes):
            squares = (8192,) if bench.on_gpu else size.squares
            made = products(
                precision.replace("TF32", "float32"), device=bench.device, feed_forward=shape, squares=squares[: not k]
            )
            for name, (product, work) in made.items():
                product()
                calls = max(1, int(bench.at_least / 10 / timed(product, calls=2, device=bench.device)))
                best = min(timed(product, calls=calls, device=bench.device) for _ in range(TURNS))
                rates[f"{precision} {name.split()[-1]}"] = work / best
    if bench.on_gpu:
        host = torch.empty(64 << 20, dtype=torch.uint8).pin_memory()
        on_device = torch.empty_like(host, device=bench.device)
        seconds = timed(lambda: on_device.copy_(host, non_blocking=True), calls=20, device=bench.device)
        found["copies_gb_s"] = host.numel() / seconds / 1e9
    one = torch.ones(1, device=bench.device)
    found["launch_us"] = 1e6 * timed(lambda: one.add_(1), calls=2000, device=bench.device)


def attention(bench: Bench) -> None:
    """Forward and backward of each backend at this model's shape, new shapes with and without cuDNN, dropout rates."""
    size = bench.size
    heads, width, batch = size.heads, size.dim // size.heads, BATCHES[bench.name][0]

    def inputs(length: int) -> list[torch.Tensor]:
        shape = (batch, heads, length, width)
        return [torch.randn(shape, device=bench.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]

    def run(given: list[torch.Tensor]) -> None:
        out = torch.nn.functional.scaled_dot_product_attention(*given, dropout_p=0.1)
        torch.autograd.grad(out, given, out)

    def forced(backend: SDPBackend) -> Step:
        given = inputs(size.word_positions + size.regions)

        def function() -> None:
            with sdpa_kernel([backend]):
                run(given)

        return bench.step(function, tf32=False, cudnn=True)

    names = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
    makers = {name: (lambda name=name: forced(getattr(SDPBackend, name))) for name in names}
    bench.compare("attention, bf16, forward and backward", makers, pairs=batch)
    for cudnn in (True, False):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        run(inputs(size.word_positions + size.regions))
        new = bench.found[f"new shapes, cuDNN {'on' if cudnn else 'off'}, ms"] = []
        for given in map(inputs, range(70, 90)):
            new.append(1e3 * timed(lambda given=given: run(given), calls=1, device=bench.device))
    kept = torch.eye(width, device=bench.device, dtype=torch.bfloat16).expand(batch, heads, -1, -1).contiguous()
    rates = bench.found["dropout of 0.1, measured"] = {}
    for name in names:
        with bench.reported(rates, name), sdpa_kernel([getattr(SDPBackend, name)]):
            even = torch.zeros_like(kept)
            out = torch.nn.functional.scaled_dot_product_attention(even, even, kept, dropout_p=0.1)
            rates[name] = float((out == 0).float().mean())


def eager(bench: Bench) -> None:
    """VTLM without a compiler, in some precisions, beside an older checkout of this project."""
    precise = ("TF32", "float32") if bench.on_gpu else ("float32",)
    for batch in BATCHES[bench.name]:
        makers = {"VTLM bf16": bench.ours(batch)}
        if batch == BATCHES[bench.name][0] and bench.baseline:
            makers["VTLM bf16, baseline"] = bench.older(batch)
        if batch in (BATCHES[bench.name][0], BATCHES[bench.name][-1]):
            makers |= {f"VTLM {precision}": bench.ours(batch, precision) for precision in precise}
            makers["VTLM bf16, adam"] = bench.ours(batch, optimizer="adam")
        bench.compare(f"VTLM, {batch} pairs", makers, pairs=batch)
    if bench.on_gpu:
        bench.found["profile"] = pretraining.profile(bench.folder, bench.size, precisions=["bf16"], device=bench.device)


def others(bench: Bench) -> None:
    """VTLM, the same work in plain PyTorch, and fairseq's roberta on sequences as long."""
    for batch in sorted({BATCHES[bench.name][0], BATCHES[bench.name][-1]}):
        makers = {"VTLM bf16": bench.ours(batch), "plain PyTorch bf16": bench.plain(batch)}
        makers["stock roberta"] = bench.stock(batch, "masked", "blocks")
        against = {"plain": "plain PyTorch bf16", "stock": "stock roberta"}
        bench.compare(f"VTLM and others, {batch} pairs", makers, pairs=batch, **against)


def compiled(bench: Bench) -> None:
    """``--compile``: one length, then the real lengths in their buckets; what comes first takes the compiler's time."""
    for batch in sorted({BATCHES[bench.name][0], BATCHES[bench.name][-1]}):
        makers = {"VTLM bf16, compiled": bench.ours(batch, "bf16", "--compile"), "VTLM bf16, eager": bench.ours(batch)}
        if batch == BATCHES[bench.name][0] and bench.on_gpu:
            options = ("--compile", "--compile-mode", "reduce-overhead")
            makers["VTLM bf16, CUDA graphs"] = bench.ours(batch, "bf16", *options)
        makers["plain PyTorch bf16, compiled"] = bench.plain(batch, compiled=True)
        bench.compare(f"compiled, {batch} pairs", makers, pairs=batch, plain="plain PyTorch bf16, compiled")
    bench.found["loops"] = {}
    with bench.reported(bench.found["loops"], "error"):
        bench.found["loops"]["VTLM bf16, compiled, real lengths"] = loop(bench, min(4, cores()), "--compile")


def loop(bench: Bench, workers: int, *options: str) -> dict:
    """Updates on real lengths with the loader; compiled, a first pass makes the graphs of all lengths."""
    options = ("--autocast", "bf16", "--num-workers", str(workers), *options)
    run = bench.training(BATCHES[bench.name][0], "pretraining", *options, folder="real", batches=0)
    run.task.load_dataset("train")
    before = graphs()
    metrics.reset()
    first = in_the_loop(run, UPDATES[bench.name], bench.device) if "--compile" in options else None
    found = in_the_loop(run, UPDATES[bench.name], bench.device)
    return {**asdict(found), "pairs/s": found.rate, "p99_s": found.p99, "waiting": found.waiting,
            "first_pass_s": first and sum(first.seconds), "graphs": graphs() - before}  # fmt: skip


def loader(bench: Bench) -> None:
    """Updates on batches of real lengths from the loader."""
    bench.found["loops"] = {}
    for workers in (4, 12, 1) if bench.name == "paper" else (1,):
        bench.found["loops"][f"VTLM bf16, real lengths, {workers} worker(s)"] = loop(bench, workers)


def translation(bench: Bench) -> None:
    """Updates of MMT, NMT and stock fairseq's transformer."""
    for batch in (64, 512) if bench.name == "paper" else BATCHES[bench.name]:
        makers = {"NMT bf16": bench.ours(batch, kind="translation")}
        makers["MMT bf16"] = bench.ours(batch, kind="translation", regions=True)
        makers["stock transformer"] = bench.stock(batch, "stock", "fixed")
        bench.compare(f"fine-tuning, {batch} pairs", makers, pairs=batch, stock="stock transformer")


def decoding(bench: Bench) -> None:
    """Beam search."""
    for batch in (64, 256, 512) if bench.name == "paper" else BATCHES[bench.name]:
        for autocast in (True, False):
            makers = {}
            for name, kind in (("NMT", "translation"), ("MMT", "translation"), ("stock transformer", "stock")):

                def make(name=name, kind=kind, batch=batch, autocast=autocast):  # fmt: skip
                    size, device = replace(bench.size, batch=batch), bench.device
                    function = decoder(
                        bench.folder / "fixed", size, kind, device=device, regions=name == "MMT", autocast=autocast
                    )
                    return bench.step(function, tf32=bench.on_gpu and kind != "stock", cudnn=kind == "stock")

                makers[name] = make
            title = f"decoding, {batch} sentences, {'bf16' if autocast else 'float32'}"
            bench.compare(title, makers, pairs=batch, stock="stock transformer")


PHASES: dict[str, tuple[float, Callable[[Bench], None]]] = {
    "machine": (20, machine), "attention": (60, attention), "eager": (120, eager), "others": (90, others),
    "compiled": (120, compiled), "loader": (60, loader), "translation": (60, translation), "decoding": (50, decoding),
}  # fmt: skip
"""By name: share of the time, and what is run."""


def main(argv: list[str] | None = None) -> int:
    """Run the phases asked for; 1 if one has failed or measured only a part."""
    args = parse(argv)
    check_writable(args.out)
    ends = time.monotonic() + 60 * args.minutes
    # the paper's 50,000 merges; a GPU feels the vocabulary more than a CPU
    size = replace(SIZES[args.size], **({"vocabulary": 50_000} if args.size == "paper" else {}))
    report = {"machine": describe(args.device, torch.get_num_threads()), "size": args.size, "phases": {}}
    with quiet(), tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        at_least = 0.5 if args.size == "paper" else 0.0
        bench = Bench(args.size, size, Path(temporary), args.device, at_least, args.baseline)
        prepare(bench)
        for k, name in enumerate(args.phases):
            shares = [PHASES[later][0] for later in args.phases[k:]]
            box = max(1.0, (ends - time.monotonic()) * shares[0] / sum(shares))
            report["phases"][name] = found = bench.run(PHASES[name][1], box)
            write_text(args.out, json.dumps(report, indent=1) + "\n")
            write_text(args.out.with_suffix(".md"), tables(report) + "\n")
            print(f"{name}: {found['seconds']:.0f} of {box:.0f} s {found.get('error', '')}", flush=True)
    print(f"\n{tables(report)}")
    return int(any("error" in found for found in report["phases"].values()))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default="gpu.json", metavar="FILE", help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10, help="of all phases together (default: %(default)s)")
    parser.add_argument("--phases", default=",".join(PHASES), help="comma-separated (default: %(default)s)")
    parser.add_argument("--size", choices=list(SIZES), default="paper", help="tiny: to see that it runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="(default: cuda where there is one)")
    parser.add_argument("--baseline", type=Path, metavar="FOLDER", help="an older checkout, whose VTLM is timed, too")
    args = parser.parse_args(argv)
    args.phases = [name for name in args.phases.split(",") if name]
    for name in args.phases:
        if name not in PHASES:
            parser.error(f"--phases {name}: not one of {', '.join(PHASES)}")
    if args.baseline and not (args.baseline / "benchmarks" / "setups.py").exists():
        parser.error(f"--baseline {args.baseline}: not a checkout of this project")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return args


def prepare(bench: Bench) -> None:
    """Write the data of all phases."""
    pairs = 2 * max(BATCHES[bench.name])
    write_data(bench.folder / "fixed", bench.size, pairs=pairs)
    write_blocks(bench.folder / "blocks", bench.size, blocks=pairs)
    write_real(bench.folder / "real", bench.size, pairs=(UPDATES[bench.name] + 2) * BATCHES[bench.name][0])


def tables(report: dict) -> str:
    """Markdown of what the phases of a report have timed."""
    phases = report["phases"].values()
    measured = [rate for found in phases for rate in found.get("products", {}).values()]
    sheet = [peak for name, peak in DATA_SHEET.items() if name in report["machine"].get("gpu", "")]
    peak = (sheet or [max(measured, default=None)])[0]
    rows, loops = [], []
    for found in phases:
        for title, group in found.get("groups", {}).items():
            rows += [row(title, name, group, peak) for name, cell in group["cells"].items() if cell["seconds"]]
        for name, loop in found.get("loops", {}).items():
            if isinstance(loop, dict):
                loops.append([name, loop["pairs/s"], 1e3 * loop["p99_s"], 100 * loop["waiting"], 100 * loop["padding"]])
    columns = ["what", "", "ms", "pairs/s", "% MFU", "of plain PyTorch", "of stock fairseq", "waits", "graphs"]
    columns.append("s, first call")
    title = f"{report['machine'].get('gpu', report['machine']['cpu'])}, PyTorch {report['machine']['torch']}"
    updates = Table(columns, rows, title=title, precision={"pairs/s": 0, "% MFU": 1})
    if peak:
        updates.notes = [f"MFU: of {peak / 1e12:.4g} TFLOP/s ({'data sheet' if sheet else 'best product measured'})"]
    columns = ["real lengths, loader", "pairs/s", "ms, 99th percentile", "% waiting", "% padding"]
    return "\n\n".join(
        table.render("markdown") for table in (updates, Table(columns, loops, precision={"pairs/s": 0})) if table.rows
    )


def row(title: str, name: str, group: dict, peak: float | None) -> list:
    """A row of the table: a ratio is that of speeds, the median over turns of the ratio within a turn."""
    cell = group["cells"][name]
    seconds = median(cell["seconds"])
    share = 100 * cell["operations"] / seconds / peak if cell["operations"] and peak else None
    ratios = []
    for other in ("plain", "stock"):
        theirs = group["cells"].get(group["against"].get(other), {}).get("seconds", [])
        turns = [b / a for a, b in zip(cell["seconds"], theirs, strict=False)]  # time may be up within a turn
        ratios.append(median(turns) if turns else None)
    others = [cell["waits"], cell["graphs"] or None, cell["first_s"]]
    return [title, name, 1e3 * seconds, group["pairs"] / seconds, share, *ratios, *others]


if __name__ == "__main__":
    sys.exit(main())
