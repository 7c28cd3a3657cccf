"""The full check of a region store: every value of every region, in bounded memory."""

from collections.abc import Callable

import h5py
import numpy as np

from vtlm_fairseq.data.region_schema import StoreHeader, decode, open_file, read_header
from vtlm_fairseq.errors import VTLMError

_BLOCK_BYTES = 64 << 20


def validate(path: str, on_progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Check all of a store file: schema, finite values, boxes within 0..1 and in order, scores descending.

    Args:
        path: a store file.
        on_progress: called with (regions done, regions in all) after each block.

    Returns:
        One line a fault (each kind of fault once an image), naming file and image id; empty if there is none.
    """
    faults: list[str] = []
    try:
        header = read_header(path)
        order = np.argsort(header.ids, kind="stable")
        ids = header.ids[order]
        for image in np.unique(ids[1:][ids[1:] == ids[:-1]]):
            faults.append(f"{path}: image {decode(image)!r} is there twice")
        with open_file(path) as file:
            _check_regions(file, header, faults, on_progress)
    except VTLMError as error:
        faults.append(str(error))
    except OSError as error:
        faults.append(f"{path}: unreadable ({error}); write or copy it again")
    return faults


def _check_regions(
    file: h5py.File,
    header: StoreHeader,
    faults: list[str],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    total = int(header.offsets[-1])
    rows = max(1, _BLOCK_BYTES // (header.feature_dim * 8))
    last_image, last_score = -1, 0.0
    seen: set[tuple[int, str]] = set()
    for start in range(0, total, rows):
        end = min(total, start + rows)
        images = np.searchsorted(header.offsets, np.arange(start, end), side="right") - 1
        boxes, scores = file["boxes"][start:end], file["scores"][start:end]
        same = images == np.concatenate([[last_image], images[:-1]])
        rises = same & (scores > np.concatenate([[last_score], scores[:-1]]))
        kinds = {
            "features are not finite": ~np.isfinite(file["features"][start:end]).all(axis=1),
            "box is not finite": ~np.isfinite(boxes).all(axis=1),
            "box is not within 0..1": ((boxes < 0) | (boxes > 1)).any(axis=1),
            "box is not x1 <= x2, y1 <= y2": (boxes[:, :2] > boxes[:, 2:]).any(axis=1),
            "score is not finite": ~np.isfinite(scores),
            "score is higher than that of the region before it": rises,
        }
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
