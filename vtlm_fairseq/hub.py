"""Models from Python, raw text in and out: fill masked words of a pair, translate sentences.

Threads may share a model. Faults are exceptions (:class:`VTLMError`); logging levels, random numbers of numpy and the
like are left as the caller's program has them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from fairseq import utils
from fairseq.data import ListDataset

from vtlm_fairseq.compatibility import check_pretrained
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.names import check_path
from vtlm_fairseq.inference import TextModel, Translator, check_pairs
from vtlm_fairseq.ranges import COUNT, check_numbers
from vtlm_fairseq.text.subwords import MASK

CHECKPOINTS = ("checkpoint_best.pt", "checkpoint_last.pt")
"""What a folder stands for: the first of these that it holds."""

_NOTHING = MaskingRates(select=0.0, keep=0.0, random=0.0)


def find_checkpoint(path: str | os.PathLike[str]) -> str:
    """A checkpoint, or the one that a folder stands for.

    Raises:
        VTLMError: the folder holds neither of `CHECKPOINTS`, or this is no path.
    """
    path = check_path("path", path)
    if not os.path.isdir(path):
        return path
    for name in CHECKPOINTS:
        if os.path.isfile(os.path.join(path, name)):
            return os.path.join(path, name)
    raise VTLMError(f"{path}: holds neither {' nor '.join(CHECKPOINTS)}; name a checkpoint")


def find_checkpoints(paths: str) -> list[str]:
    """The checkpoints of an ensemble, colons between them; a folder stands for one as in `find_checkpoint`.

    Raises:
        VTLMError: a name is empty, has a colon itself, or is a folder without a checkpoint.
    """
    if ":" in paths and os.path.exists(paths):
        raise VTLMError(f"--path {paths}: a colon stands between the checkpoints of an ensemble; rename it without one")
    if not all(paths.split(":")):
        raise VTLMError(f"--path '{paths}': an empty name; give a checkpoint, a folder, or a.pt:b.pt")
    return [find_checkpoint(path) for path in paths.split(":")]


class VTLM(TextModel):
    """A pre-trained model (TLM or VTLM) that predicts masked words of sentence pairs.

    Args:
        path: checkpoint of task ``visual_translation_lm``.
        options: of :class:`vtlm_fairseq.inference.TextModel`.

    Attributes:
        model: the :class:`VTLMModel`, in evaluation mode.
        task: its task; ``task.source_dictionary`` is the joint dictionary.
        pipeline: its :class:`TextPipeline`, None with ``preprocessed``.
        store: the :class:`RegionStore`, or None.
    """

    kind = staticmethod(check_pretrained)

    def __init__(self, path: str, **options):
        super().__init__([path], **options)
        self.path = path
        self.model, self.dictionary = self.models[0], self.task.source_dictionary
        languages = self.task.langs.split(",")
        self._languages = (languages.index(self.source_lang), languages.index(self.target_lang))
        self._words = word_mask(self.dictionary)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        regions: str | os.PathLike[str] | None = "none",
        region_order: str | None = None,
        data: str | os.PathLike[str] | None = None,
        max_regions: int | None = None,
        preprocessed: bool = False,
        any_detector: bool = False,
        cpu: bool = False,
        user_dir: str | None = None,
    ) -> VTLM:
        """Load a checkpoint, or the best (else the last) one of a folder.

        Args:
            path: checkpoint or folder.
            regions: region store, where the model was trained with regions; None is ``none``, no store.
            region_order: ``given``; ``shuffle``: other images' regions; ``none``: no regions, and no store needed;
                None: as in training.
            data: folder with dictionaries and ``text.json``; None: the checkpoint's folder.
            max_regions: at most so many regions an image; None: as in training.
            preprocessed: sentences are words and sub-words already, separated by spaces.
            any_detector: the regions may be of another detector than the model's.
            cpu: do not use a GPU.
            user_dir: folder with classes of one's own, as in training; its code is run.

        Raises:
            VTLMError: a file is missing or unreadable, or does not fit the checkpoint, or the options contradict it.
        """
        return cls(
            find_checkpoint(path),
            regions=regions,
            region_order=region_order,
            data=data,
            max_regions=max_regions,
            preprocessed=preprocessed,
            any_detector=any_detector,
            cpu=cpu,
            user_dir=user_dir,
        )

    @property
    def mask_idx(self) -> int:
        """Id of ``<mask>``."""
        return self.dictionary.index(MASK)

    def fill_mask(
        self, source: str, target: str | None = None, *, image: str | None = None, top: int = 5
    ) -> list[list[tuple[str, float]]]:
        """The most probable words for each ``<mask>`` of a pair, all predicted at once.

        Args:
            source: source sentence.
            target: its translation; None: the source sentence alone, of which the model saw none in training.
            image: id of the image in the region store; None: no regions.
            top: how many words.

        Returns:
            for each ``<mask>``, those of the source first: (word or sub-word, probability), best first.
            Probabilities are shares of the whole vocabulary; only real words are listed.

        Raises:
            VTLMError: no ``<mask>``, an image without a store, an unknown image, or too long a sentence.
        """
        if image is not None and self.store is None:
            raise VTLMError(f"image {image!r}: no region store; name one with regions=")
        check_numbers({"top": top}, {"top": COUNT})
        sides = [source] if target is None else [source, target]
        ids = [self.encode(text, lang) for text, lang in zip(sides, (self.source_lang, self.target_lang), strict=False)]
        if not any((side == self.mask_idx).any() for side in ids):
            raise VTLMError(f"no {MASK} in the text; write it in place of a word")
        regions = None if image is None else self.line_regions([image], ["fill_mask"])
        ((_, log_probs),) = self.predict(ids[:1], ids[1:] or [None], regions=regions)
        log_probs[:, ~torch.from_numpy(self._words)] = -torch.inf
        values, words = log_probs.topk(min(top, int(self._words.sum())), dim=1)
        return [
            [(self.dictionary[word], float(np.exp(value))) for word, value in zip(*row, strict=True)]
            for row in zip(words.tolist(), values.tolist(), strict=True)
        ]

    def encode(self, sentence: str, lang: str) -> torch.Tensor:
        """Ids of a sentence, ending in ``</s>``, [n] int64."""
        return self.ids(sentence, lang)

    def predict(
        self,
        sources: Sequence[torch.Tensor],
        targets: Sequence[torch.Tensor | None],
        *,
        regions: LineRegions | None = None,
        batch_size: int = 64,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """Log-probabilities at every ``<mask>`` of N pairs, in batches of similar length, regions fully visible.

        Args:
            sources: [n] int64 each, ending in ``</s>``, with ``<mask>`` where words are predicted.
            targets: the same; None for a source sentence alone.
            regions: regions of the N lines; None: no regions (which is also how a model with regions is asked
                without its image).
            batch_size: pairs at once.

        Yields:
            number of a pair, and natural-log probabilities [masks, V] on the CPU, the source's masks first; each
            pair once, not in order.

        Raises:
            VTLMError: a sentence is too long, an image has values that are not finite, or there are not as many
                sources, targets and lines of regions.
        """
        check_pairs(sources, targets, regions, alone=True, batch_size=batch_size)
        limit = self.model.max_positions()[0] - 1  # the dataset adds the leading </s>
        for number, side in ((i, s) for i, pair in enumerate(zip(sources, targets, strict=True)) for s in pair):
            if side is not None and len(side) > limit:
                raise VTLMError(
                    f"pair {number + 1} has {len(side)} tokens, the model takes {limit}; split the sentence"
                )
        empty = torch.zeros(0, dtype=torch.long)
        dataset = TranslationLMDataset(
            _indexed(sources),
            _indexed([empty if target is None else target for target in targets]),
            self.dictionary,
            languages=self._languages,
            word_rates=_NOTHING,
            region_rates=_NOTHING,
            words=self._words,
            regions=regions,
        )
        order = dataset.ordered_indices()
        for start in range(0, len(order), batch_size):
            items = [dataset[i] for i in order[start : start + batch_size]]
            if fault := dataset.first_fault(items):
                raise VTLMError(fault)
            for item in items:
                if targets[item["id"]] is None:  # without the lone </s> that an empty target would begin with
                    item.update({key: item[key][:-1] for key in ("tokens", "target", "positions", "langs")})
            batch = dataset.collater(items)
            net_input = utils.move_to_cuda(batch["net_input"]) if self.cuda else batch["net_input"]
            masked = net_input["src_tokens"] == self.mask_idx
            selected = None if regions is None else torch.zeros_like(net_input["region_padding_mask"])
            with torch.no_grad():
                logits, _ = self.model(**net_input, masked_tokens=masked, selected_regions=selected)
            log_probs = torch.log_softmax(logits.float(), dim=-1).cpu()
            yield from zip(batch["id"].tolist(), log_probs.split(masked.sum(1).tolist()), strict=True)


class MultimodalTransformer(Translator):
    """A translation model (NMT or MMT) that takes and gives raw text.

    The registered fairseq model of the same name is another class; it is in ``.models``.
    """

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **options) -> MultimodalTransformer:
        """Load a checkpoint, or the best (else the last) one of a folder.

        Args:
            path: checkpoint or folder.
            options: ``regions``, ``region_order``, ``data``, ``max_regions``, ``preprocessed``, ``any_detector``,
                ``cpu`` and ``user_dir``, as of :meth:`VTLM.from_pretrained`.

        Raises:
            VTLMError: a file is missing or unreadable, or does not fit the checkpoint, or the options contradict it.
        """
        return cls([find_checkpoint(path)], **options)

    def encode_target(self, sentence: str) -> torch.Tensor:
        """Ids of a sentence of the target language, ending in ``</s>``, [n] int64."""
        return self.ids(sentence, self.target_lang)

    def translate(
        self, sentences: Sequence[str], images: Sequence[str] | None = None, *, detokenize: bool = True, **search
    ) -> list[str]:
        """Translate sentences, in order.

        Args:
            sentences: raw text; an empty one gives an empty translation.
            images: image id of each sentence, where the model has regions.
            detokenize: give running text; else tokens separated by spaces.
            search: ``beam``, ``lenpen``, ``max_len_a``, ``max_len_b``, ``batch_size`` (see
                :meth:`Translator.translate`).

        Raises:
            VTLMError: images are missing or unknown, or a sentence is too long (names the line).
        """
        return super().translate(sentences, images, detokenize=detokenize and self.pipeline is not None, **search)


def _indexed(lines: Sequence[torch.Tensor]) -> ListDataset:
    return ListDataset(list(lines), np.array([len(line) for line in lines]))
