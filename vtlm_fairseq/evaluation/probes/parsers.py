"""Sub-commands of ``vtlm-probe``, read without PyTorch: each is run by the module of its name in this folder."""

from pathlib import Path

from vtlm_fairseq.evaluation.options import add_model_options, add_system_options
from vtlm_fairseq.evaluation.tables import add_table_options
from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, reader

TEXTS = ("given", "hidden", "shuffle")
WHAT = ("noun", "colour")


def last_word(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.last_word`."""
    parser = commands.add_parser(
        "last-word",
        help="accuracy of masked last words (Table 2)",
        description="Mask the last word of the source (EN), the target (DE) or both sentences of each pair, whatever "
        "their languages are, and print how often a pre-trained model predicts it. A word is right when all its "
        "sub-words are, predicted at once. BOTH pools the words of the two languages.",
    )
    add_options(parser, "data", "--subsets")
    add_model_options(parser, what="pre-trained checkpoint, TLM or VTLM; repeat for more", batch_size=64)
    add_options(
        parser,
        "--region-order",
        action="append",
        metavar="ORDER",
        help="given, shuffle (other images' regions) or none (hidden); repeat for more (default: given). "
        "Regions are never masked",
    )
    add_options(parser, "--repeats", help="shufflings that are averaged (default: %(default)s)")
    add_options(parser, "--seed", help="of the first shuffling (default: %(default)s)")
    parser.add_argument("--lines", metavar="FILE", help="only these lines: numbers from 1, one a line; one subset")
    parser.add_argument(
        "--named", action="store_true", help="words that a region's class names, and the others, in rows of their own"
    )
    parser.add_argument("--last-token", action="store_true", help="mask the last sub-word only, as the authors did")
    parser.add_argument(
        "--keep-punctuation",
        action="store_true",
        help="leave final punctuation in the sentence and mask the word before it (for models of text that ends in a "
        "mark); else it is cut off",
    )
    add_table_options(parser)


def mrc(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.mrc`."""
    parser = commands.add_parser(
        "mrc",
        help="accuracy of masked region classification",
        description="Mask each region of each image in turn, as pre-training does, and print how often a pre-trained "
        "model predicts its label from the other regions and the captions, in which no word is masked. Beside it stand "
        "two rows without a model: the commonest class of the training split, and the nearest class mean of the "
        "training split's features to the region's own.",
    )
    add_options(parser, "data", "--subsets")
    add_options(parser, "--seed", help="of the shuffling (default: %(default)s)")
    add_model_options(parser, what="VTLM checkpoint, commas between those of several seeds; repeat for more",
                      batch_size=64)  # fmt: skip
    parser.add_argument(
        "--text",
        choices=TEXTS,
        action="append",
        help="given, hidden (every word is <mask>) or shuffle (captions of another image); repeat for more (default: "
        "given and hidden)",
    )
    parser.add_argument(
        "--no-references", action="store_true", help="leave out the rows without a model, which read the training split"
    )
    add_table_options(parser)


def entity(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.entity`."""
    parser = commands.add_parser(
        "entity",
        help="BLEU when nouns of the source are masked or removed (Table 3)",
        description="Mask or remove the head nouns that Flickr30k Entities marks in the sentences of a test set, "
        "translate what is left, and print BLEU on tokenised text.",
    )
    add_system_options(parser, split="test_2016_flickr")
    parser.add_argument(
        "--entities", type=Path, required=True, metavar="PATH", help="Flickr30k Entities: the folder or the .tgz"
    )
    parser.add_argument("--what", choices=WHAT, default="noun", help="what is masked (default: noun)")
    parser.add_argument("--whole-phrase", action="store_true", help="one <mask> for each phrase, not for its noun")
    parser.add_argument("--boxed-only", action="store_true", help="only phrases that a box belongs to")
    parser.add_argument("--count", type=reader(COUNT), metavar="N", help="the first N of each sentence (default: all)")
    parser.add_argument("--write", type=Path, metavar="DIR", help="keep the variants: text and binarised folders")
    add_table_options(parser)


def attention(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.attention`."""
    parser = commands.add_parser(
        "attention",
        help="cross-attention mass on regions by decoder layer (Figure 2)",
        description="Print, for each decoder layer, the share of cross-attention that falls on regions: mean over "
        "target positions and heads of a sentence, then over sentences. Beside it the share that equal weights would "
        "give, R/(R+T). Teacher-forced on the references unless --on hypotheses.",
    )
    add_system_options(parser)
    parser.add_argument(
        "--on",
        choices=("references", "hypotheses"),
        default="references",
        help="target sentences: the references, or the best hypothesis of --beam (default: references)",
    )
    parser.add_argument("--per-head", action="store_true", help="a row for each head")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the layers: .png, .pdf or .svg (extra [plots])")
    add_table_options(parser)


def contrastive(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.contrastive`."""
    parser = commands.add_parser(
        "contrastive",
        help="does the right one of two translations score better (CoMMuTE)",
        description="Score a right and a wrong translation of each source sentence, given its image, and print the "
        "share of lines whose right one scores better. Files hold raw text; the model's text pipeline is applied.",
    )
    add_model_options(parser, what="translation checkpoint, NMT or MMT; repeat for more")
    parser.add_argument("--src", required=True, metavar="FILE", help="source sentences (CoMMuTE: src.en)")
    parser.add_argument("--correct", required=True, metavar="FILE", help="right translations (CoMMuTE: correct.de)")
    parser.add_argument("--incorrect", required=True, metavar="FILE", help="wrong ones (CoMMuTE: incorrect.de)")
    parser.add_argument("--images", metavar="FILE", help="image ids, one a line (CoMMuTE: img.order)")
    add_options(parser, "--region-order", "--data", "--preprocessed", "--lenpen")
    parser.add_argument("--sentences", metavar="TSV", help="write the scores of each line")
    parser.add_argument("--margins", action="store_true", help="by how much the right one scores better, with "
                        "given and with shuffled regions, and whether these differ")  # fmt: skip
    add_options(parser, "--repeats", help="--margins: shufflings that are averaged (default: %(default)s)")
    add_options(parser, "--seed", help="--margins: of the first shuffling (default: %(default)s)")
    add_table_options(parser)


def incongruent(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.incongruent`."""
    parser = commands.add_parser(
        "incongruent",
        help="BLEU with given, shuffled and hidden regions",
        description="Translate a test set with its own regions, with those of other images and without any, and "
        "print what BLEU on tokenised text loses, with its significance.",
    )
    add_options(parser, "data", "--gen-subset", "--beam", "--lenpen", "--max-len-a", "--max-len-b", "--repeats")
    add_options(parser, "--seed", help="of the first shuffling (default: %(default)s)")
    add_model_options(parser, what="translation checkpoint; repeat for more")
    add_table_options(parser)


def masked_noun(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.masked_noun`."""
    parser = commands.add_parser(
        "masked-noun",
        help="accuracy of masked nouns, given - shuffled regions",
        description="Mask one noun at a time in the source, in the target or in both, and print how often a "
        "pre-trained model predicts it with given, shuffled and hidden regions, and given - shuffled with its interval "
        "over sentences. Words of the two languages are aligned by a model made on the training split.",
    )
    add_options(parser, "data", "--subsets")
    add_model_options(parser, what="pre-trained checkpoint, TLM or VTLM; repeat for more", batch_size=64)
    nouns = parser.add_mutually_exclusive_group()
    nouns.add_argument("--words", metavar="FILE", help="nouns of the source language, one a line (default: the class "
                       "names of --regions)")  # fmt: skip
    nouns.add_argument("--entities", type=Path, metavar="PATH", help="Flickr30k Entities, folder or .tgz: the head "
                       "nouns of its phrases")  # fmt: skip
    parser.add_argument("--sentences", metavar="TSV", help="write what is right in each sentence")
    add_options(parser, "--repeats", help="shufflings that are averaged (default: %(default)s)")
    add_options(parser, "--seed", help="of the first shuffling (default: %(default)s)")
    add_table_options(parser)


def pointing(commands) -> None:
    """Options of :mod:`vtlm_fairseq.evaluation.probes.pointing`."""
    parser = commands.add_parser(
        "pointing",
        help="does a word attend most to the region that it names",
        description="Print, for each decoder layer, the share of words of the references whose most attended region is "
        "one that they name, teacher-forced. Which words name which regions: translations of source nouns that are the "
        "class of a region, unless --class-lexicon or --entities says it.",
    )
    add_options(parser, "data", "--gen-subset")
    add_model_options(parser, what="a multimodal system and the checkpoints of its seeds; repeat for more systems")
    words = parser.add_mutually_exclusive_group()
    words.add_argument("--class-lexicon", metavar="FILE", help="words of the target language that name a class: a "
                       "word, a tab and the class a line")  # fmt: skip
    words.add_argument("--entities", type=Path, metavar="PATH", help="Flickr30k Entities, folder or .tgz: translations "
                       "of head nouns whose boxes regions overlap by half (IoU)")  # fmt: skip
    parser.add_argument("--per-head", action="store_true", help="a row for each head")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the layers: .png, .pdf or .svg (extra [plots])")
    add_table_options(parser)


PROBES = (last_word, masked_noun, mrc, entity, attention, pointing, contrastive, incongruent)
