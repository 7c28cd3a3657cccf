"""Text and regions of a split, for both tasks."""

import itertools
import logging
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from glob import escape, glob

import numpy as np
from fairseq import utils
from fairseq.data import LanguagePairDataset
from fairseq.tasks.translation import load_langpair_dataset

from vtlm_fairseq import ranges
from vtlm_fairseq.data.device_regions import RegionTables
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.noun_table import NounTable, make_hint, read_tables, table_paths
from vtlm_fairseq.data.split_files import CHECKPOINT_PAIR, PAIR_OPTIONS, check_held
from vtlm_fairseq.errors import VTLMError, exit_on_error, reason
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.models.description import given
from vtlm_fairseq.models.embeddings import check_region_positions
from vtlm_fairseq.regions.file_identity import WatchedFiles
from vtlm_fairseq.regions.store import RegionStore, say_beyond
from vtlm_fairseq.regions.suspicions import equal_scores
from vtlm_fairseq.tasks.acceleration import length_multiple
from vtlm_fairseq.tasks.doubts import Doubts
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)


class Splits:
    """Mixin in front of a fairseq task: what is read of a data folder, and the batches that are made of it."""

    region_positions: int = 0
    label: str = ""  # of a corpus beside others

    def named(self, split: str) -> str:
        """A split in messages."""
        return split

    def load_pair(self, split: str, *, epoch: int, combine: bool) -> tuple[LanguagePairDataset, LineRegions | None]:
        """Text and regions of a split.

        ``combine`` joins ``train``, ``train1``, ...; each part has its own ``.images``.
        """
        check_name(split, "split", nested=True, hint="see --train-subset, --valid-subset and --gen-subset")
        folder = self.split_folder(split, epoch)
        src, tgt = self.cfg.source_lang, self.cfg.target_lang
        parts = self.split_parts(folder, split, combine=combine)
        self.watch_files(folder, parts)
        if self.cfg.dataset_impl == "fasta":  # fairseq hands the file's name to a shell
            raise VTLMError("--dataset-impl fasta is for proteins; prepare the text with fairseq-preprocess")
        with unreadable_text(folder, split):
            pair = load_langpair_dataset(
                folder,
                split,
                src,
                self.source_dictionary,
                tgt,
                self.target_dictionary,
                combine=combine,
                dataset_impl=self.cfg.dataset_impl,
                upsample_primary=self.cfg.upsample_primary,
                left_pad_source=False,
                left_pad_target=False,
                max_source_positions=self.option("max_source_positions") - 1,
                max_target_positions=self.option("max_target_positions"),
                truncate_source=self.option("truncate_source"),
                pad_to_multiple=length_multiple(self.cfg),
            )
        regions = self.load_regions(folder, split, parts, pair)
        self.doubts.load(self, split, folder, parts, regions)
        if regions is not None and self.keeps_regions:
            self.region_tables.add(regions)
        return pair, regions

    def load_regions(self, folder: str, split: str, parts: list[str], pair: LanguagePairDataset) -> LineRegions | None:
        """Regions of the lines of a split's parts, joined by ``{part}.images``; None without a store."""
        if self.cfg.regions == "none":
            if self.keeps_regions:
                raise VTLMError("--regions-on-device without --regions: there is nothing to keep; leave it out")
            logger.info("%s: no regions (text only)", split)
            return None
        sizes = part_sizes(pair, len(parts))
        names = {os.path.join(folder, f"{part}.images"): read_image_names(folder, part, pairs=size)
                 for part, size in zip(parts, sizes, strict=True)}  # fmt: skip
        last = next(reversed(names))
        store = self.open_store(split)
        try:
            rows = [store.rows(ids, file=file, again=file != last) for file, ids in names.items()]
        except VTLMError:
            more = self.open_store(split, parts[1:])
            if more.paths == store.paths:
                raise
            store, rows = more, [more.rows(ids, file=file) for file, ids in names.items()]
        if len(rows) > 1:
            rows[0] = np.tile(rows[0], self.cfg.upsample_primary)
        order = self.option("region_order")
        logger.info(
            "%s: regions of %d lines from %s (%d images, at most %d regions, %d x %s, %d classes, by %s), order %s",
            split, sum(map(len, rows)), self.cfg.regions, store.num_images, self.option("max_regions"),
            store.feature_dim, store.dtype, store.num_classes, store.identity, order,
        )  # fmt: skip
        rows = np.concatenate(rows)
        self.judge_cut(store, rows, split)
        self.warn_of_order()
        redraw = split == self.cfg.train_subset
        regions = LineRegions(
            store, rows, order=order, seed=self.shuffle_seed(split), split=f"{split} {self.label}".rstrip(),
            redraw=redraw, pad_to_multiple=length_multiple(self.cfg),
        )  # fmt: skip
        self.check_positions(regions, f"--regions {self.cfg.regions} ({self.named(split)})")
        return regions

    def judge_cut(self, store: RegionStore, rows: np.ndarray, split: str) -> None:
        """Say which share of the regions is not read; refuse a new training in which the choice would be chance."""
        cut, total = store.beyond(rows)
        if not cut:
            return
        most = self.option("max_regions")
        said = say_beyond((cut, total), most)
        is_chosen = self.source is not None or given(self.cfg, "max_regions") is not None
        if not is_chosen and 100 * cut > total and equal_scores(store, rows):
            raise VTLMError(
                f"--regions {self.cfg.regions} ({self.named(split)}): {said}, the default, and scores are all equal, "
                f"as of a grid: which are kept would be chance; give --max-regions ({store.most_regions()} keeps all)"
            )
        agreed = self.source is not None and self.source.options.get("max_regions") == most
        logger.log(logging.INFO if agreed else logging.WARNING, "%s: %s and are not read", self.named(split), said)

    def load_nouns(self, split: str, pair: LanguagePairDataset, *, epoch: int, combine: bool) -> NounTable:
        """Aligned nouns of a split's lines, which ``vtlm-prepare nouns`` made.

        Raises:
            VTLMError: as `read_tables`, or the training split has none.
        """
        folder, languages = self.split_folder(split, epoch), (self.cfg.source_lang, self.cfg.target_lang)
        parts = self.split_parts(folder, split, combine=combine)
        self.files.note(table_paths(folder, parts, languages), mapped=False)
        upsample = self.cfg.upsample_primary if len(parts) > 1 else 1
        nouns = read_tables(folder, parts, languages, part_sizes(pair, len(parts)), upsample=upsample)
        if not nouns.count and split == self.cfg.train_subset:
            raise VTLMError(
                f"{', '.join(table_paths(folder, parts, languages))}: no aligned noun, so all pairs would be masked at "
                f"random; {make_hint(folder, split)}, or leave --word-masking out"
            )
        return nouns

    def check_positions(self, regions: LineRegions, where: str) -> None:
        """Refuse lines with more regions than the model has positions for."""
        check_region_positions(int(regions.counts().max(initial=0)), self.region_positions, where)

    @cached_property
    def files(self) -> WatchedFiles:
        """Files of text that were read."""
        return WatchedFiles()

    @property
    def keeps_regions(self) -> bool:
        """Whether this command, and not the training of the checkpoint that it loads, has ``--regions-on-device``."""
        return self.cfg.regions_on_device and not self.rebuilt

    @cached_property
    def region_tables(self) -> RegionTables:
        """Features on the device, with ``--regions-on-device``."""
        return RegionTables()

    @cached_property
    def doubts(self) -> Doubts:
        """What was said of the data, and what the model's features were like."""
        return Doubts()

    def watch_files(self, folder: str, parts: list[str]) -> None:
        """Note the files of a split's parts: one that is remade under a run is refused, or said (`begin_epoch`)."""
        pair = (self.cfg.source_lang, self.cfg.target_lang)
        names = [f"{part}.{a}-{b}.{lang}" for part in parts for a, b in (pair, pair[::-1]) for lang in pair]
        self.files.note((os.path.join(folder, name + end) for name in names for end in (".bin", ".idx")), mapped=True)
        if self.cfg.regions != "none":
            self.files.note((os.path.join(folder, f"{part}.images") for part in parts), mapped=False)

    def split_folder(self, split: str, epoch: int) -> str:
        """The data folder that a split is read from; of several, each trains in its turn, the first validates."""
        paths = utils.split_paths(self.cfg.data)
        return paths[(epoch - 1) % len(paths)] if split == self.cfg.train_subset else paths[0]

    def split_parts(self, folder: str, split: str, *, combine: bool) -> list[str]:
        """Names of the parts of a split: ``train``, and with ``combine`` also ``train1``, ``train2``, ..."""
        src, tgt = self.cfg.source_lang, self.cfg.target_lang
        if not self.has_split(folder, split):
            check_held(folder, src, tgt, CHECKPOINT_PAIR if self.rebuilt else PAIR_OPTIONS)
            raise VTLMError(f"{folder}: no split {split!r} for {src}-{tgt}; prepare it with fairseq-preprocess")
        parts = (f"{split}{k}" for k in itertools.count(1))
        more = itertools.takewhile(lambda part: self.has_split(folder, part), parts)
        return [split, *more] if combine else [split]

    def has_split(self, folder: str, split: str) -> bool:
        """Whether a folder has a split of the pair, whichever direction it was binarised in."""
        src, tgt = self.cfg.source_lang, self.cfg.target_lang
        names = (f"{split}.{pair}.{src}.idx" for pair in (f"{src}-{tgt}", f"{tgt}-{src}"))
        return any(os.path.exists(os.path.join(folder, name)) for name in names)

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """As fairseq's, with one line instead of a stack where a sentence of valid or test is too long."""
        indices, ignored = dataset.filter_indices_by_size(indices, max_positions)
        ignored = sorted(map(int, ignored))
        if ignored and not ignore_invalid_inputs:
            with exit_on_error():
                raise VTLMError(
                    f"{len(ignored)} pairs are longer than {max_positions} tokens (source, target), the first is line "
                    f"{dataset.place(ignored[0])} with {tuple(map(int, dataset.size(ignored[0])))}; shorten them, or "
                    "leave them out with --skip-invalid-size-inputs-valid-test, or raise --max-source-positions and "
                    "--max-target-positions as far as the model has positions"
                )
        if ignored and not len(indices):
            with exit_on_error():
                raise VTLMError(
                    f"all {len(ignored)} pairs are longer than {max_positions} tokens (source, target), none is left; "
                    "raise --max-source-positions and --max-target-positions as far as the model has positions"
                )
        if ignored:
            logger.warning(
                "%d pairs are longer than %s tokens (source, target) and are skipped, first ids %s",
                len(ignored), max_positions, ignored[:10],
            )  # fmt: skip
        return indices

    def get_batch_iterator(self, *args, **kwargs):
        """As FairseqTask's, with one line instead of a stack where an example does not fit ``--max-tokens``."""
        with exit_on_error():
            ranges.check_ranges({**kwargs, "batch_size": kwargs.get("max_sentences")}, ranges.DATASET)
            batches = super().get_batch_iterator(*args, **kwargs)
            dataset = args[0] if args else kwargs["dataset"]
            if self.training is not None and dataset is self.datasets.get(self.cfg.train_subset):
                self.training.check_batches(batches, len(dataset))
            return batches


