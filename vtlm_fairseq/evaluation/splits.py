"""Splits of binarised data for the probes: text of a split, and its regions given, shuffled or hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fairseq.data import LanguagePairDataset

from vtlm_fairseq.corpora.nouns import Text
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.tasks.captions import CaptionsTask
from vtlm_fairseq.text.word_alignment import WordAlignment


def load_split(task: CaptionsTask, split: str, *, regions: str) -> tuple[LanguagePairDataset, LineRegions | None]:
    """Text of a split, and the regions of its lines where the model has any.

    Args:
        task: of a loaded checkpoint.
        split: its name.
        regions: ``--regions`` of the command: a store, a folder of ``{split}.h5``, or ``none``.

    Raises:
        VTLMError: no such split, no regions for a model that has them, or an image that is not among them.
    """
    if task.has_regions and regions == "none":
        raise VTLMError("the checkpoint has regions, --regions is none: name a region store or a folder of them")
    if regions != "none" and not task.has_regions:
        store_files(regions, split)
    task.cfg.regions = regions if task.has_regions else "none"
    task.cfg.region_order = "given"
    return task.load_pair(split, epoch=1, combine=False)


def load_alignment(task: CaptionsTask, bpe: str) -> WordAlignment:
    """A model of the words of the training split's pairs.

    Args:
        task: of a loaded checkpoint.
        bpe: kind of BPE of its data.

    Raises:
        VTLMError: there is no such split.
    """
    had, task.has_regions = task.has_regions, False
    try:
        train, _ = load_split(task, "train", regions="none")
    finally:
        task.has_regions = had
    return Text((train.src, train.tgt), task.source_dictionary, bpe).align()


def in_order(
    regions: LineRegions | None, order: str, *, seed: int, lines: Sequence[int] | None = None
) -> LineRegions | None:
    """Regions of a split in one of the orders of :data:`vtlm_fairseq.options.ORDERS`.

    Args:
        regions: the split's own, as :func:`load_split` returns them.
        order: ``given``; ``shuffle``: other images' regions; ``none``: hidden.
        seed: of the shuffling; ``fairseq-generate --region-order shuffle --seed SEED`` has the same.
        lines: keep these lines of the split only; the others' images can still be given to them.

    Returns:
        regions of the lines; None where there are none or they are hidden.
    """
    if regions is None or order == "none":
        return None
    ordered = LineRegions(regions.store, regions.rows, order=order, seed=seed, split=regions.split)
    rows = ordered.line_rows if lines is None else ordered.line_rows[np.asarray(lines, dtype=np.int64)]
    return LineRegions(regions.store, rows, order="given", seed=seed, split=regions.split)
