"""``--lang-pairs``: a pre-training on several corpora, each of which the task sees as if it were the only one."""

import copy
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional

import numpy as np
import torch

from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.data.corpora import Corpus, read_corpora
from vtlm_fairseq.data.corpora_dataset import CORPUS, CorporaDataset
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.models.description import given
from vtlm_fairseq.options import setting
from vtlm_fairseq.ranges import Range, check_ranges
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.tasks.acceleration import length_multiple
from vtlm_fairseq.tasks.options import CaptionsConfig
from vtlm_fairseq.tasks.readings import as_numbers
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

_SEEDS = 1_000_003  # between the seeds of corpora


@dataclass
class LangPairsConfig(CaptionsConfig):
    """Options of a training on several corpora."""

    lang_pairs: Optional[str] = setting(
        None,
        "corpora, comma-separated: pairs such as en-de,en-fr, or a language alone for captions of one language; DATA "
        "has a folder for each, a:b:c in their order, or holds a folder of each one's name, or all of them, and so has "
        "--regions (none: a corpus without images)",
    )
    sampling_temperature: float = setting(
        1.0, "T of --lang-pairs: examples of a corpus of n in an epoch are as n^(1/T); 1: each example once"
    )


class LangPairs:
    """Mixin in front of :class:`CaptionsTask`."""

    corpus: Corpus | None = None
    """In a view, its corpus."""
    label: str = ""
    """In a view other than the first, the name of its corpus."""
    whole: "LangPairs"
    """In a view, the task of all corpora."""

    @classmethod
    def read_corpora(cls, cfg, *, from_checkpoint: bool) -> list[Corpus]:
        """With ``--lang-pairs`` several; ``source_lang`` and ``target_lang`` are then those of the first pair.

        Raises:
            VTLMError: options and folders do not fit together.
        """
        if given(cfg, "lang_pairs") is None:
            return super().read_corpora(cfg, from_checkpoint=from_checkpoint)
        check_ranges(cfg, {"sampling_temperature": Range(0, above=True)})
        corpora = read_corpora(cfg.lang_pairs, cfg.data, cfg.regions)
        first = next((one for one in corpora if len(one.languages) == 2), corpora[0])
        asked, pair = (cfg.source_lang, cfg.target_lang), (first.languages[0], first.languages[-1])
        if not from_checkpoint and asked not in ((None, None), pair):
            raise VTLMError("--lang-pairs names the languages; leave -s and -t out")
        cfg.source_lang, cfg.target_lang = pair
        if all(one.regions == "none" for one in corpora):
            cfg.regions = "none"
        return corpora

    @cached_property
    def corpora(self) -> list[Corpus]:
        """With ``--lang-pairs``; else none."""
        if given(self.cfg, "lang_pairs") is None:
            return []
        return read_corpora(self.cfg.lang_pairs, self.cfg.data, self.cfg.regions)

    def languages(self) -> tuple[str, ...]:
        """Of all corpora."""
        if self.corpus is not None:
            return self.corpus.languages
        return tuple(dict.fromkeys(lang for one in self.corpora for lang in one.languages)) or super().languages()

    def pair_hint(self) -> str:
        """As the parent task's; ``--lang-pairs`` where there are several corpora."""
        if not self.corpora:
            return super().pair_hint()
        return (
            "see --lang-pairs; for further languages choose another --save-dir and begin with --pretrained and --langs"
        )

    def named(self, split: str) -> str:
        """A split in messages, and of which of several corpora."""
        return split if self.corpus is None or len(self.whole.corpora) < 2 else f"{split} of {self.corpus.name}"

    def views(self) -> list["LangPairs"]:
        """This task as that of each corpus by itself."""
        return [self._view(place) for place in range(len(self.corpora))] or [self]

    def _view(self, place: int) -> "LangPairs":
        _ = self.files, self.region_tables, self.doubts  # which all views share
        view, corpus = copy.copy(self), self.corpora[place]
        view.cfg, view.corpus, view.corpora = copy.copy(self.cfg), corpus, []
        view.label, view.whole = corpus.name if place else "", self
        view.langs = self.langs or self.cfg.langs or self.default_langs()
        view.cfg.data, view.cfg.regions, view.cfg.lang_pairs = corpus.folder, corpus.regions, None
        view.cfg.source_lang, view.cfg.target_lang = corpus.source, corpus.target
        view.cfg.seed = (self.cfg.seed + place * _SEEDS) % 2**32  # the same lines have other masks
        view.cfg.regions_on_device = self.cfg.regions_on_device and corpus.regions != "none"
        return view

    def open_store(self, split: str | None, parts=()) -> RegionStore:
        """As the parent task's; of several corpora the first one's that has regions."""
        for view in self.views():
            if view is self:
                return super().open_store(split, parts)
            if view.cfg.regions != "none":
                return view.open_store(split, parts)
        raise VTLMError("--regions none: there is no store")

    def hidden_regions(self, lines: int) -> LineRegions | None:
        """Of a corpus without images beside others with regions: no line has any, else batches are as theirs."""
        if self.corpus is None or self.whole.cfg.regions == "none":
            return None
        store = self.whole.open_store(self.cfg.train_subset)
        return LineRegions(
            store, np.zeros(lines, dtype=np.int64), order="none", seed=0, split=self.corpus.name,
            pad_to_multiple=length_multiple(self.cfg),
        )  # fmt: skip

    def load_corpora(self, split: str, *, epoch: int, combine: bool) -> CorporaDataset:
        """All corpora of a split; those without one do not validate.

        Raises:
            VTLMError: none has it, or one lacks the split that trains; or as `make_dataset`.
        """
        train, found = split == self.cfg.train_subset, {}
        for view in self.views():
            one = view.corpus
            if not train and not view.has_split(one.folder, split):
                logger.warning("%s: %s has no such split, it is left out", split, one.name)
                continue
            images = os.path.join(one.folder, f"{split}.images")
            if one.regions != "none" and not os.path.isfile(images):
                stores = ":".join("none" if other is one else other.regions for other in self.corpora)
                raise VTLMError(
                    f"{images}: no such file; it holds the image id of each line (a corpus without images: "
                    f"--regions {stores})"
                )
            logger.info("%s: %s from %s", split, one.name, one.folder)
            found[one.name] = view.make_dataset(split, epoch=epoch, combine=combine)
        if not found:
            raise VTLMError(
                f"no corpus of --lang-pairs {self.cfg.lang_pairs} has a split {split!r}; prepare one, name another "
                "with --valid-subset, or train with --disable-validation"
            )
        joined = CorporaDataset(found, temperature=self.cfg.sampling_temperature, seed=self.cfg.seed, train=train)
        if train:
            shares = zip(found, joined.shares.tolist(), map(len, found.values()), strict=True)
            logger.info(
                "%s: in an epoch %s",
                split,
                ", ".join(f"{share} of {name} ({size} lines)" for name, share, size in shares),
            )
            self.doubts.across(self.corpora, split)
        return joined

    def valid_step(self, sample, model, criterion):
        """As the parent task's; what is logged is logged of the batch's corpus, too."""
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        if self.corpora and isinstance(criterion, VTLMCriterion):
            own, figures = sample.get(CORPUS), dict(log)
            for one in self.corpora:  # all ranks sum the same names
                for name, value in figures.items():
                    log[_key(one, name)] = value if one.name == own else _nothing(value)
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        """As the parent task's, and the figures of each corpus under ``{corpus}:``."""
        if not self.corpora:
            super().reduce_metrics(logging_outputs, criterion)
            return
        of_all = [{name: value for name, value in log.items() if ":" not in name} for log in logging_outputs]
        super().reduce_metrics(of_all, criterion)
        if not isinstance(criterion, VTLMCriterion):
            return
        logs = as_numbers(logging_outputs)
        for one in self.corpora:
            start = _key(one, "")
            own = [
                {name.removeprefix(start): value for name, value in log.items() if name.startswith(start)}
                for log in logs
            ]
            if any(log.get("sample_size") for log in own):
                VTLMCriterion.reduce_metrics(own, prefix=start)


def _nothing(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, torch.Tensor) else 0


def _key(corpus: Corpus, name: str) -> str:
    return f"{corpus.name}:{name}"
