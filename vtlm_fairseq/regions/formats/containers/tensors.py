"""Files of PyTorch, read in its restricted mode; PyTorch is imported here and only where such a file is read."""

from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason


def load_tensors(path: str) -> Any:
    """What a file of PyTorch holds: tensors and plain containers; the tensors stay in the file where they can.

    Raises:
        VTLMError: it cannot be read, or holds anything else.
    """
    import torch

    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # an older file, which cannot be mapped
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except OSError as error:
        raise VTLMError(f"{path}: cannot be read ({reason(error)})") from None
    except Exception as error:  # what torch raises for damaged or foreign files; its advice is to drop the checks
        kind = type(error).__name__
        raise VTLMError(f"{path}: refused, not a file of plain tensors ({kind}); nothing in it was run") from None


def to_numpy(value: Any, where: str) -> np.ndarray:
    """A tensor as an array; bfloat16, which numpy lacks, as float32.

    Raises:
        VTLMError: a tensor that has no plain values, such as a sparse one.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    try:
        return (value.float() if value.dtype is torch.bfloat16 else value).detach().cpu().numpy()
    except MemoryError:
        raise
    except Exception as error:
        raise VTLMError(f"{where}: a tensor of no plain numbers ({reason(error)})") from None
