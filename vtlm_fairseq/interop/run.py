"""What the commands of ``vtlm-convert`` do."""

import argparse
import os

import numpy as np
import torch

from vtlm_fairseq.checkpoints import find_latest
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, whole_file
from vtlm_fairseq.files.inputs import refuse_input
from vtlm_fairseq.interop import reference
from vtlm_fairseq.interop.averaging import run_average
from vtlm_fairseq.interop.conversion import convert
from vtlm_fairseq.interop.vocabulary import write_dictionaries
from vtlm_fairseq.terminal import say


def run_checkpoint(args: argparse.Namespace) -> None:
    """``checkpoint``: the converted file, and its dictionaries beside it.

    Raises:
        VTLMError: the file is none of the paper's code, or a file cannot be written.
    """
    folder = os.path.dirname(os.path.abspath(args.out))
    check_writable(args.out, label=f"--out {args.out}", parents=True)
    refuse_input(args.out, [args.checkpoint], label=f"--out {args.out}")
    converted = convert(args.checkpoint, folder=folder, source_lang=args.source_lang, target_lang=args.target_lang)
    write_dictionaries(converted.dictionary, folder, list(converted.languages))
    with whole_file(args.out, "wb") as file:
        torch.save(converted.state, file)
    config = converted.state["cfg"]["model"]
    say(
        f"{args.out}: {config['_name']} {'-'.join(converted.languages)}, languages {config['langs']}, "
        f"{len(converted.dictionary)} symbols, d {config['encoder_embed_dim']}, {config['encoder_layers']} layers, "
        f"{config['encoder_attention_heads']} heads, "
        + (
            f"regions {config['region_dim']} wide, {config['region_classes']} classes"
            if config["region_dim"]
            else "no regions"
        )
    )
    for note in converted.notes:
        say(f"note: {note}")


def run_check(args: argparse.Namespace) -> None:
    """``check``: one line an output.

    Raises:
        VTLMError: one differs by more than its tolerance, or a file cannot be read.
    """
    if args.dump:
        check_writable(args.dump, label=f"--dump {args.dump}")
        refuse_input(args.dump, [args.checkpoint, args.reference], label=f"--dump {args.dump}")
    expected, computed = reference.check(args.checkpoint, args.reference)
    if args.dump:
        with whole_file(args.dump, "wb") as file:
            np.savez(file, **computed)
    above = []
    for name, values in expected.items():
        comparison = reference.compare(name, values, computed[name], absolute=args.tolerance)
        say(str(comparison))
        above += [] if comparison.passes else [name]
    if above:
        raise VTLMError(
            f"{args.checkpoint}: other values than {args.reference}, which must be of the same model "
            f"(see --tolerance); above the tolerance: {', '.join(above)}"
        )


def run_latest(args: argparse.Namespace) -> None:
    """``latest``: print it."""
    print(find_latest(args.folder))


COMMANDS = {"average": run_average, "check": run_check, "checkpoint": run_checkpoint, "latest": run_latest}
