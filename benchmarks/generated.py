"""Generated data of a given size: dictionary, binarised text and region store. Nothing here can be learnt."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder
from tqdm import tqdm

from vtlm_fairseq.regions.store import RegionStoreWriter
from vtlm_fairseq.text.subwords import MASK

SPECIAL = 4  # fairseq's own symbols


@dataclass(frozen=True)
class Size:
    """What a measurement is made at.

    Attributes:
        dim, ffn, layers, heads: of the encoder, and of the decoder.
        words: words of a sentence; with its two ``</s>`` it takes ``words + 2`` positions.
        vocabulary: symbols of the dictionary.
        regions, region_dim, classes: of an image.
        batch: pairs of a batch.
        squares: square matrix products that the machine's rate is taken from.
        workers: numbers of loader workers that are compared; 1 is among them.
        beam: hypotheses of a sentence in decoding.
        corpora: pairs of the generated corpora.
    """

    dim: int
    ffn: int
    layers: int
    heads: int
    words: int
    vocabulary: int
    regions: int
    region_dim: int
    classes: int
    batch: int
    squares: tuple[int, ...]
    workers: tuple[int, ...]
    beam: int
    corpora: tuple[int, ...]

    @property
    def word_positions(self) -> int:
        """Positions of a sentence pair."""
        return 2 * (self.words + 2)


PAPER = Size(
    dim=512, ffn=2048, layers=6, heads=8, words=13, vocabulary=10_000, regions=36, region_dim=1536, classes=601,
    batch=64, squares=(1024, 2048, 4096), workers=(0, 1, 2, 4), beam=8,
    corpora=(10_000, 100_000, 1_000_000, 3_100_000),
)  # fmt: skip
TINY = Size(
    dim=32, ffn=64, layers=2, heads=4, words=4, vocabulary=104, regions=4, region_dim=16, classes=7,
    batch=8, squares=(32, 64), workers=(0, 1), beam=2, corpora=(300,),
)  # fmt: skip
SIZES = {"paper": PAPER, "tiny": TINY}


def write_data(folder: Path, size: Size, *, pairs: int, seed: int = 1) -> None:
    """Write ``folder/bin`` (a split ``train``, pair i with image i) and ``folder/regions.h5``, an image a pair."""
    write_text(folder / "bin", size, pairs=pairs, seed=seed)
    write_store(folder / "regions.h5", size, images=pairs, seed=seed)


def write_text(
    folder: Path, size: Size, *, pairs: int, seed: int, image_id: Callable[[int], str] = "image{}".format
) -> None:
    """Write dictionaries, binarised sentences of random words, and ``train.images``."""
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary()
    for i in range(size.vocabulary - SPECIAL - 1):
        dictionary.add_symbol(f"w{i}")
    dictionary.add_symbol(MASK, n=0)
    rng = np.random.default_rng(seed)
    for lang in ("en", "de"):
        dictionary.save(str(folder / f"dict.{lang}.txt"))
        prefix = str(folder / f"train.en-de.{lang}")
        builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
        lines = np.full((pairs, size.words + 1), dictionary.eos(), np.int32)
        lines[:, :-1] = rng.integers(SPECIAL, len(dictionary) - 1, (pairs, size.words), np.int32)
        for line in torch.from_numpy(lines):
            builder.add_item(line)
        builder.finalize(f"{prefix}.idx")
    (folder / "train.images").write_text("".join(f"{image_id(i)}\n" for i in range(pairs)), encoding="utf-8")


def write_store(path: Path, size: Size, *, images: int, seed: int) -> None:
    """Write a store of random float16 features whose bytes are on disk when this returns."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(4096, size.region_dim)).astype(np.float16)
    boxes = np.tile(np.array([0.1, 0.1, 0.6, 0.6], np.float32), (size.regions, 1))
    scores = np.linspace(1, 0.1, size.regions, dtype=np.float32)
    names = [f"class{c}" for c in range(size.classes)]
    with RegionStoreWriter(str(path), feature_dim=size.region_dim, class_names=names, detector="random") as writer:
        for i in tqdm(range(images), unit=" images", mininterval=2, disable=images < 10_000):
            start = int(rng.integers(0, len(noise) - size.regions))
            labels = rng.integers(0, size.classes, size.regions)
            features = noise[start : start + size.regions]
            writer.add(f"image{i}", features=features, boxes=boxes, labels=labels, scores=scores)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def image_bytes(size: Size) -> int:
    """Bytes of an image's features."""
    return 2 * size.regions * size.region_dim
