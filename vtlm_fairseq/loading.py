"""Models from checkpoints: each file is read once, and what was checked is what is built.

Where fairseq's own commands read a file, it is checked before they do (:func:`check_files`).
"""

import argparse
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from vtlm_fairseq import checkpoint_guard as guard
from vtlm_fairseq.checkpoints import advise_latest, check_config, load_checkpoint, num_updates
from vtlm_fairseq.data.split_files import language_pairs
from vtlm_fairseq.errors import VTLMError, exit_on_error, raise_instead_of_exit, reason
from vtlm_fairseq.files.names import check_path
from vtlm_fairseq.options import ORDERS
from vtlm_fairseq.ranges import COUNT, check_numbers
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.text.pipeline import TextPipeline

Check = Callable[[Mapping, str], object]

_loading = threading.Lock()
"""fairseq exchanges a function of omegaconf's while it loads a checkpoint, and two threads would not put it back."""
_UNBUILDABLE = (
    OmegaConfBaseException, RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError,
    ArithmeticError, MemoryError,
)  # fmt: skip
_NAME_DATA = "name the folder of the data with --data"


@dataclass
class Loaded:
    """Models that are ready for inference, and what goes with them.

    Attributes:
        models: one, or those of an ensemble, on their device.
        task: theirs.
        config: of the first model; empty for a model of fairseq's own.
        cuda: whether they are on a GPU.
        pipeline: of raw text; None without one.
        split: whose regions :attr:`store` has; None: all of a folder.
    """

    models: list[nn.Module]
    task: FairseqTask
    config: dict
    cuda: bool
    pipeline: TextPipeline | None = None
    split: str | None = None

    @property
    def max_positions(self) -> tuple[int, int]:
        """The longest source and target that they take."""
        return utils.resolve_max_positions(self.task.max_positions(), *[model.max_positions() for model in self.models])

    @cached_property
    def store(self) -> RegionStore | None:
        """What ``--regions`` names, opened when it is first asked for; None without regions.

        Raises:
            VTLMError: it cannot be opened, or is not of the model's detector and sizes.
        """
        if self.task.cfg.regions == "none":
            return None
        store = self.task.open_store(self.split)
        self.task.warn_of_order()
        if self.task.option("region_order") != "none":
            self.task.doubts.store(store, np.arange(len(store)), "translate")
        return store


def load_models(paths: Sequence[str], overrides: Mapping, *, check: Check = check_config, cpu: bool = False) -> Loaded:
    """As fairseq's ``load_model_ensemble_and_task``, of files that are read once, in torch's restricted mode.

    What no model needs (optimizer, scheduler, criterion, tokenizer, ...) is not handed on.

    Args:
        paths: checkpoints of an ensemble; none may have a shard beside it.
        overrides: options in place of those in the checkpoints.
        check: of what was read, which raises `VTLMError`; gives the configuration of the model, if it is ours.
        cpu: do not use a GPU.

    Raises:
        VTLMError: unreadable, or not of a kind that ``check`` lets pass.
    """
    return _build(_read(paths, check), {**overrides, "path": os.pathsep.join(paths)}, cpu=cpu)


def load_for_inference(
    paths: Sequence[str],
    *,
    data: str | os.PathLike[str] | None = None,
    regions: str | os.PathLike[str] | None = "none",
    split: str | None = None,
    region_order: str | None = None,
    max_regions: int | None = None,
    preprocessed: bool = False,
    any_detector: bool = False,
    cpu: bool = False,
    kind: Check | None = None,
    text_only: bool = False,
) -> Loaded:
    """Models of this package, their task, text pipeline and regions, for all that translates or measures.

    Args:
        paths: checkpoints of an ensemble.
        data: folder with dictionaries and ``text.json``; None: the folder of the first checkpoint.
        regions: a store file, a folder of them, or ``none`` (None too).
        split: of a folder, the files of this split; None: all, in which an image counts as one.
        region_order, max_regions: None: as in training.
        preprocessed: without a text pipeline.
        any_detector: the regions may be of another detector than the model's.
        cpu: do not use a GPU.
        kind: of a configuration and its path: raises `VTLMError` for a model that is not meant.
        text_only: a model without regions may come with ``regions``, which must be there, and gets none.

    Raises:
        VTLMError: a file is missing or unreadable, or does not fit the checkpoint, or the options contradict it.
    """

    def check(state: Mapping, path: str) -> dict:
        config = check_config(state, path)
        if kind is not None:
            kind(config, path)
        return config

    regions = "none" if regions is None else check_path("regions", regions)
    if max_regions is not None:
        check_numbers({"max_regions": max_regions}, {"max_regions": COUNT})
    if region_order not in (None, *ORDERS):
        raise VTLMError(f"region_order={region_order!r}: not one of {', '.join(ORDERS)}")
    read = _read(paths, check)
    first = next(read)
    if text_only and not first[2]["region_dim"]:
        if regions != "none":
            store_files(regions, split)  # a wrong path is told, though nothing is read of it
        regions = "none"
    folder = check_path("data", data or os.path.dirname(os.path.abspath(paths[0])))
    if ":" in folder and os.path.isdir(folder):
        raise VTLMError(f"{folder}: fairseq takes a colon for the end of a folder's name; rename it, or see --data")
    if not data and not any(Path(folder).glob("dict.*.txt")):
        raise VTLMError(f"{folder}/dict.*.txt: no such file; {_NAME_DATA}")
    hint = {} if data else {"hint": f"{_NAME_DATA}, or give text that is prepared already with --preprocessed"}
    pipeline = None if preprocessed else TextPipeline.load(folder, **hint)
    first = (*first[:2], {**first[2], **_pair_of(folder, first[2])})
    overrides = {
        "data": folder,
        "lang_pairs": None,
        "regions": regions,
        "any_detector": bool(any_detector),
        "autocast": "none",  # as in fairseq-generate
        "eval_bleu": False,
        "path": os.pathsep.join(paths),
    }
    given = {"max_regions": max_regions, "region_order": region_order}
    overrides.update({name: value for name, value in given.items() if value is not None})
    return replace(_build(chain([first], read), overrides, cpu=cpu), pipeline=pipeline, split=split)


