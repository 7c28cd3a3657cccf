"""``vtlm-probe mrc``: accuracy of masked region classification, each region masked alone (paper, section 2.2)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from fairseq import utils

from vtlm_fairseq.checkpoints import read_model_config
from vtlm_fairseq.compatibility import is_translation
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import MaskingRates, RegionDraw
from vtlm_fairseq.data.translation_lm_dataset import IGNORE, TranslationLMDataset
from vtlm_fairseq.data.word_masking import RandomWords
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.probes.last_word import Accuracy
from vtlm_fairseq.evaluation.splits import in_order
from vtlm_fairseq.evaluation.systems import LoadedModel, load_asked, named_checkpoints
from vtlm_fairseq.evaluation.tables import Table, publish
from vtlm_fairseq.models.description import model_value
from vtlm_fairseq.objectives import read_objectives
from vtlm_fairseq.terminal import progress_bar

COMMONEST, NEAREST = "commonest class", "nearest prototype, own features"
_NOTHING = MaskingRates(select=0.0, keep=0.0, random=0.0)


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    checkpoints = list(named_checkpoints(args.systems))
    for _, path in checkpoints:
        check_model(path)
    if args.regions == "none":
        raise VTLMError("--regions is none, and without regions no label can be predicted: name a store or a folder")
    subsets = list(dict.fromkeys(args.subsets.split(",")))
    texts = list(dict.fromkeys(args.text or ["given", "hidden"]))
    rows: dict[tuple[str, str | None], dict[str, Result]] = {}
    first: dict[str, SplitProbe] = {}  # of the first checkpoint, whose regions the rows without a model are about
    notes: list[str] = []
    for name, path in checkpoints:
        for subset in subsets:
            probe = SplitProbe.load(path, subset, args)
            first.setdefault(subset, probe)
            notes.append(f'regions "{probe.regions.store.detector}"')
            for text in texts:
                result = probe.result(text, seed=args.seed, batch_size=args.batch_size, label=f"{name} {subset} {text}")
                rows.setdefault((name, text), {})[subset] = result
    if not args.no_references:
        classes, note = training_classes(first[subsets[0]].loaded, args)
        notes.append(note)
        if classes is not None:
            for subset, probe in first.items():
                for name, result in classes.results(probe.regions).items():
                    rows.setdefault((name, None), {})[subset] = result
    publish(table(rows, subsets, notes=list(dict.fromkeys(notes))), args)


def check_model(path: str) -> None:
    """Refuse a checkpoint without a head of region classes.

    Raises:
        VTLMError: it is one of TLM or of a translation model, or not one of this package.
    """
    config = read_model_config(path)
    kind = "a translation model" if is_translation(config) else "a text-only model (TLM)"
    if is_translation(config) or not config["region_dim"]:
        raise VTLMError(f"{path}: {kind}, which predicts no labels of regions; give a VTLM checkpoint")
    objectives = model_value(config, "region_objectives")
    if all(one.own_head for one in read_objectives(objectives)):
        raise VTLMError(f"{path}: --region-objectives {objectives}: no labels are predicted; give one trained with mrc")


@dataclass(frozen=True)
class Result:
    """Accuracy over all regions, and over those whose label no other region of their image has."""

    all: Accuracy
    unique: Accuracy

    @classmethod
    def of(cls, right: Sequence[bool], unique: Sequence[bool]) -> Result:
        """From whether each region is right and whether its label is there once."""
        both = sum(r and u for r, u in zip(right, unique, strict=True))
        return cls(Accuracy(int(sum(right)), len(right)), Accuracy(int(both), int(sum(unique))))


def unique_labels(labels: np.ndarray) -> np.ndarray:
    """[R] bool, True where a label occurs once among ``labels`` [R]."""
    return (labels[:, None] == labels).sum(axis=1) == 1


@dataclass
class SplitProbe:
    """A split as one model sees it.

    Attributes:
        loaded: the model, and its dataset of the split, in which no word is masked.
        regions: regions of the split's lines.
    """

    loaded: LoadedModel
    regions: LineRegions

    @classmethod
    def load(cls, path: str, subset: str, args: argparse.Namespace) -> SplitProbe:
        """Load a checkpoint and a split.

        Raises:
            VTLMError: no such split or regions, or regions of a single class.
            SystemExit: data or regions do not fit the checkpoint, or a sentence is too long.
        """
        loaded = load_asked(path, args, split=subset, region_order="given")
        dataset, store = loaded.dataset, loaded.dataset.regions.store
        if store.num_classes < 2:
            raise VTLMError(
                f"--regions {args.regions} ({subset}): all regions are of one class ({store.class_names[0]!r}), so "
                "there are no labels to predict; use the regions of a detector that tells classes apart"
            )
        limits = utils.resolve_max_positions(loaded.task.max_positions(), loaded.model.max_positions())
        loaded.task.filter_indices_by_size(np.arange(len(dataset)), dataset, limits)
        dataset.word_masking = RandomWords(dataset.word_masking.symbols, _NOTHING)
        return cls(loaded, dataset.regions)

    def result(self, text: str, *, seed: int = 1, batch_size: int = 64, label: str = "") -> Result:
        """Accuracy with one of `TEXTS`; of regions shuffled against captions, ``seed`` is the shuffling's.

        Raises:
            VTLMError: a feature or box is not finite, or there is one image only to shuffle.
        """
        dataset = self.loaded.dataset
        order = "shuffle" if text == "shuffle" else "given"
        dataset.regions = in_order(self.regions, order, seed=seed)
        right: list[bool] = []
        unique: list[bool] = []
        items = masked_items(dataset, hide_text=text == "hidden")
        bar = progress_bar(desc=label, total=int(dataset.regions.counts().sum()), unit=" regions")
        with bar:
            for batch, logits in predict(self.loaded, items, batch_size=batch_size):
                for item, predicted in zip(batch, logits.argmax(dim=1).tolist(), strict=True):
                    labels, place = item["regions"].labels, item["draw"].masked
                    right.append(bool(predicted == labels[place][0]))
                    unique.append(bool(unique_labels(labels)[place][0]))
                bar.update(len(batch))
        return Result.of(right, unique)


def masked_items(dataset: TranslationLMDataset, *, hide_text: bool) -> Iterator[dict]:
    """An example for each region of each line: that region alone is masked and predicted. Short lines come first.

    Hidden text is a ``<mask>`` for every word of both captions: the symbol with which pre-training hides words. What
    is left is their number. (An empty pair would show even less, but no model has seen one.)

    Args:
        dataset: of pre-training, without masked words; what a masked region becomes is its affair.
        hide_text: hide the captions.

    Raises:
        VTLMError: a feature or box is not finite.
    """
    sizes = dataset.src_sizes + dataset.tgt_sizes + dataset.region_counts()
    for line in np.argsort(sizes, kind="stable").tolist():
        item = dataset[line]
        if FAULT in item:
            raise VTLMError(item[FAULT])
        if hide_text:
            tokens = item["tokens"]
            item["tokens"] = np.where(tokens == dataset.eos, tokens, dataset.mask_idx)
        count = len(item["regions"].labels)
        for one in np.eye(count, dtype=bool):
            draw = RegionDraw(selected=one, masked=one, random=np.zeros(count, bool), donor=np.zeros(count))
            yield {**item, "draw": draw}


@torch.no_grad()
def predict(
    loaded: LoadedModel, items: Iterator[dict], *, batch_size: int
) -> Iterator[tuple[list[dict], torch.Tensor]]:
    """Logits of the classes, n x C on the model's device, with each n items, one region of each being predicted."""
    while batch := list(islice(items, batch_size)):
        sample = loaded.to_device(loaded.dataset.collater(batch))
        words = torch.zeros_like(sample["net_input"]["src_tokens"], dtype=torch.bool)  # none is predicted
        selected = sample["region_target"].ne(IGNORE)
        _, logits = loaded.model(**sample["net_input"], masked_tokens=words, selected_regions=selected)
        yield batch, logits


