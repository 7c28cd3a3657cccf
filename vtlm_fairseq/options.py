"""Options that several commands have: name, default, range and help of each, written once."""

import argparse
from dataclasses import field
from pathlib import Path
from typing import Any

from vtlm_fairseq.ranges import COUNT, FROM_ZERO, GENERATION, SEED, reader
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.text.id_rules import RULES_HELP, IdRule
from vtlm_fairseq.text.subwords import BPE_KINDS, JOINT


def _shard(text: str) -> tuple[int, int]:
    """`I/N`: part I, from 0, of N."""
    number, slash, count = text.partition("/")
    if not slash or not (number.isdecimal() and count.isdecimal()) or not int(number) < int(count):
        raise argparse.ArgumentTypeError(f"{text}: not I/N with I in 0..N-1, such as 0/4")
    return int(number), int(count)


ORDERS = ("given", "shuffle", "none")
"""Of ``--region-order``."""


def _kind(text: str) -> str:
    kind = "subword_nmt" if text.strip() == JOINT else text  # as fairseq calls it
    if kind not in BPE_KINDS:
        raise argparse.ArgumentTypeError(f"{text}: not one of {', '.join(BPE_KINDS)}, '{JOINT} '")
    return kind


OPTIONS: dict[str, dict[str, Any]] = {
    "data": {"metavar": "DATA", "help": "folder of binarised data"},
    "--data": {"metavar": "DIR", "help": "folder of dictionaries and text.json (default: CKPT's folder)"},
    "--regions": {
        "default": "none",
        "metavar": "STORE",
        "help": "region store: a file, a folder of {split}.h5 or {split}.*.h5, or none",
    },
    "--any-detector": {
        "action": "store_true",
        "help": "take regions of another detector than the model's, or of several, on purpose",
    },
    "--max-regions": {
        "type": reader(COUNT),
        "metavar": "N",
        "help": f"at most so many regions an image, the most confident (default: the checkpoint's, else {MAX_REGIONS})",
    },
    "--region-order": {
        "choices": ORDERS,
        "help": "given: each line its own image's regions; shuffle: another image's; none: hide all regions "
        "(default: the checkpoint's, else given)",
    },
    "--gen-subset": {"default": "test", "metavar": "SPLIT", "help": "the split (default: %(default)s)"},
    "--subsets": {"default": "valid,test", "help": "splits, comma-separated (default: %(default)s)"},
    "--preprocessed": {"action": "store_true", "help": "the text is sub-words already"},
    "--post-process": {
        "type": _kind,
        "metavar": "KIND",
        "help": f"kind of sub-words: {', '.join(BPE_KINDS)} or '{JOINT} ' (default: as text.json says)",
    },
    "--beam": {"type": reader(GENERATION["beam"]), "default": 8, "help": "beam size (default: %(default)s)"},
    "--lenpen": {
        "type": reader(GENERATION["lenpen"]),
        "default": 1.0,
        "help": "length penalty: scores are log-probabilities / tokens**lenpen (default: 1)",
    },
    "--max-len-a": {
        "type": reader(GENERATION["max_len_a"]),
        "default": 0.0,
        "help": "at most ax+b tokens for x source tokens",
    },
    "--max-len-b": {
        "type": reader(GENERATION["max_len_b"]),
        "default": 200,
        "help": "see --max-len-a (default: %(default)s)",
    },
    "--batch-size": {"type": reader(COUNT), "default": 32, "metavar": "N", "help": "at once (default: %(default)s)"},
    "--cpu": {"action": "store_true", "help": "do not use a GPU"},
    "--repeats": {"type": reader(COUNT), "default": 5, "metavar": "N", "help": "shufflings (default: %(default)s)"},
    "--seed": {"type": reader(SEED), "default": 1, "metavar": "N", "help": "of random numbers (default: %(default)s)"},
    "--workers": {"type": reader(FROM_ZERO), "metavar": "N", "help": "processes (default: %(default)s)"},
    "--shard": {
        "type": _shard,
        "default": (0, 1),
        "metavar": "I/N",
        "help": "make the part I, from 0, of N runs that share the images, each with its own --out",
    },
    "--part-size": {
        "type": reader(COUNT),
        "default": 500,
        "metavar": "N",
        "help": "images between two savings; a killed run loses at most so many (default: %(default)s)",
    },
    "--dtype": {
        "choices": ("float16", "float32"),
        "default": "float16",
        "help": "of the features (default: %(default)s)",
    },
    "--class-names": {"metavar": "FILE", "help": "names of the classes, one a line, without background"},
    "--strip-extension": {"action": "store_true", "help": "image ids without .jpg, .png, ...: --id-rule extension"},
    "--id-rule": {"type": IdRule.parse, "default": IdRule(), "metavar": "RULES", "help": RULES_HELP},
    "--image-splits": {"type": Path, "required": True, "help": "folder of {split}.txt, an image a line"},
    "--overwrite": {"action": "store_true", "help": "replace --out if it exists"},
    "--langs": {
        "help": "languages in the order of their embedding rows, comma-separated (default: those of the "
        "checkpoint or the pre-trained model, else source and target, sorted)",
    },
    "--source-lang": {"default": "en", "help": "source language (default: %(default)s)"},
    "--target-lang": {"default": "de", "help": "target language (default: %(default)s)"},
}
"""Keyword arguments of ``add_argument``; `--user-dir` and `--format` stand where they are carried out."""


def loading_options(args: argparse.Namespace) -> dict[str, Any]:
    """What a command says of its model and regions, for :func:`vtlm_fairseq.loading.load_for_inference`."""
    names = ("data", "regions", "region_order", "max_regions", "preprocessed", "any_detector", "cpu")
    return {name: value for name, value in vars(args).items() if name in names}


def setting(default: Any, help: str, **more: Any) -> Any:
    """A field of a configuration dataclass, as fairseq reads it.

    Args:
        more: further metadata, such as ``argparse_alias``.
    """
    return field(default=default, metadata={"help": help, **more})


def add_options(parser: argparse._ActionsContainer, *names: str, **changes: Any) -> None:
    """Add some of `OPTIONS` to a parser, or to a group of one.

    Args:
        changes: what a command has otherwise, such as a default.
    """
    for name in names:
        short = {"--source-lang": ["-s"], "--target-lang": ["-t"]}.get(name, [])
        parser.add_argument(name, *short, **{**OPTIONS[name], **changes})
