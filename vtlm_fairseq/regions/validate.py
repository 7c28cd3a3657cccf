"""The full check of a region store: every value of every region, in bounded memory."""

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from itertools import islice
from multiprocessing.connection import Connection

import h5py
import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.regions.file_identity import identify
from vtlm_fairseq.regions.padding import FLAT, ZERO, flat_boxes, zero_rows
from vtlm_fairseq.regions.rows import StoreFile
from vtlm_fairseq.regions.schema import (
    DAMAGE,
    StoreHeader,
    check_stored,
    decode,
    open_file,
    read_header,
    read_ids,
    unreadable,
)
from vtlm_fairseq.text.id_rules import explain_missing
from vtlm_fairseq.text.image_ids import region_counts

BLOCK_BYTES = 64 << 20
PATIENCE_SECONDS = 300.0  # for the next block, and for the header before the first


def validate(
    path: str, on_progress: Callable[[int, int], None] | None = None, *, empty: dict[str, int] | None = None
) -> list[str]:
    """Check all of a store file: schema, finite values, boxes within 0..1 and in order, scores descending.

    The file is read in a child process: HDF5 itself can crash on damaged files, or never come back.

    Args:
        path: a store file.
        on_progress: called with (regions done, regions in all) after each block.
        empty: gets the numbers of regions whose features are all 0, and whose boxes have no area, under `ZERO` and
            `FLAT`; these are no faults.

    Returns:
        One line a fault (each kind of fault once an image), naming file and image id; empty if there is none. Of the
        schema the first fault is named; values are checked besides, as far as the shapes allow.
    """
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    child = fork.Process(target=_send_faults, args=(path, sender), daemon=True)
    child.start()
    sender.close()
    try:
        while receiver.poll(PATIENCE_SECONDS):
            message = receiver.recv()
            if isinstance(message, list):
                return message
            if isinstance(message, dict):
                if empty is not None:
                    empty.update(message)
                continue
            if isinstance(message, str):
                raise RuntimeError(message)
            if on_progress is not None:
                on_progress(*message)
        how = f"does not come back within {PATIENCE_SECONDS:g} s"
    except EOFError:
        child.join()
        how = f"crashes (exit status {child.exitcode})"
    finally:
        child.kill()
        child.join()
        receiver.close()
    return [f"{path}: HDF5 {how} while it reads the file; the file is damaged, write or copy it again"]


def _send_faults(path: str, sender: Connection) -> None:
    """In the child: (done, total) after each block, then the list of faults, or a stack trace."""
    try:
        empty = {ZERO: 0, FLAT: 0}
        faults = _find_faults(path, lambda done, total: sender.send((done, total)), empty)
        sender.send(empty)
        sender.send(faults)
    except Exception:
        sender.send(traceback.format_exc())


def _find_faults(
    path: str, on_progress: Callable[[int, int], None] | None = None, empty: dict[str, int] | None = None
) -> list[str]:
    """What `validate` does, in this process."""
    faults: list[str] = []
    try:
        try:
            header = read_header(path)
        except VTLMError as error:  # the first fault of the schema; values are still checked where shapes allow
            faults.append(str(error))
            with open_file(path) as file:
                header = _readable_header(file, path)
        if header is not None:
            _check_ids(header, faults)
            with unreadable(path):
                _check_regions(StoreFile(path, header.files, header.content), header, faults, on_progress, empty)
    except VTLMError as error:
        faults.append(str(error))
    return list(dict.fromkeys(faults))


def find_missing(paths: Sequence[str], images: str) -> list[str]:
    """Lines of an `.images` file that name no image of the stores.

    Args:
        paths: store files, taken together.
        images: a file of image ids, one a line.

    Returns:
        No line, or one that says how many ids and lines, with the first five.

    Raises:
        VTLMError: a file is missing or unreadable.
    """
    known = region_counts(paths)
    missing: dict[str, int] = {}
    lines = 0
    for number, image in enumerate(stream_lines(images, label=f"--images {images}"), start=1):
        if known.get(image) is None and known.get(image.strip()) is None:
            missing.setdefault(image, number)
            lines += 1
    if not missing:
        return []
    first = ", ".join(f"{image!r} (line {number})" for image, number in islice(missing.items(), 5))
    hint = explain_missing(missing, (decode(image_id) for path in paths for image_id in read_header(path).ids))
    return [f"{images}: {len(missing)} image ids of {lines} lines are missing from the store: {first}{hint}"]