@dataclass(frozen=True)
class Classes:
    """What the regions of a split say of their classes.

    Attributes:
        counts: [C] regions of each class.
        means: [C, D] float64, mean feature of each class, NaN where it has no region.
    """

    counts: torch.Tensor
    means: torch.Tensor

    @classmethod
    def of(cls, regions: LineRegions, *, label: str = "") -> Classes:
        """Read all regions, one image after the other; an image of several lines counts once.

        Raises:
            VTLMError: a feature or box is not finite.
        """
        store, rows = regions.store, np.unique(regions.rows)
        images = LineRegions(store, rows, order="given", seed=regions.seed, split=regions.split)
        sums = torch.zeros(store.num_classes, store.feature_dim, dtype=torch.float64)
        counts = torch.zeros(store.num_classes, dtype=torch.int64)
        for k in progress_bar(range(len(rows)), desc=label, unit=" images"):
            features, labels = (torch.from_numpy(part) for part in (images[k].features, images[k].labels))
            sums.index_add_(0, labels, features.double())
            counts += labels.bincount(minlength=len(counts))
        return cls(counts, sums / counts[:, None])

    @property
    def commonest(self) -> int:
        """The class with most regions, of several the first."""
        return int(self.counts.argmax())

    def nearest(self, features: np.ndarray) -> np.ndarray:
        """The class whose mean is nearest (Euclidean) to each region's features [R, D], [R]; of several the first.

        Classes without a region are never the nearest.
        """
        # |x - m|^2 without |x|^2, which is the same for all classes
        distances = self.means.square().sum(dim=1) - 2 * torch.from_numpy(features).double() @ self.means.T
        return distances.nan_to_num(nan=torch.inf).argmin(dim=1).numpy()

    def results(self, regions: LineRegions) -> dict[str, Result]:
        """Accuracy of the two guesses on the regions of all lines of a split, as a model's is counted."""
        found: dict[str, list[bool]] = {COMMONEST: [], NEAREST: []}
        unique: list[bool] = []
        for line in range(len(regions)):
            features, _, labels, _ = regions[line]
            found[COMMONEST] += (labels == self.commonest).tolist()
            found[NEAREST] += (labels == self.nearest(features)).tolist()
            unique += unique_labels(labels).tolist()
        return {name: Result.of(right, unique) for name, right in found.items()}


