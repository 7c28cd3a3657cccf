"""Translate new sentences, with the regions of their images, from Python or ``vtlm-translate``."""

import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fairseq import utils
from fairseq.data import FairseqDataset
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks import FairseqTask

from vtlm_fairseq.compatibility import check_translates
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError, raise_instead_of_exit
from vtlm_fairseq.loading import load_for_inference
from vtlm_fairseq.ranges import COUNT, GENERATION, check_numbers
from vtlm_fairseq.user_dir import import_user_dir

LOG_2 = math.log(2)


@dataclass(frozen=True)
class Hypothesis:
    """A translation and its score.

    Attributes:
        text: the translation.
        score: sum of the log-probabilities of its tokens, to base 2, / tokens ** lenpen, as fairseq-generate prints it.
    """

    text: str
    score: float


class TextModel:
    """One model or an ensemble, its text pipeline and a region store. Threads may share one.

    Args:
        paths: checkpoints; several make an ensemble.
        user_dir: folder with classes of one's own, as in training; its code is run.
        options: ``data``, ``regions``, ``region_order``, ... of :func:`vtlm_fairseq.loading.load_for_inference`. With
            ``preprocessed`` sentences are words and sub-words already, separated by spaces, and so is the output.

    Raises:
        VTLMError: a file is missing or unreadable, or does not fit the checkpoint, or the options contradict it.
    """

    kind = None  # of its models, see :func:`vtlm_fairseq.loading.load_for_inference`

    def __init__(self, paths: Sequence[str], *, user_dir: str | None = None, **options):
        import_user_dir(user_dir)
        loaded = load_for_inference(paths, kind=self.kind, **options)
        self.models, self.task, self.config = loaded.models, loaded.task, loaded.config
        self.pipeline, self.store, self.cuda = loaded.pipeline, loaded.store, loaded.cuda
        self.max_positions = loaded.max_positions
        self.regions, self.region_order = self.task.cfg.regions, self.task.option("region_order")
        self.source_lang, self.target_lang = self.config["source_lang"], self.config["target_lang"]

    @property
    def needs_images(self) -> bool:
        """Whether every sentence needs an image id."""
        return self.store is not None and self.region_order != "none"

    def ids(self, sentence: str, lang: str) -> torch.Tensor:
        """Ids of a sentence of either language, ending in ``</s>``, [n] int64.

        Raises:
            VTLMError: it is not one line of text.
        """
        check_sentence(sentence)
        pieces = sentence if self.pipeline is None else self.pipeline.encode(sentence, lang)
        dictionary = self.task.source_dictionary  # joint
        return dictionary.encode_line(pieces, add_if_not_exist=False, append_eos=True).long()

    def line_regions(self, images: Sequence[str], lines: Sequence[int | str] = ()) -> LineRegions | None:
        """Regions of lines by image id; None if they are hidden or the model has none.

        Args:
            images: ids.
            lines: their numbers, or what to call them, where a message is to name the line of an unknown id.

        Raises:
            VTLMError: an image is not in the store.
        """
        return self._line_regions(listed("images", images), lines) if self.needs_images else None

    def _line_regions(self, images: list[str], lines: Sequence[int | str] = ()) -> LineRegions:
        seed, rows = self.task.validation_seed(), np.zeros(len(images), dtype=np.int64)
        if self.needs_images:
            rows = self.store.rows(images, again=True, lines=lines)
        regions = LineRegions(self.store, rows, order=self.region_order, seed=seed, split="translate")
        self.task.check_positions(regions, f"--regions {self.regions}")
        return regions


