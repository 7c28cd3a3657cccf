"""One image of the input of a conversion, whatever its format."""

import hashlib
import os
import stat
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)


class InputImage(NamedTuple):
    """Features [R, D], boxes [R, 4], labels [R], scores [R], class scores [R, C] of an image; None where not given.

    Attributes:
        image_id: its id in the store.
        source: file (and line), for messages.
        features: [R, D].
        boxes: [R, 4], x1, y1, x2, y2 unless the command says otherwise.
        labels: [R], 0-based.
        scores: [R].
        size: width and height in pixels, where the boxes are in pixels and the format gives it.
        soft_labels: [R, C], without background, where they were asked for.
    """

    image_id: str
    source: str
    features: np.ndarray
    boxes: np.ndarray | None
    labels: np.ndarray | None
    scores: np.ndarray | None
    size: tuple[float, float] | None = None
    soft_labels: np.ndarray | None = None


class Listed(NamedTuple):
    """An image of a source that says at its start what it has.

    Attributes:
        image_id: as `InputImage` has it.
        source: file, or place in one, for messages.
        state: of the files that are the image's own, which changes when they do.
    """

    image_id: str
    source: str
    state: str = ""

    @property
    def key(self) -> str:
        """Another for another image, or another state of its files."""
        text = f"{self.image_id}\0{self.source}\0{self.state}"
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


class ImageSource:
    """Images of a source in a fixed order, for `vtlm_fairseq.regions.conversion`.

    A record says where an image is: a path, a row, a line. Going through the records is cheap, and to read one none of
    the others is needed, so that parts of a conversion can be made in any order, by several processes (forked; what
    does not survive a fork is to be opened by `read`), and an image that cannot be read is left out.

    Attributes:
        feature_dim: D.
        has_labels: whether its images have labels.
        has_soft_labels: whether they have class scores.
        class_names: names of the classes, where the source knows them.
        listed_inputs: files and folders of which the state of the images says all that matters.
        further_files: that no option names and all images depend on.
    """

    feature_dim: int
    has_labels: bool = True
    has_soft_labels: bool = False
    class_names: list[str] | None = None
    listed_inputs: tuple[str, ...] = ()
    further_files: tuple[str, ...] = ()

    def listed(self) -> list[Listed] | None:
        """Of each image what is known before it is read; None where ids are known only then."""
        return None

    def records(self) -> Iterator[Any]:
        """Where each image is."""
        raise NotImplementedError

    def read(self, record: Any) -> InputImage:
        """The image of a record.

        Raises:
            VTLMError: it is not of this form; the next one may be.
        """
        raise NotImplementedError

    def count(self) -> int:
        """How many images there are."""
        return sum(1 for _ in self.records())

    def images(self, start: int = 0, stop: int | None = None) -> Iterator[InputImage | VTLMError]:
        """Some of the images by their place, and the fault in place of one that cannot be read.

        Those that are left out are not read.
        """
        for record in islice(self.records(), start, stop):
            try:
                image = self.read(record)
            except VTLMError as error:
                image = error
            yield image

    def __iter__(self) -> Iterator[InputImage]:
        return map(self.read, self.records())


class ImageFiles(ImageSource):
    """Images from a folder with a file for each, in the order of their names.

    Raises:
        VTLMError: no folder, no file in it, or a file that is not of this form.
    """

    option: str
    ending: str

    def __init__(self, folder: str) -> None:
        self._files = files_in(folder, self.ending, label=f"{self.option} {folder}")
        warn_of_folders(folder, self.ending, label=f"{self.option} {folder}")
        self.listed_inputs = (folder,)
        self.feature_dim = self.read(self._files[0]).features.shape[1]

    def __len__(self) -> int:
        return len(self._files)

    def listed(self) -> list[Listed]:
        """The files and their states."""
        return [Listed(f.name.removesuffix(self.ending), str(f), file_state(f)) for f in self._files]

    def records(self) -> Iterator[Path]:
        """The files; the id of an image is the file's name without the ending."""
        return iter(self._files)


def file_state(path: str | Path) -> str:
    """Size and time of modification of a file."""
    try:
        found = os.stat(path)
    except OSError:
        return "gone"
    return f"{found.st_size} {found.st_mtime_ns}"


def check_no_pipe(path: str | Path) -> None:
    """Refuse what is there and is no file: a pipe would keep the command waiting.

    Raises:
        VTLMError: a pipe, a device or a folder.
    """
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return  # what opens it says why it cannot be read
    if not is_file:
        raise VTLMError(f"{path}: a pipe, a device or a folder, not a file")


def files_in(folder: str, ending: str, *, label: str) -> list[Path]:
    """Files of a folder by their ending, sorted.

    Raises:
        VTLMError: no folder, or no such file in it.
    """
    if not Path(folder).is_dir():
        raise VTLMError(f"{label}: no such folder; a {ending} file for each image lies in one")
    files = sorted(Path(folder).glob(f"*{ending}"))
    if not files:
        below = _below(folder, ending)
        hint = f"; there are in its folders {below}: name one of them" if below else ""
        raise VTLMError(f"{label}: no {ending} file in that folder{hint}")
    return files


def warn_of_folders(folder: str, ending: str, *, label: str, known: Collection[str] = ()) -> None:
    """Say which of a folder's own folders hold files that `files_in` leaves out; ``known`` are read otherwise."""
    if below := _below(folder, ending, known):
        logger.warning("%s: %s files in its folders %s are left out", label, ending, below)


def _below(folder: str, ending: str, known: Collection[str] = ()) -> str:
    names = sorted({file.parent.name for file in Path(folder).glob(f"*/*{ending}")} - set(known))
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
