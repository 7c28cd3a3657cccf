"""The images of an extraction: files of a folder, of a list, or of tar files in webdataset's layout."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines, stream_lines
from vtlm_fairseq.files.tar import tar_members
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.id_rules import BY_HAND, IdRule, explain_missing

_BEGINNING = 100
"""Members of the other shards' tar files that are looked at, so that keys which repeat are met before the work."""


class ImageFile(NamedTuple):
    """One file, or one member of a tar file.

    Attributes:
        image_id: unique among the images of a run.
        path: of the file; of a member, `TAR/MEMBER`.
        tar: the tar file, or "" for a plain file.
        offset, size: where a member's bytes lie in the tar file.
    """

    image_id: str
    path: str
    tar: str = ""
    offset: int = 0
    size: int = 0

    def read(self) -> bytes:
        """The bytes of the file.

        Raises:
            OSError: it cannot be read.
        """
        if not self.tar:
            if not os.path.isfile(self.path) and os.path.exists(self.path):  # a pipe would keep the run waiting
                raise OSError(None, "a pipe, a device or a folder holds no image")
            return Path(self.path).read_bytes()
        with open(self.tar, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) != self.size:
            raise OSError(None, f"{self.tar} has been cut")
        return data


def list_images(
    images: str,
    suffixes: Collection[str],
    *,
    num_shards: int = 1,
    shard_id: int = 0,
    rule: IdRule = IdRule(),  # noqa: B008
    tar_prefix: bool = False,
) -> tuple[list[ImageFile], list[str]]:
    """The files that `--images` names, in a fixed order, and notes on what is left out.

    Args:
        images: a folder (read recursively, in the order of the paths), a text file with a line `path` or
            `id<TAB>path` an image, or tar files (a path or a pattern that ends in `.tar`).
        suffixes: endings of the names to take from folders and tar files, in lower case.
        num_shards: share of the images to take: one of so many, contiguous parts; of tar files, whole files.
        shard_id: which part, from 0.
        rule: changes the ids.
        tar_prefix: the ids of members begin with the name of the tar file.

    Returns:
        The files, and a line for each kind of thing that is there but not read.

    Raises:
        VTLMError: nothing there, an id given twice (naming both files), a damaged tar file or list.
    """
    if not 0 <= shard_id < num_shards:
        raise VTLMError(f"--shard-id {shard_id} must be in 0..{num_shards - 1}, as --num-shards is {num_shards}")
    notes: list[str] = []
    if images.endswith(".tar"):
        tars = sorted(glob.glob(images))
        if not tars:
            raise VTLMError(f"--images {images}: no such tar file")
        if len(tars) < num_shards:
            raise VTLMError(
                f"--images {images}: {len(tars)} tar files cannot be shared by --num-shards {num_shards}; "
                "each shard takes whole files"
            )
        own = _part(tars, num_shards, shard_id)
        files = [file for tar in own for file in _renamed(_members(tar, suffixes, notes), rule, tar_prefix)]
        beginnings = (islice(_members(tar, suffixes, []), _BEGINNING) for tar in tars if tar not in own)
        _check_ids([*files, *(file for part in beginnings for file in _renamed(part, rule, tar_prefix))])
    else:
        if tar_prefix:
            raise VTLMError("--id-prefix tar goes with tar files in --images")
        found = _folder(images, suffixes, notes) if os.path.isdir(images) else _list(images)
        files = list(_renamed(found, rule, False))
        _check_ids(files)
        files = _part(files, num_shards, shard_id)
    if not files and num_shards == 1:
        hint = f" (it holds {notes[0]})" if notes else ""
        raise VTLMError(f"--images {images}: no file that ends in {' '.join(suffixes)}{hint}")
    return files, notes


