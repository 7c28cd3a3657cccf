"""Systems as probes name them, ``NAME=CKPT,CKPT,...``, and their models over a binarised test set."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fairseq import utils
from fairseq.data import FairseqDataset
from fairseq.tasks import FairseqTask
from torch import nn

from vtlm_fairseq.checkpoints import read_model_config
from vtlm_fairseq.compatibility import check_translates
from vtlm_fairseq.data.batching import raise_fault
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.options import System
from vtlm_fairseq.hub import find_checkpoint
from vtlm_fairseq.loading import load_for_inference
from vtlm_fairseq.options import loading_options
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.store import RegionStore


def named_checkpoints(systems: list[System]) -> Iterator[tuple[str, str]]:
    """Every checkpoint of every system with its name; several of one system are numbered."""
    for system in check_systems(systems):
        for number, path in enumerate(system.paths, 1):
            yield (system.name if len(system.paths) == 1 else f"{system.name} {number}"), path


def check_systems(systems: list[System]) -> list[System]:
    """The systems with a folder replaced by its checkpoint; their names must be distinct.

    Raises:
        VTLMError: two systems have one name, or a folder holds no checkpoint.
    """
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise VTLMError(f"--system {name} is given twice; give its checkpoints together, {name}=CKPT,CKPT")
    return [System(system.name, tuple(map(find_checkpoint, system.paths))) for system in systems]


def system_regions(path: str, *, regions: str, split: str) -> tuple[dict[str, Any], str]:
    """Model configuration of a checkpoint, and the store that it gets: ``none`` if it is a text-only model.

    Raises:
        VTLMError: not a checkpoint of this package, or no such store.
    """
    config = read_model_config(path)
    if regions != "none":
        store_files(regions, split)
    return config, regions if config["region_dim"] else "none"


def describe_regions(store: RegionStore | None, order: str) -> str:
    """What made the regions, as the store says (oracle and synthetic ones are called that), and their order."""
    return "no regions" if store is None else f'regions "{store.detector}", order {order}'


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode, its task, the dataset of a split and the device."""

    model: nn.Module
    task: FairseqTask
    dataset: FairseqDataset
    cuda: bool

    def batches(self, batch_size: int) -> Iterator[dict]:
        """All examples of the split, in batches of similar length, on the model's device."""
        batches = self.task.get_batch_iterator(
            self.dataset,
            max_sentences=batch_size,
            max_positions=utils.resolve_max_positions(self.task.max_positions(), self.model.max_positions()),
            disable_iterator_cache=True,
        )
        for sample in batches.next_epoch_itr(shuffle=False):
            raise_fault(sample)
            yield self.to_device(sample)

    def lines(self, lines: list[int]) -> dict:
        """One batch of the given lines (from 0), on the model's device; its ``id`` says their order in it."""
        sample = self.dataset.collater([self.dataset[line] for line in lines])
        raise_fault(sample)
        return self.to_device(sample)

    def to_device(self, sample: dict) -> dict:
        """A batch on the model's device."""
        return utils.move_to_cuda(sample) if self.cuda else sample


def load_model(path: str, *, data: str, split: str, translates: bool = False, **options: Any) -> LoadedModel:
    """Load a checkpoint of either task, and a split of a data folder for it.

    Args:
        translates: refuse a pre-trained model.
        options: ``regions``, ``region_order``, ``any_detector`` and ``cpu`` of :func:`load_for_inference`.

    Raises:
        VTLMError: not a checkpoint of this package, a pre-trained one, or no such store.
        SystemExit: data or regions do not fit the checkpoint (the task's own checks).
    """
    kind = check_translates if translates else None
    loaded = load_for_inference([path], data=data, split=split, preprocessed=True, kind=kind, text_only=True, **options)
    if hasattr(loaded.task.cfg, "word_masking"):
        # what is masked is the caller's choice, and no table is needed for it
        loaded.task.cfg.word_masking = loaded.task.cfg.region_masking = "random"
        loaded.task.cfg.region_objectives = "mrc"  # each pair keeps its image
    loaded.task.load_dataset(split)
    return LoadedModel(loaded.models[0], loaded.task, loaded.task.datasets[split], loaded.cuda)


def load_asked(path: str, args: Namespace, **changes: Any) -> LoadedModel:
    """`load_model` with what the options of a command say: DATA, ``--gen-subset``, ``--regions``, ...

    Args:
        changes: other keyword arguments of `load_model`, or in place of these.
    """
    asked = {"split": getattr(args, "gen_subset", None), **loading_options(args)}
    return load_model(path, **{**asked, **changes})
