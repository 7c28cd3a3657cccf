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
# Counted in the training split of Multi30k (task 1, 29,000 pairs): lower-cased, tokenised, 4,000 sentencepiece pieces.
# English sentences of 4, 5, ... pieces; German pieces more than English ones, from -17 on, which hardly depends on the
# English length.
ENGLISH = (
    2, 19, 104, 424, 982, 1424, 1951, 2408, 2573, 2548, 2556, 2257, 2064, 1741, 1498, 1240, 1030, 830, 680, 541, 455,
    355, 286, 214, 196, 136, 97, 81, 67, 49, 36, 26, 26, 16, 13, 15, 10, 8, 8, 11, 6, 2, 6, 3, 2, 0, 1, 1, 1, 1,
)  # fmt: skip
GERMAN_MORE = (
    1, 1, 1, 1, 1, 2, 6, 11, 22, 48, 112, 188, 413, 763, 1419, 2699, 4281, 4819, 4216, 3197, 2377, 1611, 1035, 692, 437,
    233, 153, 96, 59, 41, 22, 12, 14, 8, 5, 0, 2, 1, 0, 0, 1,
)  # fmt: skip


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


def real_lengths(rng: np.random.Generator, pairs: int) -> np.ndarray:
    """[2, pairs] words of English and German sentences, drawn as long as Multi30k's are."""
    english, more = (np.array(counts) / sum(counts) for counts in (ENGLISH, GERMAN_MORE))
    of_english = 4 + rng.choice(len(english), pairs, p=english)
    return np.stack([of_english, np.maximum(of_english - 17 + rng.choice(len(more), pairs, p=more), 1)])


def write_text(
    folder: Path,
    size: Size,
    *,
    pairs: int,
    seed: int,
    image_id: Callable[[int], str] = "image{}".format,
    lengths: np.ndarray | None = None,
) -> None:
    """Write dictionaries, binarised sentences of random words, and ``train.images``.

    ``lengths``: as :func:`real_lengths`'s; None: all sentences have the words of the size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary()
    for i in range(size.vocabulary - SPECIAL - 1):
        dictionary.add_symbol(f"w{i}")
    dictionary.add_symbol(MASK, n=0)
    rng = np.random.default_rng(seed)
    if lengths is None:
        lengths = np.full((2, pairs), size.words)
    for lang, words in zip(("en", "de"), lengths, strict=True):
        dictionary.save(str(folder / f"dict.{lang}.txt"))
        write_lines(folder / f"train.en-de.{lang}", dictionary, words, rng)
    (folder / "train.images").write_text("".join(f"{image_id(i)}\n" for i in range(pairs)), encoding="utf-8")


def write_lines(prefix: Path, dictionary: Dictionary, words: np.ndarray, rng: np.random.Generator) -> None:
    """Write ``prefix.bin`` and ``prefix.idx``: sentences of so many random words, and ``</s>``."""
    builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
    drawn = rng.integers(SPECIAL, len(dictionary) - 1, int(words.sum()), np.int32)
    end = np.array([dictionary.eos()], np.int32)
    for line in np.split(drawn, np.cumsum(words)[:-1]):
        builder.add_item(torch.from_numpy(np.concatenate([line, end])))
    builder.finalize(f"{prefix}.idx")


def write_blocks(folder: Path, size: Size, *, blocks: int, seed: int = 1) -> None:
    """Write ``folder/bin`` for fairseq's ``masked_lm``: blocks of as many positions as a pair and its regions have."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    dictionary = Dictionary()
    for i in range(size.vocabulary - SPECIAL - 1):
        dictionary.add_symbol(f"w{i}")
    dictionary.save(str(folder / "bin" / "dict.txt"))
    words = np.full(blocks, size.word_positions + size.regions - 2)  # besides <s> and </s>
    write_lines(folder / "bin" / "train", dictionary, words, np.random.default_rng(seed))


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
