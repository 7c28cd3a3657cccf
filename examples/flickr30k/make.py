"""145,000 captions with regions, from Multi30k and Flickr30k Entities, in one command. See the README beside this file.

What is there already is not made again, and a translation that was cut off goes on: start the same command again.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--entities", type=Path, required=True, metavar="PATH", help="Flickr30k Entities: its folder or the .tgz")
    add("--raw", type=Path, required=True, metavar="DIR", help="Multi30k: train.en, val.de, ..., plain or .gz")
    add("--image-splits", type=Path, required=True, metavar="DIR", help="its train.txt, val.txt, ...")
    add("--nmt", type=Path, required=True, metavar="DIR", help="folder of an NMT, English to German, of this package")
    add("--checkpoint", default="checkpoint_best.pt", help="in that folder (default: %(default)s)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for everything")
    add("--feature-dim", default="128", help="of the regions (default: %(default)s)")
    add("--noise", default="2.977", help="of the regions (default: %(default)s)")
    add("--signal", default="1", help="of the regions; 0: noise only (default: %(default)s)")
    add("--beam", default="5", help="of the translation (default: %(default)s)")
    add("--block", default="1024", help="captions between two writes (default: %(default)s)")
    add("--cpu", action="store_true", help="do not use a GPU")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    logging.basicConfig(level=logging.WARNING)  # fairseq sets the root logger to DEBUG unless it is set up before
    args = parse_arguments(argv)
    from vtlm_fairseq.cli import oracle, prepare
    from vtlm_fairseq.corpora import flickr30k_captions as captions
    from vtlm_fairseq.corpora.entities_regions import Corpus
    from vtlm_fairseq.corpora.multi30k import fairseq_name
    from vtlm_fairseq.terminal import command_line, say

    out, texts = args.out, args.out / "texts"
    german, train = out / "german.tsv", out / "train.tsv"
    sources = ("--image-splits", str(args.image_splits), "--raw", str(args.raw), "--entities", str(args.entities))
    with command_line():
        out.mkdir(parents=True, exist_ok=True)
        if not texts.exists():
            corpus = Corpus(entities=args.entities, image_splits=args.image_splits, splits=list(captions.SPLITS),
                            raw=args.raw)  # fmt: skip
            captions.write_texts(corpus, texts, raw=args.raw)
        if not german.exists():
            more = ("--beam", args.beam, "--block", args.block, *(("--cpu",) if args.cpu else ()))
            prepare.main(
                [
                    "translate",
                    "--model",
                    str(args.nmt),
                    "--checkpoint",
                    args.checkpoint,
                    "--input",
                    str(texts / captions.UNTRANSLATED),
                    "--column",
                    "2",
                    "--append",
                    "--out",
                    str(german),
                    *more,
                ]
            )
        if not train.exists():
            say(f"{train}: {captions.join_texts(texts, german, train):,} captions")
        missing = [split for split in captions.SPLITS if not (out / "regions" / f"{fairseq_name(split)}.h5").exists()]
        if missing:
            oracle.main([*sources, "--splits", ",".join(missing), "--every-caption", "--feature-dim", args.feature_dim,
                         "--noise", args.noise, "--signal", args.signal, "--out", str(out / "regions")])  # fmt: skip
        if not (out / "data-bin").exists():
            test = f"test_2016_flickr={texts / 'test_2016_flickr.tsv'}"
            prepare.main(["captions", "--train", str(train), "--valid", str(texts / "valid.tsv"), "--test", test,
                          "--columns", "image=1,en=2,de=3", "--no-tokenised", "--bpe-model",
                          str(args.nmt / "bpe.model"), "--dict", str(args.nmt / "dict.en.txt"), "--out",
                          str(out / "data-bin")])  # fmt: skip


if __name__ == "__main__":
    main()
