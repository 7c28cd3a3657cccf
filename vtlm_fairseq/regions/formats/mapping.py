"""From a record of any container to the regions of an image, as a layout says; what cannot be right is refused."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.cells import grid_boxes
from vtlm_fairseq.regions.checks import PIXEL_SLACK, look_relative
from vtlm_fairseq.regions.formats.fields import Fields
from vtlm_fairseq.regions.formats.input_image import InputImage
from vtlm_fairseq.regions.formats.layout import Layout
from vtlm_fairseq.regions.padding import flat_boxes, zero_rows

_INFINITY = 0x7C00  # bits of a half; those of numbers from 0 on are smaller, in the numbers' order
_SIZE_TOLERANCE = 0.02  # of widths and heights given beside relative boxes, which may be of half precision


class Reader:
    """Turns records into images.

    Args:
        layout: of the files.
        names: of the classes, where labels are given by name.
        soft_labels: keep class scores.
    """

    def __init__(self, layout: Layout, names: list[str] | None = None, *, soft_labels: bool = False) -> None:
        self.layout = layout
        self._keeps_soft = soft_labels
        self._numbers = {name: number for number, name in enumerate(names or ())}
        self._classes = len(names or ())

    def read(self, image_id: str, where: str, record: Mapping[str, Any]) -> InputImage:
        """The image of a record: boxes are x1, y1, x2, y2, in pixels where `size` or the layout says so.

        Raises:
            VTLMError: a field is missing, has another shape than the layout says, or values that cannot be right.
        """
        layout, fields = self.layout, Fields(record, where)
        count = fields.number(layout.counts)
        if count is not None and (count < 0 or count != int(count)):
            raise VTLMError(f"{where}: {layout.counts} is {count:g}, no number of regions")
        boxes = self._boxes(fields)
        rows = int(count) if count is not None else None if boxes is None else len(boxes)
        features, cells = self._features(fields, rows)
        size = self._size(fields)
        if boxes is None:
            boxes = cells
        labels, scores, soft = self._labels(fields, len(features))
        parts = {"features": features, "boxes": boxes, "labels": labels, "scores": scores}
        parts["soft_labels"] = soft if self._keeps_soft else None
        for name, part in parts.items():
            if part is not None and len(part) != len(features):
                raise VTLMError(f"{where}: {len(part)} {name} for {len(features)} features")
        if count is not None:
            if count > len(features):
                raise VTLMError(f"{where}: {layout.counts} is {count:g}, but there are {len(features)} regions")
            if layout.padding == "empty":
                self._check_behind(features, boxes, int(count), where)
            parts = {name: None if part is None else part[: int(count)] for name, part in parts.items()}
        if layout.boxes and parts["boxes"] is not None:
            parts["boxes"] = self._checked(parts["boxes"], size, where)
        if labels is not None:
            parts = self._without_background(parts, where)
        return InputImage(image_id, where, **parts, size=size if layout.box_units == "pixels" else None)

    def _features(self, fields: Fields, rows: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Features [R, D], and the boxes of their cells where they are a grid."""
        layout, where = self.layout, fields.where
        array = fields.array(layout.features)
        if array is None:
            raise VTLMError(f"{where}: {layout.features!r} is missing")
        rank = {"vector": 1, "regions": 2, "tokens": 2}.get(layout.shape, 3)
        while array.ndim > rank and array.shape[0] == 1:
            array = array[0]
        if layout.shape == "regions" and array.ndim == 1 and (rows or layout.feature_dim):
            if array.size % (rows or layout.feature_dim):
                raise VTLMError(f"{where}: {array.size} feature values are not as many for each of {rows} regions")
            array = array.reshape((rows, -1) if rows else (-1, layout.feature_dim))
        elif layout.shape == "regions" and array.size == 0:
            array = array.reshape(0, array.shape[-1] if array.ndim > 1 else 0)
        if array.ndim != rank:
            raise VTLMError(f"{where}: features have shape {list(array.shape)}, shape {layout.shape} has {rank} axes")
        if layout.shape == "vector":
            array = array[None]
        cells = None
        if rank == 3:
            array = np.moveaxis(array, 0, -1) if layout.shape == "chw" else array
            if array.shape[2] < max(array.shape[:2]) and not layout.feature_dim:
                raise VTLMError(
                    f"{where}: features would be {array.shape[2]} wide in a grid of {array.shape[0]} x "
                    f"{array.shape[1]}; is the shape the other of chw and hwc? if not, add --layout-set "
                    f"feature_dim={array.shape[2]}"
                )
            cells, array = grid_boxes(*array.shape[:2]), array.reshape(-1, array.shape[2])
        elif layout.shape == "tokens":
            array = array[{"first": slice(1, None), "last": slice(None, -1)}.get(layout.class_token, slice(None))]
            side = math.isqrt(len(array))
            if side * side != len(array):
                raise VTLMError(
                    f"{where}: {len(array)} tokens with class_token {layout.class_token} make no square grid; say "
                    "class_token=first, last or none, or shape=regions"
                )
            cells = grid_boxes(side, side)
        width = layout.feature_dim
        if width and len(array) and array.shape[1] != width:
            raise VTLMError(
                f"{where}: features are {array.shape[1]} wide, those of layout {layout.name} {width}; another order of "
                f"the axes, another file, or say --layout-set feature_dim={array.shape[1]}"
            )
        if width and not len(array):
            array = array.reshape(0, width)
        return array, cells

    def _boxes(self, fields: Fields) -> np.ndarray | None:
        """Boxes as they stand in the file, [R, 4]."""
        layout, where = self.layout, fields.where
        boxes = fields.array(layout.boxes)
        if boxes is None:
            return None
        while boxes.ndim > 2 and boxes.shape[0] == 1:
            boxes = boxes[0]
        if boxes.ndim == 1 and boxes.size % 4 == 0:
            boxes = boxes.reshape(-1, 4)
        least, most = (6, 7) if layout.box_extra == "size" else (4, 4)
        if boxes.ndim != 2 or not least <= boxes.shape[1] <= most:
            wanted = "[R, 4]" if most == 4 else "[R, 6] or [R, 7]"
            raise VTLMError(f"{where}: {layout.boxes} has shape {list(boxes.shape)}, must be {wanted}")
        boxes = boxes.astype(np.float64)
        if layout.box_extra == "size" and layout.box_format == "xyxy":
            off = np.abs(boxes[:, 4:6] - (boxes[:, 2:4] - boxes[:, :2]))
            if (off > _SIZE_TOLERANCE * np.maximum(1, np.abs(boxes[:, 4:6]))).any():
                raise VTLMError(
                    f"{where}: {layout.boxes} is not x1, y1, x2, y2, width, height: the last two are not the difference"
                )
        return boxes[:, :4]

    def _size(self, fields: Fields) -> tuple[float, float] | None:
        layout = self.layout
        width, height = fields.number(layout.width), fields.number(layout.height)
        if width is None or height is None:
            return None
        if not (width > 0 and height > 0):
            raise VTLMError(f"{fields.where}: the image is {width:g} x {height:g} pixels, must be above 0")
        return width, height

    def _checked(self, boxes: np.ndarray, size: tuple[float, float] | None, where: str) -> np.ndarray:
        """Boxes as x1, y1, x2, y2, cut at the edge of the image where they end a little outside."""
        layout = self.layout
        if not np.isfinite(boxes).all():
            raise VTLMError(f"{where}: boxes hold a value that is not finite; mend the input")
        if layout.box_format == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        elif layout.box_format == "xywh":
            boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        elif layout.box_format == "cxcywh":
            boxes = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1)
        if not len(boxes):
            return boxes
        hint = (
            f"check box_format ({layout.box_format}) and box_units ({layout.box_units}), and the order of the columns"
        )
        if (boxes[:, :2] > boxes[:, 2:]).any():
            bad = boxes[(boxes[:, :2] > boxes[:, 2:]).any(axis=1)][0]
            raise VTLMError(f"{where}: box {_show(bad)} is not x1 <= x2, y1 <= y2; {hint}")
        if layout.box_units == "pixels":
            if look_relative(boxes, size):
                raise VTLMError(f"{where}: no box is larger than a pixel; are box_units relative?")
            edge = None if size is None else np.array([*size, *size])
            slack = PIXEL_SLACK if edge is None else np.maximum(PIXEL_SLACK, layout.box_slack * edge)
        else:
            edge, slack = np.ones(4), layout.box_slack
        if edge is None:
            return boxes
        outside = (boxes < -slack) | (boxes > edge + slack)
        if outside.any():
            of = f"the image of {size[0]:g} x {size[1]:g} pixels" if size and edge[0] != 1 else "0..1"
            raise VTLMError(
                f"{where}: box {_show(boxes[outside.any(axis=1)][0])} is outside {of}; {hint}, width and height, or "
                "raise box_slack where boxes do end outside"
            )
        return np.clip(boxes, 0, edge)

    def _labels(self, fields: Fields, regions: int) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Labels from 0, those of the background below, scores, and class scores without background."""
        layout, where = self.layout, fields.where
        soft = fields.array(layout.soft_labels)
        if soft is not None and (soft.ndim != 2 or (regions and not soft.shape[1]) or len(soft) != regions):
            raise VTLMError(f"{where}: {layout.soft_labels} has shape {list(soft.shape)}, must be [{regions}, classes]")
        scores = fields.array(layout.scores)
        labels, best = None, None
        if layout.labels:
            labels = self._numbered(fields)
            if soft is not None and len(soft) == len(labels) and (_largest(soft) != labels).any():
                raise VTLMError(f"{where}: {layout.labels} are not the largest of {layout.soft_labels}")
            labels = None if labels is None else labels - (layout.label_offset or 0)
            best = soft[:, layout.label_offset or 0 :] if soft is not None else None
        elif soft is not None:
            best = soft[:, {"first": slice(1, None), "last": slice(None, -1)}.get(layout.background, slice(None))]
            labels = _largest(best) if best.size else np.zeros(len(best), dtype=np.int64)
        if best is not None and self._classes and len(best) and best.shape[1] != self._classes:
            raise VTLMError(
                f"{where}: {layout.soft_labels} has {best.shape[1]} classes without background, but {self._classes} "
                "class names are given; is background or label_offset another?"
            )
        if scores is None and best is not None and best.shape[1]:
            scores = best.max(axis=1)
        return labels, scores if scores is None else scores.reshape(-1), best

    def _numbered(self, fields: Fields) -> np.ndarray:
        """Labels as numbers, also where the file names the classes."""
        name = self.layout.labels
        value = fields.find(name)
        if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
            if not self._numbers:
                raise VTLMError(f"{fields.where}: labels are names of classes; list all of these in --class-names FILE")
            unknown = [v for v in value if v not in self._numbers]
            if unknown:
                raise VTLMError(f"{fields.where}: class {unknown[0]!r} is not in --class-names")
            return np.array([self._numbers[v] for v in value], dtype=np.int64)
        labels = fields.array(name)
        if labels is None:
            raise VTLMError(f"{fields.where}: {name} is missing")
        labels = labels.reshape(-1)
        whole = labels.astype(np.int64) if np.isfinite(labels).all() else np.empty(0)
        if len(whole) != len(labels) or (whole != labels).any():
            raise VTLMError(f"{fields.where}: {name} holds {labels.dtype} numbers that are not whole")
        return whole

    def _check_behind(self, features: np.ndarray, boxes: np.ndarray | None, count: int, where: str) -> None:
        """Refuse a count behind which there are regions."""
        held = ~zero_rows(features[count:])
        if boxes is not None:
            held &= ~flat_boxes(boxes[count:]) if self.layout.box_format in ("xyxy", "yxyx") else boxes[count:].any(1)
        if held.any():
            raise VTLMError(
                f"{where}: {self.layout.counts} is {count}, but {held.sum()} rows behind it have features"
                + " and a box" * (boxes is not None)
                + "; mend it, or say --layout-set padding=any where they are no regions"
            )

    def _without_background(self, parts: dict[str, Any], where: str) -> dict[str, Any]:
        kept = parts["labels"] >= 0
        if kept.all():
            return parts
        if not self.layout.drop_background:
            raise VTLMError(
                f"{where}: {(~kept).sum()} regions have a label below the first class, {self.layout.label_offset}: "
                "the background; another label_offset, or leave them out with --layout-set drop_background=true"
            )
        return {name: None if part is None else part[kept] for name, part in parts.items()}


def _largest(values: np.ndarray) -> np.ndarray:
    """The place of the largest value of each row; numpy is slow to compare halves, so that their bits are."""
    if values.dtype == np.float16:
        bits = values.view(np.int16)
        if bits.size and bits.min() >= 0 and bits.max() <= _INFINITY:
            return bits.argmax(axis=1)
        values = values.astype(np.float32)
    return values.argmax(axis=1)


def _show(box: np.ndarray) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"
