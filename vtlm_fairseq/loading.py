"""Models from checkpoints: each file is read once, and what was checked is what is built.

Where fairseq's own commands read a file, it is checked before they do (:func:`check_files`).
"""

import argparse
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence

from fairseq import checkpoint_utils, utils
from fairseq.dataclass.utils import overwrite_args_by_name
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from vtlm_fairseq import checkpoint_guard as guard
from vtlm_fairseq.checkpoints import advise_latest, check_config, load_checkpoint, num_updates
from vtlm_fairseq.errors import VTLMError, exit_on_error, reason

Check = Callable[[Mapping, str], object]

_UNBUILDABLE = (
    OmegaConfBaseException, RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError,
    ArithmeticError, MemoryError,
)  # fmt: skip


def load_models(
    paths: Sequence[str], overrides: Mapping, *, check: Check = check_config
) -> tuple[list[nn.Module], DictConfig, FairseqTask]:
    """As fairseq's ``load_model_ensemble_and_task``, of files that are read once, in torch's restricted mode.

    What no model needs (optimizer, scheduler, criterion, tokenizer, ...) is not handed on.

    Args:
        paths: checkpoints of an ensemble; none may have a shard beside it.
        overrides: options in place of those in the checkpoints.
        check: of what was read, which raises `VTLMError`.

    Raises:
        VTLMError: unreadable, or not of a kind that ``check`` lets pass.
    """
    models, cfg, task = [], None, None
    for path in paths:
        state = load_checkpoint(path)
        check(state, path)
        try:
            state = _plain_state(state, {**overrides, "path": os.pathsep.join(paths)})
            (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], task=task, state=state)
        except VTLMError:
            raise
        except _UNBUILDABLE as error:
            raise VTLMError(f"{path}: no model can be built from it ({reason(error)})") from error
        models.append(model)
    return models, cfg, task


def load_for_inference(
    paths: Sequence[str],
    config: Mapping,
    *,
    data: str | os.PathLike[str],
    regions: str,
    any_detector: bool,
    region_order: str | None = None,
    max_regions: int | None = None,
) -> tuple[list[nn.Module], DictConfig, FairseqTask]:
    """As `load_models`, with the options of commands that translate or measure.

    Args:
        config: of the first checkpoint's model.
        region_order, max_regions: None: as in training.
    """
    overrides = {
        "data": os.fspath(data),
        "regions": regions,
        "any_detector": any_detector,
        "autocast": "none",  # as in fairseq-generate
        "source_lang": config["source_lang"],
        "target_lang": config["target_lang"],
        "eval_bleu": False,
    }
    given = {"max_regions": max_regions, "region_order": region_order}
    return load_models(paths, {**overrides, **{name: value for name, value in given.items() if value is not None}})


def _plain_state(state: Mapping, overrides: Mapping) -> dict:
    """What fairseq needs to build a model, from a checked checkpoint."""
    result = {
        "args": None,
        "model": dict(state["model"]),
        "optimizer_history": [{"num_updates": int(num_updates(state))}],
    }
    if state.get("task_state"):
        result["task_state"] = state["task_state"]
    if state.get("args") is not None:  # a model of fairseq's own, of its older versions
        args = argparse.Namespace(**{**vars(state["args"]), **overrides})
        args.task = getattr(args, "task", "translation")
        return {**result, "args": args}
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
