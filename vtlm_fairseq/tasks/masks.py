"""Strategies of masking for a split: what they need, and what they make of it, which is said when it is loaded."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from fairseq.data import LanguagePairDataset

from vtlm_fairseq.data import whole_words  # noqa: F401  (registers its strategies)
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.caption_words import CaptionWords, ClassNames, names_of_store
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.region_masking import RandomRegions, RegionMasking, get_region_masking
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.data.word_masking import RandomWords, Symbols, WordMasking
from vtlm_fairseq.data.word_mixture import WordChoice
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.models.description import DECISIONS, given
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.pipeline import bpe_kind

logger = get_logger(__name__)

_SAMPLE = 256  # pairs
_CAPTIONS = 2000  # pairs in which class names are looked for


@dataclass(frozen=True)
class Strategies:
    """Those of a task for a split.

    Attributes:
        task: whose options say which.
        words: of words.
        regions: of regions.
        text, names: what they read of captions; None where they do not.
    """

    task: Any
    words: WordChoice
    regions: type[RegionMasking]
    text: CaptionWords | None = None
    names: ClassNames | None = None

    @classmethod
    def load(
        cls, task: Any, split: str, folder: str, pair: LanguagePairDataset, regions: LineRegions | None
    ) -> "Strategies":
        """Read what they need.

        Raises:
            VTLMError: one is not known, or what it needs is missing.
        """
        words = WordChoice.parse(task.option("word_masking"))
        made = cls(task, words, get_region_masking(task.option("region_masking")))
        named = "--word-masking" if words.reads("reads_names") else None
        if named and regions is None:
            raise VTLMError(
                f"{named} {task.option('word_masking')}: words that name a region, and there are none; name a store "
                "with --regions"
            )
        if made.regions.reads_names and regions is not None:
            named = "--region-masking"
        if named or words.reads("reads_words"):
            symbols = task.source_dictionary.symbols
            made = replace(made, text=CaptionWords(symbols, bpe_kind(folder, symbols)))
        if named:
            made = replace(made, names=names_of_store(made.text, regions.store, task.cfg.class_lexicon))
            if split == task.cfg.train_subset and task.cfg.regions != "none":
                check_named(made.names, pair, f"{named} ({task.named(split)})", regions)
        if split == task.cfg.train_subset:
            made.warn_of_idle(regions is not None)
        return made

    def warn_of_idle(self, has_regions: bool) -> None:
        """Name options of this command that change nothing."""
        if not has_regions:
            for name in ("region_masking", "region_mask_overlap", "region_mask_schedule"):
                if (value := given(self.task.cfg, name)) not in (None, DECISIONS[name].default):
                    flag = "--" + name.replace("_", "-")
                    logger.warning("%s %s changes nothing without --regions: no regions are masked", flag, value)
        if (lexicon := self.task.cfg.class_lexicon) and self.names is None:
            logger.warning(
                "--class-lexicon %s changes nothing: neither --word-masking %s nor --region-masking %s reads names of "
                "classes; named does", lexicon, self.task.option("word_masking"), self.task.option("region_masking")
            )  # fmt: skip

    def make_words(self, symbols: Symbols, rates: MaskingRates) -> WordMasking:
        """The strategy of words."""
        return self.words.make(symbols._replace(text=self.text, names=self.names), rates, self.task.option)

    def make_regions(self) -> RegionMasking:
        """The strategy of regions."""
        return self.regions(self.task.option, self.names)


def check_named(names: ClassNames, pair: LanguagePairDataset, where: str, regions: LineRegions) -> None:
    """Say how many captions name a class.

    Raises:
        VTLMError: of a sample none does.
    """
    lines = _evenly(len(pair), _CAPTIONS)
    sides = {"source": pair.src} | ({} if pair.tgt is None else {"target": pair.tgt})
    hits = {name: [len(names.find(side[line].numpy())) > 0 for line in lines] for name, side in sides.items()}
    first = ", ".join(regions.store.class_names[:3])
    if lines and not any(map(any, hits.values())):
        raise VTLMError(
            f"{where}: of {len(hits) * len(lines)} captions none names a class of "
            f"{', '.join(regions.store.paths)} ({first}, ...); give words that do with --class-lexicon, or take "
            "another strategy"
        )
    shares = [
        f"{100 * np.mean(found) if lines else 0:.0f} % name a class in the {name}" for name, found in hits.items()
    ]
    logger.info("%s: of %d lines %s", where, len(lines), ", ".join(shares))


def tell_masks(dataset: TranslationLMDataset, split: str) -> None:
    """Log the shares of a sample of a split, where the strategies are not the paper's.

    Raises:
        VTLMError: a strategy fails, or regions cannot be read.
    """
    regions = dataset.regions is not None and type(dataset.region_masking) is not RandomRegions
    if not len(dataset) or not regions and type(dataset.word_masking) is RandomWords:
        return
    lines = _evenly(len(dataset), _SAMPLE)
    items = [dataset[line] for line in lines]
    for item in items:
        if FAULT in item:
            raise VTLMError(item[FAULT])
    said = [f"{_share([item['target'] != dataset.pad for item in items])} of all tokens are predicted"]
    if dataset.regions is not None:
        draws = [item["draw"] for item in items]
        predicted, masked = (_share([getattr(draw, name) for draw in draws]) for name in ("selected", "masked"))
        said.append(f"{predicted} of the regions are predicted, {masked} masked")
    logger.info("%s: in a sample of %d pairs %s", split, len(lines), "; ".join(said))
    if regions and dataset.region_masking.reads_scores:
        scores = dataset.regions.read(lines, scores=True).scores
        if len(scores) > 1 and (scores == scores[0]).all():
            logger.warning(
                "%s: all scores are equal in %s, as of a grid or where none were given: --region-masking has nothing "
                "but the boxes to go by", split, ", ".join(dataset.regions.store.paths),
            )  # fmt: skip


def _evenly(count: int, most: int) -> list[int]:
    """At most so many of ``count`` lines."""
    return np.linspace(0, count - 1, min(most, count)).astype(int).tolist()


def _share(chosen: list[np.ndarray]) -> str:
    every = np.concatenate(chosen)
    return f"{100 * every.mean() if len(every) else 0:.1f} %"
