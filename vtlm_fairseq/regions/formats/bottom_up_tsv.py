"""Tab-separated files of bottom-up-attention features: base64 columns, boxes in pixels.

Three layouts are told apart by their number of columns; they differ in the order of width and height, too.
"""

import base64
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.regions.formats.containers.tables import is_header, plain_text
from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage

_START = ("image_id", "image_h", "image_w", "objects_id", "objects_conf")
_END = ("num_boxes", "boxes", "features")
_NEEDED = ("image_id", "image_w", "image_h", "boxes", "features")
_ALSO = {"img_id": "image_id", "img_w": "image_w", "img_h": "image_h"}  # in a line of names
_FAULTS = 100  # as many lines may be bad before one has boxes
_CUT = "the file is cut off or has other columns (--tsv-columns)"
LAYOUTS: dict[int, tuple[str, ...]] = {
    10: (*_START, "attrs_id", "attrs_conf", *_END),
    8: (*_START, *_END),
    6: ("image_id", "image_w", "image_h", *_END),
}
"""Names of the columns, by their number. The shortest is that of the features' first publication: no labels."""


class BottomUpImages(ImageSource):
    """Images of a TSV file, read line by line; object ids are the labels, attributes are left aside.

    Args:
        path: the file.
        columns: names of its columns in order, comma-separated, where it has another layout than those known.

    Raises:
        VTLMError: no such file, or a line that is not of the layout (named).
    """

    def __init__(self, path: str, columns: str | None = None) -> None:
        self._path = path
        if not Path(path).is_file():
            raise VTLMError(f"--bottom-up-tsv {path}: no such file")
        given = None if columns is None else tuple(columns.split(","))
        header = self._read_header()
        if given is not None and header is not None and given != header:
            raise VTLMError(f"{path}, line 1: names other columns than --tsv-columns {columns}; leave that out")
        self._columns, self._start = given or header, 1 if header is None else 2
        if self._columns is not None:
            lacking = [n for n in _NEEDED if n not in self._columns]
            if lacking:
                where = f"{path}, line 1" if columns is None else f"--tsv-columns {columns}"
                raise VTLMError(f"{where}: lacks {', '.join(lacking)}")
        self.feature_dim = 0
        first = self._first_with_boxes()
        self.feature_dim = first.features.shape[1]
        self.has_labels = first.labels is not None

    def records(self) -> Iterator[tuple[int, str]]:
        """Numbers of the lines, from 1, and the lines, but the one that names the columns."""
        return islice(enumerate(stream_lines(self._path), start=1), self._start - 1, None)

    def _first_with_boxes(self) -> InputImage:
        faults: list[VTLMError] = []
        for record in self.records():
            try:
                image = self.read(record)
            except VTLMError as error:
                faults.append(error)
                if len(faults) == _FAULTS:
                    break
            else:
                if len(image.features):
                    return image
        if faults:
            raise faults[0]
        raise VTLMError(f"--bottom-up-tsv {self._path}: empty, or without a line that has boxes")

    def _read_header(self) -> tuple[str, ...] | None:
        """Names of the columns, where the first line has them."""
        fields = [_ALSO.get(name, name) for name in next(stream_lines(self._path), "").split("\t")]
        return tuple(fields) if is_header(fields, LAYOUTS[10]) else None

    def read(self, record: tuple[int, str]) -> InputImage:
        """The image of a line."""
        fields, where = record[1].split("\t"), f"{self._path}, line {record[0]}"
        columns = self._columns or LAYOUTS.get(len(fields))
        if columns is None or len(columns) != len(fields):
            raise VTLMError(
                f"{where}: {len(fields)} columns between tabs, known are files of "
                f"{', '.join(map(str, LAYOUTS))}; name other columns with --tsv-columns"
            )
        row = dict(zip(columns, fields, strict=True))
        try:
            image_id, width, height = plain_text(row["image_id"]), float(row["image_w"]), float(row["image_h"])
        except ValueError:
            raise VTLMError(f"{where}: width or height is unreadable; {_CUT}") from None
        if not (0 < width < np.inf and 0 < height < np.inf):
            raise VTLMError(
                f"{where}: image {image_id!r} is {width:g} x {height:g} pixels, must be above 0; the columns may stand "
                "in another order, which --tsv-columns tells"
            )
        boxes = _decode(row["boxes"], "<f4", f"{where}, boxes").reshape(-1, 4)
        regions = _number_of_boxes(row.get("num_boxes"), len(boxes), where)
        features = _decode(row["features"], "<f4", f"{where}, features")
        if len(features) % regions if regions else len(features):
            raise VTLMError(f"{where}: {len(features)} feature values for {regions} boxes, must be as many for each")
        labels = _column(row, "objects_id", "<i8", regions, where)
        scores = _column(row, "objects_conf", "<f4", regions, where)
        features = features.reshape(regions, -1 if regions else self.feature_dim)
        return InputImage(image_id, where, features, boxes, labels, scores, (width, height))


def _decode(field: str, dtype: str, where: str) -> np.ndarray:
    try:
        data = base64.b64decode(plain_text(field), validate=True)
    except ValueError:
        raise VTLMError(f"{where}: not base64; {_CUT}") from None
    step = 16 if where.endswith("boxes") else np.dtype(dtype).itemsize
    if len(data) % step:
        raise VTLMError(f"{where}: {len(data)} bytes, no multiple of {step}; {_CUT}")
    return np.frombuffer(data, dtype)


def _number_of_boxes(field: str | None, found: int, where: str) -> int:
    try:
        if field is None or float(field) == found:
            return found
    except ValueError:
        pass
    raise VTLMError(f"{where}: num_boxes is {field}, but {found} boxes are there")


def _column(row: dict[str, str], name: str, dtype: str, regions: int, where: str) -> np.ndarray | None:
    """Values of a column, one a region; whole numbers of 4 bytes are taken too."""
    if name not in row:
        return None
    field = plain_text(row[name])
    size = len(field) // 4 * 3 - field[-2:].count("=")
    values = _decode(row[name], "<i4" if dtype == "<i8" and size == 4 * regions else dtype, f"{where}, {name}")
    if len(values) != regions:
        raise VTLMError(f"{where}: {len(values)} values in {name} for {regions} boxes; {_CUT}")
    return values
