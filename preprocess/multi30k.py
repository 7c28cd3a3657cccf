"""Reader of the public Multi30k repository's layout: `{split}.{lang}`, plain or `.gz`, and `{split}.txt`."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.text.caption_files import stream_lines

COUNTS = {
    "train": 29_000,
    "val": 1_014,
    "test_2016_flickr": 1_000,
    "test_2017_flickr": 1_000,
    "test_2017_mscoco": 461,
    "test_2018_flickr": 1_071,
}
"""Sentence pairs of each split of task 1."""


def fairseq_name(split: str) -> str:
    """Name of a split in everything written: fairseq's `valid` for Multi30k's `val`."""
    return "valid" if split == "val" else split


def read_lines(path: Path, *, option: str) -> list[str]:
    r"""Lines of a UTF-8 text file or of its `.gz`, split at `\n` alone; a stray `\r` becomes a space.

    Args:
        path: the plain file; `path.gz` is read where it does not exist.
        option: the option that gave the folder, for the message.

    Raises:
        VTLMError: neither file exists, or it is not readable UTF-8.
    """
    packed = path.with_name(path.name + ".gz")
    if not path.is_file():
        if not packed.is_file():
            raise VTLMError(f"{path}: no such file, nor {packed.name}; see {option}")
        path = packed
    return [line.replace("\r", " ") for line in stream_lines(path)]


def read_image_ids(image_splits: Path, split: str) -> list[str]:
    """Image id of each line of a split: the file name without its extension and without `#...`.

    Raises:
        VTLMError: the file is missing or holds an empty line.
    """
    path = image_splits / f"{split}.txt"
    ids = []
    for number, line in enumerate(read_lines(path, option="--image-splits"), 1):
        name = PurePosixPath(line.split("#")[0].strip()).name
        if not name:
            raise VTLMError(f"{path} line {number}: no image name")
        ids.append(check_name(PurePosixPath(name).stem, f"{path} line {number}: image"))
    return ids


def check_count(split: str, count: int, *, where: Path, check: bool) -> None:
    """Compare the number of lines of a split with Multi30k's own.

    Raises:
        VTLMError: they differ, and `check` is set.
    """
    if check and count != COUNTS.get(split, count):
        raise VTLMError(
            f"{where}: {count} lines, Multi30k's {split} has {COUNTS[split]}; "
            "complete the file, or give --any-counts for data of your own in this layout"
        )
