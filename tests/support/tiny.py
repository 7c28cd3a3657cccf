"""A tiny world for the unit tests: dictionary, pairs, regions in memory; binarised folders; tasks and models."""

import pickle
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import composing  # noqa: F401
import numpy as np
import torch
from fairseq import options, tasks
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset
from fairseq.data.indexed_dataset import make_builder
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.registry import REGISTRIES
from omegaconf import OmegaConf

import vtlm_fairseq  # noqa: F401  (registers tasks, models and criterion)
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.translation_dataset import MultimodalTranslationDataset
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.models.description import fill_defaults
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer, MultimodalTransformerTinyConfig
from vtlm_fairseq.models.vtlm import VTLMModel, VTLMTinyConfig
from vtlm_fairseq.regions.soft_labels import SoftLabels
from vtlm_fairseq.regions.store import Regions

FIRST_WORD = 4  # ids 0..3 are fairseq's special symbols
PAPER_RATES = MaskingRates(select=0.15, keep=0.1, random=0.1)


def dictionary(words: int = 41) -> Dictionary:
    """``w0`` .. as ids 4 .., then ``<mask>``, then padding words (41 words: 48 symbols, madeupwords at 46 and 47)."""
    made = Dictionary()
    for i in range(words):
        made.add_symbol(f"w{i}", n=100)
    made.add_symbol("<mask>", n=0)
    made.pad_to_multiple_(8)
    return made


def sentences(count: int, *, words: int = 41, longest: int = 9, seed: int = 0) -> list[torch.Tensor]:
    """Random sentences of 2 to ``longest`` word ids, each ending in ``</s>``."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, count)
    return [torch.tensor([*rng.integers(FIRST_WORD, FIRST_WORD + words, n), 2]) for n in lengths]


def text(lines) -> ListDataset:
    """An indexed dataset in memory, of sentences as lists or tensors."""
    lines = [torch.as_tensor(line) for line in lines]
    return ListDataset(lines, np.array([len(line) for line in lines]))


class MemoryStore:
    """What :class:`RegionStore` offers to datasets, without a file. Feature 0 of a region is its running number."""

    def __init__(self, counts, *, feature_dim: int = 4, num_classes: int = 5, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.feature_dim, self.num_classes, self.dtype = feature_dim, num_classes, np.dtype("float32")
        self.paths = ["memory.h5"]
        self.class_names = [f"class{c}" for c in range(num_classes)]
        self.images = []
        first = 0
        for count in counts:
            features = rng.normal(size=(count, feature_dim)).astype(np.float32)
            features[:, 0] = np.arange(first, first + count)
            first += count
            boxes = np.sort(rng.random((count, 2, 2), np.float32), axis=1).reshape(count, 4)
            labels = rng.integers(0, num_classes, count)
            self.images.append(Regions(features, boxes, labels, np.linspace(0.9, 0.1, count, dtype=np.float32)))

    def __getitem__(self, row: int) -> Regions:
        return self.images[row]

    def add_soft(self, num_soft: int) -> None:
        """Give each region class scores, random ones, whose best ``num_soft`` are kept."""
        rng = np.random.default_rng(7)
        self.num_soft = num_soft
        self.soft = [rng.dirichlet(np.ones(self.num_classes), len(one.labels)) for one in self.images]
        self.soft = [scores.astype(np.float16) for scores in self.soft]

    def read_soft(self, rows: np.ndarray) -> SoftLabels:
        """Class scores of the regions of images."""
        scores = [np.zeros((0, self.num_classes), np.float16), *(self.soft[row] for row in rows)]
        return SoftLabels.of(np.concatenate(scores), self.num_soft)

    def read_rows(self, rows: np.ndarray, features: np.ndarray, boxes: np.ndarray) -> Iterator[np.ndarray]:
        """Labels of each; features and boxes go to the first rows of its place."""
        for place, row in enumerate(rows):
            image = self.images[row]
            count = len(image.labels)
            features[place, :count], boxes[place, :count] = image.features, image.boxes
            yield image.labels

    def read_scores(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Scores of each."""
        return (self.images[row].scores for row in rows)

    def counts(self, rows) -> np.ndarray:
        """[n] regions of images."""
        return np.array([len(self.images[row].labels) for row in rows], dtype=np.int64)

    def check_soon(self) -> None:
        """Memory does not change."""

    def image_id(self, row: int) -> str:
        """Name of an image."""
        return f"img{row}.jpg"


def line_regions(counts, rows=None, *, order="given", seed=1, split="train", redraw=False, **store) -> LineRegions:
    """Regions of lines from a memory store whose images have ``counts`` regions."""
    rows = np.arange(len(counts)) if rows is None else np.asarray(rows)
    return LineRegions(MemoryStore(counts, **store), rows, order=order, seed=seed, split=split, redraw=redraw)


def pair_dataset(source, target, *, regions=None, train=False, **options) -> MultimodalTranslationDataset:
    """A translation dataset of in-memory sentences."""
    words = dictionary()
    source, target = text(source), target and text(target)
    pair = LanguagePairDataset(source, source.sizes, words, target, target and target.sizes, words, **options)
    return MultimodalTranslationDataset.from_pair(pair, regions=regions, shuffle=train)


