"""Fine-tuning and decoding, against stock fairseq's ``transformer`` of the same size on the same text."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from generated import Size, write_data
from machine import in_turn, speedup
from setups import Training, decoder

from vtlm_fairseq.evaluation.tables import Table

BATCHES = 4
STOCK = "stock transformer"


def fine_tuning(
    folder: Path, size: Size, *, precisions: Sequence[str], device: str, repeats: int, at_least: float
) -> dict:
    """Pairs a second in training; returns as :func:`pretraining.measure`."""
    data = folder / "fine-tuning"
    write_data(data, size, pairs=BATCHES * size.batch)
    runs = {}
    for precision in precisions:
        options = () if precision == "float32" else ("--autocast", precision)
        for name, regions in (("NMT", False), ("MMT", True)):
            runs[f"{name} {precision}"] = Training(
                data, size, "translation", device=device, regions=regions, options=options
            )
    runs[f"{STOCK} float32, adam"] = Training(data, size, "stock", device=device, optimizer="adam")
    functions = {name: run.step for name, run in runs.items()}
    seconds = in_turn(functions, repeats=repeats, device=device, at_least=at_least)
    title = f"Fine-tuning, {size.batch} pairs of twice {size.words} words and {size.regions} regions (MMT)"
    return result(seconds, size, stock=f"{STOCK} float32, adam", unit="pairs/s", title=title)


def decoding(folder: Path, size: Size, *, device: str, repeats: int, at_least: float) -> dict:
    """Sentences a second in beam search, outputs of equal length; returns as :func:`pretraining.measure`."""
    data = folder / "decoding"
    write_data(data, size, pairs=size.batch)
    functions = {
        "NMT": decoder(data, size, "translation", device=device),
        "MMT": decoder(data, size, "translation", device=device, regions=True),
        STOCK: decoder(data, size, "stock", device=device),
    }
    seconds = in_turn(functions, repeats=repeats, device=device, at_least=at_least)
    title = f"Decoding, beam {size.beam}, {size.batch} sentences of {size.words} words, {size.words} words out, float32"
    return result(seconds, size, stock=STOCK, unit="sentences/s", title=title)


def result(seconds: dict[str, list[float]], size: Size, *, stock: str, unit: str, title: str) -> dict:
    """Table and figures of systems compared with a stock one."""
    against = {name: speedup(seconds, name, stock) for name in seconds}
    rows = [[name, median(times), size.batch / median(times), against[name]] for name, times in seconds.items()]
    table = Table(["system", "s a batch", unit, "against stock"], rows, title=title)
    table.precision = {"s a batch": 4, unit: 1, "against stock": 3}
    figures = {f"against stock: {name}": value for name, value in against.items() if name != stock}
    return {"tables": [table], "figures": figures, "seconds": seconds}
