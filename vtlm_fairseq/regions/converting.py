"""A conversion: the images of a source, in parts that are saved, by several processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count, islice
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.interrupts import keep_memory, start_worker
from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage
from vtlm_fairseq.regions.parts import Failure, Part, Parts
from vtlm_fairseq.regions.store import RegionStoreWriter

Numbers = Iterable[int]
_BLOCK, _BLOCK_BYTES = 256, 1 << 20  # images and features that are checked together


class Conversion(NamedTuple):
    """What is made, and how.

    Attributes:
        source: of the images.
        label: what messages and lists of errors call it.
        prepare: the id of an image, and its features, boxes, labels and scores.
        padding: these without rows that are no regions, given with where they are from, for `Rules.check`.
        writer: keyword arguments of the parts' writers.
        first: place of the first image of this conversion in the source.
        size: images of a part.
        skip_bad: images that cannot be taken are listed; otherwise the first of them ends the conversion.
    """

    source: ImageSource
    label: str
    prepare: Callable[[InputImage], tuple[str, dict[str, Any]]]
    padding: Callable[[dict[str, Any], str], dict[str, Any]]
    writer: dict[str, Any]
    first: int
    size: int
    skip_bad: bool

    def make(self, parts: Parts, total: int | None, *, workers: int, on_progress: Callable[[int], object]) -> None:
        """Make the parts that are missing.

        Args:
            parts: where they go.
            total: images to convert, from `first` on; None: all that there are, one process finds out how many.
            workers: processes; 0: this one.
            on_progress: called with the number of images of each part that is made, or was.

        Raises:
            VTLMError: an image that cannot be taken, or all of them.
        """
        whole = parts.whole()
        for part in whole.values():
            on_progress(_tried(part))
        if total is None:
            runs: list[Numbers] = list(_gaps(whole, self.size))
        else:
            missing = [number for number in range(max(1, -(-total // self.size))) if number not in whole]
            share = max(1, -(-len(missing) // max(1, workers)))
            runs = [missing[start : start + share] for start in range(0, len(missing), share)]
        end = None if total is None else self.first + total
        if workers < 1 or total is None:
            for done in chain.from_iterable(self._work(parts, run, end) for run in runs):
                on_progress(done)
        else:
            for done in _in_processes([lambda run=run: self._work(parts, run, end) for run in runs]):
                on_progress(done)

    def _work(self, parts: Parts, numbers: Numbers, end: int | None) -> Iterator[int]:
        """Make parts, and give the number of images of each."""
        images: Iterator[InputImage | VTLMError] = iter(())
        last = -2
        for number in numbers:
            if number != last + 1:
                images = _images(self.source, self.first + number * self.size, end)
            last = number
            done = self._make_part(parts, number, islice(images, self.size))
            if done:
                yield done
            if done < self.size:
                return

    def _make_part(self, parts: Parts, number: int, images: Iterator[InputImage | VTLMError]) -> int:
        failures: list[Failure] = []
        tried = 0
        ahead = next(images, None)
        if ahead is None and number:
            return 0
        with parts.writer(number, **self.writer) as writer:
            for block in _blocks(chain([ahead] if ahead is not None else [], images)):
                together = self._add_together(writer, block)
                for image in () if together else block:
                    try:
                        self._add(writer, image)
                    except _BadImageError as error:
                        if not self.skip_bad:
                            raise VTLMError(str(error)) from None
                        place = self.first + number * self.size + tried
                        image_id = image.image_id if isinstance(image, InputImage) else f"#{place + 1}"
                        failures.append(Failure(image_id, self.label, str(error)))
                    tried += 1
                tried += len(block) if together else 0
            if number == 0 and failures and len(failures) == tried:
                raise VTLMError(f"{failures[0].reason}; and so it is with each of the first {tried} images")
            parts.write_failures(number, failures)
        return tried

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
            writer.check_id(image_id)
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


def _tried(part: Part) -> int:
    return len(part.image_ids) + len(part.failures)


def _gaps(whole: dict[int, Part], size: int) -> Iterator[Numbers]:
    """Runs of numbers of parts that are missing, the last one without end, unless a part is the last."""
    start = 0
    for number in sorted(whole):
        if number > start:
            yield range(start, number)
        if _tried(whole[number]) < size:
            return
        start = number + 1
    yield count(start)


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


def joined(parts: Parts, *, skip_bad: bool) -> tuple[list[str], np.ndarray, list[Failure]]:
    """Stores, rows and failures of all parts, in their order, for `Parts.join`.

    Raises:
        VTLMError: an id is in two parts, and `skip_bad` is not set.
    """
    stores, rows, failures = [], [], []
    seen: set[str] = set()
    row = 0
    for _, part in sorted(parts.whole().items()):
        stores.append(part.store)
        failures += part.failures
        for image_id in part.image_ids:
            if image_id not in seen:
                seen.add(image_id)
                rows.append(row)
            elif skip_bad:
                failures.append(Failure(image_id, parts.out, "the id is given twice; the first image of it is stored"))
            else:
                raise VTLMError(
                    f"{parts.out}: image {image_id!r} is given twice; ids must be unique, --skip-bad takes the first"
                )
            row += 1
    return stores, np.array(rows, dtype=np.int64), failures
