"""Images of files of any layout: the source that `vtlm-regions convert --layout` reads."""

import os
from collections.abc import Iterator
from itertools import takewhile

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.formats.child import Child
from vtlm_fairseq.regions.formats.containers import Record, open_container
from vtlm_fairseq.regions.formats.input_image import (
    ImageSource,
    InputImage,
    Listed,
    check_no_pipe,
    file_state,
    warn_of_folders,
)
from vtlm_fairseq.regions.formats.layout import Layout
from vtlm_fairseq.regions.formats.mapping import Reader

_FILES = {"npz": ".npz", "npy": ".npy", "pickle": ".pkl"}  # containers of a folder with files for each image
_END = 1 << 62
_BLOCK = 256  # records that are counted or read at once
_LISTED = 4096  # that are listed at once
_BLOCK_BYTES = 1 << 20  # of features: an answer costs the time of a small image
_FIRST = 100  # images that are looked at for the width of the features


class MappedImages(ImageSource):
    """Images of a file or folder, read in a child process; a record is the place of an image in the input.

    Args:
        layout: how they lie there.
        path: the file or folder.
        ids: a file of image ids, one a line, where the files have none.
        class_names: where labels are given by name, or a layout's soft labels are to be checked.
        soft_labels: keep class scores.

    Attributes:
        pixels: whether boxes are in pixels.
        grid: whether regions are the cells of a grid.

    Raises:
        VTLMError: nothing there, or no image of the first ones is of the layout.
    """

    def __init__(
        self,
        layout: Layout,
        path: str,
        *,
        ids: str | None = None,
        class_names: list[str] | None = None,
        soft_labels: bool = False,
    ) -> None:
        if not os.path.exists(path):
            raise VTLMError(f"--input {path}: no such file or folder")
        if not os.path.isdir(path):
            check_no_pipe(path)
        if os.path.isdir(path) and (ending := _FILES.get(layout.container)):
            known = {part for template in layout.files.values() for part in template.split("/")[:-1]}
            warn_of_folders(path, ending, label=f"--input {path}", known=known)
        self.has_labels = bool(layout.labels or layout.soft_labels)
        self.has_soft_labels = bool(layout.soft_labels)
        self.pixels = bool(layout.boxes) and layout.box_units == "pixels"
        self.grid = layout.shape in ("tokens", "chw", "hwc")
        names = None if ids is None else read_lines(ids, label=f"--ids {ids}", filled=True, strip=True)
        size = os.path.getsize(path) if os.path.isfile(path) else _lmdb_size(path)

        def child() -> Child:
            return Child(
                lambda: _Server(layout, path, names, class_names, soft_labels=soft_labels),
                f"--input {path}",
                memory=2 * size,
            )

        self._path, self._child, self._reader = path, child, child()
        if os.path.isdir(path) and layout.container in _FILES and layout.arrangement == "image":
            self.listed_inputs = (path,)
        elif layout.container == "npy":
            beside = (os.path.join(os.path.dirname(path), file) for file in layout.files.values())
            self.further_files = tuple(file for file in beside if os.path.exists(file))
        self._last: tuple[int, InputImage | str | None] | None = None
        self.feature_dim = 0
        self.feature_dim = self._find_width()

    def listed(self) -> list[Listed] | None:
        """The images of a folder, and the states of their files."""
        if not self.listed_inputs:
            return None
        found: list[Listed] = []
        while more := self._reader.ask(("list", len(found))):
            found += more
        return found

    def records(self) -> Iterator[int]:
        """Places of the images, from 0."""
        child, start, found = self._child(), 0, _BLOCK
        while found == _BLOCK:
            found = child.ask(("count", start))
            yield from range(start, start + found)
            start += found
        child.close()

    def count(self) -> int:
        """How many images there are."""
        start = 0
        while (found := self._reader.ask(("count", start))) == _BLOCK:
            start += found
        return start + found

    def read(self, record: int) -> InputImage:
        """The image at a place.

        Raises:
            VTLMError: it is not of the layout, or cannot be right.
        """
        image = self._ask(record)
        if isinstance(image, InputImage):
            return image
        raise image or VTLMError(f"--input {self._path}: has no image {record + 1}; has it changed?")

    def images(self, start: int = 0, stop: int | None = None) -> Iterator[InputImage | VTLMError]:
        """As `ImageSource.images`, in one pass.

        Raises:
            VTLMError: the whole file cannot be read on, or not this image and perhaps the next.
        """
        while stop is None or start < stop:
            for image in self._block(start, _END if stop is None else stop) or [self._ask(start)]:
                if image is None:
                    return
                yield image
                start += 1

    def close(self) -> None:
        """End the process that reads; it begins again where something is asked for."""
        self._reader.close()

    def _block(self, start: int, stop: int) -> list[InputImage | VTLMError | None]:
        """Some images from a place on, in one answer; none where the child fails at one of them."""
        try:
            images = self._reader.ask(("block", start, stop))
        except VTLMError:
            return []
        return [self._filled(image) for image in images]

    def _ask(self, number: int) -> InputImage | VTLMError | None:
        """The image at a place, its fault, or None behind the last one."""
        if self._last is None or self._last[0] != number:
            self._last = (number, self._reader.ask(("read", number)))
        return self._filled(self._last[1])

    def _filled(self, image: InputImage | str | None) -> InputImage | VTLMError | None:
        if isinstance(image, InputImage) and not len(image.features) and self.feature_dim:
            return image._replace(features=np.zeros((0, self.feature_dim), np.float32))
        return VTLMError(image) if isinstance(image, str) else image

    def _find_width(self) -> int:
        """Width of the features, of the first image that can be read and has regions."""
        fault: VTLMError | None = None
        for image in self.images(0, _FIRST):
            if isinstance(image, VTLMError):
                fault = fault or image
            elif image.features.shape[1]:
                return image.features.shape[1]
        raise fault or VTLMError(f"--input {self._path}: no image with regions among the first {_FIRST}")


