"""The mean of checkpoints of one model."""

import argparse
import contextlib
import os
import zipfile
from collections.abc import Sequence

import torch

from vtlm_fairseq.checkpoints import load_checkpoint, model_config
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, is_stream, locked, whole_file
from vtlm_fairseq.files.inputs import refuse_input
from vtlm_fairseq.models.description import Description, first_other

LANGUAGES = ("langs", "source_lang", "target_lang")


def run_average(args: argparse.Namespace) -> None:
    """``vtlm-convert average``: mean of the parameters; optimiser state dropped; tied tensors stay tied.

    Raises:
        VTLMError: as `average`, or the file cannot be written.
    """
    check_writable(args.out, label=f"--out {args.out}")
    refuse_input(args.out, args.checkpoints, label=f"--out {args.out}")
    _refuse_training(args.out)
    with contextlib.ExitStack() as stack:
        if not is_stream(args.out):
            stack.enter_context(locked(args.out, label=f"--out {args.out}"))
        result = average(args.checkpoints, half=args.half)
        with whole_file(args.out, "wb") as file:
            torch.save(result, file)


def _refuse_training(out: str) -> None:
    """An average does not replace what a training can go on from, nor a checkpoint that cannot be read."""
    if not os.path.isfile(out) or is_stream(out) or not zipfile.is_zipfile(out):
        return
    try:
        state = load_checkpoint(out, mmap=True)
    except VTLMError as error:
        raise VTLMError(f"--out {out}: is a checkpoint already ({error}); name another, or remove it") from None
    if state.get("last_optimizer_state"):
        raise VTLMError(f"--out {out}: is a checkpoint with the state of its training; name another, or remove it")


def average(checkpoints: Sequence[str], *, half: bool) -> dict:
    """A checkpoint with the mean of the parameters, in float16 on request.

    Raises:
        VTLMError: one of them cannot be read, or is of another model.
    """
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


def _symbols(checkpoint: dict) -> list[str] | None:
    """The dictionary of a checkpoint."""
    return (checkpoint.get("task_state") or {}).get("symbols")
