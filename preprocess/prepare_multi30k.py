#!/usr/bin/env python
"""Prepare Multi30k task 1 for fairseq: words, BPE, binarised data, image ids.

    python preprocess/prepare_multi30k.py --raw multi30k/raw --image-splits multi30k/image_splits \
        --out multi30k-bin --vocab-size 10000

Every split of the folder that has both languages and images is prepared; a test set is binarised under its own
name (`--gen-subset test_2017_flickr`), `val` becomes fairseq's `valid`. For fine-tuning, reuse the pre-training's
vocabulary: `--bpe-model PRE/bpe.model --dict PRE/dict.en.txt`.
"""

# ruff: noqa: E402

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -P leaves the folder of the script out

from multi30k import COUNTS, check_count, fairseq_name, read_image_ids, read_lines
from text_options import add_text_options, check_vocabulary, make_pipeline

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.terminal import command_line, say
from vtlm_fairseq.text.caption_files import Pair
from vtlm_fairseq.text.prepare import prepare_folder, zip_pairs


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder of {split}.{lang}, plain or .gz")
    parser.add_argument("--image-splits", type=Path, required=True, help="folder of {split}.txt, an image a line")
    parser.add_argument("--any-counts", action="store_true", help="accept other line counts than Multi30k's")
    add_text_options(parser, vocab_size=None, workers=1)
    arguments = parser.parse_args(argv)
    check_vocabulary(parser, arguments)
    return arguments


def read_text(arguments: argparse.Namespace) -> dict[str, Iterable[Pair]]:
    """Raw text of train, val and every test set that both languages and the image lists have.

    Raises:
        VTLMError: train or val is missing, or a count is not Multi30k's.
    """
    langs = (arguments.source_lang, arguments.target_lang)
    text = {}
    for split in ("train", "val", *_test_sets(arguments)):
        lines = {lang: read_lines(arguments.raw / f"{split}.{lang}", option="--raw") for lang in langs}
        for lang, side in lines.items():
            check_count(split, len(side), where=arguments.raw / f"{split}.{lang}", check=not arguments.any_counts)
        images = read_image_ids(arguments.image_splits, split)
        text[fairseq_name(split)] = zip_pairs(lines, images, split=fairseq_name(split))
    return text


def _test_sets(arguments: argparse.Namespace) -> list[str]:
    """Test sets that are there: those of `COUNTS`, and `test_*` of the user's own."""
    lists = {path.stem for path in arguments.image_splits.glob("test*.txt")}
    langs = (arguments.source_lang, arguments.target_lang)

    def has_text(split: str) -> bool:
        names = [f"{split}.{lang}" for lang in langs]
        return all((arguments.raw / n).is_file() or (arguments.raw / f"{n}.gz").is_file() for n in names)

    for split in sorted(COUNTS.keys() - {"train", "val"} - lists):
        if has_text(split):
            raise VTLMError(f"{arguments.image_splits / split}.txt: no such file for this test set; see --image-splits")
    return sorted(split for split in lists if has_text(split))


def prepare(arguments: argparse.Namespace) -> None:
    """Make the folder that the options ask for."""
    pipeline = make_pipeline(arguments)
    with new_folder(arguments.out) as folder:
        report = prepare_folder(
            folder,
            read_text(arguments),
            pipeline,
            vocab_size=arguments.vocab_size,
            bpe_model=arguments.bpe_model,
            dictionary=arguments.dict,
            workers=arguments.workers,
        )
    say("\n".join([*report, f"{arguments.out}: done"]))


@command_line()
def main(argv: list[str] | None = None) -> None:
    """Command line."""
    prepare(parse_arguments(argv))


if __name__ == "__main__":
    main()
