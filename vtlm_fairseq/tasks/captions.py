"""What both tasks do alike: dictionary with ``<mask>``, languages, regions, checkpoints that describe themselves."""

import itertools
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Optional

import numpy as np
import torch
from fairseq import utils
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.distributed import utils as distributed_utils
from fairseq.tasks.translation import load_langpair_dataset
from omegaconf import II, open_dict

from vtlm_fairseq import ranges
from vtlm_fairseq.checkpoint_guard import check_part
from vtlm_fairseq.checkpoints import (
    check_model_name,
    check_room,
    complete_best,
    load_checkpoint,
)
from vtlm_fairseq.compatibility import check_criterion, check_model, check_whole_command
from vtlm_fairseq.data.dictionary import check_symbols, first_difference
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.split_files import check_valid_subsets, language_pair
from vtlm_fairseq.errors import VTLMError, exit_on_error, reason
from vtlm_fairseq.files import copy_file
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.files.names import check_distinct, check_languages, check_name
from vtlm_fairseq.health import LoaderWatch, LossWatch
from vtlm_fairseq.loading import check_beside, check_files, check_path_option
from vtlm_fairseq.models.description import Description
from vtlm_fairseq.models.embeddings import check_region_positions
from vtlm_fairseq.options import OPTIONS
from vtlm_fairseq.regions.file_identity import WatchedFiles
from vtlm_fairseq.regions.store import ORDERS, say_beyond
from vtlm_fairseq.tasks.described import DescribedTask
from vtlm_fairseq.tasks.doubts import Doubts
from vtlm_fairseq.tasks.preemption import pass_on_to_ranks
from vtlm_fairseq.tasks.runs import TrainingRun, keep_log, whole_config
from vtlm_fairseq.tasks.steps import WatchedSteps
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.pipeline import TextPipeline
from vtlm_fairseq.text.subwords import MASK

logger = get_logger(__name__)


@dataclass
class CaptionsConfig(FairseqDataclass):
    """Options that both tasks share."""

    data: Optional[str] = field(
        default=None,
        metadata={"help": "folder of binarised data; a:b trains on a and b in alternate epochs, validates on a"},
    )
    source_lang: Optional[str] = field(default=None, metadata={"help": "source language", "argparse_alias": "-s"})
    target_lang: Optional[str] = field(default=None, metadata={"help": "target language", "argparse_alias": "-t"})
    langs: Optional[str] = field(
        default=None,
        metadata={
            "help": "languages in the order of their embedding rows, comma-separated (default: those of the "
            "checkpoint or the pre-trained model, else source and target, sorted)"
        },
    )
    regions: str = field(default="none", metadata={"help": OPTIONS["--regions"]["help"]})
    any_detector: bool = field(default=False, metadata={"help": OPTIONS["--any-detector"]["help"]})
    # None: not given. Then it is that of the checkpoint, else the default that models/description.py has for it
    max_regions: Optional[int] = field(default=None, metadata={"help": OPTIONS["--max-regions"]["help"]})
    region_order: Optional[ChoiceEnum(list(ORDERS))] = field(
        default=None, metadata={"help": OPTIONS["--region-order"]["help"]}
    )
    max_source_positions: Optional[int] = field(
        default=None,
        metadata={
            "help": "longest source sentence in tokens, </s> symbols included (default: the checkpoint's, else 512)"
        },
    )
    max_target_positions: Optional[int] = field(
        default=None,
        metadata={
            "help": "longest target sentence in tokens, </s> symbols included (default: the checkpoint's, else 512)"
        },
    )
    upsample_primary: int = field(
        default=1, metadata={"help": "how often train is repeated where train1, train2, ... are joined to it"}
    )
    autocast: ChoiceEnum(["none", "bf16", "fp16"]) = field(
        default="none",
        metadata={"help": "run forward and loss under torch.autocast, on CPU and GPU (training in fp16 needs --amp)"},
    )
    # fairseq keeps its loader workers over epochs, so set_epoch would not reach them and masks would repeat;
    # FairseqTask reads this field
    reuse_dataloader: bool = field(default=False, metadata={"help": "keep loader workers over epochs (masks repeat)"})
    persistent_workers: bool = field(default=False, metadata={"help": "keep loader workers after their epoch"})
    train_subset: str = II("dataset.train_subset")
    valid_subset: str = II("dataset.valid_subset")
    combine_valid_subsets: Optional[bool] = II("dataset.combine_valid_subsets")
    ignore_unused_valid_subsets: Optional[bool] = II("dataset.ignore_unused_valid_subsets")
    disable_validation: bool = II("dataset.disable_validation")
    dataset_impl: Optional[str] = II("dataset.dataset_impl")
    required_seq_len_multiple: int = II("dataset.required_seq_len_multiple")
    seed: int = II("common.seed")
    fixed_validation_seed: Optional[int] = II("dataset.fixed_validation_seed")
    amp: bool = II("common.amp")
    clip_norm: float = II("optimization.clip_norm")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    no_save: bool = II("checkpoint.no_save")
    path: Optional[str] = II("common_eval.path")


