"""Detections in COCO's JSON format, with one `.npy` of features [R, D] an image."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files.names import find_inside
from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage, Listed, file_state
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing


class CocoImages(ImageSource):
    """Images of a COCO-format file: `images`, `categories` and `annotations`, or a list of results.

    Row k of an image's `.npy` belongs to its k-th annotation in the order of the file; the `.npy` is called after
    `file_name`, with its folders or without, or the image's number; it belongs to one image. Category ids become labels
    0..C-1 in the order of the ids. Ids in the store are the file names. The JSON is held in memory, features are not.

    Args:
        path: the JSON file.
        features: folder of the `.npy` files.
        dataset: another COCO file with `images` and `categories`, where `path` is a list of results.

    Raises:
        VTLMError: a file is missing or not of this format.
    """

    def __init__(self, path: str, features: str, dataset: str | None = None) -> None:
        self._path, self._folder = path, Path(features)
        if not self._folder.is_dir():
            raise VTLMError(f"--features {features}: no such folder")
        content = _read_json(path, "--coco-json")
        described, where = (_read_json(dataset, "--coco-dataset"), dataset) if dataset else (content, path)
        annotations = content if isinstance(content, list) else _get(content, "annotations", path)
        if not isinstance(described, dict):
            raise VTLMError(f"{where}: a list of results; give the file with its images and categories, --coco-dataset")
        categories = _records(_get(described, "categories", where), ("id", "name"), f"{where}, categories")
        _check_ids(categories, f"{where}, categories")
        categories.sort(key=lambda c: (isinstance(c["id"], str), c["id"]))
        self.class_names = [str(c["name"]) for c in categories]
        self._labels = {c["id"]: label for label, c in enumerate(categories)}
        fields = ("id", "width", "height", "file_name")
        self._images = _records(_get(described, "images", where), fields, f"{where}, images")
        _check_ids(self._images, f"{where}, images")
        self._annotations = self._by_image(_records(annotations, ("image_id", "category_id", "bbox"), path))
        first = next((i for i in self._images if self._annotations.get(i["id"])), None)
        if first is None:
            raise VTLMError(f"--coco-json {path}: no annotation of any image")
        self._files = self._find_files()
        self.listed_inputs = (features,)
        self.feature_dim = self._features(first).shape[1]

    def _by_image(self, annotations: list[dict]) -> dict[Any, list[dict]]:
        known = {image["id"] for image in self._images}
        found: dict[Any, list[dict]] = {}
        for number, annotation in enumerate(annotations):
            image, category = annotation["image_id"], annotation["category_id"]
            if image not in known:
                hint = explain_missing([str(image)], map(str, known), BY_HAND)
                if image in map(str, known) or str(image) in known:
                    hint = "; it has that number in quotes, or without: make both alike"
                raise VTLMError(
                    f"{self._path}: annotation {number} is of image {image!r}, which its list of images lacks{hint}"
                )
            if category not in self._labels:
                raise VTLMError(f"{self._path}: annotation {number} has category_id {category!r}, which is not known")
            found.setdefault(image, []).append(annotation)
        return found

    def __len__(self) -> int:
        return len(self._images)

    def _find_files(self) -> dict[Any, Path]:
        """By image number the .npy of each image that has annotations, where one is there.

        Raises:
            VTLMError: one would be that of two images.
        """
        found: dict[Any, Path] = {}
        taken: dict[Path, dict] = {}
        for image in self._images:
            names = _file_names(image) if self._annotations.get(image["id"]) else ()
            path = next(filter(None, (find_inside(self._folder, name, (".npy",)) for name in names)), None)
            if path is None:
                continue
            other = taken.setdefault(path, image)
            if other["id"] != image["id"]:
                both = " and ".join(repr(str(i["file_name"])[:99]) for i in (other, image))
                raise VTLMError(
                    f"{path}: named after both {both}; put the features into folders as the images are, "
                    f"{self._folder / names[1]}.npy"
                )
            found[image["id"]] = path
        return found

    def listed(self) -> list[Listed]:
        """The images, and the states of their features."""
        return [
            Listed(str(image["file_name"]), self._where(image), file_state(self._files.get(image["id"], "")))
            for image in self._images
        ]

    def _where(self, image: dict) -> str:
        return f"{self._path}, image {image['id']}"

    def records(self) -> Iterator[dict]:
        """The file's records of images."""
        return iter(self._images)

    def read(self, image: dict) -> InputImage:
        """The image of a record."""
        annotations = self._annotations.get(image["id"], [])
        where = self._where(image)
        try:
            boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(len(annotations), 4)
            scores = np.array([a.get("score", 1.0) for a in annotations], dtype=np.float32)
            size = float(image["width"]), float(image["height"])
        except (TypeError, ValueError, OverflowError):
            raise VTLMError(f"{where}: a bbox is not x, y, width, height, or a value is not a number") from None
        if not min(size) > 0 or not np.isfinite(size).all():
            raise VTLMError(f"{where}: size {size[0]:g} x {size[1]:g} pixels, must be above 0")
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([self._labels[a["category_id"]] for a in annotations], dtype=np.int64)
        features = self._features(image) if annotations else np.zeros((0, self.feature_dim), np.float32)
        return InputImage(str(image["file_name"]), where, features, boxes, labels, scores, size)

    def _features(self, image: dict) -> np.ndarray:
        path = self._files.get(image["id"])
        names = _file_names(image)
        if path is None:
            known = (path.stem for path in self._folder.glob("**/*.npy"))
            hint = explain_missing([PurePosixPath(names[0]).name], known, BY_HAND)
            raise VTLMError(f"--features {self._folder}: none of {', '.join(f'{n}.npy' for n in names)} is there{hint}")
        try:
            features = np.load(path, allow_pickle=False)
        except Exception as error:  # numpy raises a dozen types for damaged files
            raise VTLMError(f"{path}: not a .npy file of plain numbers ({reason(error)})") from None
        regions = len(self._annotations[image["id"]])
        if not isinstance(features, np.ndarray) or features.ndim != 2 or len(features) != regions:
            shape = getattr(features, "shape", "of a .npz")
            raise VTLMError(f"{path}: shape {shape}, must be [{regions}, D] for the annotations of {names[0]}")
        return features