class Translator(TextModel):
    """A translation model, or an ensemble of them: checkpoints of ``multimodal_translation``."""

    kind = staticmethod(check_translates)

    def encode(self, sentence: str) -> torch.Tensor:
        """Ids of a sentence, ending in ``</s>``, [n] int64; cut where training cut sources."""
        return self.task.cut(self.ids(sentence, self.source_lang))

    @property
    def gives_text(self) -> bool:
        """Whether translations are running text where nobody says otherwise, as ``text.json`` has it."""
        return self.pipeline is not None and self.pipeline.gives_text

    def decode(self, tokens: torch.Tensor, *, detokenize: bool) -> str:
        """Text of a hypothesis."""
        pieces = self.task.target_dictionary.string(tokens)
        return pieces if self.pipeline is None else self.pipeline.decode(pieces, self.target_lang, detokenize)

    def translate(
        self,
        sentences: Sequence[str],
        images: Sequence[str] | None = None,
        *,
        beam: int = 8,
        lenpen: float = 1.0,
        max_len_a: float = 0.0,
        max_len_b: int = 200,
        batch_size: int = 32,
        detokenize: bool = False,
        first_line: int = 1,
    ) -> list[str]:
        """Translate sentences, in order; an empty one gives an empty translation.

        Args:
            sentences: raw text (or, with ``preprocessed``, sub-words).
            images: image id of each sentence, where the model has regions.
            beam, lenpen, max_len_a, max_len_b: as fairseq-generate's.
            batch_size: sentences decoded at once.
            detokenize: write running text instead of tokens.
            first_line: number of the first sentence, for messages.

        Raises:
            VTLMError: images are missing or unknown, hold values that are not finite, or a sentence is too long
                or not one line of text (names the line), or a number is none.
        """
        search = Namespace(beam=beam, lenpen=lenpen, max_len_a=max_len_a, max_len_b=max_len_b)
        check_numbers(vars(search), GENERATION)
        found = self.hypotheses(
            sentences, images, search=search, batch_size=batch_size, detokenize=detokenize, first_line=first_line
        )
        return [best.text for best, *_ in found]

    def hypotheses(
        self,
        sentences: Sequence[str],
        images: Sequence[str] | None = None,
        *,
        search: Namespace,
        nbest: int = 1,
        batch_size: int = 32,
        detokenize: bool = False,
        first_line: int = 1,
        source: str = "",
    ) -> list[list[Hypothesis]]:
        """The best hypotheses of each sentence, best first; of an empty one a single empty one with score 0.

        Args:
            search: ``beam`` and other options of fairseq-generate.
            nbest: at most so many a sentence, and at most ``beam``.
            sentences, images, batch_size, detokenize, first_line: as of :meth:`translate`.
            source: the file of the sentences, for messages.

        Raises:
            VTLMError: as :meth:`translate`.
        """
        check_numbers({"batch_size": batch_size}, {"batch_size": COUNT})
        sentences, images = listed("sentences", sentences), listed("images", () if images is None else images)
        if (self.needs_images or (images and self.store is not None)) and len(images) != len(sentences):
            raise VTLMError("this model translates with regions: give one image id for each sentence")
        places = [f"{source} line {first_line + i}".lstrip() for i in range(len(sentences))]
        for place, sentence in zip(places, sentences, strict=True):
            check_sentence(sentence, f"{place}: ")
        tokens = [self.encode(sentence) for sentence in sentences]
        limit = self.max_positions[0] - 1  # the dataset adds the leading </s>
        for place, ids in zip(places, tokens, strict=True):
            if len(ids) > limit:
                raise VTLMError(f"{place} has {len(ids)} tokens, the model takes {limit}; split the sentence")
        kept = [i for i, ids in enumerate(tokens) if len(ids) > 1]
        translations = [[Hypothesis("", 0.0)] for _ in sentences]
        if not kept:
            return translations
        regions = None
        if self.store is not None and images:
            regions = self._line_regions([images[i] for i in kept], [places[i] for i in kept])
        dataset = self.task.inference_dataset(
            [tokens[i] for i in kept], [len(tokens[i]) for i in kept], regions=regions
        )
        with raise_instead_of_exit():
            generator = self.task.build_generator(self.models, search)
        lines = torch.tensor(kept) + first_line - 1  # from 0, as those of a binarised text
        samples = (
            {**sample, "id": lines.to(sample["id"].device)[sample["id"]]}
            for sample in batches(dataset, batch_size, cuda=self.cuda)
        )
        for line, found in all_hypotheses(self.task, self.models, generator, samples):
            translations[line - first_line + 1] = [
                Hypothesis(self.decode(made["tokens"].int().cpu(), detokenize=detokenize), float(made["score"]) / LOG_2)
                for made in found[:nbest]
            ]
        return translations


