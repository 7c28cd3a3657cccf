"""``vtlm-convert``: work on checkpoint files."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import torch

from vtlm_fairseq.checkpoints import load_checkpoint
from vtlm_fairseq.errors import VTLMError, exit_on_error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    with exit_on_error():
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
    return parser


def run_latest(args: argparse.Namespace) -> int:
    """``latest``: newest by number of updates, then by time."""
    if not os.path.isdir(args.folder):
        raise VTLMError(f"{args.folder}: no such folder")
    found = []
    for entry in os.scandir(args.folder):
        if entry.name.endswith(".pt") and entry.name.startswith("checkpoint"):
            try:
                history = load_checkpoint(entry.path).get("optimizer_history") or [{}]
            except VTLMError as error:
                print(f"skipped: {error}", file=sys.stderr)
                continue
            found.append((history[-1].get("num_updates", 0), entry.stat().st_mtime, entry.path))
    if not found:
        raise VTLMError(f"{args.folder}: no whole checkpoint*.pt in it")
    print(max(found)[2])
    return 0


def run_average(args: argparse.Namespace) -> int:
    """``average``: mean of the parameters; optimiser state dropped; tied tensors stay tied."""
    result = load_checkpoint(args.checkpoints[0])
    sums = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in result["model"].items()}
    for path in args.checkpoints[1:]:
        model = load_checkpoint(path)["model"]
        if model.keys() != sums.keys() or any(model[name].shape != sums[name].shape for name in sums):
            raise VTLMError(f"{path}: other parameters than {args.checkpoints[0]}; average checkpoints of one model")
        for name, tensor in model.items():
            if tensor.is_floating_point():
                sums[name] = sums[name] + tensor.double()
    tied: dict[tuple, torch.Tensor] = {}
    for name, tensor in result["model"].items():
        if not tensor.is_floating_point():
            continue
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        if key not in tied:
            mean = sums[name] / len(args.checkpoints)
            tied[key] = mean.to(torch.float16 if args.half else tensor.dtype)
        result["model"][name] = tied[key]
    result["last_optimizer_state"] = None
    result["criterion"] = None
    temporary = f"{args.out}.tmp{os.getpid()}"
    try:
        torch.save(result, temporary)
        os.replace(temporary, args.out)
    except (OSError, RuntimeError) as error:
        raise VTLMError(f"--out {args.out}: cannot be written ({error})") from None
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
