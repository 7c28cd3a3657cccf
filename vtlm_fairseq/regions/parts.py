"""What an extraction or a conversion has done so far, on disk: finished parts, and the store that they become.

Beside the store there is a folder `STORE.parts` while the command runs. It holds `plan.json` (what is made, and how)
and, for each part, `00000.tsv` (what failed), of a conversion `00000.json` (which images were tried, of which files)
and `00000.h5` (a store of the others). A part appears whole or not at all, its store last, so that the command can be
killed at any moment. At the end the parts are copied to one store; that takes the space of the store a second time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
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
from vtlm_fairseq.regions.merge import copy_rows, writer_like
from vtlm_fairseq.regions.schema import decode, read_header
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter
from vtlm_fairseq.terminal import say

SOME_FAILED = 3
"""Exit status of a command that made a store, and could not take some images."""

CONTENT = "content of "
"""How keys of a plan begin that hold the state of a file."""


class Failure(NamedTuple):
    """An image that is not in the store, and why."""

    image_id: str
    path: str
    reason: str

    @classmethod
    def of_line(cls, line: str) -> Failure:
        """From a line of a list of errors."""
        return cls(*(line.split("\t") + ["", ""])[:3])

    def line(self) -> str:
        """A line of the list of errors; file names may hold anything."""
        fields = (" ".join(field.encode("utf-8", "backslashreplace").decode().split()) for field in self)
        return "\t".join(fields)


class Part(NamedTuple):
    """A part that is whole.

    Attributes:
        store: its file.
        image_ids: in the store.
        failures: of the others.
        tried: key of each image, and whether it is in the store; None where this was not noted.
        feature_dim: of the store.
    """

    store: str
    image_ids: list[str]
    failures: list[Failure]
    tried: list[tuple[str, bool]] | None = None
    feature_dim: int = 0


class Parts:
    """The parts of a store; use as a context manager, which keeps other processes from `STORE`.

    Args:
        out: the store to make.
        plan: what decides about the result besides the images; a run goes on only with the same plan.
        kind: what makes it, `extraction` or `conversion`; the store's attribute of that name tells the plan.
        overwrite: begin anew and replace `out`.
        inputs: state of each file or folder that a finished `out` was made of; parts note those of their own images.

    Attributes:
        folder: of the parts.
        errors: the list of errors.
        made: `out` was made by this plan: its images need not be made again.

    Raises:
        VTLMError: `out` exists from elsewhere, its parts belong to another plan, are a folder of something else, or
            another process is at it.
    """

    def __init__(
        self, out: str, plan: dict[str, Any], *, kind: str, overwrite: bool, inputs: Mapping[str, str] | None = None
    ) -> None:
        self.out = out
        self.folder = Path(f"{os.path.realpath(out) if os.path.islink(out) else out}.parts")
        self.errors = Path(f"{out}.errors.tsv")
        self.made = False
        self._plan, self._kind, self._overwrite = plan, kind, overwrite
        contents = {name.removeprefix(CONTENT): plan[name] for name in plan if name.startswith(CONTENT)}
        self._made_of = {**contents, **(inputs or {})}
        self._key = _digest({**plan, **{CONTENT + name: state for name, state in self._made_of.items()}})
        self._options_key = _digest({name: plan[name] for name in plan if not name.startswith(CONTENT)})
        self._stack = ExitStack()

    def __enter__(self) -> Parts:
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
            attributes = read_header(self.out).attributes
            if attributes.get(self._kind) != self._key:
                changed = self._changed_since(attributes)
                of = f", made with these options, but {changed} has changed since" if changed else ""
                raise VTLMError(f"--out {self.out}: exists{of}; remove it or add --overwrite")
            self.made = True
        self._compare_plan()

    def _changed_since(self, attributes: Mapping[str, Any]) -> str:
        """The first of the files and folders that has changed since `out` was made of it with the same options."""
        with suppress(ValueError, TypeError):
            before = json.loads(attributes.get(f"{self._kind}_inputs", ""))
            if before.pop("options") == self._options_key:
                return next((name for name, state in self._made_of.items() if before.get(name) != state), "")
        return ""

    def _compare_plan(self) -> None:
        path = self.folder / "plan.json"
        if not path.exists() or not self._any_part():
            write_text(path, json.dumps(self._plan, indent=1) + "\n")
            return
        before = parse_object(path.read_bytes(), str(path), hint="add --overwrite to begin anew")
        for name in {**self._plan, **before}:
            if before.get(name) != self._plan.get(name):
                if name.startswith(CONTENT):
                    changed = name.removeprefix(CONTENT)
                    raise VTLMError(
                        f"{self.folder}: {changed} has changed since its parts were made, or another version made "
                        "them; put it back as it was, or add --overwrite to begin anew"
                    )
                raise VTLMError(
                    f"{self.folder}: holds the parts of another {self._kind}, {name} was {before.get(name)!r} and is "
                    f"{self._plan.get(name)!r}; go on with the same options, or add --overwrite to begin anew"
                )

    def whole(self) -> dict[int, Part]:
        """All parts that are whole, by number; the store itself, where it was made, is part -1.

        One that is damaged is not among them, so that it is made again.
        """
        files = {-1: (Path(self.out), self.errors)} if self.made else {}
        for path in sorted(self.folder.glob("*.h5")):
            failures = path.with_suffix(".tsv")
            if path.stem.isdecimal() and failures.exists():
                files[int(path.stem)] = path, failures
        sound = _openable([str(store) for store, _ in files.values()])
        parts = {number: _read(*pair) for number, pair in files.items() if str(pair[0]) in sound}
        return {number: part for number, part in parts.items() if part is not None}

    def writer(self, number: int, **options: Any) -> RegionStoreWriter:
        """A writer for a part; call `write_failures` before its block ends."""
        return RegionStoreWriter(self.folder / f"{number:05}.h5", **options)

    def write_failures(self, number: int, failures: Iterable[Failure]) -> None:
        """Write the list of a part's images that failed."""
        write_lines(self.folder / f"{number:05}.tsv", (failure.line() for failure in failures))

    def write_tried(self, number: int, tried: Sequence[tuple[str, bool]]) -> None:
        """Write the keys of a part's images, and which of them are in its store."""
        write_text(self.folder / f"{number:05}.json", json.dumps({"images": tried}) + "\n")

    def join(
        self,
        stores: Sequence[str],
        rows: np.ndarray,
        failures: Sequence[Failure],
        on_progress: Callable[[int], object] | None = None,
    ) -> tuple[int, int]:
        """Make the store of images of the parts, and the list of errors if there are any, and remove the parts.

        Args:
            stores: files of parts.
            rows: of the images in these, taken together; in the order of the store.
            failures: the list of errors.
            on_progress: called with the number of images copied so far.

        Returns:
            Numbers of images and regions of the store.
        """
        store = RegionStore(stores, max_regions=None, repeats=True)
        attributes = {self._kind: self._key}
        if self._made_of:
            attributes[f"{self._kind}_inputs"] = json.dumps({**self._made_of, "options": self._options_key})
        with writer_like(store, self.out, attributes) as writer:
            copy_rows(store, rows, writer, on_progress)
            self._write_errors(failures)
        store.close()
        remove_folder(self.folder)
        return len(rows), int(store.counts(rows).sum())

    def leave(self, failures: Sequence[Failure] | None = None) -> bool:
        """Where `out` was made and is still right: say so, remove the parts, and bring the list of errors up to date.

        Returns:
            Whether there are errors.
        """
        if failures is not None:
            self._write_errors(failures)
        remove_folder(self.folder)
        failed = self.errors.exists()
        say(f"{self.out}: complete already" + (f", errors in {self.errors}" if failed else ""))
        return failed

    def _write_errors(self, failures: Sequence[Failure]) -> None:
        if failures:
            write_lines(self.errors, (failure.line() for failure in failures))
        else:
            self.errors.unlink(missing_ok=True)


def _openable(stores: list[str]) -> set[str]:
    """Those that HDF5 can open, found out in one process where all are sound."""
    try:
        check_openable(stores)
        return set(stores)
    except VTLMError:
        if len(stores) == 1:
            return set()
        half = len(stores) // 2
        return _openable(stores[:half]) | _openable(stores[half:])


def _read(store: Path, failures: Path) -> Part | None:
    try:
        header = read_header(str(store))
        done = [decode(image_id) for image_id in header.ids]
        failed = [Failure.of_line(line) for line in read_lines(failures)] if failures.exists() else []
        tried, noted = None, store.with_suffix(".json")
        if noted.exists() and failures.with_suffix(".h5") == store:
            content = parse_object(noted.read_bytes(), str(noted), hint="")["images"]
            tried = [(str(key), bool(stored)) for key, stored in content]
            if sum(stored for _, stored in tried) != len(done):
                return None
    except (VTLMError, OSError, ValueError, TypeError, KeyError):
        return None
    return Part(str(store), done, failed, tried, header.feature_dim)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
