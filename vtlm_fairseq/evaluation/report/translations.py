"""What the report shows of a translation model: translations with, without and with another image, and attention."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.evaluation.attention_weights import cross_attention
from vtlm_fairseq.evaluation.report.changes import count_words, differing
from vtlm_fairseq.evaluation.report.data import (
    Sentence,
    ShownLine,
    ShownWord,
    Spelling,
    line_image,
    line_regions,
)
from vtlm_fairseq.evaluation.report.words import word_attention
from vtlm_fairseq.evaluation.splits import in_order
from vtlm_fairseq.evaluation.systems import LoadedModel
from vtlm_fairseq.inference import best_hypotheses
from vtlm_fairseq.terminal import progress_bar

BATCH = 32
END = "</s>"

Apart = tuple[set[int], set[int]]
"""Places of the words of each of two translations that are not in the other."""


@dataclass
class Decoded:
    """Translations of some lines with the regions of an order.

    Attributes:
        name: what the report calls it.
        regions: of each line of the split; None: none.
        tokens: of each line, by its number from 0; ending in ``</s>``, [n] int32.
    """

    name: str
    regions: LineRegions | None
    tokens: dict[int, Tensor]


def translated_sentences(loaded: LoadedModel, lines: list[int], *, spelling: Spelling, beam: int) -> list[Sentence]:
    """Translate lines with their regions, and compare with no regions and with those of another image.

    Where the lines do not have their own regions (``--region-order``, a text-only model), nothing is compared.
    """
    generator = loaded.task.build_generator([loaded.model], Namespace(beam=beam))
    own = loaded.dataset.regions
    compares = own is not None and own.order == "given"
    orders = [("With its image", own), *other_images(own)] if compares else [("Translation", own)]
    decoded = []
    bar = progress_bar(total=len(orders) * len(lines), unit=" lines")
    try:
        for name, regions in orders:
            loaded.dataset.regions = regions
            batches = (loaded.lines(lines[first : first + BATCH]) for first in range(0, len(lines), BATCH))
            decoded.append(Decoded(name, regions, {}))
            for line, tokens in best_hypotheses(loaded.task, [loaded.model], generator, batches):
                decoded[-1].tokens[line] = tokens
                bar.update()
    finally:
        loaded.dataset.regions = own
        bar.close()
    return [translated_sentence(loaded, line, decoded, spelling=spelling) for line in lines]


def other_images(own: LineRegions) -> Iterator[tuple[str, LineRegions | None]]:
    """What the lines' own regions are compared with: none, and another image's where there is another."""
    yield "Without the image", None
    if len(np.unique(own.rows)) > 1:
        yield "With another image", in_order(own, "shuffle", seed=own.seed)


def translated_sentence(loaded: LoadedModel, line: int, decoded: Sequence[Decoded], *, spelling: Spelling) -> Sentence:
    """A line with its translations; attention is that of the first one, to source words and regions."""
    sample = loaded.lines([line])
    tokens = decoded[0].tokens[line].long()
    inputs = tokens.roll(1)[None].to(sample["net_input"]["src_tokens"].device)  # </s> t1 ... tm
    net_input = {**sample["net_input"], "prev_output_tokens": inputs}
    weights = cross_attention(loaded.model, net_input).mean(1)[:, 0].cpu()  # L x T x S
    cfg, words = loaded.task.cfg, loaded.task.source_dictionary
    source_tokens = net_input["src_tokens"][0]
    source = spelling.words([words[i] for i in source_tokens.tolist() if i != words.pad()])
    regions, image = line_regions(loaded.dataset.regions, line)
    # row t predicts token t
    hypotheses = [spelling.words([words[i] for i in one.tokens[line].tolist() if words[i] != END]) for one in decoded]
    shown = [ShownLine("Source", cfg.source_lang, [ShownWord(word.text, key=k) for k, word in enumerate(source)])]
    texts = [[word.text for word in words] for words in hypotheses]
    apart = [differing(texts[0], text) for text in texts[1:]]
    shown += compared(decoded, texts, apart, line, lang=cfg.target_lang)
    if sample.get("target") is not None:
        reference = spelling.words([words[i] for i in sample["target"][0].tolist() if words[i] != END])
        shown.append(ShownLine("Reference", cfg.target_lang, [ShownWord(word.text) for word in reference]))
    attention = word_attention(
        weights, queries=hypotheses[0], keys=source, first_region=len(source_tokens), num_regions=len(regions)
    )
    sentence = Sentence(line + 1, image, shown, regions, attention)
    if len(decoded) > 1:
        describe_change(sentence, texts, apart)
    return sentence


def compared(
    decoded: Sequence[Decoded], texts: Sequence[list[str]], apart: Sequence[Apart], line: int, *, lang: str
) -> list[ShownLine]:
    """The translations as lines, the first one's words with attention; words that are not in all are marked.

    Args:
        decoded: the translations.
        texts: words of each.
        apart: of each but the first, where the first and it differ.
        line: number from 0.
        lang: of the translations.
    """
    marked = [set().union(*(own for own, _ in apart)), *(other for _, other in apart)]
    shown = []
    for k, (one, text) in enumerate(zip(decoded, texts, strict=True)):
        note = "" if len(decoded) == 1 or one.regions is None else f"image {line_image(one.regions, line)}"
        words = [ShownWord(w, query=None if k else q, changed=q in marked[k]) for q, w in enumerate(text)]
        shown.append(ShownLine(one.name, lang, words, note))
    return shown


def describe_change(sentence: Sentence, texts: Sequence[list[str]], apart: Sequence[Apart]) -> None:
    """Say how many words no image and another one change; ``texts`` and ``apart`` as in `compared`."""
    counts = [max(map(len, places)) for places in apart]
    longest = max(1, *map(len, texts))
    sentence.change = sum(counts) / longest
    names = ("without", "with another")
    said = ", ".join(f"{count_words(n)} {name}" for n, name in zip(counts, names, strict=False))
    sentence.note = f"changed: {said} image"
    sentence.mark = said if any(counts) else ""
