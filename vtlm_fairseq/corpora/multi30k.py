"""Multi30k task 1 for fairseq, from the public repository's layout: `{split}.{lang}`, plain or `.gz`, `{split}.txt`.

Every split of the folder that has both languages and images is prepared; a test set is binarised under its own
name (`--gen-subset test_2017_flickr`), `val` becomes fairseq's `valid`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import lines, new_folder
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.caption_files import Pair
from vtlm_fairseq.text.options import make_pipeline, vocabulary
from vtlm_fairseq.text.prepare import prepare_folder, zip_pairs

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
    """Lines of a text file, or of its `.gz`.

    Args:
        path: the plain file; `path.gz` is read where it does not exist.
        option: the option that gave the folder, for the message.

    Raises:
        VTLMError: neither file exists, or it is not readable UTF-8.
    """
    if (found := lines.plain_or_packed(path)) is None:
        raise VTLMError(f"{path}: no such file, nor {path.name}.gz; see {option}")
    return lines.read_lines(found)


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


def read_text(arguments: argparse.Namespace) -> dict[str, Iterable[Pair]]:
    """Raw text of train, val and every test set that both languages and the image lists have.

    Raises:
        VTLMError: train or val is missing, or a count is not Multi30k's.
    """
    langs = (arguments.source_lang, arguments.target_lang)
    text = {}
    for split in ("train", "val", *_test_sets(arguments)):
        sides = {lang: read_lines(arguments.raw / f"{split}.{lang}", option="--raw") for lang in langs}
        for lang, side in sides.items():
            check_count(split, len(side), where=arguments.raw / f"{split}.{lang}", check=not arguments.any_counts)
        images = read_image_ids(arguments.image_splits, split)
        text[fairseq_name(split)] = zip_pairs(sides, images, split=fairseq_name(split))
    return text


def _test_sets(arguments: argparse.Namespace) -> list[str]:
    """Test sets that are there: those of `COUNTS`, and `test_*` of the user's own."""
    lists = {path.stem for path in arguments.image_splits.glob("test*.txt")}
    langs = (arguments.source_lang, arguments.target_lang)

    def has_text(split: str) -> bool:
        return all(lines.plain_or_packed(arguments.raw / f"{split}.{lang}") for lang in langs)

    for split in sorted(COUNTS.keys() - {"train", "val"} - lists):
        if has_text(split):
            raise VTLMError(f"{arguments.image_splits / split}.txt: no such file for this test set; see --image-splits")
    return sorted(split for split in lists if has_text(split))


def run(arguments: argparse.Namespace) -> None:
    """Make the folder that the options of ``vtlm-prepare multi30k`` ask for.

    Raises:
        VTLMError: a fault of input or options.
    """
    pipeline = make_pipeline(arguments)
    with new_folder(arguments.out) as folder:
        report = prepare_folder(folder, read_text(arguments), pipeline, **vocabulary(arguments))
    say("\n".join([*report, f"{arguments.out}: done"]))
