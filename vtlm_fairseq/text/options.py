"""Options that the preparation scripts share: languages, steps, vocabulary."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.names import check_distinct, check_languages
from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, reader
from vtlm_fairseq.text.caption_files import COLUMNS, FORMATS
from vtlm_fairseq.text.caption_tables import QUOTING
from vtlm_fairseq.text.own_words import own_words
from vtlm_fairseq.text.pipeline import STEPS, TextPipeline
from vtlm_fairseq.text.tokenised import add_tokenised
from vtlm_fairseq.text.unspaced import SEGMENTATIONS, choose_segmentation, needs_marks


def add_caption_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that name captions and say how they are written."""
    parser.epilog = (
        "FILE is a .tsv, .csv or .jsonl file, plain or .gz; .parquet or .tar files, also as a pattern such as "
        "'cc/*.tar'; or the common beginning of line files FILE.en, FILE.de and FILE.images (the ids)."
    )
    add = parser.add_argument
    add("--train", metavar="FILE", required=True, help="captions to train on")
    valid = parser.add_mutually_exclusive_group(required=True)
    valid.add_argument("--valid", metavar="FILE", help="captions to validate on")
    valid.add_argument(
        "--valid-size",
        type=reader(COUNT),
        metavar="N",
        help="take N images with all their captions out of --train, those with the smallest hashes of their ids",
    )
    add("--test", metavar="NAME=FILE", action="append", default=[], help="a test set (repeatable)")
    add("--format", choices=FORMATS, default="auto", help="default: by the files' names")
    add(
        "--columns",
        metavar="NAME=COLUMN,...",
        help="where image and languages stand: in TSV and CSV a number from 1 or a name of the first line, in JSON "
        "lines and parquet a key, in tar files .txt for KEY.txt or a key in KEY.json; image may be left out for shards "
        f"(default: in TSV {COLUMNS}, else image, en, de)",
    )
    add(
        "--quoting",
        choices=QUOTING,
        help="in TSV and CSV: none, a quote is a character like others; minimal, fields may stand in double quotes "
        "(default: none in TSV, minimal in CSV)",
    )
    add(
        "--id-prefix",
        choices=("tar",),
        help="tar: image ids begin with the name of the tar file, or of the parquet file beside it, as in vtlm-extract",
    )


def add_text_options(parser: argparse.ArgumentParser, *, vocab_size: int | None, workers: int) -> None:
    """Add the options; without a default `vocab_size`, it or `--bpe-model` must be given."""
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    add_options(parser, "--source-lang", "--target-lang")
    add_options(parser, "--workers", default=workers)
    vocabulary = parser.add_mutually_exclusive_group(required=vocab_size is None)
    vocabulary.add_argument(
        "--vocab-size",
        type=reader(COUNT),
        default=vocab_size,
        help="learn a joint sentencepiece BPE of so many pieces, or as many as the text holds"
        + (" (default: %(default)s)" if vocab_size else ""),
    )
    vocabulary.add_argument("--bpe-model", type=Path, help="existing sentencepiece model, or codes of subword-nmt")
    parser.add_argument("--dict", type=Path, help="existing dictionary that belongs to --bpe-model")
    parser.add_argument("--keep-case", action="store_true", help="do not lower-case")
    parser.add_argument("--strip-accents", action="store_true", help="strip accents, as the paper's authors did")
    parser.add_argument(
        "--no-escape",
        action="store_true",
        help="leave quotes, & and brackets as they are, as the authors did (Multi30k's own files hold &apos;)",
    )
    parser.add_argument(
        "--segment",
        choices=(*SEGMENTATIONS, *own_words(), "none"),
        help="words of a language without spaces: characters (Chinese, Japanese), jieba (Chinese words; extra zh), "
        "segmented: the text has blanks between them already, a way that --user-dir registers, none: Moses' tokeniser "
        "alone (default: characters; with --tokenised segmented)",
    )
    add_tokenised(parser)


def check_vocabulary(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """End the command where `--dict` is given without the BPE model that it belongs to."""
    if getattr(arguments, "dict", None) is not None and arguments.bpe_model is None:
        parser.error("--dict belongs to an existing BPE model: give --bpe-model too")


def vocabulary(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options say of text, BPE and processes, for :func:`vtlm_fairseq.text.prepare.prepare_folder`."""
    names = {name: name for name in ("vocab_size", "bpe_model", "workers", "tokenised")} | {"dict": "dictionary"}
    return {names[name]: value for name, value in vars(arguments).items() if name in names}


def make_pipeline(arguments: argparse.Namespace) -> TextPipeline:
    """Languages and steps.

    Raises:
        VTLMError: both sides are the same language, or one is written without spaces and its words
            cannot be found, or accents are to be stripped from letters that need them.
    """
    check_languages((arguments.source_lang, arguments.target_lang), "--source-lang, --target-lang")
    check_distinct(arguments.source_lang, arguments.target_lang)
    languages = (arguments.source_lang, arguments.target_lang)
    segments = choose_segmentation(languages, arguments.segment, tokenised=bool(arguments.tokenised))
    if arguments.strip_accents and (marked := [lang for lang in languages if needs_marks(lang)]):
        raise VTLMError(f"--strip-accents would take marks that tell letters of {marked[0]} apart; leave it out")
    left_out = {
        **{step: step not in segments for step in SEGMENTATIONS},
        "lowercase": arguments.keep_case,
        "escape": arguments.no_escape,
        "strip_accents": not arguments.strip_accents,
    }
    return TextPipeline(
        source_lang=arguments.source_lang,
        target_lang=arguments.target_lang,
        steps=(*(step for step in STEPS if not left_out.get(step)), *(way for way in segments if way in own_words())),
    )
