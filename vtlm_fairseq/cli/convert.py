"""``vtlm-convert``: average checkpoints, find the newest, convert and check those of the paper's code."""

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import IO

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, is_stream, locked, whole_file
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.interop import ABSOLUTE
from vtlm_fairseq.options import add_options
from vtlm_fairseq.terminal import command_line, say
from vtlm_fairseq.user_dir import add_user_dir_option, import_user_dir

LANGUAGES = ("langs", "source_lang", "target_lang")


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    warnings.simplefilter("ignore")  # PyTorch on the kinds of masks that fairseq hands to attention
    import_user_dir(args.user_dir)
    return args.run(args)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-convert``."""
    parser = argparse.ArgumentParser(prog="vtlm-convert", description="Work on checkpoint files.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    average = commands.add_parser("average", help="average the parameters of checkpoints of one model")
    average.add_argument("checkpoints", nargs="+", metavar="CKPT")
    average.add_argument("--out", required=True, metavar="FILE", help="file to write")
    average.add_argument("--half", action="store_true", help="store parameters in float16")
    average.set_defaults(run=run_average)
    latest = commands.add_parser(
        "latest",
        help="print the newest whole checkpoint of a folder",
        description="Print the newest whole checkpoint of a folder, for --restore-file. fairseq copies "
        "checkpoint_last.pt in place, so a kill at that moment leaves a cut-off file beside a whole one.",
    )
    latest.add_argument("folder", metavar="DIR")
    latest.set_defaults(run=run_latest)
    checkpoint = commands.add_parser(
        "checkpoint",
        help="convert a checkpoint of the paper's code",
        description="Convert a pre-trained or translation checkpoint of the paper's code, or a TLM checkpoint of XLM, "
        "to fairseq's form, with dict.*.txt beside it. Sizes are read from the file.",
    )
    checkpoint.add_argument("checkpoint", metavar="IN.pth")
    checkpoint.add_argument("--out", required=True, metavar="OUT.pt", help="file to write")
    add_options(checkpoint, "--source-lang", "--target-lang", default=None, help="where the file does not say")
    checkpoint.set_defaults(run=run_checkpoint)
    check = commands.add_parser(
        "check",
        help="compare a converted checkpoint with what the paper's code computes",
        description="Recompute every output of a reference file and print the largest absolute difference of each. "
        "Tokens and masks must be equal, losses to 1e-6 (relative), summed log-probabilities to 1e-4.",
    )
    check.add_argument("checkpoint", metavar="OUT.pt")
    check.add_argument("--reference", required=True, metavar="FILE.npz", help="inputs and outputs of the paper's code")
    check.add_argument(
        "--tolerance", type=tolerance, default=ABSOLUTE, help="for states and logits (default: %(default)s)"
    )
    check.add_argument("--dump", metavar="OUT.npz", help="write what was computed, under the same names")
    check.set_defaults(run=run_check)
    add_user_dir_option(parser)
    return parser


def tolerance(text: str) -> float:
    """A number that is not negative."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return value


def run_checkpoint(args: argparse.Namespace) -> int:
    """``checkpoint``: the converted file, and its dictionaries beside it."""
    import torch

    from vtlm_fairseq.interop.conversion import convert
    from vtlm_fairseq.interop.vocabulary import write_dictionaries

    folder = os.path.dirname(os.path.abspath(args.out))
    check_writable(args.out, label=f"--out {args.out}", parents=True)
    converted = convert(args.checkpoint, folder=folder, source_lang=args.source_lang, target_lang=args.target_lang)
    write_dictionaries(converted.dictionary, folder, list(converted.languages))
    save(args.out, lambda file: torch.save(converted.state, file))
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
    return 0


def run_check(args: argparse.Namespace) -> int:
    """``check``: one line an output; fails if one differs by more than its tolerance."""
    import numpy as np

    from vtlm_fairseq.interop import reference

    if args.dump:
        check_writable(args.dump, label=f"--dump {args.dump}")
    expected, computed = reference.check(args.checkpoint, args.reference)
    if args.dump:
        save(args.dump, lambda file: np.savez(file, **computed))
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
    return 0


def save(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Write a file whole.

    Raises:
        VTLMError: it cannot be written.
    """
    with whole_file(path, "wb") as file:
        write(file)


def run_latest(args: argparse.Namespace) -> int:
    """``latest``: newest by number of updates, then by time."""
    from vtlm_fairseq.checkpoints import load_checkpoint, num_updates

    if not os.path.isdir(args.folder):
        raise VTLMError(f"{args.folder}: no such folder")
    found = []
    for entry in os.scandir(args.folder):
        if entry.name.endswith(".pt") and entry.name.startswith("checkpoint"):
            try:
                check_name(entry.name, f"{args.folder}: file", hint="rename it")
                updates = num_updates(load_checkpoint(entry.path))
            except VTLMError as error:
                say(f"skipped: {error}", file=sys.stderr)
                continue
            found.append((updates, entry.stat().st_mtime, entry.path))
    if not found:
        raise VTLMError(f"{args.folder}: no whole checkpoint*.pt in that folder")
    print(max(found)[2])
    return 0


def _symbols(checkpoint: dict) -> list[str] | None:
    """The dictionary of a checkpoint."""
    return (checkpoint.get("task_state") or {}).get("symbols")


def run_average(args: argparse.Namespace) -> int:
    """``average``: mean of the parameters; optimiser state dropped; tied tensors stay tied."""
    import torch

    check_writable(args.out, label=f"--out {args.out}")
    with contextlib.ExitStack() as stack:
        if not is_stream(args.out):
            stack.enter_context(locked(args.out, label=f"--out {args.out}"))
        result = average(args.checkpoints, half=args.half)
        save(args.out, lambda file: torch.save(result, file))
    return 0


def average(checkpoints: Sequence[str], *, half: bool) -> dict:
    """A checkpoint with the mean of the parameters, in float16 on request.

    Raises:
        VTLMError: one of them cannot be read, or is of another model.
    """
    import torch

    from vtlm_fairseq.checkpoints import load_checkpoint, model_config
    from vtlm_fairseq.models.description import Description, first_other

    result = load_checkpoint(checkpoints[0])
    sums = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in result["model"].items()}
    for path in checkpoints[1:]:
        state = load_checkpoint(path)
        model = state["model"]
        if _symbols(state) != _symbols(result) or any(
            model_config(state).get(name) != model_config(result).get(name) for name in LANGUAGES
        ):
            raise VTLMError(
                f"{path}: another dictionary or other languages than {checkpoints[0]}; average checkpoints of one model"
            )
        if model.keys() != sums.keys() or any(model[name].shape != sums[name].shape for name in sums):
            raise VTLMError(f"{path}: other parameters than {checkpoints[0]}; average checkpoints of one model")
        first, this = (Description.of_checkpoint(*one) for one in ((result, checkpoints[0]), (state, path)))
        if other := first_other(first, this):
            raise VTLMError(f"{path}: another {other} than {checkpoints[0]}; average checkpoints of one model")
        for name, tensor in model.items():
            if tensor.is_floating_point():
                sums[name] = sums[name] + tensor.double()
    tied: dict[tuple, torch.Tensor] = {}
    for name, tensor in result["model"].items():
        if not tensor.is_floating_point():
            continue
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        if key not in tied:
            mean = sums[name] / len(checkpoints)
            tied[key] = mean.to(torch.float16 if half else tensor.dtype)
        result["model"][name] = tied[key]
    result["last_optimizer_state"] = None
    result["criterion"] = None
    return result


if __name__ == "__main__":
    sys.exit(main())
