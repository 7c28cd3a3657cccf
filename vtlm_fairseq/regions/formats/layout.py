"""How the regions of a project lie in its files: a mapping of names, units and orders, from a small YAML file.

The files beside this module, ``layouts/*.yaml``, are those of public projects; a user's own is one more file. What a
file cannot tell of itself has no default.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.regions.checks import SLACK
from vtlm_fairseq.regions.formats import FOLDER, presets

CONTAINERS = ("npz", "npy", "pickle", "h5", "lmdb", "torch", "tsv", "parquet", "vinvl")
SHAPES = ("regions", "vector", "tokens", "chw", "hwc")
_CHOICES = {
    "container": CONTAINERS,
    "arrangement": ("image", "stacked"),
    "shape": SHAPES,
    "class_token": ("first", "last", "none"),
    "box_units": ("pixels", "relative"),
    "box_format": ("xyxy", "yxyx", "xywh", "cxcywh"),
    "box_extra": ("none", "size"),
    "background": ("first", "last", "none"),
    "padding": ("empty", "any"),
    "value": ("msgpack", "npz", "pickle"),
}
_MAX_BYTES = 1 << 16  # of a file
_MOST_BRACKETS = 100  # nested ones take a long time to read


@dataclass(frozen=True)
class Layout:
    """Where the parts of an image's regions are, and what they mean.

    Names of fields are keys of the container; ``a/b`` is the entry ``b`` of the dictionary ``a``, and a ``?`` at the
    end says that it may be missing.

    Attributes:
        name: of the layout.
        container: what the files are, one of `CONTAINERS`.
        about: what the layout is, in a line.
        source: where it was looked up.
        refuse: why files of this layout cannot be converted; empty where they can.
        ask: keys that a user must set, and why.
        arrangement: ``image``: a record an image; ``stacked``: arrays over N images.
        files: name and path, relative to ``--input``, of each field of a .npy; ``{id}`` is the image's.
        columns: names of a TSV's columns in order.
        types: numpy types of the columns that hold base64 of arrays.
        value: what the values of an LMDB are.
        skip: keys of a container that are no images.
        id: field of the image ids; default: file name, key, or ``--ids``.
        id_suffix: taken off the ids.
        features, boxes, labels, soft_labels, scores, counts, width, height: fields.
        padding: what is behind the counts: ``empty``, features of zeros or boxes without area, or ``any`` values.
        shape: of an image's features: ``regions`` [R, D], ``vector`` [D], ``tokens`` [T, D] of a square grid in reading
            order, ``chw`` [D, rows, columns], ``hwc`` [rows, columns, D].
        class_token: which of the tokens is none of the grid.
        feature_dim: D, where it is known.
        box_units, box_format: of the boxes.
        box_extra: ``size``: the four numbers of a box are followed by its width and height (and perhaps its area).
        box_slack: how far outside the image a box may end, as a share of it; it is cut there.
        label_offset: taken off the labels, so that the first class is 0.
        background: which column of the soft labels is no class.
        drop_background: leave out regions of the background class, whose label is below the first one.
    """

    name: str
    container: str
    about: str = ""
    source: str = ""
    refuse: str = ""
    ask: Mapping[str, str] = field(default_factory=dict)
    arrangement: str = "image"
    files: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    value: str = ""
    skip: Sequence[str] = ()
    id: str = ""
    id_suffix: str = ""
    features: str = ""
    boxes: str = ""
    labels: str = ""
    soft_labels: str = ""
    scores: str = ""
    counts: str = ""
    padding: str = "empty"
    width: str = ""
    height: str = ""
    shape: str = ""
    class_token: str = ""
    feature_dim: int = 0
    box_units: str = ""
    box_format: str = ""
    box_extra: str = "none"
    box_slack: float = SLACK
    label_offset: int | None = None
    background: str = ""
    drop_background: bool = False

    def image_id(self, name: str) -> str:
        """The id of an image that a container calls so."""
        return name.removesuffix(self.id_suffix)

    def refuse_ids(self, ids: Sequence[str] | None, reason: str) -> None:
        """For a container that has the ids itself.

        Raises:
            VTLMError: others are given.
        """
        if ids is not None:
            raise VTLMError(f"--ids does not go with layout {self.name}: {reason}")

    def needed(self, *, optional: bool = True) -> list[str]:
        """Names of the container's fields that are read, without what is inside of them.

        Args:
            optional: with those that may be missing.
        """
        parts = (self.id, self.features, self.boxes, self.labels, self.soft_labels, self.scores)
        parts += (self.counts, self.width, self.height)
        parts = tuple(part for part in parts if part and (optional or not part.endswith("?")))
        return list(dict.fromkeys(part.rstrip("?").split("/")[0] for part in parts))


_TYPES = {f.name: f.type for f in fields(Layout) if f.name != "name"}


def read_layout(name: str, settings: Sequence[str] = ()) -> Layout:
    """A layout of the package, or that of a YAML file.

    Args:
        name: of the layout, or the path of a file that ends in .yaml or .yml.
        settings: ``KEY=VALUE`` in place of what the file says, also ``files.NAME=`` and ``types.NAME=``; ``KEY=``
            takes it away.

    Raises:
        VTLMError: no such layout, an unknown key, a value that it cannot have, or something that must be said is not.
    """
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in presets():
        raise VTLMError(f"--layout {name}: neither a file .yaml nor one of {', '.join(presets())}")
    where = f"--layout {name}"
    content = _load(Path(name) if own else FOLDER / f"{name}.yaml", where)
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise VTLMError(f"--layout-set {setting}: not KEY=VALUE")
        _change(content, key.strip(), value.strip(), f"--layout-set {setting}")
    asked = content.get("ask") or {}
    values = {key: _value(key, value, where) for key, value in content.items() if value is not None}
    for key in asked if isinstance(asked, dict) else ():
        if key not in values and not values.get("refuse"):
            raise VTLMError(f"{where}: say {key} with --layout-set {key}=...: {asked[key]}")
    if "container" not in values:
        raise VTLMError(f"{where}: container is missing, one of {', '.join(CONTAINERS)}")
    layout = Layout(name=Path(name).stem if own else name, **values)
    if layout.refuse:
        raise VTLMError(f"{where}: {layout.refuse}")
    _check_complete(layout, where)
    return layout


def _load(path: Path, where: str) -> dict[str, Any]:
    import yaml

    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise VTLMError(f"{where}: more than {_MAX_BYTES} bytes, no file of a layout")
        if b"&" in data and b"*" in data:
            raise VTLMError(f"{where}: YAML with anchors (&) and references (*); write the values out")
        if data.count(b"[") + data.count(b"{") > _MOST_BRACKETS:
            raise VTLMError(f"{where}: more than {_MOST_BRACKETS} brackets, no file of a layout")
        content = yaml.safe_load(data)
    except VTLMError:
        raise
    except OSError as error:
        raise VTLMError(f"{where}: cannot be read ({reason(error)})") from None
    except (ValueError, LookupError, TypeError, RecursionError, AttributeError, yaml.YAMLError) as error:
        raise VTLMError(f"{where}: not readable YAML ({reason(error)})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise VTLMError(f"{where}: not a YAML file of KEY: VALUE lines")
    return content


def _change(content: dict[str, Any], key: str, value: str, where: str) -> None:
    outer, dot, inner = key.partition(".")
    if dot and outer in ("files", "types"):
        content[outer] = {**(content.get(outer) or {}), inner: value}
    elif _TYPES.get(key) == Sequence[str]:
        content[key] = [part.strip() for part in value.split(",")]
    elif key in ("ask", "about", "source", "refuse"):
        raise VTLMError(f"{where}: {key} is not to be set")
    else:
        content[key] = value or None


def _value(key: str, value: Any, where: str) -> Any:
    """The value of a key as its type in `Layout`."""
    kind = _TYPES.get(key)
    if kind is None:
        near = difflib.get_close_matches(key, _TYPES, n=1)
        raise VTLMError(f"{where}: {key[:60]!r} is no key of a layout" + (f", {near[0]!r} is" if near else ""))
    fault = VTLMError(f"{where}: {key} is {str(value)[:60]!r}" if not isinstance(value, list | dict | set) else
                      f"{where}: {key} is a {type(value).__name__}")  # fmt: skip
    if kind == Mapping[str, str]:
        if not isinstance(value, dict) or not all(isinstance(v, str) for pair in value.items() for v in pair):
            raise VTLMError(f"{fault}, must be NAME: VALUE lines")
        return dict(value)
    if kind == Sequence[str]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise VTLMError(f"{fault}, must be a list of names")
        return tuple(value)
    if isinstance(value, list | dict | set):
        raise VTLMError(f"{fault}, must be one value")
    text = str(value).strip()
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise VTLMError(f"{fault}, must be true or false")
        return text.lower() == "true"
    if kind in (int, int | None, float):
        try:
            number = float(text) if kind is float else int(text)
        except (ValueError, OverflowError):
            raise VTLMError(f"{fault}, must be a number") from None
        if not abs(number) <= (10 if kind is float else 1 << 20):
            raise VTLMError(f"{fault}, out of range")
        return number
    if key in _CHOICES and text not in _CHOICES[key]:
        raise VTLMError(f"{fault}, must be one of {', '.join(_CHOICES[key])}")
    return text


def _check_complete(layout: Layout, where: str) -> None:
    """Refuse a layout that leaves open what its files cannot tell."""
    required: dict[str, str] = {"features": "the field of the features", "shape": ", ".join(SHAPES)}
    if layout.boxes:
        required |= {key: ", ".join(_CHOICES[key]) for key in ("box_units", "box_format")}
    if layout.labels:
        required["label_offset"] = "the label of the first class in the files: 0, or 1 where 0 is the background"
    elif layout.soft_labels:
        required["background"] = "the column that is no class: first, last, none"
    if layout.shape == "tokens":
        required["class_token"] = "the token that is no cell of the grid: first, last, none"
    if layout.container == "lmdb":
        required["value"] = ", ".join(_CHOICES["value"])
    if layout.container == "tsv":
        required["columns"] = "names of the columns in order"
    for key, meaning in required.items():
        if getattr(layout, key) in ("", (), None):
            raise VTLMError(
                f"{where}: {key} is not said ({meaning}); write it into the file or add --layout-set {key}=..."
            )
    if layout.boxes and layout.shape in ("tokens", "chw", "hwc"):
        raise VTLMError(f"{where}: boxes of a grid (shape {layout.shape}) are those of its cells; take boxes away")
    if bool(layout.width) != bool(layout.height):
        raise VTLMError(f"{where}: width and height go together")
    strange = [name for name in layout.types if name not in layout.columns]
    if strange:
        raise VTLMError(f"{where}: types names {strange[0]!r}, which is none of the columns")
    if layout.container == "tsv":
        lacking = [name for name in layout.needed() if name not in layout.columns]
        if lacking:
            raise VTLMError(f"{where}: columns lack {lacking[0]!r}")
