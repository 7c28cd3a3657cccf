"""Strategies of masking regions, by name (``--region-masking``); one of your own registers from a ``--user-dir``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.data.caption_words import ClassNames
from vtlm_fairseq.data.masking import REGIONS, MaskingRates, RegionDraw, Seeds, cut, draw_regions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.registry import Registry


class Image(NamedTuple):
    """What a strategy sees of an example. Features are not among it: they may be on another device.

    Attributes:
        labels: [R] int64, classes of the regions, best score first; R is at least 1.
        boxes: [R, 4] float32, x1, y1, x2, y2 within 0..1.
        scores: [R] float32; [0] where the strategy does not read them.
        tokens: [T] int64, ``</s> s </s> </s> t </s>``.
        epoch: from 1; 0 in validation.
    """

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    tokens: np.ndarray
    epoch: int


@dataclass
class Images(Sequence[Image]):
    """B examples; their regions stand one behind the other, and so do their tokens.

    Attributes:
        counts: [B] regions of each.
        labels: [n], n the sum of counts.
        boxes: [B, at least R, 4].
        scores: [n], or [0] where they are not read.
        lengths: [B] tokens of each.
        tokens: [m], m the sum of lengths.
        epoch: of all.
    """

    counts: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    lengths: np.ndarray
    tokens: np.ndarray
    epoch: int

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, place: int) -> Image:
        count = self.counts[place]
        scores = cut(self.counts, self.scores, place) if len(self.scores) else self.scores
        tokens = cut(self.lengths, self.tokens, place)
        return Image(cut(self.counts, self.labels, place), self.boxes[place, :count], scores, tokens, self.epoch)


class RegionMasking:
    """Base of the strategies.

    Args:
        option: gives the value of an option of the task by its field's name; not to be kept, workers get a copy of
            what is.
        names: words that name classes of regions; None where it does not read them.
    """

    reads_scores = False
    """Whether it needs the detector's scores, which are read for no other."""
    reads_names = False
    """Whether it needs ``names``."""

    def __init__(self, option: Callable[[str], Any] | None = None, names: ClassNames | None = None) -> None:
        self.names = names

    def draw(self, image: Image, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
        """What happens to the regions of an example; those that are hidden need not be predicted.

        It depends on the example, the shares of its epoch and its generator, which seed, epoch and number of the
        example make, and on nothing else; the example's arrays stay as they are.
        """
        raise NotImplementedError

    @staticmethod
    def predict(selected: np.ndarray, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
        """Predict these regions, [R] bool; each is masked, kept or replaced in the shares of the options."""
        kind, donor = rng.random((2, len(selected)))
        return _made(rates.kinds(selected, kind), donor)

    def draw_all(self, images: Images, rates: MaskingRates, seeds: Seeds) -> RegionDraw:
        """What `draw` gives for some examples, one behind the other.

        Raises:
            VTLMError: it gives too many or too few values, or a donor that is none.
        """
        made = [[np.zeros(0, dtype=bool)] * 3 + [np.zeros(0)]]
        for place, index in enumerate(seeds.indices):
            count = int(images.counts[place])
            if count:
                drawn = self.draw(images[place], rates, seeds.generator(REGIONS, place))
                made.append(self._checked(list(map(np.asarray, drawn)), count, index))
        return RegionDraw(*map(np.concatenate, zip(*made, strict=True)))

    def _checked(self, drawn: list[np.ndarray], count: int, index: int) -> list[np.ndarray]:
        who = f"--region-masking: {type(self).__name__}.draw"
        if len(drawn) != 4 or any(values.shape != (count,) for values in drawn):
            raise VTLMError(
                f"{who} gives {' and '.join(str(values.size) for values in drawn)} values for the {count} regions "
                f"of pair {index + 1}; give selected, masked, random and donor of as many"
            )
        selected, masked, random, donor = drawn
        if any(values.dtype != bool for values in (selected, masked, random)) or (masked & random).any():
            raise VTLMError(
                f"{who}: selected, masked and random must be boolean, and no region both masked and random "
                f"(pair {index + 1})"
            )
        if not ((donor >= 0) & (donor < 1)).all():
            raise VTLMError(f"{who} gives a donor outside of [0, 1) (pair {index + 1})")
        return drawn


def _made(drawn: tuple[np.ndarray, np.ndarray, np.ndarray], donor: np.ndarray) -> RegionDraw:
    return RegionDraw(*drawn, np.where(drawn[2], donor, 0))


_STRATEGIES = Registry("--region-masking", "strategies", "--user-dir can register your own")
register_region_masking = _STRATEGIES.register
"""Class decorator: makes a strategy known as ``--region-masking NAME``."""
get_region_masking = _STRATEGIES.get
"""The class of a strategy."""


@register_region_masking("random")
class RandomRegions(RegionMasking):
    """The paper's: each region by itself is predicted in share ``--region-mask-prob``."""

    def draw(self, image: Image, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
        """Three draws of R numbers each: whether, how, and the donor."""
        chance, kind, donor = rng.random((3, len(image.labels)))
        return _made(rates.split(chance, kind), donor)

    def draw_all(self, images: Images, rates: MaskingRates, seeds: Seeds) -> RegionDraw:
        """The same draws, of all examples at once."""
        if type(self).draw is not RandomRegions.draw:
            return super().draw_all(images, rates, seeds)
        return draw_regions(images.counts, rates=rates, seeds=seeds)


@register_region_masking("overlap")
class OverlappingRegions(RandomRegions):
    """What overlaps a predicted region is hidden too, so that nothing can be copied from a neighbour (12-in-1).

    Regions are selected as by ``random``, in share p, and those alone are predicted. With each of them, whatever
    becomes of itself, all others of IoU >= ``--region-mask-overlap`` are masked, also where they are selected and
    would be kept or replaced. Of a region that k others overlap this masks a share of 1 - (1 - p)^k (1 - p m), m being
    the share of predicted regions that ``random`` masks: more than p where boxes overlap.
    """

    def __init__(self, option: Callable[[str], Any], names: ClassNames | None = None) -> None:
        super().__init__(option, names)
        self.least = option("region_mask_overlap")

    def draw(self, image: Image, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
        """The draws of ``random``; then what overlaps is hidden."""
        selected, masked, random, donor = super().draw(image, rates, rng)
        near = intersection_over_union(image.boxes[selected], image.boxes) >= self.least
        near[np.arange(len(near)), np.flatnonzero(selected)] = False
        hidden = near.any(axis=0)
        return _made((selected, masked | hidden, random & ~hidden), donor)


@register_region_masking("siblings")
class SiblingRegions(RandomRegions):
    """All regions of a label together, so that a label that is predicted is seen on no other region.

    Each label of an image is selected in share p; all its regions are predicted then, and all are masked, or kept, or
    replaced (each by a donor of its own). So a region is predicted in share p, as by ``random``.
    """

    def draw(self, image: Image, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
        """Three draws of R numbers each; of the first two a region takes those of the first region of its label."""
        chance, kind, donor = rng.random((3, len(image.labels)))
        _, first, label = np.unique(image.labels, return_index=True, return_inverse=True)
        head = first[label]
        return _made(rates.split(chance[head], kind[head]), donor)


class PreferredRegions(RegionMasking):
    """Base of strategies that select as many regions of an image as ``random`` does, in share p, but others."""

    def keys(self, image: Image, chance: np.ndarray) -> np.ndarray:
        """[R]: the regions with the largest keys are selected; ``chance`` has a number within [0, 1) for each."""
        raise NotImplementedError

    def draw(self, image: Image, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
        """Four draws of R numbers each: those of ``random``, then which regions."""
        chance, kind, donor, which = rng.random((4, len(image.labels)))
        selected = np.zeros(len(chance), dtype=bool)
        count = np.count_nonzero(chance < rates.select)
        selected[np.argsort(-self.keys(image, which), kind="stable")[:count]] = True
        return _made(rates.kinds(selected, kind), donor)


@register_region_masking("salient")
class SalientRegions(PreferredRegions):
    """Large regions that the detector is sure of: drawn one after the other, in proportion to score x area.

    As many of an image are predicted as by ``random``, in share p of all; the first of them is a region in a share
    of its score x area over the sum of the image's (Efraimidis and Spirakis, "Weighted random sampling with a
    reservoir", 2006).
    """

    reads_scores = True

    def keys(self, image: Image, chance: np.ndarray) -> np.ndarray:
        """log(u) / weight, u within (0, 1]."""
        x1, y1, x2, y2 = image.boxes.T.astype(np.float64)
        weights = image.scores * (x2 - x1) * (y2 - y1)
        return np.log1p(-chance) / np.maximum(weights, 1e-12)


@register_region_masking("named")
class NamedRegions(PreferredRegions):
    """Regions whose class a caption of either language names come first, so that the text says what is hidden.

    As many of an image are predicted as by ``random``, in share p of all. They are drawn from the regions that are
    named, all alike, then from the others.
    """

    reads_names = True

    def keys(self, image: Image, chance: np.ndarray) -> np.ndarray:
        """Above 1 where it is named."""
        return chance + np.isin(image.labels, self.names.find(image.tokens)[:, 2])


def intersection_over_union(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[S, R] float64 of boxes [S, 4] with boxes [R, 4]; 0 between boxes without area."""
    x1, y1, x2, y2 = some.T.astype(np.float64)[:, :, None]
    left, top, right, bottom = others.T.astype(np.float64)
    width = np.minimum(x2, right) - np.maximum(x1, left)
    height = np.minimum(y2, bottom) - np.maximum(y1, top)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    both = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top)
    return common / np.maximum(both - common, 1e-12)
