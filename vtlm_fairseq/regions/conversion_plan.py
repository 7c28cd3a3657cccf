"""What decides about a conversion: its options, the state of what it is made from, and its share of the images."""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from glob import escape, glob
from typing import Any

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.ranges import option
from vtlm_fairseq.regions.formats.input_image import ImageSource, Listed, file_state
from vtlm_fairseq.regions.parts import CONTENT

_LOCK = "lock.mdb"  # of an LMDB, which its readers write
_NOT_OF_THE_PLAN = ("command", "out", "overwrite", "workers", "skip_bad")
"""Options that may differ between two calls of one conversion."""


def refuse_own_input(args: argparse.Namespace) -> None:
    """A source that the store would replace would be gone where the conversion is not what was wanted.

    Raises:
        VTLMError: ``--out`` is a file that another option names, or one of the folder of ``--store``.
    """
    if not os.path.exists(args.out):
        return
    for name, value in vars(args).items():
        if name == "out" or not isinstance(value, str) or not os.path.exists(value):
            continue
        files = glob(os.path.join(escape(value), "*.h5")) if name == "store" and os.path.isdir(value) else [value]
        if any(os.path.samefile(file, args.out) for file in files):
            raise VTLMError(f"--out {args.out}: {option(name)} reads this file; write to another name, and rename it")


def share_of(args: argparse.Namespace, source: Any, listed: Sequence[Listed] | None) -> range | None:
    """Places of the images to convert; None: all, and how many there are is found out on the way."""
    shard, shards = args.shard
    if listed is not None:
        total = len(listed)
    elif hasattr(source, "__len__"):
        total = len(source)
    elif shards > 1 or args.workers > 1:
        total = source.count()
    else:
        return None
    return range(total * shard // shards, total * (shard + 1) // shards)


def make_plan(
    args: argparse.Namespace, source: ImageSource, listed: Sequence[Listed] | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """All that decides about the store; and the state of inputs that parts note image by image."""
    plan = {name: value for name, value in vars(args).items() if name not in _NOT_OF_THE_PLAN}
    plan["shard"] = list(args.shard)
    if args.soft_labels is None:
        del plan["soft_labels"]  # stores of versions without it stay complete
    for path in _inputs(args, source):
        plan[f"{CONTENT}{path}"] = _short(_state(path))
    state = _short("".join(image.key for image in listed or ()))
    return json.loads(json.dumps(plan, default=str)), dict.fromkeys(source.listed_inputs, state)


def states_of(args: argparse.Namespace, source: ImageSource) -> dict[str, str]:
    """State of each file that all images depend on, for `check_unchanged`."""
    files = [file for path in _inputs(args, source) for file in _files(path)]
    return {file: file_state(file) for file in files if os.path.isfile(file)}  # a pipe's state changes as it is read


def check_unchanged(
    before: Mapping[str, str], source: ImageSource, listed: Sequence[Listed] | None, share: range | None
) -> None:
    """What was written to while it was read may be in the parts as it was before, as it is now, or as neither.

    Args:
        before: what `states_of` said before the images were read.
        source: of the images.
        listed: its images, as they were then.
        share: places of those that are converted.

    Raises:
        VTLMError: a file has changed since.
    """
    for file, state in before.items():
        if file_state(file) != state:
            raise VTLMError(
                f"{file}: has changed while it was converted, and parts may be of one state and of the other; leave it "
                "alone, and convert it again with --overwrite"
            )
    if listed is not None and share is not None:
        now = set(source.listed() or ())
        if changed := [listed[place] for place in share if listed[place] not in now]:
            raise VTLMError(
                f"{changed[0].source}: has changed while it was converted"
                + (f", and so have {len(changed) - 1:,} others" if len(changed) > 1 else "")
                + "; give the same command again, which makes what has changed anew"
            )


def _inputs(args: argparse.Namespace, source: ImageSource) -> list[str]:
    """Files and folders that all images depend on."""
    given = [value for name, value in vars(args).items() if name not in _NOT_OF_THE_PLAN]
    paths = [value for value in given if isinstance(value, str) and os.path.exists(value)]
    return [path for path in [*paths, *source.further_files] if path not in source.listed_inputs]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _state(path: str) -> str:
    """What tells that a file has changed, or those of a folder."""
    if not os.path.isdir(path):
        return file_state(path)
    files = _files(path)
    return "\n".join([*map(os.path.basename, files), *map(file_state, files)])


def _files(path: str) -> list[str]:
    """A file, or those of a folder."""
    if not os.path.isdir(path):
        return [path]
    with os.scandir(path) as entries:
        files = sorted(entry.name for entry in entries if entry.is_file() and entry.name != _LOCK)
    return [os.path.join(path, name) for name in files]