def _pair_of(folder: str, config: Mapping) -> dict[str, str]:
    """Languages of a folder whose pair is another one of those that a pre-trained model has seen; else nothing."""
    pairs, own = language_pairs(folder) if os.path.isdir(folder) else [], (config["source_lang"], config["target_lang"])
    if len(pairs) != 1 or "decoder_layers" in config or {own, own[::-1]} & set(pairs):
        return {}
    known = set(pairs[0]) <= set(config["langs"].split(","))
    return {"source_lang": pairs[0][0], "target_lang": pairs[0][1]} if known else {}


def _read(paths: Sequence[str], check: Check) -> Iterator[tuple[str, dict, dict]]:
    """Path, what is needed of the checkpoint, and the configuration of its model (see `load_models`), one by one."""
    for path in paths:
        state = load_checkpoint(path)
        config = check(state, path) or {}
        needed = {
            name: state.get(name) for name in ("args", "cfg", "model", "task_state") if state.get(name) is not None
        }
        yield path, {**needed, "optimizer_history": [{"num_updates": int(num_updates(state))}]}, config


def _build(read: Iterable[tuple[str, dict, dict]], overrides: Mapping, *, cpu: bool) -> Loaded:
    models, task, first = [], None, None
    cuda = torch.cuda.is_available() and not cpu
    for path, state, config in read:
        first = config if first is None else first
        languages = {name: config[name] for name in ("source_lang", "target_lang") if name in config}
        try:
            with _loading, raise_instead_of_exit():
                state = _plain_state(state, {**languages, **overrides})
                (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], task=task, state=state)
        except VTLMError:
            raise
        except _UNBUILDABLE as error:
            raise VTLMError(f"{path}: no model can be built from it ({reason(error)})") from error
        models.append(model.cuda() if cuda else model)
        model.prepare_for_inference_(cfg)
    return Loaded(models, task, first, cuda)


def _plain_state(state: Mapping, overrides: Mapping) -> dict:
    """What fairseq needs to build a model, from a checked checkpoint."""
    result = {"args": None, **state, "model": dict(state["model"])}
    if state.get("args") is not None:  # a model of fairseq's own, of its older versions
        args = argparse.Namespace(**{**vars(state["args"]), **overrides})
        args.task = getattr(args, "task", "translation")
        return {**result, "cfg": None, "args": args}
    parts = {name: None if name in guard.KNOWN else part for name, part in state["cfg"].items()}
    cfg = OmegaConf.create(parts, flags={"allow_objects": True})
    overwrite_args_by_name(cfg, dict(overrides))
    return {**result, "cfg": cfg}


def check_files(path: str, *, suffix: str = "", shards: int = 1) -> None:
    """Check a checkpoint that one of fairseq's commands is about to read.

    Args:
        path: as ``--path`` names it.
        suffix: ``--checkpoint-suffix``.
        shards: ``--checkpoint-shard-count``.

    Raises:
        VTLMError: missing, cut off, of classes that are not this package's, or another file would be read.
    """
    if not suffix and shards == 1:
        check_beside(path)
    for index in range(shards):
        _check_file(checkpoint_utils.get_maybe_sharded_checkpoint_filename(path, suffix, index, shards))


def check_beside(path: str) -> None:
    """Refuse a shard beside a checkpoint, which fairseq would read in its place.

    Raises:
        VTLMError: names it.
    """
    file = checkpoint_utils.get_maybe_sharded_checkpoint_filename(path, "", 0, 1)
    if file != path:
        raise VTLMError(
            f"{file} lies beside {path}, and fairseq would read it in its place; move it away, or name it with "
            "--checkpoint-suffix or --checkpoint-shard-count"
        )


def _check_file(path: str) -> None:
    with advise_latest(path):
        state = load_checkpoint(path, mmap=os.path.isfile(path) and zipfile.is_zipfile(path))
    guard.check_parts(state, path)


def check_path_option(parser) -> None:
    """Let a parser of fairseq's check the files of ``--path`` as soon as it reads that option.

    ``fairseq-validate`` takes task, model and criterion from the file, so no class of this package is asked before
    fairseq builds what the file names; the parser is what it hands to the task of the command line before.
    """
    option = getattr(parser, "_option_string_actions", {}).get("--path")
    if option is not None:
        option.type = _checked_paths


def _checked_paths(text: str) -> str:
    with exit_on_error():
        for path in utils.split_paths(text):
            # fairseq-validate reads a shard where there is one; whether it may is for check_files to say
            shard = checkpoint_utils.get_maybe_sharded_checkpoint_filename(path, "", 0, 1)
            for file in dict.fromkeys((path, shard)):
                if file == shard or os.path.isfile(file):
                    _check_file(file)
    return text


class CheckedHub:
    """Mixin in front of a model of fairseq's: ``from_pretrained`` checks the files that fairseq then reads."""

    @classmethod
    def from_pretrained(cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", **kwargs):
        """As fairseq's, from a folder.

        Raises:
            VTLMError: a checkpoint is missing, unreadable or not of this package's classes.
        """
        for name in utils.split_paths(checkpoint_file):
            check_files(os.path.join(model_name_or_path, name))
        return super().from_pretrained(model_name_or_path, checkpoint_file, data_name_or_path, **kwargs)