class _Server:
    """In the child: counts and reads the images of a container, forwards; it begins again for one that lies behind."""

    def __init__(
        self,
        layout: Layout,
        path: str,
        ids: list[str] | None,
        class_names: list[str] | None,
        *,
        soft_labels: bool = False,
    ) -> None:
        self._layout, self._path, self._ids = layout, path, ids
        self._reader = Reader(layout, class_names, soft_labels=soft_labels)
        self._open()

    def _open(self) -> None:
        self._records = open_container(self._layout, self._path, self._ids)
        self._number, self._record, self._fault = -1, None, None

    def __call__(self, request: tuple) -> int | list[Listed] | list[InputImage | str | None] | InputImage | str | None:
        """("count", n): how many of the next 256 images from n on there are.

        ("list", n): some `Listed` from image n on, none at the end.

        ("read", n): image n, or its fault in words; None where there are not so many.

        ("block", n, m): the same of n to m - 1, as a list of some 2 MB.

        Raises:
            VTLMError: a fault of the container.
        """
        kind, number, *end = request
        if kind == "count":
            return next((k for k in range(_BLOCK) if self._seek(number + k) is None), _BLOCK)
        if kind == "list":
            found = (self._seek(number + k) for k in range(_LISTED))
            return [_listed(record) for record in takewhile(lambda record: record is not None, found)]
        if kind == "read":
            return self._read(number)
        images: list[InputImage | str | None] = []
        size = 0
        while number < min(end[0], request[1] + _BLOCK) and size < _BLOCK_BYTES:
            image = self._read(number)
            images.append(image)
            if image is None:
                break
            size += image.features.nbytes if isinstance(image, InputImage) else 0
            number += 1
        return images

    def _read(self, number: int) -> InputImage | str | None:
        record = self._seek(number)
        if record is None:
            return None
        try:
            return self._reader.read(record.image_id, record.where, record.load())
        except VTLMError as error:
            return str(error)
        except MemoryError:
            return f"{record.where}: holds more for an image than the memory takes; damaged, or not of this layout"

    def _seek(self, number: int) -> Record | None:
        if number < self._number:
            self._open()
        if self._fault is not None:
            raise self._fault
        while self._number < number:
            try:
                self._record = next(self._records, None)
            except VTLMError as error:
                self._fault = error
                raise
            self._number += 1
            if self._record is None:
                self._number = _END  # the file is closed; whatever is asked for next, it is opened again
                return None
        return self._record


def _listed(record: Record) -> Listed:
    return Listed(record.image_id, record.where, ", ".join(file_state(file) for file in record.files))


def _lmdb_size(path: str) -> int:
    """Bytes of the LMDB in a folder; 0 for other folders, whose files are small."""
    data = os.path.join(path, "data.mdb")
    return os.path.getsize(data) if os.path.isfile(data) else 0
