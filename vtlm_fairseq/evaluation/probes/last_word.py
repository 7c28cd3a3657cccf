"""``vtlm-probe last-word``: accuracy of masked last words (paper, section 3.2, Table 2)."""

from __future__ import annotations

import argparse
import html
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from fairseq.data import Dictionary

from vtlm_fairseq.corpora.nouns import RegionNames, Text
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.outputs import read_line_numbers
from vtlm_fairseq.evaluation.splits import in_order, load_alignment, load_split
from vtlm_fairseq.evaluation.systems import named_checkpoints
from vtlm_fairseq.evaluation.tables import Table, publish
from vtlm_fairseq.hub import VTLM
from vtlm_fairseq.text.pipeline import bpe_kind
from vtlm_fairseq.text.subwords import MASK, spell, split_words
from vtlm_fairseq.text.word_alignment import WordAlignment

BOTH = "BOTH"
GROUPS = (", named", ", not named")
_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    checkpoints = list(named_checkpoints(args.systems))
    subsets = args.subsets.split(",")
    if args.lines and len(subsets) > 1:
        raise VTLMError("--lines holds line numbers of one split; give one with --subsets")
    if args.named and args.regions == "none":
        raise VTLMError("--named asks whether a region names the last word: give --regions")
    orders = list(dict.fromkeys(args.region_order or ["given"]))
    rows: dict[tuple[str, str, str], dict[str, Accuracy]] = {}
    notes: list[str] = []
    for name, path in checkpoints:
        # no store is opened here: each split has its own
        model = VTLM(
            path, data=args.data, region_order="none", preprocessed=True, any_detector=args.any_detector, cpu=args.cpu
        )
        for subset in subsets:
            probe = SplitProbe.load(model, subset, args)
            notes += probe.notes
            for order in orders if probe.regions is not None else ["none"]:
                for masked, accuracy in probe.accuracies(order, args).items():
                    rows.setdefault((name, order, masked), {})[subset] = accuracy
    publish(table(rows, subsets, notes=list(dict.fromkeys(notes)), args=args), args)


@dataclass(frozen=True)
class Ending:
    """A sentence and its last word.

    Attributes:
        tokens: [n] int64, ending in ``</s>``, final punctuation cut off or not.
        start, end: the word's sub-words are ``tokens[start:end]``.
    """

    tokens: torch.Tensor
    start: int
    end: int

    @property
    def word(self) -> list[int]:
        """Ids of its sub-words."""
        return self.tokens[self.start : self.end].tolist()

    def masked(self, mask_idx: int) -> torch.Tensor:
        """The sentence with ``<mask>`` for each sub-word of the word."""
        tokens = self.tokens.clone()
        tokens[self.start : self.end] = mask_idx
        return tokens


def is_punctuation(word: str) -> bool:
    """Whether a word, Moses' escapes undone, consists of punctuation characters (Unicode category P)."""
    return all(unicodedata.category(char).startswith("P") for char in html.unescape(word))


def find_last_word(
    tokens: torch.Tensor, dictionary: Dictionary, *, bpe: str, keep_punctuation: bool = False, last_token: bool = False
) -> Ending | None:
    """The last word of a sentence that is not punctuation.

    Args:
        tokens: [n] int64, ending in ``</s>``.
        dictionary: its dictionary.
        bpe: one of :data:`vtlm_fairseq.text.subwords.BPE_KINDS`.
        keep_punctuation: leave what follows the word in the sentence.
        last_token: take only the last sub-word of the word.

    Returns:
        None where there is no word.
    """
    symbols = [dictionary[i] for i in tokens[:-1].tolist()]
    for word in reversed(split_words(symbols, bpe)):
        if not is_punctuation(spell(symbols[word.start : word.stop], bpe)):
            kept = tokens if keep_punctuation else torch.cat([tokens[: word.stop], tokens[-1:]])
            return Ending(kept, word[-1] if last_token else word.start, word.stop)
    return None


