"""Sentence pairs with regions, masked for pre-training (paper, sections 2.1 and 2.2)."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from fairseq.data import data_utils

from vtlm_fairseq.data.batching import FAULT, CaptionsDataset
from vtlm_fairseq.data.line_regions import LineRegions, RegionsBatch, collate_regions
from vtlm_fairseq.data.masking import MaskingRates, RegionDraw, Seeds, cut, draw_regions, side_by_side
from vtlm_fairseq.data.noun_table import NounTable
from vtlm_fairseq.data.predictions import predicted_places
from vtlm_fairseq.data.shared import send_small_by_value
from vtlm_fairseq.data.word_masking import Pair, RandomWords, Symbols, WordMasking
from vtlm_fairseq.text.subwords import MASK

IGNORE = -1  # region target of a region that is not predicted
_NONE = np.zeros((0, 4), dtype=np.int64)


class TranslationLMDataset(CaptionsDataset):
    """``</s> s </s> </s> t </s>``, positions restarting at 0 for t, and the regions of the image.

    Args:
        source, target: indexed datasets of token ids ending in ``</s>``; same length.
        dictionary: joint dictionary that holds ``<mask>``.
        languages: rows of source and target language.
        word_rates, region_rates: masking.
        words: [V] bool, True at real words (they may be masked, and random words are drawn from them).
        word_masking: makes the strategy of masking words from symbols and rates.
        nouns: aligned nouns by line, where the strategy reads them.
        regions: regions by line, or None for TLM.
        zero_masked_regions: set masked features to 0 instead of replacing them by the ``<mask>`` embedding.
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
        languages: tuple[int, int],
        word_rates: MaskingRates,
        region_rates: MaskingRates,
        words: np.ndarray,
        word_masking: Callable[[Symbols, MaskingRates], WordMasking] = RandomWords,
        nouns: NounTable | None = None,
        regions: LineRegions | None = None,
        zero_masked_regions: bool = False,
        seed: int = 1,
        train: bool = False,
        pad_to_multiple: int = 1,
    ):
        self.source = source
        self.target = target
        self.dictionary = dictionary
        self.languages = languages
        self.region_rates = region_rates
        self.is_word = words
        self.nouns = nouns
        self.regions = regions
        self.zero_masked_regions = zero_masked_regions
        self.seed = seed
        self.train = train
        self.pad_to_multiple = pad_to_multiple
        self.epoch = 1
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.mask_idx = dictionary.index(MASK)
        self.word_masking = word_masking(Symbols(self.mask_idx, self.pad, np.flatnonzero(words)), word_rates)
        self.src_sizes = np.asarray(source.sizes) + 1  # with the leading </s>
        self.tgt_sizes = np.asarray(target.sizes) + 1
        self._num_tokens = self.src_sizes + self.tgt_sizes + self.region_counts()

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

    def __getitem__(self, index: int) -> dict:
        """One masked example: arrays ``tokens``, ``target``, ``positions``, ``langs`` [T]; with regions ``regions``
        (:class:`Regions`) and ``draw`` (:class:`RegionDraw`)."""
        return self._examples([int(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> "Examples":
        """Some examples, which PyTorch's loader asks for together, for `collater`; without scores of regions."""
        indices = [int(index) for index in indices]
        if not indices:  # of a rank that has no batch left
            return Examples([], None)
        room = None if self.regions is None else RegionsBatch(self.regions, indices)
        return Examples(self._examples(indices, room), room)

    def _examples(self, indices: list[int], room: RegionsBatch | None = None) -> list[dict]:
        """Items of examples; their arrays are views of common ones, and of the room for their regions.

        All that is drawn and looked up is so for all of them at once.
        """
        sides = [side[index].numpy() for index in indices for side in (self.source, self.target)]
        lengths = np.array([len(side) + 1 for side in sides])
        _, positions = side_by_side(lengths)
        tokens = np.full(len(positions), self.eos)
        tokens[positions > 0] = np.concatenate(sides)
        langs = np.repeat(np.tile(self.languages, len(indices)), lengths)
        ends = np.cumsum(lengths)[1::2].tolist()
        columns = [cut(ends, one) for one in (tokens, self.is_word[tokens], positions, langs)]
        items, pairs = [], []
        for k, (index, words, maskable, places, rows) in enumerate(zip(indices, *columns, strict=True)):
            item = {"id": index, "positions": places, "langs": rows}
            self.read_regions(index, item, None if room is None else partial(room.read, k))
            labels = item["regions"].labels if "regions" in item else _NONE[:, 0]
            nouns = self._noun_places(index, *lengths[2 * k : 2 * k + 2])
            items.append(item)
            pairs.append(Pair(words, maskable, labels, nouns))
        seeds = Seeds(self.seed, self.epoch if self.train else 0, indices)
        for item, masked in zip(items, self.word_masking.mask_all(pairs, seeds), strict=True):
            item["tokens"], item["target"] = masked
        counts = [len(item["regions"].labels) if "regions" in item else 0 for item in items]
        if self.regions is not None:
            for item, draw in zip(items, draw_regions(counts, rates=self.region_rates, seeds=seeds), strict=True):
                if "regions" in item:
                    item["draw"] = draw
        return items

    def _noun_places(self, index: int, source: int, target: int) -> np.ndarray:
        """[P, 4] places of aligned nouns in the pair of two sentences, ``</s>`` before and behind each included."""
        if self.nouns is None:
            return _NONE
        spans = self.nouns[index]
        whole = (spans[:, 1] < source - 1) & (spans[:, 3] < target - 1)  # a long source may have been cut
        return spans[whole] + [1, 1, source + 1, source + 1]

    def collater(self, samples: list[dict]) -> dict:
        """Batch of B examples; ``{}`` for none (fairseq's dummy batches).

        ``net_input``: ``src_tokens positions langs`` B x T, ``src_lengths`` B, with regions ``features`` B x R x D,
        ``boxes`` B x R x 4, ``region_padding_mask region_mask`` B x R; ``padded``, whether there is any padding.
        Beside it ``target`` B x T (padding where nothing is predicted), ``region_target`` B x R (-1 where nothing is
        predicted), the same as lists in ``predicted`` (``words`` [n], ``regions`` [m], and their ``places``, see
        :func:`~vtlm_fairseq.data.predictions.predicted_places`), ``id``, ``ntokens``, ``nsentences``.
        """
        if not samples:
            return {}

        lengths = np.array([len(item["tokens"]) for item in samples])
        width = -(-int(lengths.max()) // self.pad_to_multiple) * self.pad_to_multiple
        rows, places = side_by_side(lengths)

        def pad(key: str, value: int) -> torch.Tensor:
            padded = np.full((len(samples), width), value)
            padded[rows, places] = np.concatenate([item[key] for item in samples])
            return torch.from_numpy(padded)

        batch = {
            "id": torch.tensor([item["id"] for item in samples]),
            "nsentences": len(samples),
            "ntokens": int(lengths.sum()),
            "target": pad("target", self.pad),
            "net_input": {
                "src_tokens": pad("tokens", self.pad),
                "src_lengths": torch.from_numpy(lengths),
                "positions": pad("positions", 0),
                "langs": pad("langs", self.languages[0]),
            },
        }
        fault = self.first_fault(samples)
        if fault is not None:
            batch[FAULT] = fault
        elif self.regions is not None:
            self._add_regions(batch, samples)
        self._add_predicted(batch)
        self.say_padding(batch["net_input"])
        return send_small_by_value(batch)

    def _add_predicted(self, batch: dict) -> None:
        target, region_target = batch["target"], batch.get("region_target")
        masked = target.ne(self.pad)
        selected = None if region_target is None else region_target.ne(IGNORE)
        batch["predicted"] = {"places": predicted_places(masked, selected), "words": target[masked]}
        if selected is not None:
            batch["predicted"]["regions"] = region_target[selected]

    def _add_regions(self, batch: dict, samples: list[dict]) -> None:
        regions = [s["regions"] for s in samples]
        draws = [s["draw"] for s in samples]
        room = samples.room if isinstance(samples, Examples) else None
        collated = collate_regions(regions) if room is None else room.collated()
        features, padding = collated["features"], collated["region_padding_mask"]
        labels, selected, masked = (
            np.concatenate(parts)
            for parts in ([one.labels for one in regions], [d.selected for d in draws], [d.masked for d in draws])
        )
        real = ~padding
        target = torch.full(padding.shape, IGNORE)
        target[real] = torch.from_numpy(np.where(selected, labels, IGNORE))
        mask = torch.zeros(padding.shape, dtype=torch.bool)
        mask[real] = torch.from_numpy(masked)
        replace_by_donors(features, padding, draws)
        if self.zero_masked_regions:
            features[mask] = 0
            mask = torch.zeros_like(mask)
        batch["net_input"].update(collated, region_mask=mask)
        batch["region_target"] = target

    def num_tokens(self, index: int) -> int:
        """Cost of an example for ``--max-tokens``: words and regions."""
        return self._num_tokens[index]

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same for many examples."""
        return self._num_tokens[indices]

    def size(self, index: int) -> tuple[int, int]:
        """Tokens of each sentence, what ``max_positions`` limits."""
        return (self.src_sizes[index], self.tgt_sizes[index])

    def ordered_indices(self) -> np.ndarray:
        """Indices sorted by size; shuffled before in training, so that equal sizes mix."""
        indices = np.random.permutation(len(self)) if self.train else np.arange(len(self))
        return indices[np.argsort(self._num_tokens[indices], kind="stable")]

    def filter_indices_by_size(self, indices: np.ndarray, max_sizes):
        """Indices of pairs whose sentences both fit, and a list of the others."""
        return data_utils.filter_paired_dataset_indices_by_size(self.src_sizes, self.tgt_sizes, indices, max_sizes)


class Examples(list):
    """Items of a batch, and the arrays that their regions lie in; None: each has its own.

    Args:
        items: as :class:`TranslationLMDataset` gives them.
        room: of their regions.
    """

    def __init__(self, items: list[dict], room: RegionsBatch | None) -> None:
        super().__init__(items)
        self.room = room


def replace_by_donors(features: torch.Tensor, padding: torch.Tensor, draws: list[RegionDraw]) -> None:
    """Give each random region the features of a real region of the batch, in place; boxes stay.

    Args:
        features: B x R x D, replaced in place; donors are read before any replacement.
        padding: B x R, True at padding.
        draws: the examples' draws; the donor's place among the batch's real regions is ``donor`` x their number.
    """
    image, place = torch.nonzero(~padding, as_tuple=True)  # real regions, row-major, as the draws are
    wanted = torch.from_numpy(np.flatnonzero(np.concatenate([draw.random for draw in draws])))
    if len(wanted):
        donor = torch.from_numpy(np.concatenate([draw.donor for draw in draws]))[wanted]
        donors = (donor * len(image)).long()
        features[image[wanted], place[wanted]] = features[image[donors], place[donors]]
