"""Pre-training: pairs a second, operations, and the share of the machine's matrix-product rate."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import MethodType

import torch
from generated import Size, write_data
from machine import in_turn, products, speedup, synchronise
from setups import Training

from vtlm_fairseq.evaluation.tables import Table

BATCHES = 4
# name: regions, precision, optimizer, last layer at all positions
VARIANTS = {
    "TLM float32": (False, "float32", "fused_adam", False),
    "TLM bf16": (False, "bf16", "fused_adam", False),
    "VTLM float32": (True, "float32", "fused_adam", False),
    "VTLM bf16": (True, "bf16", "fused_adam", False),
    "VTLM float32, last layer everywhere": (True, "float32", "fused_adam", True),
    "VTLM float32, fairseq's adam": (True, "float32", "adam", False),
}


def operations(size: Size, *, regions: int, predicted_words: float, predicted_regions: float) -> float:
    """Floating-point operations of a pair in an update, a multiplication and an addition counted as two.

    Each layer takes 8 d^2 + 4 d f (24 d^2 where the feed-forward width f is 4 d) and 4 T d of attention a position, at
    all T positions, also where the last layer is not computed; the heads count where something is predicted. The
    backward pass takes twice as much; the region projections only once, since nobody needs gradients of features.

    Args:
        size: of the model.
        regions: R of an image, 0 for TLM.
        predicted_words, predicted_regions: of a pair.
    """
    d, positions = size.dim, size.word_positions + regions
    layers = size.layers * positions * (8 * d**2 + 4 * d * size.ffn + 4 * positions * d)
    heads = 2 * d * (predicted_words * size.vocabulary + predicted_regions * size.classes)
    projections = 2 * d * regions * (size.region_dim + 4)
    return 3 * (layers + heads) + 2 * projections


def batch_operations(size: Size, batch: dict, *, padding: int) -> float:
    """:func:`operations` of a pair of a real batch, with what is predicted in it."""
    pairs = batch["nsentences"]
    labels = batch.get("region_target")
    return operations(
        size,
        regions=0 if labels is None else size.regions,
        predicted_words=int((batch["target"] != padding).sum()) / pairs,
        predicted_regions=0 if labels is None else int((labels >= 0).sum()) / pairs,
    )


def everywhere(model) -> None:
    """Compute the last layer at all positions and select afterwards, as a plain implementation does."""

    def predict(self, src_tokens, queries, places, *, src_lengths=None, **inputs):
        states = self(src_tokens, src_lengths, **inputs)["encoder_out"][0]
        chosen = states.gather(0, queries.T.unsqueeze(-1).expand(-1, -1, states.size(-1)))
        return chosen.flatten(0, 1).index_select(0, places)

    model.encoder.predict = MethodType(predict, model.encoder)


def training(data: Path, size: Size, variant: str, device: str) -> Training:
    """The training run of a variant."""
    regions, precision, optimizer, last_layer_everywhere = VARIANTS[variant]
    options = () if precision == "float32" else ("--autocast", precision)
    run = Training(
        data, size, "pretraining", device=device, regions=regions, options=options, optimizer=optimizer, batches=BATCHES
    )
    if last_layer_everywhere:
        everywhere(run.model)
    return run


def measure(folder: Path, size: Size, *, precisions: Sequence[str], device: str, repeats: int, at_least: float) -> dict:
    """Time the variants of some precisions and the matrix products in turn.

    Returns:
        ``tables``: pairs a second, and products; ``figures``: ratios by name; ``seconds``: every time by name.
    """
    data = folder / "pretraining"
    write_data(data, size, pairs=BATCHES * size.batch)
    runs = {name: training(data, size, name, device) for name, kind in VARIANTS.items() if kind[1] in precisions}
    feed_forward = (size.batch * (size.word_positions + size.regions), size.dim, size.ffn)
    rates = {}
    for dtype in precisions:
        rates |= products(dtype, device=device, feed_forward=feed_forward, squares=size.squares)
    functions = {name: run.step for name, run in runs.items()} | {name: product for name, (product, _) in rates.items()}
    seconds = in_turn(functions, repeats=repeats, device=device, at_least=at_least)
    rate = {name: work / median(seconds[name]) for name, (_, work) in rates.items()}
    best = {dtype: max(value for name, value in rate.items() if f" {dtype} " in name) for dtype in precisions}
    rows, shares = [], {}
    for name, run in runs.items():
        padding = run.task.source_dictionary.pad()
        work = sum(batch_operations(size, batch, padding=padding) for batch in run.batches) / BATCHES
        update = median(seconds[name])
        shares[name] = work * size.batch / update / best[VARIANTS[name][1]]
        rows.append(
            [name, update, size.batch / update, work / 1e9, work * size.batch / update / 1e9, 100 * shares[name]]
        )
    columns = ["pre-training", "s an update", "pairs/s", "GFLOP a pair", "GFLOP/s", "% of product rate"]
    table = Table(columns, rows, precision={"s an update": 4, "GFLOP a pair": 3, "pairs/s": 1, "GFLOP/s": 1})
    table.title = f"Pre-training, {size.batch} pairs of {size.word_positions} word positions, {size.regions} regions"
    product_table = Table(
        ["product", "s", "GFLOP/s"],
        [[name, median(seconds[name]), value / 1e9] for name, value in rate.items()],
        title="Matrix products",
        precision={"s": 5, "GFLOP/s": 1},
    )
    figures = {f"share: {name}": share for name, share in shares.items()}
    for name, (fast, slow) in {
        "bf16 against float32, TLM": ("TLM bf16", "TLM float32"),
        "bf16 against float32, VTLM": ("VTLM bf16", "VTLM float32"),
        "last layer only where predicted": ("VTLM float32", "VTLM float32, last layer everywhere"),
        "fused_adam against adam": ("VTLM float32", "VTLM float32, fairseq's adam"),
    }.items():
        if fast in seconds:
            figures[f"speed-up: {name}"] = speedup(seconds, fast, slow)
    return {"tables": [table, product_table], "figures": figures, "seconds": seconds}


def profile(folder: Path, size: Size, *, precisions: Sequence[str], device: str, rows: int = 20) -> str:
    """What one update of VTLM spends its time on: the top operators, and on a GPU its idle share."""
    data = folder / "profile"
    write_data(data, size, pairs=BATCHES * size.batch)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    parts = []
    for name in (f"VTLM {precision}" for precision in precisions):
        run = training(data, size, name, device)
        for _ in range(3):
            run.step()
        synchronise(device)
        with torch.profiler.profile(activities=activities) as profiler:
            run.step()
            synchronise(device)
        parts.append(f"{name}, one update\n{profiler.key_averages().table(sort_by=key, row_limit=rows)}")
        if device == "cuda":
            parts.append(launch_gaps(profiler))
    return "\n".join(parts)


def launch_gaps(profiler) -> str:
    """How long the GPU had no kernel between the first and the last of a profile."""
    kernels = [event.time_range for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    kernels.sort(key=lambda span: span.start)
    busy, end = 0.0, kernels[0].start
    for span in kernels:
        busy += max(0.0, span.end - max(span.start, end))
        end = max(end, span.end)
    whole = end - kernels[0].start
    return (
        f"GPU busy {busy / 1e3:.2f} ms of {whole / 1e3:.2f} ms; gaps between kernels: {100 * (1 - busy / whole):.1f} %"
    )
