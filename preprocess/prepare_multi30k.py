#!/usr/bin/env python
"""Prepare Multi30k task 1 for fairseq: words, BPE, binarised data, image ids.

    python preprocess/prepare_multi30k.py --raw multi30k/raw --image-splits multi30k/image_splits \
        --out multi30k-bin --vocab-size 10000

Every split of the folder that has both languages and images is prepared; a test set is binarised under its own
name (`--gen-subset test_2017_flickr`), `val` becomes fairseq's `valid`. For fine-tuning, reuse the pre-training's
vocabulary: `--bpe-model PRE/bpe.model --dict PRE/dict.en.txt`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from multi30k import COUNTS, check_count, fairseq_name, read_image_ids, read_lines

from vtlm_fairseq.data.binarise import ParallelText, new_folder, prepare_folder
from vtlm_fairseq.data.text_pipeline import STEPS, TextPipeline
from vtlm_fairseq.errors import VTLMError, exit_on_error


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raw", type=Path, required=True, help="folder of {split}.{lang}, plain or .gz")
    parser.add_argument("--image-splits", type=Path, required=True, help="folder of {split}.txt, an image a line")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--source-lang", "-s", default="en", help="source language")
    parser.add_argument("--target-lang", "-t", default="de", help="target language")
    vocabulary = parser.add_mutually_exclusive_group(required=True)
    vocabulary.add_argument("--vocab-size", type=int, help="learn a joint sentencepiece BPE of so many pieces")
    vocabulary.add_argument("--bpe-model", type=Path, help="existing sentencepiece model, or codes of subword-nmt")
    parser.add_argument("--dict", type=Path, help="existing dictionary that belongs to --bpe-model")
    parser.add_argument("--keep-case", action="store_true", help="do not lower-case")
    parser.add_argument("--strip-accents", action="store_true", help="strip accents, as the paper's authors did")
    parser.add_argument(
        "--no-escape",
        action="store_true",
        help="leave quotes, & and brackets as they are, as the authors did (Multi30k's own files hold &apos;)",
    )
    parser.add_argument("--any-counts", action="store_true", help="accept other line counts than Multi30k's")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    arguments = parser.parse_args(argv)
    if arguments.dict is not None and arguments.bpe_model is None:
        parser.error("--dict belongs to an existing BPE model: give --bpe-model too")
    return arguments


def read_text(arguments: argparse.Namespace) -> dict[str, ParallelText]:
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
        text[fairseq_name(split)] = ParallelText(lines, read_image_ids(arguments.image_splits, split))
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
    if arguments.source_lang == arguments.target_lang:
        raise VTLMError(f"--source-lang and --target-lang are both {arguments.source_lang!r}")
    left_out = {
        "lowercase": arguments.keep_case,
        "escape": arguments.no_escape,
        "strip_accents": not arguments.strip_accents,
    }
    pipeline = TextPipeline(
        source_lang=arguments.source_lang,
        target_lang=arguments.target_lang,
        steps=tuple(step for step in STEPS if not left_out.get(step)),
    )
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
    print("\n".join([*report, f"{arguments.out}: done"]))


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    with exit_on_error():
        prepare(parse_arguments(argv))


if __name__ == "__main__":
    main()