@contextmanager
def unreadable_text(folder: str, split: str) -> Iterator[None]:
    """Say in one line which binarised text fairseq cannot read."""
    for path in sorted(glob(os.path.join(escape(folder), f"{escape(split)}.*.bin"))):
        if os.path.getsize(path) == 0:
            raise VTLMError(f"{path}: no lines; prepare {split} again from text, or leave it out")
    try:
        yield
    except (AssertionError, OSError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, VTLMError):
            raise
        if isinstance(error, AssertionError) and "same number" in str(error):
            raise VTLMError(
                f"{folder}: the two sides of {split} have different numbers of lines; fairseq-preprocess begins a new "
                "line at a carriage return inside of one: take it out of the text (vtlm-prepare names file, line and "
                "byte), and prepare the data again"
            ) from None
        raise VTLMError(
            f"{folder}: the binarised text of {split} cannot be read ({reason(error)}); leave out --dataset-impl, or "
            "prepare the data again"
        ) from None


def read_image_names(folder: str, split: str, *, pairs: int | None = None) -> list[str]:
    """Image ids of ``{split}.images``, one a line.

    Args:
        folder: of the binarised data.
        split: its name.
        pairs: of the split's text; None: not checked.

    Raises:
        VTLMError: no such file, no lines of text, or not as many as pairs.
    """
    path = os.path.join(folder, f"{split}.images")
    if not os.path.isfile(path):
        raise VTLMError(
            f"{path}: no such file; it holds the image id of each sentence pair, one a line (or --regions none)"
        )
    ids = read_lines(path)
    if pairs is not None and len(ids) != pairs:
        raise VTLMError(
            f"{path} has {len(ids)} lines, the text of {split} has {pairs} pairs; line i must name the image of pair i"
        )
    return ids


def part_sizes(pair: LanguagePairDataset, parts: int) -> list[int]:
    """Lines of each joined part of a split."""
    return [len(pair)] if parts == 1 else [len(part) for part in pair.src.datasets]
