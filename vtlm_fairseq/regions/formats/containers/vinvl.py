"""``features.tsv`` and ``predictions.tsv`` of VinVL's detector, line by line; ``.lineidx`` beside them must agree."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.regions.formats.containers.record import Record, faulty
from vtlm_fairseq.regions.formats.containers.tables import decoded
from vtlm_fairseq.regions.formats.layout import Layout
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing

_FLOATS = np.dtype("<f4")


def lines(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Lines of a folder's two files, which must be of the same images in the same order.

    Fields: ``features`` [R * D], ``num_boxes``, and of the predictions ``rect`` [R, 4], ``class`` (names), ``conf``,
    ``image_w`` and ``image_h`` where they are there.
    """
    layout.refuse_ids(ids, "the first column has the ids")
    names = layout.files or {"features": "features.tsv", "predictions": "predictions.tsv"}
    files = {name: Path(path) / names.get(name, f"{name}.tsv") for name in ("features", "predictions")}
    for file in files.values():
        if not file.is_file():
            raise VTLMError(f"{file}: no such file; --input is the folder of features.tsv and predictions.tsv")
    pairs = zip_longest(_numbered(files["features"]), _numbered(files["predictions"]))
    for number, (features, predictions) in enumerate(pairs, start=1):
        if features is None or predictions is None:
            short = files["predictions" if predictions is None else "features"]
            raise VTLMError(f"{short}: ends after line {number - 1}, the file beside it does not; it is cut off")
        key, *rest = features
        if predictions[0] != key:
            yield faulty(
                VTLMError(
                    f"{files['predictions']}, line {number}: of image {predictions[0][:99]!r}, that of "
                    f"{files['features'].name} is of {key[:99]!r}; sort both alike"
                    + explain_missing([predictions[0]], [key], BY_HAND)
                )
            )
            continue
        where = f"{files['features']}, line {number}"

        def load(rest: list[str] = rest, row: list[str] = predictions, where: str = where) -> Mapping[str, Any]:
            return {**_features(rest, where), **_predictions(row, f"{files['predictions']}, line {where.split()[-1]}")}

        yield Record(layout.image_id(key), where, load)


def _numbered(file: Path) -> Iterator[list[str]]:
    """Columns of each line; where a .lineidx lies beside, the line must begin where that says."""
    index = file.with_suffix(".lineidx")
    starts = stream_lines(index) if index.is_file() else None
    at = 0
    for number, line in enumerate(stream_lines(file), start=1):
        if starts is not None:
            said = next(starts, None)
            if said is None or said.strip() != str(at):
                raise VTLMError(
                    f"{index}: line {number} says {'nothing' if said is None else repr(said[:40])}, but that line "
                    f"of {file.name} begins at byte {at}; one of them is of another file"
                )
            at += len(line.encode("utf-8")) + 1
        yield line.split("\t")


def _features(rest: list[str], where: str) -> dict[str, Any]:
    """Of the columns number and base64, or of one of JSON with both."""
    if len(rest) == 2:
        return {"num_boxes": rest[0], "features": decoded(rest[1].strip(), _FLOATS, where)}
    content = _json(rest[0], where) if len(rest) == 1 else None
    if not isinstance(content, dict) or not isinstance(content.get("features"), str) or "num_boxes" not in content:
        raise VTLMError(f"{where}: neither key, number, features nor key and JSON of num_boxes and features")
    return {"num_boxes": content["num_boxes"], "features": decoded(content["features"], _FLOATS, where)}


def _predictions(row: list[str], where: str) -> dict[str, Any]:
    content = _json(row[1], where) if len(row) == 2 else None
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        raise VTLMError(f"{where}: not key and JSON with a list 'objects'")
    found: dict[str, Any] = {name: content[name] for name in ("image_w", "image_h") if name in content}
    for name in ("rect", "class", "conf"):
        if all(name in one for one in objects):
            found[name] = [one[name] for one in objects]
    if not objects:
        found["rect"] = np.zeros((0, 4))
    return found


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise VTLMError(f"{where}: not readable JSON ({reason(error)})") from None
