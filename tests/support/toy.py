"""A toy parallel corpus with images, binarised by the real fairseq-preprocess, for the integration tests."""

import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import CommandLines, write_lines
from stores import make_store

DIM, CLASSES = 12, 7
SIZES = {"train": 45, "valid": 13, "test": 13, "test1": 21}


@dataclass(frozen=True)
class Corpus:
    """Folders of a corpus: ``raw/{split}.{lang}``, ``bin`` with ``{split}.images``, ``regions/{split}.h5``."""

    folder: Path

    @property
    def raw(self) -> Path:
        """Text."""
        return self.folder / "raw"

    @property
    def data(self) -> Path:
        """Binarised data."""
        return self.folder / "bin"

    @property
    def regions(self) -> Path:
        """Region stores."""
        return self.folder / "regions"

    def lines(self, split: str, lang: str) -> list[str]:
        """Text of a split."""
        return (self.raw / f"{split}.{lang}").read_text(encoding="utf-8").splitlines()

    def images(self, split: str) -> list[str]:
        """Image id of each line."""
        return (self.data / f"{split}.images").read_text(encoding="utf-8").splitlines()

    def stdin(self, split: str) -> str:
        """Lines for vtlm-translate: sentence, tab, image id."""
        return "".join(f"{s}\t{i}\n" for s, i in zip(self.lines(split, "en"), self.images(split), strict=True))

    def store(self, split: str) -> Path:
        """Region store of a split."""
        return self.regions / f"{split}.h5"

    def copy(self, folder: Path) -> "Corpus":
        """A copy that a test may spoil."""
        shutil.copytree(self.folder, folder)
        return Corpus(folder)

    def tokens(self, split: str) -> int:
        """Words of both sides with the two ``</s>`` of each sentence."""
        return sum(len(line.split()) + 2 for lang in ("en", "de") for line in self.lines(split, lang))


def make_corpus(
    run: CommandLines, folder: Path, sizes: Mapping[str, int] = SIZES, *, dictionary=None, words=30, dim=DIM, seed=0
) -> Corpus:
    """Generate and binarise a corpus.

    The German side says each word in the same place, and about every second line shares its image with its
    neighbour. Images have none to seven regions.

    Args:
        run: the commands.
        folder: to be made.
        sizes: lines of each split; further test sets are ``test1``, ``test2``, ...
        dictionary: an existing one, instead of that of the text.
        words: vocabulary of one side.
        dim: width of region features.
        seed: of everything.
    """
    corpus = Corpus(folder)
    rng = random.Random(seed)
    for split, size in sizes.items():
        lengths = [1, 14, *(rng.randint(1, 12) for _ in range(size - 2))]
        source = [[rng.randrange(words) for _ in range(length)] for length in lengths]
        write_lines(corpus.raw / f"{split}.en", (" ".join(f"word{w}" for w in line) for line in source))
        write_lines(corpus.raw / f"{split}.de", (" ".join(f"Wort{w}" for w in line) for line in source))
        images = [f"{split}-{seed}-{i // 2 if i % 3 else i}" for i in range(size)]
        write_lines(corpus.data / f"{split}.images", images)
        ids = sorted(dict.fromkeys(images), key=lambda image: rng.random())  # the store's order is not the text's
        counts = [0, 7, *(rng.randint(0, 7) for _ in ids[2:])]
        make_store(corpus.store(split), ids, regions=counts, feature_dim=dim, num_classes=CLASSES, seed=seed + size)
    tests = sorted(split for split in sizes if split.startswith("test"))
    argv = ["--trainpref", corpus.raw / "train", "--validpref", corpus.raw / "valid"]
    argv += ["--testpref", ",".join(str(corpus.raw / test) for test in tests)]
    argv += ["--srcdict", dictionary] if dictionary else []
    run.preprocess("-s", "en", "-t", "de", "--destdir", corpus.data, *argv)
    return corpus


def binarised(run: CommandLines, corpus: Corpus, folder: Path, images: list[str], **texts: list[str]) -> Path:
    """A data folder with the corpus' dictionary whose test split has other sentences."""
    for lang, lines in texts.items():
        write_lines(folder / f"raw/test.{lang}", lines)
    run.preprocess("-s", "en", "-t", "de", "--destdir", folder / "bin", "--srcdict", corpus.data / "dict.en.txt",
                   "--testpref", folder / "raw/test")  # fmt: skip
    write_lines(folder / "bin/test.images", images)
    return folder / "bin"


def spoil(path: Path, dataset: str, change) -> None:
    """Change a dataset of a store in place: ``change`` takes the array and returns what is written."""
    import h5py

    with h5py.File(path, "r+") as file:
        values = change(file[dataset][:])
        file[dataset][...] = values


def with_nan(values: np.ndarray) -> np.ndarray:
    """Features with a NaN in the first region."""
    values[0, 0] = np.nan
    return values
