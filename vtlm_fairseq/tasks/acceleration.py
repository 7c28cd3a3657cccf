"""How fast a device is used: what is set for it, the compiler, and a line that says so."""

import math

import torch

from vtlm_fairseq.precision import is_fast
from vtlm_fairseq.tasks.runs import whole_config
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

LENGTHS = 8
"""On a GPU, and compiled, lengths of the text and of the regions of a batch are multiples of it."""

GRAPHS = 24
"""Most graphs of a compiled model that are kept; beyond, PyTorch goes on without its compiler."""


def device_of(cfg) -> str:
    """``cuda`` or ``cpu``: where the command of a task's configuration computes."""
    whole = whole_config(cfg)
    return "cpu" if not torch.cuda.is_available() or (whole is not None and whole.common.cpu) else "cuda"


def set_up_device(cfg) -> None:
    """Set PyTorch for the device: TF32 for float32 unless ``--no-tf32``, and attention that makes no plan a shape."""
    if device_of(cfg) == "cuda":
        torch.set_float32_matmul_precision("highest" if cfg.no_tf32 else "high")
        # it is preferred in half precision, and plans anew, for tens of milliseconds, at each new length
        torch.backends.cuda.enable_cudnn_sdp(False)


def length_multiple(cfg) -> int:
    """What lengths in a batch are multiples of, ``--required-seq-len-multiple`` included."""
    ours = LENGTHS if cfg.compile or device_of(cfg) == "cuda" else 1
    return math.lcm(cfg.required_seq_len_multiple, ours)


def compile_model(model: torch.nn.Module, cfg) -> None:
    """``--compile``: have PyTorch's compiler make the forward pass; parameters keep their names.

    What it makes is neither saved nor copied with the model, and decoding does not use it.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    model.compile(mode=None if str(cfg.compile_mode) == "default" else str(cfg.compile_mode))


def mark_lengths(sample: dict) -> None:
    """Tell the compiler what differs in each batch: how many words and regions are predicted, not how many there are.

    There is a graph for each number of regions, of which there are few. With that of the words they make a sum that
    PyTorch's compiler cannot always divide by, and fails ("Invalid ranges").
    """
    for name in ("features", "boxes", "region_padding_mask", "region_mask"):
        if name in sample.get("net_input", {}):
            torch._dynamo.mark_static(sample["net_input"][name], 1)
    for values in sample.get("predicted", {}).get("places", {}).values():
        torch._dynamo.maybe_mark_dynamic(values, values.dim() - 1)


def graphs() -> int:
    """How many graphs the compiler has made in this process."""
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def say_speed(whole, cfg, model: torch.nn.Module) -> None:
    """Log what a training computes with, and which option would make it faster.

    Args:
        whole: the configuration of the command.
        cfg: the task's.
        model: on its device.
    """
    device = next(model.parameters()).device.type
    tf32 = device == "cuda" and torch.get_float32_matmul_precision() != "highest"
    autocast = str(cfg.autocast)
    half = autocast if autocast != "none" else "float16" if whole.common.fp16 else ""
    precision = half or ("TF32" if tf32 else "float32")
    optimizer = str(getattr(whole.optimizer, "_name", "none"))
    workers = whole.dataset.num_workers
    kernels = "PyTorch's" if device == "cpu" else "/".join(_attention_kernels())
    compiled = f"compiled ({cfg.compile_mode})" if cfg.compile else "not compiled"
    hints = []
    if device == "cuda":
        if not half and is_fast("bf16", device):
            hints.append("--autocast bf16")
        elif not half and not tf32:
            hints.append("leave --no-tf32 out")
        if optimizer == "adam":
            hints.append("--optimizer fused_adam")
        if workers < 2:
            hints.append("--num-workers 4")
        if not cfg.compile:
            hints.append("--compile")
    logger.info(
        "%s: %s, optimizer %s, attention %s, %d loader worker(s), %s%s",
        device, precision, optimizer, kernels, workers, compiled,
        f"; faster with {', '.join(hints)}" if hints else "",
    )  # fmt: skip


def _attention_kernels() -> list[str]:
    cuda = torch.backends.cuda
    enabled = {
        "flash": cuda.flash_sdp_enabled(),
        "memory-efficient": cuda.mem_efficient_sdp_enabled(),
        "cuDNN": cuda.cudnn_sdp_enabled(),
    }
    return [name for name, is_on in enabled.items() if is_on]
