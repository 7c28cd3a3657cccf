"""What an extraction has done so far, on disk: finished parts, and the store that they become.

Beside the store there is a folder `STORE.parts` while the extraction runs. It holds `plan.json` (what is extracted,
and how) and, for each `part_size` images, `00000.tsv` (files that could not be read) and `00000.h5` (a store of the
others). A part appears whole or not at all, its errors first, so that the extraction can be killed at any moment. At
the end the parts are copied to one store; that takes the space of the store a second time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.images import ImageFile
from vtlm_fairseq.files import (
    MARKER,
    cannot_be_written,
    check_writable,
    locked,
    mark_folder,
    remove_folder,
    write_lines,
    write_text,
)
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.guard import check_openable
from vtlm_fairseq.regions.merge import copy_regions, writer_like
from vtlm_fairseq.regions.schema import decode, read_header
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter

Failure = tuple[str, str, str]  # image id, path, reason


class Extraction:
    """The state of one extraction; use as a context manager, which keeps other processes from `STORE`.

    Args:
        out: the store to make.
        files: all images of the run, in the order of the store.
        plan: what decides about the result besides the images; a run goes on only with the same plan.
        part_size: images of a part.
        overwrite: begin anew and replace `out`.

    Attributes:
        complete: `out` was made by this very extraction before; nothing is left to do.

    Raises:
        VTLMError: `out` exists from elsewhere, its parts belong to another extraction, are a folder of something
            else, or another process is at it.
    """

    def __init__(
        self, out: str, files: Sequence[ImageFile], plan: dict[str, Any], *, part_size: int, overwrite: bool
    ) -> None:
        self.out = out
        self.files = files
        self.part_size = part_size
        self.folder = Path(f"{os.path.realpath(out) if os.path.islink(out) else out}.parts")
        self.errors = Path(f"{out}.errors.tsv")
        self._plan = {**plan, "part_size": part_size, "images": len(files), "sha256_of_ids": _digest(files)}
        self._key = hashlib.sha256(json.dumps(self._plan, sort_keys=True).encode()).hexdigest()
        self._overwrite = overwrite
        self._stack = ExitStack()
        self.complete = False

    def __enter__(self) -> Extraction:
        label = f"--out {self.out}"
        check_writable(self.out, label=label, streams=False)
        check_writable(self.errors)
        with ExitStack() as stack:
            stack.enter_context(locked(self.out, label=label))
            self._take_folder()
            stack.callback(self._leave_folder)
            self._check()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _take_folder(self) -> None:
        plan = self.folder / "plan.json"
        with suppress(OSError, ValueError):
            if "detector" in parse_object(plan.read_bytes(), str(plan), hint=""):  # of a version that did not mark it
                (self.folder / MARKER).touch()
        try:
            mark_folder(self.folder)
        except OSError as error:
            raise cannot_be_written(str(self.folder), error) from None

    def _leave_folder(self) -> None:
        """Of a run that did not finish a part nothing is left."""
        if self.folder.is_dir() and not self._any_part():
            remove_folder(self.folder)

    def _any_part(self) -> bool:
        return any(self.folder.glob("*.h5"))

    def _check(self) -> None:
        if self._overwrite:
            for entry in self.folder.iterdir():
                if entry.name != MARKER:
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        elif os.path.exists(self.out):
            check_openable([self.out])
            if read_header(self.out).attributes.get("extraction") != self._key:
                raise VTLMError(f"--out {self.out}: exists; remove it or add --overwrite")
            self.complete = True
            remove_folder(self.folder)
            return
        self._compare_plan()

    def _compare_plan(self) -> None:
        path = self.folder / "plan.json"
        if not path.exists() or not self._any_part():
            write_text(path, json.dumps(self._plan, indent=1) + "\n")
            return
        before = parse_object(path.read_bytes(), str(path), hint="add --overwrite to begin anew")
        for name, value in self._plan.items():
            if before.get(name) != value:
                raise VTLMError(
                    f"{self.folder}: holds the parts of another extraction, {name} was {before.get(name)!r} and is "
                    f"{value!r}; go on with the same options, or add --overwrite to begin anew"
                )

    def part_files(self, part: int) -> Sequence[ImageFile]:
        """The images of a part."""
        return self.files[part * self.part_size : (part + 1) * self.part_size]

    def _store(self, part: int) -> Path:
        return self.folder / f"{part:05}.h5"

    def _failures(self, part: int) -> Path:
        return self.folder / f"{part:05}.tsv"

    @property
    def num_parts(self) -> int:
        """How many parts the images make."""
        return -(-len(self.files) // self.part_size)

    def missing(self) -> list[int]:
        """Parts still to be made; a part on disk that is damaged is among them."""
        return [part for part in range(self.num_parts) if not self._is_whole(part)]

    def _is_whole(self, part: int) -> bool:
        store, failures = self._store(part), self._failures(part)
        if not (store.exists() and failures.exists()):
            return False
        try:
            check_openable([str(store)])
            done = [decode(i) for i in read_header(str(store)).ids]
            failed = {line.split("\t")[0] for line in read_lines(failures)}
        except VTLMError:
            return False
        return done == [file.image_id for file in self.part_files(part) if file.image_id not in failed]

    def writer(self, part: int, **options: Any) -> RegionStoreWriter:
        """A writer for a part; call `write_failures` before its block ends."""
        return RegionStoreWriter(self._store(part), **options)

    def write_failures(self, part: int, failures: Iterable[Failure]) -> None:
        """Write the list of a part's images that could not be read."""
        write_lines(self._failures(part), map(_line, failures))

    def join(self, on_progress: Callable[[int], object] | None = None) -> tuple[int, int, int]:
        """Make the store of all parts, and the list of errors if there are any, and remove the parts.

        Returns:
            Numbers of images and regions of the store, and of errors.
        """
        failed = [line for part in range(self.num_parts) for line in read_lines(self._failures(part))]
        store = RegionStore([str(self._store(part)) for part in range(self.num_parts)], max_regions=None)
        with writer_like(store, self.out, {"extraction": self._key}) as writer:
            copy_regions(store, writer, on_progress)
            if failed:
                write_lines(self.errors, failed)
            else:
                self.errors.unlink(missing_ok=True)
        store.close()
        remove_folder(self.folder)
        return len(store), store.num_regions, len(failed)


def _digest(files: Iterable[ImageFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.image_id.encode("utf-8") + b"\n")
    return digest.hexdigest()


def _line(failure: Failure) -> str:
    """A line of the list of errors; file names may hold anything."""
    fields = (" ".join(field.encode("utf-8", "backslashreplace").decode().split()) for field in failure[1:])
    return "\t".join((failure[0], *fields))
