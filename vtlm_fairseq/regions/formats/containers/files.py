"""A file or more for each image: .npz, .npy, pickles."""

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.formats.containers.record import (
    Record,
    fields_of,
    npy_array,
    npz_arrays,
    read_bytes,
    text_id,
    unpickled,
)
from vtlm_fairseq.regions.formats.input_image import files_in
from vtlm_fairseq.regions.formats.layout import Layout
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing

_NAMED = "its files say which image is whose"


def npz_files(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """``ID.npz`` files of a folder."""
    layout.refuse_ids(ids, _NAMED)
    for file in files_in(path, ".npz", label=path):

        def load(file: Path = file) -> Mapping[str, Any]:
            return npz_arrays(str(file), str(file), layout.needed())

        yield Record(layout.image_id(file.name.removesuffix(".npz")), str(file), load, (file,))


def npy_files(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """``ID.npy`` files of a folder, and what lies beside them (the layout's `files`)."""
    layout.refuse_ids(ids, _NAMED)
    first = layout.features.rstrip("?").split("/")[0]
    files = dict(layout.files) or {first: "{id}.npy"}
    if first not in files or not files[first].endswith("{id}.npy"):
        raise VTLMError(f"layout {layout.name}: files must name {first}, a path that ends in {{id}}.npy")
    for name, template in files.items():
        if "{id}" not in template or ".." in template.split("/") or template.startswith("/"):
            raise VTLMError(f"layout {layout.name}: files.{name} is {template!r}, must hold {{id}}, below --input")
    folder = Path(path) / files[first].removesuffix("{id}.npy")
    endings = [t.split("/")[-1].replace("{id}", "") for n, t in files.items() if n != first]
    beside = tuple(ending for ending in endings if ending != ".npy")
    for file in files_in(str(folder), ".npy", label=str(folder)):
        if beside and file.name.endswith(beside):
            continue
        stem = file.name.removesuffix(".npy")
        own = tuple(Path(path) / files[name].replace("{id}", stem) for name in layout.needed() if name in files)

        def load(stem: str = stem) -> Mapping[str, Any]:
            found = {}
            for name in layout.needed():
                if name in files:
                    beside = Path(path) / files[name].replace("{id}", stem)
                    if beside.is_file():
                        found[name] = npy_array(read_bytes(beside), str(beside))
                    elif name in layout.needed(optional=False):
                        raise VTLMError(f"{beside}: no such file, the {name} of {stem[:99]!r}{_others(beside, stem)}")
            return found

        yield Record(layout.image_id(stem), str(file), load, own)


def _others(path: Path, stem: str) -> str:
    """What a message on a file that is not there says of the others of its kind, by the images they belong to."""
    before, _, after = path.name.partition(stem)
    names = (other.name for other in path.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}"))
    return explain_missing([stem], (name.removeprefix(before).removesuffix(after) for name in names), BY_HAND)


def pickles(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """``ID.pkl`` files of a folder, or one file with a dictionary of records, or a list of them with an `id` each."""
    layout.refuse_ids(ids, _NAMED)
    if Path(path).is_dir():
        for file in files_in(path, ".pkl", label=path):

            def load(file: Path = file) -> Mapping[str, Any]:
                return fields_of(unpickled(read_bytes(file), str(file)), str(file))

            yield Record(layout.image_id(file.name.removesuffix(".pkl")), str(file), load, (file,))
        return
    content = unpickled(read_bytes(Path(path), most=1 << 40), path)
    yield from entries(layout, content, path)


def entries(layout: Layout, content: Any, path: str) -> Iterator[Record]:
    """Records of a dictionary by image id, or of a list."""
    if isinstance(content, Mapping):
        pairs = [(key, value) for key, value in content.items() if key not in layout.skip]
    elif isinstance(content, list | tuple) and layout.id:
        pairs = [(fields_of(value, path).get(layout.id), value) for value in content]
    else:
        raise VTLMError(f"{path}: neither a dictionary by image id nor, with id= in the layout, a list of records")
    for key, value in pairs:
        image_id = text_id(key, path)
        where = f"{path}, {image_id[:99]}"
        record = value if isinstance(value, Mapping) else {layout.features: value}
        yield Record(layout.image_id(image_id), where, lambda record=record: record)
