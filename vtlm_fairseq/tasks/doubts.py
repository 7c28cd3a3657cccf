"""Warnings when a split is loaded: what is valid and probably useless."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from fairseq.distributed import utils as distributed_utils

from vtlm_fairseq.data.corpora import Corpus
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.regions.suspicions import NormWatch, suspicions, take_sample
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.overlap import held_out_splits, shared_images, shared_pairs

logger = get_logger(__name__)


class Doubts:
    """What a task has to say once a split and process, on the first rank, in less than a second each.

    Attributes:
        norms: of the features that the model was trained on.
    """

    def __init__(self) -> None:
        self.norms = NormWatch()
        self._said: set[tuple] = set()

    def load(self, task: Any, split: str, folder: str, parts: Sequence[str], regions: LineRegions | None) -> None:
        """Warn of a split that was loaded.

        Args:
            task: of this package; its configuration says which split is trained on.
            split: its name.
            folder: of the binarised data.
            parts: names of the parts that were joined.
            regions: of its lines, or None.
        """
        pair = (task.cfg.source_lang, task.cfg.target_lang)
        if (split, folder, pair) in self._said or distributed_utils.get_global_rank() != 0:
            return
        self._said.add((split, folder, pair))
        training = split == task.cfg.train_subset
        if regions is not None and regions.order != "none":
            self.store(regions.store, regions.rows, task.named(split), training=training, labels=task.uses_classes)
        if training:
            others = held_out_splits(folder, parts, pair)
            found = shared_pairs(folder, parts, others, pair)
            if regions is not None:
                lists = {name: os.path.join(folder, f"{name}.images") for name in (*parts, *others)}
                there = [lists[name] for name in others if os.path.isfile(lists[name])]
                found += shared_images([lists[name] for name in parts], there)
            for line in found:
                logger.warning("%s%s", "" if task.named(split) == split else f"{task.named(split)}: ", line)

    def across(self, corpora: Sequence[Corpus], split: str) -> None:
        """Warn of images of which one corpus holds out captions that another one trains on.

        Args:
            corpora: of a training; ids are the same images where stores are the same, or one of two has none.
            split: that is trained on.
        """
        if ("", split) in self._said or distributed_utils.get_global_rank() != 0:
            return
        self._said.add(("", split))
        for one in corpora:
            others = [
                other
                for other in corpora
                if other.folder != one.folder
                and (other.regions == one.regions or "none" in (other.regions, one.regions))
            ]
            lists = {other.name: os.path.join(other.folder, f"{split}.images") for other in others}
            names = held_out_splits(one.folder, [split], (one.source, one.target))
            held = [path for name in names if os.path.isfile(path := os.path.join(one.folder, f"{name}.images"))]
            trained = {name: path for name, path in lists.items() if os.path.isfile(path)}
            for line in shared_images(list(trained.values()), held) if trained else ():
                logger.warning("%s, beside %s of %s: %s", one.name, split, ", ".join(trained), line)

    def store(
        self, store: RegionStore, rows: np.ndarray, name: str, *, training: bool = False, labels: bool = False
    ) -> None:
        """Warn of regions that teach nothing, or are unlike those of training.

        Args:
            store: the store.
            rows: [N] the rows that are used.
            name: what for.
            training: they are trained on.
            labels: region classes are used.
        """
        name = f"{name}: {store.paths[0]}"
        sample = take_sample(store, rows)
        for found in suspicions(store, sample, labels=labels):
            logger.warning("%s: %s", name, found)
        for found in self.norms.compare(name, sample.norms(), training=training):
            logger.warning("%s", found)