def listed(name: str, values: Iterable) -> list:
    """What a caller gives as a list.

    Raises:
        VTLMError: it is one string, or none of several things.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise VTLMError(f"{name} takes a list, this is {values!r}; put it into a list")
    return list(values)


def check_sentence(sentence: str, where: str = "") -> None:
    """Check that a sentence is one line of text, as the lines of files are; it may have its line end.

    Raises:
        VTLMError: it is not.
    """
    if not isinstance(sentence, str):
        raise VTLMError(f"{where}{sentence!r} is of type {type(sentence).__name__}, a sentence must be text")
    try:
        sentence.encode()
    except UnicodeEncodeError:
        raise VTLMError(f"{where}{sentence!r} is not Unicode text; it holds half of a character") from None
    if set("\r\n") & set(sentence.removesuffix("\n").removesuffix("\r")):
        raise VTLMError(f"{where}{sentence!r} has a line end inside; give each line as a sentence, or remove it")


def check_pairs(
    sources: Sequence, targets: Sequence, regions: LineRegions | None, *, alone: bool = False, **counts: int
) -> None:
    """Check that what belongs to pairs is as long on each side, and that numbers such as ``batch_size`` are at least 1.

    Args:
        alone: a target may be None.

    Raises:
        VTLMError: so it is not, sentences are no tensors of ids, or the regions are of another type.
    """
    for name, side in (("sources", sources), ("targets", targets)):
        for line in listed(name, side):
            if line is None and alone and side is targets:
                continue
            if not isinstance(line, torch.Tensor) or line.dim() != 1:
                raise VTLMError(f"{name}: {line!r} is no sentence of ids; encode it first")
    if not isinstance(regions, LineRegions | None):
        raise VTLMError(f"regions={regions!r}: takes what line_regions(images) gives")
    lines = len(sources) if regions is None else len(regions.line_rows)
    if not len(sources) == len(targets) == lines:
        images = "" if regions is None else f" and regions of {lines} lines"
        raise VTLMError(f"{len(sources)} sources, {len(targets)} targets{images}: give as many of each")
    check_numbers(counts, dict.fromkeys(counts, COUNT))


def best_hypotheses(
    task: FairseqTask, models: list[torch.nn.Module], generator: SequenceGenerator, samples: Iterable[dict]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Number of each example of batches, and the tokens of its best hypothesis, [n] int32."""
    for number, (best, *_) in all_hypotheses(task, models, generator, samples):
        yield number, best["tokens"].int().cpu()


def all_hypotheses(
    task: FairseqTask, models: list[torch.nn.Module], generator: SequenceGenerator, samples: Iterable[dict]
) -> Iterator[tuple[int, list[dict]]]:
    """Number of each example of batches, and its hypotheses as fairseq makes them, best first.

    Raises:
        VTLMError: the model's scores are not finite.
    """
    for sample in samples:
        with raise_instead_of_exit():
            found = task.inference_step(generator, models, sample)
        yield from zip(sample["id"].tolist(), found, strict=True)


def batches(dataset: FairseqDataset, batch_size: int, *, cuda: bool) -> Iterator[dict]:
    """All examples of a dataset, in batches of similar length, on the device of the models.

    fairseq's iterators would seed numpy's global generator meanwhile, which belongs to the caller's program.

    Raises:
        VTLMError: an image has values that are not finite.
    """
    for rows in dataset.batch_by_size(dataset.ordered_indices(), max_sentences=batch_size):
        sample = dataset.collater([dataset[row] for row in rows])
        if FAULT in sample:
            raise VTLMError(sample[FAULT])
        yield utils.move_to_cuda(sample) if cuda else sample