class CaptionsTask(WatchedSteps, DescribedTask):
    """Mixin in front of a fairseq task. Faults of input and options end a command with one line."""

    model_class: type
    criteria: tuple[type, ...]
    uses_classes: bool = False  # of regions, in training
    region_positions: int = 0
    parameter_bytes: int = 0
    started: float = float("inf")

    @classmethod
    def load_dictionary(cls, filename: str) -> Dictionary:
        """Load ``dict.*.txt``; ``<mask>`` is appended if the dictionary was made by another task."""
        with exit_on_error():
            if not os.path.isfile(filename):
                raise VTLMError(f"{filename}: no such dictionary; prepare the data with fairseq-preprocess")
            try:
                dictionary = Dictionary.load(filename)
            except Exception as error:  # fairseq raises plain Exception, among others
                raise VTLMError(f"{filename}: no dictionary ({error}); prepare the data again") from None
            if MASK not in dictionary.indices:
                logger.info("%s has no %s: appended as its last symbol", filename, MASK)
                dictionary.add_symbol(MASK, n=0)
            return dictionary

    @classmethod
    def build_dictionary(cls, filenames, workers=1, threshold=-1, nwords=-1, padding_factor=8) -> Dictionary:
        """Build a dictionary for ``fairseq-preprocess``: words, then ``<mask>``, then padding to a multiple of 8.

        ``<mask>`` is an ordinary line of the file, so stock tasks read the same ids from it.
        """
        dictionary = super().build_dictionary(filenames, workers, threshold, nwords, padding_factor=1)
        dictionary.add_symbol(MASK, n=0)
        dictionary.pad_to_multiple_(padding_factor)
        return dictionary

    @classmethod
    def add_args(cls, parser) -> None:
        """As fairseq's; the parser then checks the checkpoints of ``--path``. Signals will reach spawned ranks."""
        super().add_args(parser)
        check_path_option(parser)
        pass_on_to_ranks()

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """Infer the language pair, load and compare the dictionaries.

        ``fairseq-generate`` and ``fairseq-interactive`` call this before they read ``--path``, so files that are cut
        off are refused here.
        """
        with exit_on_error():
            # a Namespace of fairseq-train has no such option: the interpolation is then left as it is
            for path in utils.split_paths(cfg.path) if cfg.path and not cfg.path.startswith("${") else ():
                if kwargs.get("from_checkpoint"):
                    check_beside(path)
                else:
                    check_files(path, **sharding(cfg))
            if not kwargs.get("from_checkpoint"):
                ranges.check_ranges(cfg, ranges.TASK)
                check_distinct(cfg.source_lang, cfg.target_lang)
                if (whole := whole_config(cfg)) is not None:
                    check_whole_command(whole)
                    ranges.check_command(whole)
            paths = utils.split_paths(cfg.data) if cfg.data else []
            if not paths or not os.path.isdir(paths[0]):
                raise VTLMError(f"data folder {cfg.data!r} does not exist; prepare it with fairseq-preprocess")
            if cfg.source_lang is None or cfg.target_lang is None:
                cfg.source_lang, cfg.target_lang = language_pair(paths[0], cfg.source_lang, cfg.target_lang)
            check_languages((cfg.source_lang, cfg.target_lang, *(cfg.langs.split(",") if cfg.langs else ())), paths[0])
            source, target = (
                cls.load_dictionary(os.path.join(paths[0], f"dict.{lang}.txt"))
                for lang in (cfg.source_lang, cfg.target_lang)
            )
            difference = first_difference(source.symbols, target.symbols)
            if difference:
                raise VTLMError(
                    f"{paths[0]}: dict.{cfg.source_lang}.txt and dict.{cfg.target_lang}.txt differ {difference}; "
                    "run fairseq-preprocess with --joined-dictionary"
                )
            task = cls(cfg, source, target)
            task.rebuilt = bool(kwargs.get("from_checkpoint"))
            return task

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Saved in every checkpoint: the symbols, so that a foreign dictionary is noticed wherever it comes from, and
        what the model was trained with.

        fairseq asks for them when it is about to write; where the disk is full it ends with a stack and, for what it
        copies in place, a part of a file. So a run for whose next checkpoint there is no room ends here.
        """
        with exit_on_error():
            check_room(self.cfg.save_dir, self.parameter_bytes, self.started)
        train = self.datasets.get(self.cfg.train_subset)
        examples = {} if train is None else {"examples": len(train)}
        symbols = {"symbols": list(self.source_dictionary.symbols)}
        return {**symbols, **examples, "description": self.describe(), **self.doubts.norms.state()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Compare the checkpoint's symbols with the data's, and keep what it says of its model."""
        with exit_on_error():
            check_symbols(state_dict.get("symbols"), self.source_dictionary, "the checkpoint")
            self.doubts.norms.adopt(state_dict)
            self.source = Description.of_task_state(state_dict.get("description"), "the checkpoint")

    def build_model(self, cfg, from_checkpoint=False):
        """Fill in what the model has to know (see :class:`vtlm_fairseq.models.config.EncoderConfig`), then build it.

        A checkpoint describes itself: on loading, languages and region sizes are read back from it, and options
        that contradict it are errors.
        """
        with exit_on_error():
            if from_checkpoint:
                check_model_name(cfg, "the checkpoint")
            check_model(self, cfg, from_checkpoint=from_checkpoint)
            with open_dict(cfg):
                if from_checkpoint:
                    self._adopt(cfg)
                else:
                    ranges.check_model(cfg)
                    check_valid_subsets(self.cfg)
                    self.training = TrainingRun.start(self.cfg)
                    self._describe(cfg)
            if self.cfg.autocast == "fp16" and not from_checkpoint and not self.cfg.amp:
                raise VTLMError(
                    "--autocast fp16 without gradient scaling loses small gradients; add --amp, or use bf16"
                )
            self.region_positions = cfg.get("region_positions") or 0
            model = super().build_model(cfg, from_checkpoint)
            if self.training is not None and not from_checkpoint:
                self.training.lock(self)
            return model

    def build_criterion(self, cfg, from_checkpoint=False):
        """Build the criterion; a field that a checkpoint has and the class has lost is dropped.

        ``fairseq-validate`` calls this without ``from_checkpoint``, so unknown fields would end in an error. It takes
        the configuration from the checkpoint, and ``ctc``, a criterion for speech, evaluates strings in it as Python.
        """
        with exit_on_error():
            check_criterion(self, cfg)
            check_part("criterion", cfg, "--criterion", built=True)
            ranges.check_ranges(cfg, ranges.CRITERION)
            criterion = super().build_criterion(cfg, from_checkpoint=True)
            if self.training is not None:
                self.training.check(self, criterion)
            return criterion

    def begin_epoch(self, epoch: int, model) -> None:
        """Complete the checkpoint folder: copy dictionaries, BPE model and ``text.json`` beside the checkpoints."""
        super().begin_epoch(epoch, model)
        keep_log(self.cfg)
        with exit_on_error():
            self.files.check()
        first = self.loss_watch is None
        if first:
            self.check_clipping(model)
            self.loss_watch, self.loader_watch = LossWatch(), LoaderWatch()
            self.loader_watch.start()
            self.begin_best()
        if self.cfg.no_save or distributed_utils.get_global_rank() != 0:
            return
        folder, save_dir = utils.split_paths(self.cfg.data)[0], self.cfg.save_dir
        names = [f"dict.{lang}.txt" for lang in (self.cfg.source_lang, self.cfg.target_lang)]
        with exit_on_error():
            if first:
                self.parameter_bytes = sum(values.nbytes for values in model.parameters())
                self.started = time.time()
                restored = self.restored_checkpoint()
                if restored and os.path.dirname(os.path.abspath(restored)) == os.path.abspath(save_dir):
                    complete_best(save_dir, restored, suffix=self.checkpoint_suffix())
            if os.path.exists(os.path.join(folder, "text.json")):
                names += TextPipeline.load(folder).files()
            for name in dict.fromkeys(names):
                place_beside(os.path.join(folder, name), save_dir)

    def begin_best(self) -> None:
        """Begin to keep the best checkpoints, once the trainer has read its checkpoint."""
        if self.training is not None:
            restored = self.restored_checkpoint()
            keeps = type(self).post_save is CaptionsTask.post_save  # a derived task's may not call ours
            self.training.best.begin(load_checkpoint(restored, mmap=True) if restored else None, keeps=keeps)

    def begin_valid_epoch(self, epoch: int, model) -> None:
        """Expect the figures of the first validation set."""
        super().begin_valid_epoch(epoch, model)
        if self.training is not None:
            self.training.best.begin_validation()

    def post_validate(self, model, stats: dict, agg) -> None:
        """Called by fairseq with the figures of a validation set: one line where the metric is not among them."""
        if self.training is not None:
            with exit_on_error():
                self.training.best.validated(stats)

    def post_save(self, path: str, num_updates: int) -> None:
        """Called by fairseq, on the first rank, when a checkpoint is saved: keep the best; end after a signal."""
        if self.training is not None:
            with exit_on_error():
                self.training.best.keep(path)
            self.training.stop.saved()

    def check_clipping(self, model) -> None:
        """Refuse ``--cpu`` with ``--clip-norm`` beside a GPU, before the first update fails."""
        # fairseq 0.12.3 takes the norm on the GPU where PyTorch sees one, and cannot scale gradients of the CPU by it
        if torch.cuda.is_available() and self.cfg.clip_norm > 0 and not any(p.is_cuda for p in model.parameters()):
            with exit_on_error():
                raise VTLMError(
                    "--cpu with --clip-norm does not work where fairseq sees a GPU; hide it with CUDA_VISIBLE_DEVICES="
                )

    # -- data --------------------------------------------------------------------------------------------------

    def load_pair(self, split: str, *, epoch: int, combine: bool) -> tuple[LanguagePairDataset, LineRegions | None]:
        """Text and regions of a split.

        ``combine`` joins ``train``, ``train1``, ...; each part has its own ``.images``.
        """
        check_name(split, "split", nested=True, hint="see --train-subset, --valid-subset and --gen-subset")
        paths = utils.split_paths(self.cfg.data)
        folder = paths[(epoch - 1) % len(paths)] if split == self.cfg.train_subset else paths[0]
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
                pad_to_multiple=self.cfg.required_seq_len_multiple,
            )
        regions = self.load_regions(folder, split, parts, pair)
        self.doubts.load(self, split, folder, parts, regions)
        return pair, regions

    def load_regions(self, folder: str, split: str, parts: list[str], pair: LanguagePairDataset) -> LineRegions | None:
        """Regions of the lines of a split's parts, joined by ``{part}.images``; None without a store."""
        if self.cfg.regions == "none":
            logger.info("%s: no regions (text only)", split)
            return None
        names = [read_image_names(folder, part) for part in parts]
        sizes = part_sizes(pair, len(parts))
        for part, ids, size in zip(parts, names, sizes, strict=True):
            if len(ids) != size:
                raise VTLMError(
                    f"{folder}/{part}.images has {len(ids)} lines, the text of {part} has {size} pairs; "
                    "line i must name the image of pair i"
                )
        store = self.open_store(split)
        try:
            rows = [store.rows(ids) for ids in names]
        except VTLMError:
            more = self.open_store(split, parts[1:])
            if more.paths == store.paths:
                raise
            store, rows = more, [more.rows(ids) for ids in names]
        if len(rows) > 1:
            rows[0] = np.tile(rows[0], self.cfg.upsample_primary)
        order = self.option("region_order")
        logger.info(
            "%s: regions of %d lines from %s (%d images, at most %d regions, %d x %s, %d classes, by %s), order %s",
            split, sum(map(len, rows)), self.cfg.regions, store.num_images, self.option("max_regions"),
            store.feature_dim, store.dtype, store.num_classes, store.identity, order,
        )  # fmt: skip
        rows = np.concatenate(rows)
        beyond = store.beyond(rows)
        if beyond[0]:
            logger.info("%s: %s and are not read", split, say_beyond(beyond, self.option("max_regions")))
        self.warn_of_order()
        redraw = split == self.cfg.train_subset
        regions = LineRegions(store, rows, order=order, seed=self.shuffle_seed(split), split=split, redraw=redraw)
        self.check_positions(regions, f"--regions {self.cfg.regions} ({split})")
        return regions

    def check_positions(self, regions: LineRegions, where: str) -> None:
        """Refuse lines with more regions than the model has positions for."""
        check_region_positions(int(regions.counts().max(initial=0)), self.region_positions, where)

    @cached_property
    def files(self) -> WatchedFiles:
        """Files of text that were read."""
        return WatchedFiles()

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

    def split_parts(self, folder: str, split: str, *, combine: bool) -> list[str]:
        """Names of the parts of a split: ``train``, and with ``combine`` also ``train1``, ``train2``, ..."""
        src, tgt = self.cfg.source_lang, self.cfg.target_lang

        def exists(part: str) -> bool:
            pairs = (f"{src}-{tgt}", f"{tgt}-{src}")
            return any(os.path.exists(os.path.join(folder, f"{part}.{pair}.{src}.idx")) for pair in pairs)

        if not exists(split):
            raise VTLMError(f"{folder}: no split {split!r} for {src}-{tgt}; prepare it with fairseq-preprocess")
        more = itertools.takewhile(exists, (f"{split}{k}" for k in itertools.count(1)))
        return [split, *more] if combine else [split]

    def filter_indices_by_size(self, indices, dataset, max_positions=None, ignore_invalid_inputs=False):
        """As fairseq's, with one line instead of a stack where a sentence of valid or test is too long."""
        indices, ignored = dataset.filter_indices_by_size(indices, max_positions)
        ignored = sorted(map(int, ignored))
        if ignored and not ignore_invalid_inputs:
            with exit_on_error():
                raise VTLMError(
                    f"{len(ignored)} pairs are longer than {max_positions} tokens (source, target), the first is line "
                    f"{ignored[0] + 1} with {tuple(map(int, dataset.size(ignored[0])))}; shorten them, or leave "
                    "them out with --skip-invalid-size-inputs-valid-test, or raise --max-source-positions and "
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

    def eval_lm_dataloader(self, *args, **kwargs):
        """What fairseq-eval-lm asks for; no model of this package is a language model."""
        with exit_on_error():
            raise VTLMError("fairseq-eval-lm is for language models; use fairseq-validate, or vtlm-probe mrc")


@contextmanager
def unreadable_text(folder: str, split: str) -> Iterator[None]:
    """Say in one line which binarised text fairseq cannot read."""
    try:
        yield
    except (AssertionError, OSError, ValueError, EOFError, struct.error) as error:
        if isinstance(error, VTLMError):
            raise
        raise VTLMError(
            f"{folder}: the binarised text of {split} cannot be read ({reason(error)}); leave out --dataset-impl, or "
            "prepare the data again"
        ) from None


def sharding(cfg) -> dict:
    """What a command says about shards of its checkpoint, for :func:`vtlm_fairseq.loading.check_files`."""
    whole = whole_config(cfg)
    if whole is None:
        return {}
    return {"suffix": whole.checkpoint.checkpoint_suffix or "", "shards": whole.checkpoint.checkpoint_shard_count}


def read_image_names(folder: str, split: str) -> list[str]:
    """Image ids of ``{split}.images``, one a line.

    Raises:
        VTLMError: no such file, or no lines of text.
    """
    path = os.path.join(folder, f"{split}.images")
    if not os.path.isfile(path):
        raise VTLMError(
            f"{path}: no such file; it holds the image id of each sentence pair, one a line (or --regions none)"
        )
    return read_lines(path)


def part_sizes(pair: LanguagePairDataset, parts: int) -> list[int]:
    """Lines of each joined part of a split."""
    return [len(pair)] if parts == 1 else [len(part) for part in pair.src.datasets]


def place_beside(source: str, folder: str) -> None:
    """Copy a file into the folder of the checkpoints, unless it is there."""
    target = os.path.join(folder, os.path.basename(source))
    if os.path.realpath(source) != os.path.realpath(target):
        copy_file(source, target, parents=True)