def _file_names(image: dict) -> list[str]:
    """What an image's features may be called, without .npy: its file with folders, or without, or its number."""
    path = PurePosixPath(str(image["file_name"]))
    names = (str(path), str(path.with_suffix("")) if path.name else "", path.name, path.stem, str(image["id"]))
    return list(dict.fromkeys(names))


def _read_json(path: str, option: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise VTLMError(f"{option} {path}: not readable JSON ({reason(error)})") from None


def _get(content: dict, key: str, path: str | None) -> Any:
    if not isinstance(content, dict) or not isinstance(content.get(key), list):
        raise VTLMError(f"{path}: no list {key!r}; a COCO file holds images, categories and annotations")
    return content[key]


def _check_ids(records: list[dict], where: str) -> None:
    """Refuse two records of a number that are not the same."""
    first: dict[Any, int] = {}
    for number, record in enumerate(records):
        other = first.setdefault(record["id"], number)
        if records[other] != record:
            raise VTLMError(f"{where}: records {other} and {number} have the same id, {record['id']!r}; mend the file")


def _records(values: list, fields: tuple[str, ...], where: str) -> list[dict]:
    for number, value in enumerate(values):
        lacking = [f for f in fields if not isinstance(value, dict) or f not in value]
        if lacking:
            raise VTLMError(f"{where}: record {number} lacks {lacking[0]!r}")
        for name in ("id", "image_id", "category_id"):
            if name in fields and type(value[name]) not in (int, str):
                raise VTLMError(f"{where}: record {number} has {name} {value[name]!r}, neither a number nor a string")
    return list(values)
