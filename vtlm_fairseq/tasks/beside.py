"""Where fairseq's commands write; what stands beside a checkpoint: its shards, dictionaries, the text pipeline."""

import argparse
import os
from collections.abc import Callable

from fairseq import utils

from vtlm_fairseq.data.split_files import NO_LANGUAGE
from vtlm_fairseq.errors import exit_on_error
from vtlm_fairseq.files import check_writable, copy_file
from vtlm_fairseq.tasks.runs import whole_config
from vtlm_fairseq.text.pipeline import TextPipeline


def check_targets(parser: argparse.ArgumentParser) -> None:
    """Let a parser of fairseq's find out, as soon as it reads them, that what its options name cannot be written."""
    actions = getattr(parser, "_option_string_actions", {})
    names = ["--log-file", "--results-path", *(["--save-dir"] if "--max-update" in actions and _is_first() else [])]
    for name in actions.keys() & set(names):
        actions[name].type = _checked_target(name)


def _checked_target(name: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        with exit_on_error():
            if name != "--log-file":  # fairseq makes the folder
                check_writable(os.path.join(text, ".new"), label=f"{name} {text}", parents=True)
            elif not (os.path.isfile(text) and os.access(text, os.W_OK)):  # fairseq adds to one that is there
                check_writable(text, label=f"{name} {text}")
        return text

    return check


def _is_first() -> bool:
    """Whether this may be the first of several ranks: the one that writes checkpoints, perhaps on a disk of its own."""
    ranks = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    ranks.add_argument("--distributed-rank", nargs="?", default="0")
    given = ranks.parse_known_args()[0].distributed_rank
    return {given, os.environ.get("RANK", "0"), os.environ.get("SLURM_PROCID", "0")} == {"0"}


def sharding(cfg) -> dict:
    """What a command says about shards of its checkpoint, for :func:`vtlm_fairseq.loading.check_files`."""
    whole = whole_config(cfg)
    if whole is None:
        return {}
    return {"suffix": whole.checkpoint.checkpoint_suffix or "", "shards": whole.checkpoint.checkpoint_shard_count}


def text_files(cfg) -> list[str]:
    """Dictionaries of a task's pair, and its text pipeline."""
    folder = utils.split_paths(cfg.data)[0]
    names = [f"dict.{lang}.txt" for lang in (cfg.source_lang, cfg.target_lang) if lang != NO_LANGUAGE]
    if os.path.exists(os.path.join(folder, "text.json")):
        names += TextPipeline.load(folder).files()
    return [os.path.join(folder, name) for name in names]


def place_beside(source: str, folder: str) -> None:
    """Copy a file into the folder of the checkpoints, unless it is there."""
    target = os.path.join(folder, os.path.basename(source))
    if os.path.realpath(source) != os.path.realpath(target):
        copy_file(source, target, parents=True)
