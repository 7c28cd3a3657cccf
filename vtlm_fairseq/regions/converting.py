"""A conversion: the images of a source, in parts that are saved, by several processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.interrupts import keep_memory, start_worker
from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage, Listed
from vtlm_fairseq.regions.parts import Failure, Parts
from vtlm_fairseq.regions.progress import Places, Progress, by_rule
from vtlm_fairseq.regions.store import RegionStoreWriter
from vtlm_fairseq.text.id_rules import IdRule

_BLOCK, _BLOCK_BYTES = 256, 1 << 20  # images and features that are checked together


class Conversion(NamedTuple):
    """What is made, and how.

    Attributes:
        source: of the images.
        label: what messages and lists of errors call it.
        rule: of the ids, for messages.
        prepare: the id of an image, and its features, boxes, labels and scores.
        padding: these without rows that are no regions, given with where they are from, for `Rules.check`.
        writer: keyword arguments of the parts' writers.
        listed: images of the source, where it lists them.
        end: place behind the last image of this conversion in the source; None: all that there are.
        skip_bad: images that cannot be taken are listed; otherwise the first of them ends the conversion.
    """

    source: ImageSource
    label: str
    rule: IdRule
    prepare: Callable[[InputImage], tuple[str, dict[str, Any]]]
    padding: Callable[[dict[str, Any], str], dict[str, Any]]
    writer: dict[str, Any]
    listed: Sequence[Listed] | None
    end: int | None
    skip_bad: bool

    def make(self, parts: Parts, progress: Progress, *, workers: int, on_progress: Callable[[int], object]) -> None:
        """Make the parts that are missing.

        Args:
            parts: where they go.
            progress: which they are.
            workers: processes; 0: this one, which a source without a known end needs.
            on_progress: called with the number of images that are done, and of those of each part that is made.

        Raises:
            VTLMError: an image that cannot be taken, or all of them.
        """
        on_progress(progress.done)
        if workers < 1:
            for done in self._work(parts, progress.work()):
                on_progress(done)
            return
        work = list(progress.work())
        share = max(1, -(-len(work) // workers))
        runs = [work[start : start + share] for start in range(0, len(work), share)]
        for done in _in_processes([lambda run=run: self._work(parts, run) for run in runs]):
            on_progress(done)

    def _work(self, parts: Parts, work: Iterable[tuple[int, Places]]) -> Iterator[int]:
        """Make parts, and give the number of images of each."""
        images = _InOrder(self.source, self.end, self.listed)
        for number, places in work:
            done = self._make_part(parts, number, places, images.at(places))
            if done:
                yield done
            if done < len(places):
                return

    def _make_part(self, parts: Parts, number: int, places: Places, images: Iterator[InputImage | VTLMError]) -> int:
        failures: list[Failure] = []
        tried: list[tuple[str, bool]] = []
        ahead = next(images, None)
        if ahead is None and number and places:
            return 0
        with parts.writer(number, **self.writer) as writer:
            for block in _blocks(chain([ahead] if ahead is not None else [], images)):
                together = self._add_together(writer, block)
                for image in block:
                    place = places[len(tried)]
                    listed = None if self.listed is None else self.listed[place]
                    failure = None if together else self._try(writer, image, listed, place)
                    tried.append((listed.key if listed else "", failure is None))
                    failures += [failure] if failure else []
            if number == 0 and failures and len(failures) == len(tried):
                raise VTLMError(f"{failures[0].reason}; and so it is with each of the first {len(tried)} images")
            parts.write_failures(number, failures)
            parts.write_tried(number, tried)
        return len(tried)

    def _try(
        self, writer: RegionStoreWriter, image: InputImage | VTLMError, listed: Listed | None, place: int
    ) -> Failure | None:
        """Add an image; what is wrong with it, where images with faults are left out."""
        try:
            self._add(writer, image)
            return None
        except _BadImageError as error:
            if not self.skip_bad:
                raise VTLMError(str(error)) from None
            if listed is not None:
                return Failure(listed.image_id, listed.source, str(error))
            image_id = image.image_id if isinstance(image, InputImage) else f"#{place + 1}"
            return Failure(image_id, self.label, str(error))

    def _add_together(self, writer: RegionStoreWriter, block: Sequence[InputImage | VTLMError]) -> bool:
        """Check and add images at once, which takes a third of the time; nothing is added where one has a fault."""
        try:
            prepared = [self.prepare(image) for image in block if isinstance(image, InputImage)]
            ids = [image_id for image_id, _ in prepared]
            joined_arrays = _joined_arrays([arrays for _, arrays in prepared])
            if not len(set(ids)) == len(ids) == len(block) or joined_arrays is None:
                return False
            for image_id in ids:
                writer.check_id(image_id)
            counts = [len(arrays["features"]) for _, arrays in prepared]
            arrays = self.padding(joined_arrays, "")
            if len(arrays["features"]) != sum(counts):
                return False
            checked = writer.rules.check(**arrays, images=np.repeat(np.arange(len(counts)), counts))
        except VTLMError:
            return False
        writer.extend(ids, counts, checked)
        return True

    def _add(self, writer: RegionStoreWriter, image: InputImage | VTLMError) -> None:
        if isinstance(image, VTLMError):
            raise _BadImageError(str(image))
        try:
            image_id, arrays = self.prepare(image)
            arrays = self.padding(arrays, f"{image.source}: image {image_id!r}")
            where = f"{image.source}: image {image_id!r}{by_rule(self.rule, image.image_id, image_id)}"
            if image_id in writer:
                raise VTLMError(f"{where} is given twice; ids must be unique, --skip-bad takes the first")
            writer.check_id(image_id, where)
        except VTLMError as error:
            raise _BadImageError(str(error)) from None
        try:
            checked = writer.rules.check(**arrays)
        except VTLMError as error:
            raise _BadImageError(f"{image.source}: image {image_id!r}: {error}") from None
        writer.extend([image_id], [len(checked["labels"])], checked)


class _BadImageError(Exception):
    """An image that cannot be taken."""


def _blocks(images: Iterable[InputImage | VTLMError]) -> Iterator[list[InputImage | VTLMError]]:
    """Images that are checked together: so many as stay in the processor's memory."""
    block: list[InputImage | VTLMError] = []
    size = 0
    for image in images:
        block.append(image)
        size += image.features.nbytes if isinstance(image, InputImage) else 0
        if size >= _BLOCK_BYTES or len(block) == _BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _joined_arrays(images: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Arrays of images, one after the other; None where they are not alike, or one is shorter than another."""
    found: dict[str, Any] = {}
    for name in images[0] if images else ():
        arrays = [image[name] for image in images]
        if all(array is None for array in arrays):
            found[name] = None
            continue
        if not all(isinstance(array, np.ndarray) and array.ndim for array in arrays):
            return None
        kinds = {(array.dtype, array.shape[1:]) for array in arrays}
        if len(kinds) > 1 or any(len(a) != len(image["features"]) for a, image in zip(arrays, images, strict=True)):
            return None
        found[name] = np.concatenate(arrays)
    return found or None


def _images(source: ImageSource, start: int, end: int | None) -> Iterator[InputImage | VTLMError]:
    """The images of a source from a place on, and the fault in place of one that has one.

    A source that raises it is begun again behind the image.
    """
    said = ""
    while True:
        try:
            for image in source.images(start, end):
                start, said = start + 1, ""
                yield image
            return
        except VTLMError as error:
            if str(error) == said:  # it is no single image's
                raise
            start, said = start + 1, str(error)
            yield error
        if end is not None and start >= end:
            return


class _InOrder:
    """Images at places of a source, which is read on as long as they follow each other."""

    def __init__(self, source: ImageSource, end: int | None, listed: Sequence[Listed] | None) -> None:
        self._source, self._end, self._listed = source, end, listed
        self._images: Iterator[InputImage | VTLMError] = iter(())
        self._place = -1

    def at(self, places: Places) -> Iterator[InputImage | VTLMError]:
        """Each of them, or its fault; fewer where the source ends.

        Raises:
            VTLMError: another image than the list says.
        """
        for place in places:
            if place != self._place:
                self._images = _images(self._source, place, self._end)
            image = next(self._images, None)
            listed = None if self._listed is None else self._listed[place]
            if listed and (image is None or (isinstance(image, InputImage) and image.image_id != listed.image_id)):
                raise VTLMError(
                    f"{listed.source}: is no longer where it was; leave the input alone while it is converted, and "
                    "give the same command again"
                )
            if image is None:
                return
            self._place = place + 1
            yield image


def _in_processes(works: Sequence[Callable[[], Iterator[int]]]) -> Iterator[int]:
    """What iterators give, each in a process of its own."""
    fork = multiprocessing.get_context("fork")
    running: dict[Connection, Any] = {}
    try:
        for work in works:
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=_serve, args=(work, sender), daemon=False)
            process.start()
            sender.close()
            running[receiver] = process
        while running:
            for receiver in wait(list(running)):
                try:
                    kind, content = receiver.recv()
                except EOFError:
                    running[receiver].join()
                    kind, content = "end", running[receiver].exitcode
                if kind == "fault":
                    raise VTLMError(content)
                if kind == "done":
                    yield content
                elif content:
                    raise VTLMError(
                        f"a process that converts has ended (exit status {content}); give the same command again to "
                        "go on, with fewer --workers if memory ran out"
                    )
                else:
                    running.pop(receiver).join()
    finally:
        for process in running.values():
            process.kill()
            process.join()


def _serve(work: Callable[[], Iterator[int]], sender: Connection) -> None:
    """In the child."""
    start_worker()
    keep_memory()
    try:
        for done in work():
            sender.send(("done", done))
    except VTLMError as error:
        sender.send(("fault", str(error)))
    except OSError as error:
        sender.send(("fault", f"{error.filename or 'conversion'}: {error.strerror or error}"))
    sender.close()
    os._exit(0)
