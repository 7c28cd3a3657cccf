"""``vtlm-report``: what a model attends to and predicts in a few sentences, as one HTML page."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, write_text
from vtlm_fairseq.files.inputs import refuse_input
from vtlm_fairseq.options import add_options
from vtlm_fairseq.terminal import command_line, say
from vtlm_fairseq.user_dir import add_user_dir_option, import_user_dir

MAX_LINES = 500
FIRST_LINES = list(range(1, 11))  # where none are asked for


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    check_writable(args.out, label=f"--out {args.out}")
    refuse_input(args.out, [args.data, args.path, args.regions], label=f"--out {args.out}")
    if args.images is not None and not args.images.is_dir():
        raise VTLMError(f"--images {args.images}: no such folder")
    import_user_dir(args.user_dir)
    page, count = make_page(args)
    write_text(args.out, page, label=f"--out {args.out}")
    say(f"{args.out}: {count} sentences, {len(page.encode()) / 1e6:.2f} MB")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-report``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-report",
        description="Write one HTML page that shows, for a few sentences, what each word attends to: regions of the "
        "image and source words. For a pre-trained model also its masked words and regions, and what it takes them "
        "for. The page holds all it needs and loads nothing.",
    )
    add_options(parser, "data", "--regions", "--region-order", "--any-detector", "--gen-subset", "--beam", "--cpu")
    add_options(parser, "--post-process")
    parser.add_argument("--path", required=True, metavar="CKPT", help="translation or pre-trained (vtlm) checkpoint")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="page to write")
    parser.add_argument(
        "--lines", type=parse_lines, default=FIRST_LINES, metavar="1,5,7-9", help="lines to show (default: 1-10)"
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures, by image id; else boxes are sketched")
    parser.add_argument("--title", default="What the model looks at", help="heading of the page")
    add_user_dir_option(parser)
    return finish(parser)


def parse_lines(text: str) -> list[int]:
    """Line numbers from ``1,5,7-9``, for argparse."""
    lines: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is not like 1,5,7-9")
        if int(last or first) < int(first):
            raise argparse.ArgumentTypeError(f"{text!r}: {part} ends before it begins; write {last}-{first}")
        if int(first) < 1 or int(last or first) - int(first) >= MAX_LINES:
            raise argparse.ArgumentTypeError(f"{text!r}: lines count from 1, and at most {MAX_LINES} fit on a page")
        lines += range(int(first), int(last or first) + 1)
    lines = list(dict.fromkeys(lines))
    if not 0 < len(lines) <= MAX_LINES:
        raise argparse.ArgumentTypeError(f"{text!r}: give 1 to {MAX_LINES} lines")
    return lines


def make_page(args: argparse.Namespace) -> tuple[str, int]:
    """Load the model, run it on the lines, and render the page; also says of how many sentences.

    Raises:
        VTLMError: a fault of input or options.
    """
    from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
    from vtlm_fairseq.evaluation.report.collect import collect
    from vtlm_fairseq.evaluation.report.data import Spelling
    from vtlm_fairseq.evaluation.report.page import render_page
    from vtlm_fairseq.evaluation.report.pictures import load_pictures, say_missing
    from vtlm_fairseq.evaluation.systems import describe_regions, load_asked
    from vtlm_fairseq.hub import find_checkpoint

    path = find_checkpoint(args.path)
    loaded = load_asked(path, args)
    spelling = Spelling.of_data(args.data, loaded.task.source_dictionary, args.post_process)
    lines = None if args.lines is FIRST_LINES else [line - 1 for line in args.lines]
    sentences = collect(loaded, lines, spelling=spelling, beam=args.beam)
    pictures = {}
    if args.images is not None:
        ids = [sentence.image for sentence in sentences if sentence.image is not None]
        pictures = load_pictures(args.images, ids)
        if missing := [image for image in dict.fromkeys(ids) if image not in pictures]:
            say(f"note: {say_missing(args.images, missing)}", file=sys.stderr)
    pretrained = isinstance(loaded.dataset, TranslationLMDataset)
    regions = loaded.dataset.regions
    folder, name = os.path.split(os.path.abspath(path))
    facts = [
        f"{os.path.basename(folder)}/{name}",
        f"{args.gen_subset}, {loaded.task.cfg.source_lang}-{loaded.task.cfg.target_lang}",
        describe_regions(regions and regions.store, loaded.task.option("region_order")),
    ]
    if not pretrained:
        facts.append(f"beam {args.beam}")
    page = render_page(sentences, title=args.title, facts=facts, pictures=pictures, pretrained=pretrained)
    return page, len(sentences)


if __name__ == "__main__":
    sys.exit(main())