def lm_dataset(source, target, *, regions=None, rates=PAPER_RATES, region_rates=PAPER_RATES, **kwargs):
    """A pre-training dataset of in-memory sentences."""
    words = kwargs.pop("dictionary", None) or dictionary()
    return TranslationLMDataset(
        text(source),
        target and text(target),
        words,
        languages=kwargs.pop("languages", (1, 0)),
        word_rates=rates,
        region_rates=region_rates,
        words=word_mask(words),
        regions=regions,
        **kwargs,
    )


@dataclass
class Folder:
    """A binarised folder en-de with ``{split}.images``."""

    path: Path
    dictionary: Dictionary
    text: dict[str, tuple[list, list]] = field(default_factory=dict)

    def write(self, split: str, source, target, images: list[str] | None = None) -> None:
        """Write a split."""
        self.text[split] = (source, target)
        for lang, lines in (("en", source), ("de", target)):
            prefix = f"{self.path}/{split}.en-de.{lang}"
            builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(self.dictionary))
            for line in lines:
                builder.add_item(torch.as_tensor(line).int())
            builder.finalize(f"{prefix}.idx")
        if images is not None:
            (self.path / f"{split}.images").write_text("".join(f"{name}\n" for name in images), encoding="utf-8")


def folder(path: Path, splits: dict[str, int], *, images: int = 4, words: int = 41) -> Folder:
    """A folder of random pairs; line i of each split belongs to ``img{i % images}.jpg``."""
    path.mkdir(parents=True, exist_ok=True)
    made = Folder(path, dictionary(words))
    for lang in ("en", "de"):
        made.dictionary.save(str(path / f"dict.{lang}.txt"))
    for k, (split, count) in enumerate(splits.items()):
        made.write(
            split,
            sentences(count, words=words, seed=2 * k),
            sentences(count, words=words, seed=2 * k + 1),
            [f"img{i % images}.jpg" for i in range(count)],
        )
    return made


def arguments(data, *argv, task: str = "visual_translation_lm"):
    """What fairseq-train's parser makes of a command line: a Namespace."""
    pretraining = task == "visual_translation_lm"
    arch, criterion = ("vtlm_tiny", "vtlm") if pretraining else ("multimodal_transformer_tiny", "cross_entropy")
    line = [str(data), "--task", task, "--arch", arch, "--criterion", criterion, "--cpu"]
    line += ["--save-dir", f"{data}-checkpoints", *map(str, argv)]  # no run of the developer's is resumed
    return options.parse_args_and_arch(options.get_training_parser(), line)


@cache
def _composed(*choices):
    """What hydra composes, in a third of a second, of a command line without options but ``choices``."""
    line = [part for name, value in choices for part in (f"--{name.replace('_', '-')}", value)]
    args = options.parse_args_and_arch(options.get_training_parser(), ["data", *line])
    return vars(args), pickle.dumps(convert_namespace_to_omegaconf(args))  # copied in a tenth of deepcopy's time


def converted(args: Namespace):
    """The whole configuration of a command line: what its values change in one with the same parts."""
    args = vars(args)
    parts = ("task", "arch", *REGISTRIES)
    plain, cfg = _composed(*((name, args[name]) for name in parts if args.get(name) is not None))
    cfg = pickle.loads(cfg)
    changed = {name: value for name, value in args.items() if value != plain.get(name)}
    for group in filter(None, cfg.values()):
        values = vars(group) if isinstance(group, Namespace) else group
        values.update({name: changed[name] for name in values.keys() & changed})  # `in` looks up what a name refers to
    return cfg


def pretraining_config(data, *argv):
    """The whole configuration of a pre-training run."""
    return converted(arguments(data, *argv))


def translation_config(data, *argv):
    """The whole configuration of a translation run."""
    return converted(arguments(data, *argv, task="multimodal_translation"))


def pretraining_task(data, *argv):
    """The pre-training task of a folder."""
    return tasks.setup_task(pretraining_config(data, *argv).task)


def translation_task(data, *argv):
    """The translation task of a folder."""
    return tasks.setup_task(translation_config(data, *argv).task)


def model_config(dataclass_, **overrides):
    """A complete model configuration: en-de, no dropout unless given."""
    defaults = {"langs": "de,en", "source_lang": "en", "target_lang": "de"}
    defaults |= {"dropout": 0.0, "attention_dropout": 0.0}
    cfg = OmegaConf.merge(OmegaConf.structured(dataclass_()), {**defaults, **overrides})
    fill_defaults(cfg)
    return cfg


def as_task(words: Dictionary) -> SimpleNamespace:
    """What the construction of a model or the criterion asks of a task."""
    return SimpleNamespace(source_dictionary=words, target_dictionary=words)


def vtlm_model(words: Dictionary | None = None, *, seed: int = 0, config=VTLMTinyConfig, **overrides) -> VTLMModel:
    """A tiny pre-training model in evaluation mode."""
    torch.manual_seed(seed)
    return VTLMModel.build_model(model_config(config, **overrides), as_task(words or dictionary())).eval()


def translation_model(words: Dictionary | None = None, *, seed: int = 0, **overrides) -> MultimodalTransformer:
    """A tiny translation model in evaluation mode."""
    torch.manual_seed(seed)
    cfg = model_config(MultimodalTransformerTinyConfig, **overrides)
    return MultimodalTransformer.build_model(cfg, as_task(words or dictionary())).eval()
