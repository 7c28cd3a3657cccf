"""An output must not replace a file that the same command reads, nor, without ``--overwrite``, what is there."""

import argparse
import os
from collections.abc import Iterable

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.writing import check_writable, is_stream

IN_FOLDERS = (".pt", ".h5", ".bin", ".idx", ".images", ".model")
"""What is read from a folder: checkpoints, region stores, binarised text, image ids, sub-word models."""


def refuse_input(target: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]], *, label: str) -> None:
    """Find out before the work that an output would replace an input.

    Args:
        target: file to write.
        inputs: files that the command reads; a folder stands for its files that end as `IN_FOLDERS`.
        label: what messages call the target, such as ``--out FILE``.

    Raises:
        VTLMError: so it is.
    """
    for path in map(os.fspath, inputs):
        if _are_one_file(target, path) or _is_kept(target, path):
            raise VTLMError(f"{label}: is a file of this command already ({path}); name another")


def refuse_existing(args: argparse.Namespace) -> None:
    """Find out before the work that ``--out`` may not be written.

    Raises:
        VTLMError: it exists and ``--overwrite`` is not given, or as `check_writable`.
    """
    check_writable(args.out, label=f"--out {args.out}")
    if os.path.exists(args.out) and not args.overwrite and not is_stream(args.out):
        raise VTLMError(f"--out {args.out}: exists; remove it or add --overwrite")


def _are_one_file(target: str | os.PathLike[str], path: str) -> bool:
    if os.path.isfile(target) and os.path.isfile(path):
        return os.path.samefile(target, path)
    return not os.path.exists(target) and os.path.realpath(target) == os.path.realpath(path)


def _is_kept(target: str | os.PathLike[str], folder: str) -> bool:
    if not os.path.isfile(target) or not os.fspath(target).endswith(IN_FOLDERS) or not os.path.isdir(folder):
        return False
    return os.path.samefile(os.path.dirname(os.path.abspath(target)), folder)