def _readable_header(file: h5py.File, path: str) -> StoreHeader | None:
    """The header of a faulty store whose ids, offsets and shapes still say which values belong to which image."""
    names = ("ids", "offsets", "features", "boxes", "labels", "scores", "class_names")
    try:
        if not all(isinstance(file.get(name, getlink=True), h5py.HardLink) for name in names):
            return None
        data = {name: file[name] for name in names}
        if any(dataset.is_virtual or dataset.external for dataset in data.values()):
            return None
        total = len(data["features"])
        for name, dataset in data.items():
            check_stored(path, name, dataset)
        ids, offsets = read_ids(data["ids"]), data["offsets"][:]
        class_names = tuple(decode(name) for name in data["class_names"][:])
        fits = data["features"].ndim == 2 and data["boxes"].shape == (total, 4) and len(offsets) == len(ids) + 1
        fits &= all(data[name].shape == (total,) for name in ("labels", "scores")) and offsets[-1] == total
        fits &= offsets[0] == 0 and bool((np.diff(offsets) >= 0).all())
        fits &= all(data[name].dtype.kind in "iuf" for name in ("features", "boxes", "labels", "scores"))
        attributes = {"feature_dim": data["features"].shape[1]}
        files = {path: identify(file.id.get_vfd_handle())}
        return StoreHeader(path, ids, offsets, class_names, data["features"].dtype, attributes, files) if fits else None
    except (*DAMAGE, IndexError):
        return None


def _check_ids(header: StoreHeader, faults: list[str]) -> None:
    ids = np.sort(header.ids)
    for image in np.unique(ids[1:][ids[1:] == ids[:-1]]):
        faults.append(f"{header.path}: image {decode(image)!r} is there twice")
    for image in ids:
        if not image:
            faults.append(f"{header.path}: an image id is empty")
        elif not _is_line(image):
            faults.append(f"{header.path}: image id {decode(image)!r} is not one line of UTF-8 text")


def _is_line(image_id: bytes) -> bool:
    """Whether a line of an `.images` file can name the image."""
    try:
        return bool(image_id.decode("utf-8")) and b"\n" not in image_id and b"\r" not in image_id
    except UnicodeDecodeError:
        return False


def _check_regions(
    file: StoreFile,
    header: StoreHeader,
    faults: list[str],
    on_progress: Callable[[int, int], None] | None,
    empty: dict[str, int] | None,
) -> None:
    total, classes = int(header.offsets[-1]), len(header.class_names)
    rows = max(1, BLOCK_BYTES // (header.feature_dim * 8))
    last_image, last_score = -1, 0.0
    seen: set[tuple[int, str]] = set()
    for start in range(0, total, rows):
        end = min(total, start + rows)
        images = np.searchsorted(header.offsets, np.arange(start, end), side="right") - 1
        boxes, scores, labels = (rows_of[start:end] for rows_of in (file.boxes, file.scores, file.labels))
        features = file.features[start:end]
        if empty is not None:
            empty[ZERO] += int(zero_rows(features).sum())
            empty[FLAT] += int(flat_boxes(boxes).sum())
        same = images == np.concatenate([[last_image], images[:-1]])
        rises = same & (scores > np.concatenate([[last_score], scores[:-1]]))
        kinds = {
            "features are not finite": ~np.isfinite(features).all(axis=1),
            "box is not finite": ~np.isfinite(boxes).all(axis=1),
            "box is not within 0..1": ((boxes < 0) | (boxes > 1)).any(axis=1),
            "box is not x1 <= x2, y1 <= y2": (boxes[:, :2] > boxes[:, 2:]).any(axis=1),
            "score is not finite": ~np.isfinite(scores),
            "score is higher than that of the region before it": rises,
            f"label is not within 0..{classes - 1} (no background class)": (labels < 0) | (labels >= classes),
        }
        if header.soft_names:
            kinds |= file.soft(header.soft_names, start, end).faults(classes)
        for kind, bad in kinds.items():
            for at in np.flatnonzero(bad):
                image = int(images[at])
                if (image, kind) not in seen:
                    seen.add((image, kind))
                    region = start + int(at) - int(header.offsets[image])
                    faults.append(f"{header.path}: image {decode(header.ids[image])!r}, region {region}: {kind}")
        last_image, last_score = int(images[-1]), float(scores[-1])
        seen = {key for key in seen if key[0] == last_image}
        if on_progress is not None:
            on_progress(end, total)
