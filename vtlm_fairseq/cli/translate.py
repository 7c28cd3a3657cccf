"""``vtlm-translate``: new sentences, with the regions of their images, to translations."""

import argparse
import itertools
import sys
from collections.abc import Sequence

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import standard_input_lines, stream_lines
from vtlm_fairseq.options import add_options, loading_options
from vtlm_fairseq.ranges import COUNT, GENERATION, reader
from vtlm_fairseq.terminal import command_line, progress_bar, write_out
from vtlm_fairseq.user_dir import add_user_dir_option, import_user_dir


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if (args.nbest or 1) > args.beam:
        parser.error(f"--nbest {args.nbest} is more than --beam {args.beam} finds")
    import_user_dir(args.user_dir)
    from vtlm_fairseq.hub import find_checkpoints
    from vtlm_fairseq.inference import Translator

    translator = Translator(find_checkpoints(args.path), **loading_options(args))
    detokenize = args.detokenize or (translator.gives_text and not args.no_detokenize)
    source = "standard input" if args.input == "-" else args.input
    lines = enumerate(standard_input_lines() if args.input == "-" else stream_lines(args.input), 1)
    bar = progress_bar(unit=" sentences", disable=args.input == "-")
    while buffer := list(itertools.islice(lines, args.buffer_size)):
        pairs = [split_line(line, f"{source} line {number}", translator.needs_images) for number, line in buffer]
        found = translator.hypotheses(
            [sentence for sentence, _ in pairs],
            [image for _, image in pairs] if translator.needs_images else None,
            search=args,
            nbest=args.nbest or 1,
            batch_size=args.batch_size,
            detokenize=detokenize,
            first_line=buffer[0][0],
            source=source,
        )
        for (number, _), hypotheses in zip(buffer, found, strict=True):
            for made in hypotheses:
                columns = [number] * (args.nbest is not None) + [f"{made.score:.4f}"] * args.scores
                write_out("\t".join(map(str, [*columns, made.text])))
        sys.stdout.flush()
        bar.update(len(buffer))
    bar.close()
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-translate``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-translate",
        description="Translate raw sentences. Reads lines of 'sentence<TAB>image id' (the id may be left out for a "
        "text-only model, or with --region-order none) and writes one translation a line.",
    )
    parser.add_argument("input", nargs="?", default="-", help="file of lines, UTF-8 (default: standard input)")
    parser.add_argument(
        "--path",
        required=True,
        metavar="CKPT",
        help="checkpoint; folder: its checkpoint_best.pt, else checkpoint_last.pt; or a.pt:b.pt for an ensemble",
    )
    add_options(parser, "--regions", "--region-order", "--any-detector", "--max-regions", "--data", "--preprocessed")
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "--detokenize",
        action="store_true",
        help="write running text instead of tokens (default: where text.json says running_text)",
    )
    text.add_argument("--no-detokenize", action="store_true", help="write tokens, separated by spaces")
    parser.add_argument(
        "--nbest",
        type=reader(GENERATION["nbest"]),
        metavar="N",
        help="write the N best translations of each sentence, best first, each behind the number of its line and a tab",
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="write the score and a tab before each translation: log2-probability / tokens**lenpen",
    )
    add_options(parser, "--beam", "--lenpen", "--max-len-a", "--max-len-b", "--batch-size", "--cpu")
    parser.add_argument("--buffer-size", type=reader(COUNT), default=1024, help="lines read ahead (default: 1024)")
    add_user_dir_option(parser)
    return finish(parser)


def split_line(line: str, place: str, needs_image: bool) -> tuple[str, str]:
    """Sentence and image id of a line; blanks around the id are left out, as in captions.

    Raises:
        VTLMError: no id where one is needed.
    """
    sentence, tab, image = line.rpartition("\t")
    image = image.strip()
    if not tab:
        sentence, image = line, ""
    if needs_image and not image:
        raise VTLMError(f"{place}: no image id; each line is sentence<TAB>image id (or --region-order none)")
    return sentence, image


if __name__ == "__main__":
    sys.exit(main())