def training_classes(loaded: LoadedModel, args: argparse.Namespace) -> tuple[Classes | None, str]:
    """The classes of the training split, with a note; None where there is no such split.

    Raises:
        VTLMError: a feature or box is not finite.
    """
    task, split = loaded.task, loaded.task.cfg.train_subset
    task.cfg.regions = args.regions
    try:
        _, regions = task.load_pair(split, epoch=1, combine=True)
    except VTLMError as error:
        return None, f"no rows of {COMMONEST} and {NEAREST}: {error}"
    classes = Classes.of(regions, label=f"classes of {split}")
    name = regions.store.class_names[classes.commonest]
    return classes, f'from the {int(classes.counts.sum())} regions of {split}: commonest class "{name}", prototypes'


def table(
    rows: dict[tuple[str, str | None], dict[str, Result]], subsets: Sequence[str], *, notes: Sequence[str]
) -> Table:
    """One row a system and text, then the rows without a model; accuracies and numbers of regions of each split."""
    columns = ["system", "text"]
    for subset in subsets:
        columns += [subset, f"{subset} of", f"{subset} unique", f"{subset} unique of"]
    about = [
        "accuracy in per cent; each region masked alone, the others visible, no word masked",
        "unique: regions whose label no other region of their image has",
    ]
    explained = {
        "hidden": "text hidden: every word of both captions is <mask>",
        "shuffle": "text shuffle: captions of another image",
    }
    about += [explained[text] for text in explained if any(text == row for _, row in rows)]
    made = Table(columns, [], title="Masked region classification", notes=[*about, *notes])
    made.precision = {column: 1 for column in columns[2:]}
    for (name, text), found in rows.items():
        row: list[str | int | float | None] = [name, text]
        for subset in subsets:
            for accuracy in (found[subset].all, found[subset].unique):
                row += [accuracy.share, accuracy.total]
        made.rows.append(row)
    return made
