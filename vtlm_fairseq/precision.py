"""Which precisions pay on a device, and which options use it."""

import functools
from importlib.util import find_spec

import torch

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

_FULL_SPEED = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}


def is_fast(precision: str, device: str) -> bool:
    """Whether matrix products in half precision run at full speed on a device.

    Elsewhere PyTorch still computes them, on a CPU by a plain loop that is 80 to 250 times slower than float32.

    Args:
        precision: ``bf16`` or ``fp16``.
        device: ``cpu`` or ``cuda``; other types are taken to be fast.
    """
    if device == "cuda":
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return True
    # oneDNN computes them with AVX-512 or AMX, on ARM with its bf16 instructions; a build without oneDNN never does
    return torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, _FULL_SPEED[precision])()


@functools.cache
def warn_if_slow(precision: str, device: str) -> None:
    """Warn, once in a process, where ``--autocast`` makes a run slower instead of faster."""
    if is_fast(precision, device):
        return
    if device == "cpu":
        found = "this CPU lacks the instructions for it (AVX-512 or AMX): 80 to 250 times slower than float32"
    else:
        found = "this GPU emulates it: slower than float32"
    logger.warning("--autocast %s: %s; leave --autocast out here", precision, found)


def default_precision(*, cpu: bool = False) -> str:
    """``bf16`` where the device computes it at full speed, else ``fp32``.

    Args:
        cpu: leave a GPU alone.
    """
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    return "bf16" if is_fast("bf16", device) else "fp32"


def fast_options(*, cpu: bool = False) -> dict[str, str]:
    """Options of fairseq-train that use a GPU as it should be; none where there is none.

    Args:
        cpu: leave a GPU alone.
    """
    if cpu or not torch.cuda.is_available():
        return {}
    options = {"--optimizer": "fused_adam", "--num-workers": "4"}
    return {**options, "--autocast": "bf16"} if is_fast("bf16", "cuda") else options


def check_training(common) -> None:
    """Refuse a precision in which fairseq's trainer cannot train here, before it is built.

    Args:
        common: fairseq's ``common`` group of the command.

    Raises:
        VTLMError: it needs a TPU, or a GPU.
    """
    # fairseq's command line sets tpu wherever bf16 is asked for, GPU or not; fairseq-hydra-train does not
    if common.tpu and find_spec("torch_xla") is None:
        raise VTLMError(
            "fairseq-train takes --tpu, --bf16 and --memory-efficient-bf16 for a TPU, and torch_xla is not installed; "
            "on CPUs and GPUs use --autocast bf16"
        )
    # the flat copy of the parameters is made on a GPU, and so is the norm after an overflow
    if common.fp16 and (common.cpu or not torch.cuda.is_available()):
        raise VTLMError(
            "--fp16 and --memory-efficient-fp16 train on a GPU only; leave them out here, or use --autocast bf16"
        )