def without_excluded(files: Sequence[ImageFile], exclude: str) -> list[ImageFile]:
    """The files but those that a list leaves out: an image id or a path a line, or a list of errors of an earlier run.

    Raises:
        VTLMError: the list cannot be read.
    """
    names = {line.split("\t")[0].strip() for line in read_lines(exclude, label=f"--exclude {exclude}")} - {""}
    called = [{file.image_id.strip(), file.path.strip()} for file in files]
    kept = [file for file, either in zip(files, called, strict=True) if not either & names]
    found = names & {name for either in called for name in either}
    say(f"--exclude {exclude}: {len(files) - len(kept):,} images left out")
    if absent := sorted(names - found):
        hint = explain_missing(absent, (file.image_id for file in files), BY_HAND)
        say(f"--exclude {exclude}: {len(absent):,} lines name no image of this run, the first {absent[0]!r}{hint}")
    return kept


def _renamed(files: Iterable[ImageFile], rule: IdRule, tar_prefix: bool) -> Iterator[ImageFile]:
    for file in files:
        prefix = f"{_stem(file.tar)}/" if tar_prefix else ""
        yield file._replace(image_id=prefix + rule(file.image_id)) if prefix or rule.names else file


def _part(items: list, num_shards: int, shard_id: int) -> list:
    return items[len(items) * shard_id // num_shards : len(items) * (shard_id + 1) // num_shards]


def _folder(folder: str, suffixes: Collection[str], notes: list[str]) -> Iterator[ImageFile]:
    others: Counter[str] = Counter()
    paths = []
    for path in _walk(folder):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in suffixes:
            paths.append(path)
        else:
            others[suffix or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{count:,} x {suffix}" for suffix, count in others.most_common(5))
        notes.append(f"{sum(others.values()):,} files of other kinds: {kinds}")
    for path in sorted(paths):
        yield ImageFile(_stem(path), path)


def _walk(folder: str) -> Iterator[str]:
    """Paths of all files below a folder but hidden ones; linked folders are entered, each folder once."""

    def fail(error: OSError) -> None:
        raise VTLMError(f"--images {folder}: {error.filename} cannot be read ({error.strerror})")

    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(here, name) for name in names if not name.startswith("."))


def _list(path: str) -> Iterator[ImageFile]:
    hint = "name a folder, a list with a line path or id TAB path an image, or tar files"
    for number, line in enumerate(stream_lines(path, label=f"--images {path}", hint=hint), start=1):
        fields = line.split("\t")
        if len(fields) > 2 or not all(fields):
            raise VTLMError(f"--images {path}: line {number} is {line!r}, not path or id TAB path")
        yield ImageFile(fields[0] if len(fields) == 2 else _stem(fields[0]), fields[-1])


def _members(tar: str, suffixes: Collection[str], notes: list[str]) -> Iterator[ImageFile]:
    """Image members of a tar file; the id is webdataset's key: the name up to the first dot of its last part."""
    uncertain: list[str] = []
    hint = "copy it again, and unpack it if it is compressed"
    for member, _ in tar_members(tar, mode="r:", hint=hint):
        folder, name = os.path.split(member.name)
        if name.startswith("."):
            continue
        key, _, suffix = name.partition(".")
        if f".{suffix.lower()}" in suffixes:
            path = f"{tar}/{member.name}"
            yield ImageFile(os.path.join(folder, key), path, tar, member.offset_data, member.size)
        elif os.path.splitext(name)[1].lower() in suffixes:
            uncertain.append(member.name)
    if uncertain:
        notes.append(
            f"{tar}: {len(uncertain):,} members such as {uncertain[0]!r}, whose ending after the first dot "
            "is that of no image"
        )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _check_ids(files: list[ImageFile]) -> None:
    first: dict[str, int] = {}
    for number, file in enumerate(files):
        other = first.setdefault(file.image_id, number)
        if other != number:
            remedy = "--id-prefix tar puts the names of the tar files before the keys"
            raise VTLMError(
                f"{files[other].path} and {file.path} have the same image id {file.image_id!r}; ids must be unique, "
                + ("rename one or give a list of id TAB path" if files[other].tar == file.tar else remedy)
            )
        try:
            valid = bool(file.image_id) and not set(file.image_id.encode("utf-8")) & {0, 9, 10, 13}
        except UnicodeEncodeError:
            valid = False
        if not valid:
            raise VTLMError(
                f"{file.path!r}: image id {file.image_id!r} is not one line of UTF-8 text without tabs; "
                "rename the file or give a list of id TAB path"
            )
