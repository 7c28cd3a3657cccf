"""What an extraction has done so far, on disk: finished parts, and the store that they become.

Beside the store there is a folder `STORE.parts` while the extraction runs. It holds `plan.json` (what is extracted,
and how) and, for each `part_size` images, `00000.tsv` (files that could not be read) and `00000.h5` (a store of the
others). A part appears whole or not at all, its errors first, so that the extraction can be killed at any moment. At
the end the parts are copied to one store; that takes the space of the store a second time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

from images import ImageFile

from vtlm_fairseq.data.region_merge import copy_regions
from vtlm_fairseq.data.region_schema import decode, read_header
from vtlm_fairseq.data.region_store import RegionStore, RegionStoreWriter
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.json_objects import parse_object

Failure = tuple[str, str, str]  # image id, path, reason


class Extraction:
    """The state of one extraction; use as a context manager, which holds a lock on `STORE.parts`.

    Args:
        out: the store to make.
        files: all images of the run, in the order of the store.
        plan: what decides about the result besides the images; a run goes on only with the same plan.
        part_size: images of a part.
        overwrite: begin anew and replace `out`.

    Attributes:
        complete: `out` was made by this very extraction before; nothing is left to do.

    Raises:
        VTLMError: `out` exists from elsewhere, its parts belong to another extraction, or another process is at it.
    """

    def __init__(
        self, out: str, files: Sequence[ImageFile], plan: dict[str, Any], *, part_size: int, overwrite: bool
    ) -> None:
        self.out = out
        self.files = files
        self.part_size = part_size
        self.folder = Path(f"{out}.parts")
        self.errors = Path(f"{out}.errors.tsv")
        self._plan = {**plan, "part_size": part_size, "images": len(files), "sha256_of_ids": _digest(files)}
        self._key = hashlib.sha256(json.dumps(self._plan, sort_keys=True).encode()).hexdigest()
        self._overwrite = overwrite
        self._lock: IO[str] | None = None
        self._mine = False
        self.complete = False

    def __enter__(self) -> Extraction:
        parent = os.path.dirname(os.path.abspath(self.out))
        if not os.path.isdir(parent):
            raise VTLMError(f"--out {self.out}: folder {parent} does not exist; make it first")
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = open(self.folder / "lock", "w")
        except OSError as error:
            raise VTLMError(f"--out {self.out}: cannot write in {parent} ({error.strerror})") from None
        try:
            self._take_lock()
            self._check()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()

    def _take_lock(self) -> None:
        assert self._lock is not None
        try:
            # a lock of this process alone: workers that outlive a killed run for some seconds do not inherit it
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise VTLMError(
                f"--out {self.out}: another process is extracting to it (it holds {self.folder}/lock); wait for it"
            ) from None
        except OSError:  # a network disk without locks
            pass
        self._mine = True

    def _release(self) -> None:
        """Let go of the lock; of a run that did not finish a part nothing is left."""
        if self._mine and self.folder.is_dir() and not self._any_part():
            shutil.rmtree(self.folder)
        self._mine = False
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _any_part(self) -> bool:
        return any(self.folder.glob("*.h5"))

    def _check(self) -> None:
        if self._overwrite:
            for entry in self.folder.iterdir():
                if entry.name != "lock":
                    entry.unlink()
        elif os.path.exists(self.out):
            if read_header(self.out).attributes.get("extraction") != self._key:
                raise VTLMError(f"--out {self.out}: exists; remove it or add --overwrite")
            self.complete = True
            shutil.rmtree(self.folder)
            return
        for temporary in self.folder.glob(".*.tmp"):  # of a run that was killed
            temporary.unlink()
        self._compare_plan()

    def _compare_plan(self) -> None:
        path = self.folder / "plan.json"
        if not path.exists() or not self._any_part():
            _write(path, json.dumps(self._plan, indent=1) + "\n")
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
            done = [decode(i) for i in read_header(str(store)).ids]
        except VTLMError:
            return False
        failed = {line.split("\t")[0] for line in failures.read_text(encoding="utf-8").splitlines()}
        return done == [file.image_id for file in self.part_files(part) if file.image_id not in failed]

    def writer(self, part: int, **options: Any) -> RegionStoreWriter:
        """A writer for a part; call `write_failures` before its block ends."""
        return RegionStoreWriter(self._store(part), **options)

    def write_failures(self, part: int, failures: Iterable[Failure]) -> None:
        """Write the list of a part's images that could not be read."""
        _write(self._failures(part), "".join(_line(failure) for failure in failures))

    def join(self, on_progress: Callable[[int], object] | None = None) -> tuple[int, int, int]:
        """Make the store of all parts, and the list of errors if there are any, and remove the parts.

        Returns:
            Numbers of images and regions of the store, and of errors.
        """
        lists = [self._failures(part).read_text(encoding="utf-8") for part in range(self.num_parts)]
        store = RegionStore([str(self._store(part)) for part in range(self.num_parts)], max_regions=None)
        joined = self.folder / "joined.h5"
        with RegionStoreWriter(
            joined,
            feature_dim=store.feature_dim,
            class_names=store.class_names,
            detector=store.detector,
            created_by=str(store.attributes["created_by"]),
            dtype=store.dtype.name,
            attributes={"extraction": self._key},
        ) as writer:
            copy_regions(store, writer, on_progress)
        store.close()
        failed = "".join(lists)
        if failed:
            _write(self.errors, failed)
        else:
            self.errors.unlink(missing_ok=True)
        os.replace(joined, self.out)
        shutil.rmtree(self.folder)
        return len(store), store.num_regions, failed.count("\n")


def _digest(files: Iterable[ImageFile]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.image_id.encode("utf-8") + b"\n")
    return digest.hexdigest()


def _line(failure: Failure) -> str:
    """A line of the list of errors; file names may hold anything."""
    fields = (" ".join(field.encode("utf-8", "backslashreplace").decode().split()) for field in failure[1:])
    return "\t".join((failure[0], *fields)) + "\n"


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