@dataclass(frozen=True)
class Accuracy:
    """How many words were right; for shuffled regions ``right`` is a mean over shufflings."""

    right: float
    total: int

    @property
    def share(self) -> float:
        """Per cent."""
        return 100 * self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval (Wilson's score interval), per cent."""
        n, z2 = self.total, _Z * _Z
        if not n:
            return (math.nan, math.nan)
        p = self.right / n
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return (100 * (centre - half), 100 * (centre + half))


@dataclass
class SplitProbe:
    """A split as one model sees it.

    Attributes:
        model: the model.
        subset: name of the split.
        pairs: last words of source and target of each pair that has both.
        lines: the line of each such pair, from 0.
        regions: regions of all lines of the split; None for a text-only model.
        notes: what was left out.
        named: whether a region names the source's and the target's last word of each pair; None: it is not asked.
    """

    model: VTLM
    subset: str
    pairs: list[tuple[Ending, Ending]]
    lines: list[int]
    regions: LineRegions | None
    notes: list[str]
    named: list[tuple[bool, bool]] | None = None

    @classmethod
    def load(cls, model: VTLM, subset: str, args: argparse.Namespace) -> SplitProbe:
        """Read a split and find the last words.

        Raises:
            VTLMError: no such split or regions, or text that holds ``<mask>``.
        """
        text, regions = load_split(model.task, subset, regions=args.regions)
        wanted = range(len(text)) if args.lines is None else read_line_numbers(args.lines, len(text), option="--lines")
        bpe = bpe_kind(args.data, model.dictionary.symbols)
        options = {"bpe": bpe, "keep_punctuation": args.keep_punctuation, "last_token": args.last_token}
        pairs, lines = [], []
        for line in wanted:
            sides = [side[line].long() for side in (text.src, text.tgt)]
            if any((side == model.mask_idx).any() for side in sides):
                raise VTLMError(f"{args.data}, {subset}, line {line + 1}: holds {MASK} already; use the whole text")
            endings = [find_last_word(side, model.dictionary, **options) for side in sides]
            if None not in endings:
                pairs.append(tuple(endings))
                lines.append(line)
        left_out = len(wanted) - len(pairs)
        notes = [] if regions is None else [f'regions "{regions.store.detector}"']
        notes += [f"{subset}: {left_out} pairs have a side without words and are left out"] if left_out else []
        unknown = sum(model.dictionary.unk() in ending.word for pair in pairs for ending in pair)
        if unknown:
            notes.append(f"{subset}: {unknown} of {2 * len(pairs)} last words hold <unk>, which no model predicts")
        probe = cls(model, subset, pairs, lines, regions, notes)
        if args.named:
            whole = Text((text.src, text.tgt), model.dictionary, bpe)
            names = RegionNames(args.regions, args.data, subset, any_detector=args.any_detector)
            probe.named = probe.find_named(whole, names, load_alignment(model.task, bpe))
        return probe

    def find_named(self, text: Text, names: RegionNames, alignment: WordAlignment) -> list[tuple[bool, bool]]:
        """Whether a region of its line names each last word; of the target, the source word that it is aligned with."""
        found = []
        for line, ends in zip(self.lines, ((source.end, target.end) for source, target in self.pairs), strict=True):
            sides = [text.words(line, side) for side in (0, 1)]
            words = [[word for word, _ in side] for side in sides]
            source, target = ([at.stop for _, at in side].index(end) for side, end in zip(sides, ends, strict=True))
            aligned = alignment.align(*words)
            own = names.name(line, words[0][source])
            found.append((own, target in aligned and names.name(line, words[0][aligned.index(target)])))
        return found

    def accuracies(self, order: str, args: argparse.Namespace) -> dict[str, Accuracy]:
        """Accuracy with the source's, the target's and both last words masked, in one order of regions."""
        repeats = args.repeats if order == "shuffle" else 1
        kinds = {
            self.model.source_lang.upper(): (True, False),
            self.model.target_lang.upper(): (False, True),
            BOTH: (True, True),
        }
        found = {}
        for name, sides in kinds.items():
            right: Counter[str] = Counter()
            for repeat in range(repeats):
                regions = in_order(self.regions, order, seed=args.seed + repeat, lines=self.lines)
                for number, side, is_right in self._right(sides, regions, args.batch_size):
                    right.update([group for group in self._groups(number, side) if is_right])
            asked = [(number, side) for number in range(len(self.pairs)) for side in (0, 1) if sides[side]]
            totals = Counter(group for one in asked for group in self._groups(*one))
            for group in ("", *([] if self.named is None else GROUPS)):
                found[name + group] = Accuracy(right[group] if repeats == 1 else right[group] / repeats, totals[group])
        return found

    def _groups(self, number: int, side: int) -> tuple[str, ...]:
        """The rows that a last word counts in, by what their names end in."""
        return ("",) if self.named is None else ("", GROUPS[not self.named[number][side]])

    def _right(
        self, sides: tuple[bool, bool], regions: LineRegions | None, batch_size: int
    ) -> Iterator[tuple[int, int, bool]]:
        """For each masked word the number of its pair, its side, and whether all its sub-words are predicted."""
        texts = [
            [pair[k].masked(self.model.mask_idx) if sides[k] else pair[k].tokens for pair in self.pairs]
            for k in (0, 1)
        ]  # fmt: skip
        for number, log_probs in self.model.predict(*texts, regions=regions, batch_size=batch_size):
            predicted = log_probs.argmax(dim=1).tolist()
            for side in (0, 1):
                if sides[side]:
                    word = self.pairs[number][side].word
                    yield number, side, predicted[: len(word)] == word
                    predicted = predicted[len(word) :]


def table(
    rows: dict[tuple[str, str, str], dict[str, Accuracy]],
    subsets: Sequence[str],
    *,
    notes: Sequence[str],
    args: argparse.Namespace,
) -> Table:
    """One row a system, order of regions and masked side; accuracy, interval and counts of each split."""
    columns = ["system", "regions", "masked"]
    for subset in subsets:
        columns += [subset, f"{subset} from", f"{subset} to", f"{subset} right", f"{subset} of"]
    what = "sub-word" if args.last_token else "word"
    about = [
        f"accuracy in per cent with its 95 % interval (Wilson); {what} masked and predicted at once; final punctuation "
        + ("kept" if args.keep_punctuation else "cut off"),
    ]
    if any(order == "shuffle" for _, order, _ in rows):
        about.append(f"shuffle: mean of {args.repeats} shufflings; the interval is that of one")
    if any(masked.endswith(GROUPS[0]) for _, _, masked in rows):
        about.append("named: a region of the line has the class of the word, or of the source word that it translates")
    made = Table(columns, [], title=f"Masked last {what}", notes=[*about, *notes])
    made.precision = {column: 1 for column in columns[3:]}
    for (name, order, masked), found in rows.items():
        row: list[str | int | float | None] = [name, order, masked]
        for subset in subsets:
            accuracy = found[subset]
            row += [accuracy.share, *accuracy.interval, accuracy.right, accuracy.total]
        made.rows.append(row)
    return made
