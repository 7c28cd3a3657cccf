"""Sentence pairs with regions, masked for pre-training (paper, sections 2.1 and 2.2)."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from fairseq.data import data_utils

from vtlm_fairseq.data.batching import FAULT, CaptionsDataset
from vtlm_fairseq.data.examples import Examples
from vtlm_fairseq.data.line_regions import LineRegions, RegionsBatch
from vtlm_fairseq.data.masking import MaskingRates, RegionDraw, Seeds, side_by_side
from vtlm_fairseq.data.matching import draw_partners
from vtlm_fairseq.data.noun_table import NounTable
from vtlm_fairseq.data.predictions import as_tensors, list_places
from vtlm_fairseq.data.region_masking import Images, RandomRegions, RegionMasking
from vtlm_fairseq.data.sentences import Sentences
from vtlm_fairseq.data.share_schedule import ShareSchedule
from vtlm_fairseq.data.shared import empty_batch, send_small_by_value
from vtlm_fairseq.data.word_masking import Pairs, RandomWords, Symbols, WordMasking
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.objectives import Needs
from vtlm_fairseq.text.subwords import MASK

IGNORE = -1  # region target of a region that is not predicted
NO_NEEDS = Needs()
SOFT = {"probabilities": "soft_labels", "classes": "soft_classes"}
_NONE = np.zeros((0, 4), dtype=np.int64)


class TranslationLMDataset(CaptionsDataset):
    """``</s> s </s> </s> t </s>``, positions restarting at 0 for t, and the regions of the image; captions: s alone.

    Args:
        source, target: indexed datasets of token ids ending in ``</s>``; same length. target None: captions.
        dictionary: joint dictionary that holds ``<mask>``.
        languages: rows of source and target language; of captions, of theirs.
        word_rates, region_rates: masking.
        words: [V] bool, True at real words (they may be masked, and random words are drawn from them).
        word_masking: makes the strategy of masking words from symbols and rates.
        region_masking: the strategy of masking regions.
        region_schedule: of the share of regions that are predicted, in training; None: it is that of ``region_rates``.
        nouns: aligned nouns by line, where the strategy reads them.
        regions: regions by line, or None for TLM.
        zero_masked_regions: set masked features to 0 instead of replacing them by the ``<mask>`` embedding.
        needs: what the objectives over regions need of a batch.
        seed: of the masks.
        train: masks change with the epoch and examples are shuffled; else masks are fixed and order is kept.
        pad_to_multiple: T of a batch is a multiple of it.
    """

    def __init__(
        self,
        source,
        target,
        dictionary,
        *,
        languages: tuple[int, ...],
        word_rates: MaskingRates,
        region_rates: MaskingRates,
        words: np.ndarray,
        word_masking: Callable[[Symbols, MaskingRates], WordMasking] = RandomWords,
        region_masking: RegionMasking | None = None,
        region_schedule: ShareSchedule | None = None,
        nouns: NounTable | None = None,
        regions: LineRegions | None = None,
        zero_masked_regions: bool = False,
        needs: Needs = NO_NEEDS,
        seed: int = 1,
        train: bool = False,
        pad_to_multiple: int = 1,
    ):
        self.source = source
        self.target = target
        self.dictionary = dictionary
        self.languages = languages
        self.region_rates = region_rates
        self.region_masking = region_masking or RandomRegions()
        self.region_schedule = region_schedule
        self.is_word = words
        self.nouns = nouns
        self.regions = regions
        self.zero_masked_regions = zero_masked_regions
        self.needs = needs
        self.seed = seed
        self.train = train
        self.pad_to_multiple = pad_to_multiple
        self.epoch = 1
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.mask_idx = dictionary.index(MASK)
        self.word_masking = word_masking(Symbols(self.mask_idx, self.pad, np.flatnonzero(words)), word_rates)
        self.src_sizes = np.asarray(source.sizes) + 1  # with the leading </s>
        self.tgt_sizes = None if target is None else np.asarray(target.sizes) + 1
        sizes = self.src_sizes if target is None else self.src_sizes + self.tgt_sizes
        self._num_tokens = sizes + self.region_counts()
        self._sides = [Sentences(side) for side in (source, target) if side is not None]

    @property
    def sizes(self) -> np.ndarray:
        """[N]: positions of the encoder, words and regions."""
        return self._num_tokens

    def __len__(self) -> int:
        return len(self.src_sizes)

    def set_epoch(self, epoch: int) -> None:
        """Masks of training depend on the epoch; validation masks never change."""
        super().set_epoch(epoch)
        if self.train:
            self.epoch = epoch
            if self.regions is not None:
                self.regions.set_epoch(epoch)

    def rates_of_regions(self) -> MaskingRates:
        """Shares of regions in this epoch."""
        if self.region_schedule is None or not self.train:
            return self.region_rates
        return replace(self.region_rates, select=self.region_schedule.share(self.epoch))

    def __getitem__(self, index: int) -> dict:
        """One masked example: arrays ``tokens``, ``target``, ``positions``, ``langs`` [T]; with regions ``regions``
        (:class:`Regions`) and ``draw`` (:class:`RegionDraw`)."""
        return self._examples([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> Examples | list:
        """Some examples, which PyTorch's loader asks for together, for `collater`; regions have no scores.

        A derived class whose items or batches are its own has them one by one, as dicts.
        """
        if type(self).__getitem__ is not TranslationLMDataset.__getitem__:
            return [self[index] for index in indices]
        examples = self._examples([int(index) for index in indices]) if len(indices) else []  # a rank may have no batch
        return examples if type(self).collater is TranslationLMDataset.collater else list(examples)

    def _examples(self, indices: list[int]) -> Examples:
        """All that is drawn and looked up is so for all examples at once.

        An index beyond the last example is a copy of one, with draws of its own.
        """
        lines = self.lines(indices)
        sides, sizes = zip(*(side.read(lines) for side in self._sides), strict=True)
        lengths = np.stack(sizes, axis=1) + 1
        owners, positions = side_by_side(lengths.reshape(-1))
        owners %= len(sides)
        tokens = np.full(len(positions), self.eos)
        for owner, side in enumerate(sides):
            tokens[(owners == owner) & (positions > 0)] = side
        columns = {"positions": positions, "langs": np.array(self.languages)[owners]}
        examples = Examples(indices, lengths.sum(axis=1), columns)
        counts, labels, nouns = np.zeros(len(indices), dtype=np.int64), _NONE[:, 0], [_NONE] * len(indices)
        visible = np.zeros(0, dtype=bool)
        seeds = self._seeds(indices)
        if self.regions is not None:
            try:
                read = examples.regions = self.regions.read(lines, scores=self.region_masking.reads_scores)
                of_regions = read.counts, read.labels, read.boxes, read.scores
                images = Images(*of_regions, examples.lengths, tokens, seeds.epoch)
                drawn = examples.draw = self.region_masking.draw_all(images, self.rates_of_regions(), seeds)
                counts, labels, visible = read.counts, read.labels, ~(drawn.masked | drawn.random)
            except VTLMError as error:
                examples.fault = str(error)
        if self.nouns is not None:
            nouns = [self._noun_places(line, *lengths[k]) for k, line in enumerate(lines.tolist())]
        pairs = Pairs(examples.lengths, tokens, self.is_word[tokens], counts, labels, nouns, visible, seeds.epoch)
        try:
            columns["tokens"], columns["target"] = self.word_masking.mask_all(pairs, seeds)
        except VTLMError as error:
            examples.fault = examples.fault or str(error)
            columns["tokens"] = columns["target"] = tokens
        return examples

    def _seeds(self, indices: Sequence[int]) -> Seeds:
        """What the draws of examples depend on in this epoch."""
        return Seeds(self.seed, self.epoch if self.train else 0, indices)

    def lines(self, indices: Sequence[int]) -> np.ndarray:
        """[B] int64: the lines of the text that examples are made of."""
        return np.array(indices) % len(self.src_sizes)

    def _noun_places(self, index: int, source: int, target: int) -> np.ndarray:
        """[P, 4] places of aligned nouns in the pair of two sentences, ``</s>`` before and behind each included."""
        spans = self.nouns[index]
        whole = (spans[:, 1] < source - 1) & (spans[:, 3] < target - 1)  # a long source may have been cut
        return spans[whole] + [1, 1, source + 1, source + 1]

    def collater(self, samples: list[dict]) -> dict:
        """Batch of B examples; ``{}`` for none (fairseq's dummy batches).

        ``net_input``: ``src_tokens positions langs`` B x T, ``src_lengths`` B, with regions ``features`` B x R x D,
        ``boxes`` B x R x 4, ``region_padding_mask region_mask`` B x R; ``padded``, whether there is any padding.
        Beside it ``target`` B x T (padding where nothing is predicted), ``region_target`` B x R (-1 where nothing is
        predicted), the same as lists in ``predicted`` (``words`` [n], ``regions`` [m], and their ``places``, see
        :func:`~vtlm_fairseq.data.predictions.predicted_places`), ``id``, ``ntokens``, ``nsentences``. What objectives
        need is in ``predicted``, too: ``features`` m x D, ``boxes`` m x 4 and ``soft_labels`` m x K of the regions, and
        where K is not C ``soft_classes`` m x K; ``matched`` [k], False where a pair with regions has another pair's.
        """
        if not samples:
            return {}

        examples = samples if isinstance(samples, Examples) else Examples.of(samples, self.regions)
        lengths = examples.lengths
        width = -(-int(lengths.max()) // self.pad_to_multiple) * self.pad_to_multiple
        rows, places = side_by_side(lengths)

        def pad(key: str, value: int) -> torch.Tensor:
            padded = np.full((len(lengths), width), value)
            padded[rows, places] = examples.columns[key]
            return torch.from_numpy(padded)

        batch = {
            "id": torch.from_numpy(self.lines(examples.ids)),
            "nsentences": len(lengths),
            "ntokens": int(lengths.sum()),
            "target": pad("target", self.pad),
            "net_input": {
                "src_tokens": pad("tokens", self.pad),
                "src_lengths": torch.from_numpy(lengths),
                "positions": pad("positions", 0),
                "langs": pad("langs", self.languages[0]),
            },
        }
        more: dict[str, np.ndarray] = {}
        if examples.fault is not None:
            batch[FAULT] = examples.fault
        elif examples.regions is not None:
            try:
                more = self._add_regions(batch, examples)
            except VTLMError as error:
                batch[FAULT] = str(error)
        self._add_predicted(batch, **more)
        self.say_padding(batch["net_input"])
        return send_small_by_value(batch)

    def _add_predicted(self, batch: dict, first: np.ndarray | None = None, **more: np.ndarray) -> None:
        target, selected = batch["target"].numpy(), None
        masked = target != self.pad
        found = {"words": target[masked], **more}
        if "region_target" in batch:
            region_target = batch["region_target"].numpy()
            selected = region_target != IGNORE
            found["regions"] = region_target[selected]
        places = list_places(masked, selected, first)
        batch["predicted"] = {"places": as_tensors(places), **as_tensors(found)}

    def _add_regions(self, batch: dict, examples: Examples) -> dict[str, np.ndarray]:
        """Masked regions and their labels; returns what is predicted beside these."""
        regions, draw = examples.regions, examples.draw
        real = ~regions.padding
        target = np.full(real.shape, IGNORE)
        target[real] = np.where(draw.selected, regions.labels, IGNORE)
        mask = np.zeros(real.shape, dtype=bool)
        mask[real] = draw.masked
        more: dict[str, np.ndarray] = {}
        if self.needs.first:
            more["first"] = np.flatnonzero(regions.counts)
        partners = None
        if self.needs.mismatches:
            rows = self.regions.line_rows[self.lines(examples.ids)]
            partners = draw_partners(rows, regions.counts, self._seeds(examples.ids))
            matched = partners == np.arange(len(partners))
            target[~matched] = IGNORE
            batch["target"][torch.from_numpy(~matched)] = self.pad
            more["matched"] = matched[regions.counts > 0]
        more |= self._read_predicted(regions, target != IGNORE)
        if "soft_labels" in self.needs.reads:
            chosen = target[real] != IGNORE
            for name, values in self.regions.read_soft(self.lines(examples.ids))._asdict().items():
                if values is not None:
                    more[SOFT[name]] = values[chosen]
        replace_by_donors(regions.features, real, draw)
        if self.zero_masked_regions:
            regions.features[mask] = 0
            mask[:] = False
        if partners is not None:
            for values in (regions.features, regions.boxes, regions.padding, mask):
                values[~matched] = values[partners[~matched]]
        self.add_regions(batch, regions)
        batch["net_input"]["region_mask"] = torch.from_numpy(mask)
        batch["region_target"] = torch.from_numpy(target)
        return more

    def _read_predicted(self, regions: RegionsBatch, selected: np.ndarray) -> dict[str, np.ndarray]:
        """Of the selected regions, [B, R], what objectives read, as it is before anything is masked."""
        found = {}
        for name in sorted(self.needs.reads & {"boxes", "features"}):
            values = getattr(regions, name)
            found[name] = empty_batch((int(selected.sum()), values.shape[2]), values.dtype)
            np.compress(selected.reshape(-1), values.reshape(-1, values.shape[2]), axis=0, out=found[name])
        return found

    def num_tokens(self, index: int) -> int:
        """Cost of an example for ``--max-tokens``: words and regions."""
        return self._num_tokens[index]

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same for many examples."""
        return self._num_tokens[indices]

    def size(self, index: int) -> tuple[int, int]:
        """Tokens of each sentence, what ``max_positions`` limits."""
        return (self.src_sizes[index], 0 if self.tgt_sizes is None else self.tgt_sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Indices sorted by size; shuffled before in training, so that equal sizes mix."""
        indices = np.random.permutation(len(self)) if self.train else np.arange(len(self))
        return indices[np.argsort(self._num_tokens[indices], kind="stable")]

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes):
        """Indices of pairs whose sentences both fit, and a list of the others."""
        return data_utils.filter_paired_dataset_indices_by_size(self.src_sizes, self.tgt_sizes, indices, max_sizes)


def replace_by_donors(features: np.ndarray, real: np.ndarray, draw: RegionDraw) -> None:
    """Give each random region the features of a real region of the batch, in place; boxes stay.

    Args:
        features: B x R x D, replaced in place; donors are read before any replacement.
        real: B x R, False at padding.
        draw: of the real regions, row-major; the donor's place among them is ``donor`` x their number.
    """
    wanted = np.flatnonzero(draw.random)
    if len(wanted):
        image, place = np.nonzero(real)
        donors = (draw.donor[wanted] * len(image)).astype(np.int64)
        features[image[wanted], place[wanted]] = features[image[donors], place[donors]]
