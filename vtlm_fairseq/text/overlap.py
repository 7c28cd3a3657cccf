"""Held-out sentences and images that are in the training split as well: counted, the first one named."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vtlm_fairseq.files.lines import stream_lines

_BLOCK = 1 << 17  # lines of training that are looked at together
_MOST = 200_000  # lines that are compared token by token
_MIXERS = (1, 1_000_003, 999_979, 998_244_353, 67_867_967, 7_368_787)


class _Side(NamedTuple):
    """Sentences of one language: ``tokens`` one behind the other, sentence i at ``starts[i]``, ``sizes[i]`` long."""

    tokens: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def picks(self, block: slice) -> list[np.ndarray]:
        """Length, first and middle token of the sentences of a block, [n] each."""
        starts, sizes = self.starts[block], self.sizes[block]
        return [sizes, self.tokens[starts], self.tokens[starts + sizes // 2]]

    def line(self, number: int) -> bytes:
        """The tokens of a sentence, to compare."""
        start = self.starts[number]
        return self.tokens[start : start + self.sizes[number]].astype(np.int64).tobytes()


def held_out_splits(folder: str, parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Names of the binarised splits of a folder that are no part of the training split."""
    pairs = "|".join(f"{re.escape(a)}-{re.escape(b)}" for a, b in (pair, pair[::-1]))
    pattern = re.compile(rf"(.+)\.(?:{pairs})\.{re.escape(pair[0])}\.idx")
    names = {match[1] for match in map(pattern.fullmatch, os.listdir(folder)) if match}
    return sorted(name for name in names if name not in parts and not re.fullmatch(rf"{re.escape(parts[0])}\d+", name))


def shared_pairs(folder: str, parts: Sequence[str], splits: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """A line for each split some of whose sentence pairs are pairs of the training split too.

    Lines of equal lengths and a few equal tokens are found for all of training at once, and only these are compared.
    """
    known: dict[tuple[bytes, bytes], dict[str, int]] = {}  # first line of the pair in each split
    totals: dict[str, int] = {}
    held_keys = []
    for split in splits:
        held = _read(folder, split, pair)
        if held is not None:
            held_keys.append(_keys(held, slice(None)))
            pairs = [(held[0].line(number), held[1].line(number)) for number in range(len(held[0].sizes))]
            totals[split] = len(set(pairs))
            for number, one in enumerate(pairs):
                known.setdefault(one, {}).setdefault(split, number)
    if not known:
        return []
    keys = np.unique(np.concatenate(held_keys))
    found: dict[str, dict[int, str]] = {split: {} for split in totals}
    for part, line, sides in _candidates(folder, parts, pair, keys):
        for split, number in known.get((sides[0].line(line), sides[1].line(line)), {}).items():
            found[split].setdefault(number, f"{part} has it in line {line + 1}")
    return [
        f"{len(lines):,} of {totals[split]:,} sentence pairs of {split} are in {parts[0]} too, the first is line "
        f"{min(lines) + 1} ({lines[min(lines)]}): figures on {split} will be too good"
        for split, lines in found.items()
        if lines
    ]


def _candidates(
    folder: str, parts: Sequence[str], pair: tuple[str, str], keys: np.ndarray
) -> Iterator[tuple[str, int, tuple[_Side, _Side]]]:
    """Part, line and both sides where the key of a pair of training is one of the sorted ``keys``."""
    left = _MOST
    for part in parts:
        sides = _read(folder, part, pair)
        for start in range(0, 0 if sides is None else len(sides[0].sizes), _BLOCK):
            ours = _keys(sides, slice(start, start + _BLOCK))
            at = np.minimum(np.searchsorted(keys, ours), len(keys) - 1)
            lines = (start + np.flatnonzero(keys[at] == ours)[:left]).tolist()
            left -= len(lines)
            yield from ((part, line, sides) for line in lines)


def shared_images(train: Sequence[str], held: Sequence[str]) -> list[str]:
    """A line for each list some of whose images are in the lists of the training split too.

    Args:
        train: ``.images`` files, an id a line.
        held: the same of other splits.
    """
    images = {path: _ids(path) for path in held}
    every: set[str] = set().union(*images.values())
    both = set().union(*(_ids(path, every) for path in train))
    name = _split(train[0])
    return [
        f"{len(shared):,} of {len(images[path]):,} images of {_split(path)} are in {name} too, such as "
        f"{min(shared)!r}: figures on {_split(path)} will be too good"
        for path, shared in ((path, ids & both) for path, ids in images.items())
        if shared
    ]


def _ids(path: str, among: set[str] | None = None) -> set[str]:
    ids = stream_lines(path)
    return set(ids) if among is None else among.intersection(ids)


def _split(images: str) -> str:
    return os.path.basename(images).removesuffix(".images")


def _keys(sides: tuple[_Side, _Side], block: slice) -> np.ndarray:
    """[n] a number that equal pairs have in common."""
    picks = [pick.astype(np.int64) for side in sides for pick in side.picks(block)]
    return sum(pick * mixer for pick, mixer in zip(picks, _MIXERS, strict=True))


def _read(folder: str, split: str, pair: tuple[str, str]) -> tuple[_Side, _Side] | None:
    """Both sides of a split, mapped into memory; None where they are stored in another way than by default."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path, index_file_path, infer_dataset_impl

    for a, b in (pair, pair[::-1]):
        prefixes = [os.path.join(folder, f"{split}.{a}-{b}.{lang}") for lang in pair]
        if all(os.path.exists(index_file_path(prefix)) for prefix in prefixes):
            break
    else:
        return None
    if any(infer_dataset_impl(prefix) != "mmap" for prefix in prefixes):
        return None
    sides = []
    for prefix in prefixes:
        index = MMapIndexedDataset.Index(index_file_path(prefix))
        sizes = np.array(index.sizes, dtype=np.int64)
        total = int(sizes.sum())
        if not total or (sizes < 1).any() or os.path.getsize(data_file_path(prefix)) < total * index.dtype().itemsize:
            return None
        tokens = np.memmap(data_file_path(prefix), dtype=index.dtype, mode="r", shape=(total,))
        sides.append(_Side(tokens, np.cumsum(sizes) - sizes, sizes))
    return (sides[0], sides[1]) if len(sides[0].sizes) == len(sides[1].sizes) else None
