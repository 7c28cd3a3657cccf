"""Time for an update, start-up and memory against the size of the corpus.

All corpora have one vocabulary and sentences of one length, so that updates are alike. `corpus_size.py` measures the
preparation of text besides.
"""

from pathlib import Path
from statistics import median

from corpus_size import Measured, image_id, train_command, write_store
from generated import Size, write_text

from vtlm_fairseq.evaluation.tables import Table


def measure(folder: Path, size: Size, *, repeats: int, updates: int) -> dict:
    """Start `vtlm_tiny` on corpora of several sizes in turn; returns as :func:`pretraining.measure`.

    Args:
        folder: for the generated corpora, which are left there and used again.
        size: of corpora, sentences and vocabulary.
        repeats: turns.
        updates: of a run; at least 4.

    Raises:
        RuntimeError: a command failed (its log is named).
    """
    for pairs in size.corpora:
        if not (folder / f"corpus-{pairs}" / "bin" / "train.images").exists():
            out = folder / f"corpus-{pairs}"
            out.mkdir(parents=True, exist_ok=True)
            write_store(out / "regions.h5", pairs)
            write_text(out / "bin", size, pairs=pairs, seed=1, image_id=image_id)
    runs: dict[int, list[Measured]] = {pairs: [] for pairs in size.corpora}
    for _ in range(repeats):
        for pairs, measured in runs.items():
            out = folder / f"corpus-{pairs}"
            measured.append(Measured(train_command(out / "bin", out / "regions.h5", updates), out / "train.log"))
            if measured[-1].status != 0 or measured[-1].update_time is None:
                raise RuntimeError(f"training on {pairs} pairs failed, see {out / 'train.log'}")
    smallest = [run.update_time for run in runs[size.corpora[0]]]
    rows, figures, seconds = [], {}, {}
    for pairs, measured in runs.items():
        times = [run.update_time for run in measured]
        against = median(a / b for a, b in zip(times, smallest, strict=True))
        start = median(run.first_update for run in measured)
        largest, together = (max(getattr(run, name) for run in measured) / 1e9 for name in ("largest", "together"))
        rows.append([pairs, median(times), against, start, largest, together])
        figures |= {f"{pairs} pairs: update": against, f"{pairs} pairs: start-up": start}
        figures[f"{pairs} pairs: GB"] = largest
        seconds[f"{pairs} pairs"] = times
    columns = ["pairs", "s an update", "of the smallest's", "s to the first update", "GB, largest process"]
    table = Table([*columns, "GB, together"], rows, title="Against corpus size: vtlm_tiny, 64 pairs, 1 worker, CPU")
    table.precision = {"s an update": 4, "of the smallest's": 3, "s to the first update": 1}
    return {"tables": [table], "figures": figures, "seconds": seconds}
