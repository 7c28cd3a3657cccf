"""``vtlm-prepare``: captions to binarised data with image ids; a sub-command for each kind of captions."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.files import check_new_folder
from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, FROM_ZERO, reader
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.text.options import add_caption_files, add_text_options, check_vocabulary
from vtlm_fairseq.user_dir import add_user_dir_option, given_user_dir, import_user_dir


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    if (folder := given_user_dir(argv)) is not None:
        import_user_dir(folder)  # --segment may name what it registers
    parser = build_parser()
    args = parser.parse_args(argv)
    check_vocabulary(parser, args)
    if args.command in ("captions", "multi30k", "contrastive"):
        check_new_folder(args.out)  # before the imports, which take seconds
    importlib.import_module(f"vtlm_fairseq.corpora.{args.module}").run(args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-prepare``; ``module`` is the one of `vtlm_fairseq.corpora` whose ``run`` does the work."""
    parser = argparse.ArgumentParser(prog="vtlm-prepare", description="Prepare captions for training.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module, fill, description in (
        ("captions", "captions", _add_captions, "parallel captions: words, BPE, binarised data, image ids"),
        ("multi30k", "multi30k", _add_multi30k, "Multi30k task 1: words, BPE, binarised data, image ids"),
        ("translate", "translate_captions", _add_translate, "captions of one language: a translation for each line"),
        ("contrastive", "contrastive_sets", _add_contrastive, "a contrastive test set: each noun and a wrong one"),
        ("nouns", "nouns", _add_nouns, "nouns and their translations in binarised data, for --word-masking"),
    ):
        command = commands.add_parser(name, help=description, description=f"Prepare {description}.")
        fill(command)
        command.set_defaults(module=module)
    add_user_dir_option(parser)
    return finish(parser)


def _add_captions(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_caption_files(parser)
    add(
        "--image-map",
        metavar="FILE",
        help="lines of: what the captions call the image (its URL, say) TAB image id; pairs without a line are dropped",
    )
    add_options(parser, "--strip-extension", "--id-rule")
    text = "store file, or folder of {split}.h5: drop pairs whose image has no regions"
    add_options(parser, "--regions", default=None, help=text)
    add(
        "--max-tokens",
        type=reader(COUNT),
        default=100,
        help="BPE pieces a side in train and valid (default: %(default)s)",
    )
    add("--min-tokens", type=reader(FROM_ZERO), default=1, help="as --max-tokens, at least (default: %(default)s)")
    add(
        "--bpe-sample",
        type=reader(COUNT),
        default=2_000_000,
        metavar="N",
        help="learn BPE from N sentences at most, both sides together (default: %(default)s)",
    )
    add_text_options(parser, vocab_size=50_000, workers=len(os.sched_getaffinity(0)))


def _add_multi30k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--raw", type=Path, required=True, help="folder of {split}.{lang}, plain or .gz")
    add_options(parser, "--image-splits")
    parser.add_argument("--any-counts", action="store_true", help="accept other line counts than Multi30k's")
    add_text_options(parser, vocab_size=None, workers=1)


def _add_translate(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The model is an NMT of this package or of fairseq's own; a killed run is continued."
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the model, its dictionaries, and text.json or BPE codes")
    add(
        "--checkpoint",
        default="model.pt",
        help="file in that folder, or a.pt:b.pt for an ensemble (default: %(default)s)",
    )
    add_options(parser, "--source-lang", "--target-lang", "--cpu")
    add("--bpe-model", type=Path, help="default: the BPE file in the folder; none there: words")
    add("--tokenizer", choices=("moses", "space"), default="moses", help="of the model's training data (%(default)s)")
    add("--input", required=True, help="text, a sentence a line, or with --column TSV; plain or .gz")
    add("--column", type=reader(COUNT), metavar="N", help="the sentence is column N, from 1, between tabs")
    add("--append", action="store_true", help="write the input line, a tab, and the translation")
    add("--out", type=Path, required=True, help="file to make")
    add_options(parser, "--beam", default=5)
    add("--max-tokens", type=reader(COUNT), default=8000, help="source tokens at once (%(default)s)")
    add("--block", type=reader(COUNT), default=4096, help="lines between two writes (default: %(default)s)")
    text = "translate part I, from 0, of N runs, each with its own --out, which belong behind each other"
    add_options(parser, "--shard", help=text)
    add("--fp16", action="store_true", help="half precision, on a GPU")


def _add_nouns(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes {split}.{source}-{target}.nouns beside the text. Words are aligned by IBM model 1 in both directions, "
        "made on train; nouns whose word is not known are left out."
    )
    add_options(parser, "data")
    nouns = parser.add_mutually_exclusive_group(required=True)
    add_options(nouns, "--regions", default=None, help="region store whose class names are the nouns")
    nouns.add_argument("--words", metavar="FILE", help="nouns of the source language, one a line")
    add_options(parser, "--source-lang", "--target-lang", default=None, help="default: as the files' names say")
    add_options(parser, "--subsets", default="train,valid")


def _add_contrastive(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "For vtlm-probe contrastive --preprocessed: src.LANG, src.mask.LANG (the noun is <mask>), correct.LANG, "
        "incorrect.LANG, images, and items.tsv, which says what was replaced."
    )
    add = parser.add_argument
    add_options(parser, "data")
    add_options(parser, "--regions", default=None, required=True, help="region store: of the nouns that a region names")
    add_options(parser, "--source-lang", "--target-lang", default=None, help="default: as the files' names say")
    add_options(parser, "--gen-subset")
    add("--out", type=Path, required=True, help="folder to make")
    add("--least", type=reader(COUNT), default=5, metavar="N", help="a wrong word stands behind the same word in train "
        "so often (default: %(default)s)")  # fmt: skip
    add_options(parser, "--seed", help="of the choice (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
