"""What the script of the report reads: sentences, attention and pictures, packed into one text."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vtlm_fairseq.errors import printable
from vtlm_fairseq.evaluation.report.data import Prediction, Region, Sentence, ShownLine
from vtlm_fairseq.evaluation.report.pictures import Picture

WIDTH, SKETCH_HEIGHT = 480, 360
LIKELY = 0.05
"""Beside the best guess for a region's label, those above this probability are shown."""
LEAST = 0.01
MOST = 600_000
"""Bytes of packed attention; where all layers take more, the one that is shown first and the mean are kept."""


def looking_layer(sentences: Sequence[Sentence]) -> int:
    """The layer, from 1, that singles out regions most; 0, the mean of all layers, where there are no regions.

    That is the mean over sentences of what the word that is most certain of its region puts on it, of its attention on
    regions: attention that falls on all regions alike says nothing of what is in them, however much it is. Layers
    with less than `LEAST` of their attention on regions are left out, if any has more.
    """
    shown = [sentence for sentence in sentences if sentence.regions and sentence.attention.size(1)]
    if not shown:
        return 0
    on_regions = [sentence.attention[1:, :, -len(sentence.regions) :] for sentence in shown]  # L x Q x R
    mass = torch.stack([weights.sum(-1).mean(-1) for weights in on_regions]).mean(0)
    single = [(weights.amax(-1) / weights.sum(-1).clamp_min(1e-9)).amax(-1) for weights in on_regions]
    return int((torch.stack(single).mean(0) + (mass >= LEAST)).argmax()) + 1


def pack(sentences: Sequence[Sentence], pictures: Mapping[str, Picture], *, layer: int, most: int = MOST) -> str:
    """Sentences as base64 of gzip of a line of JSON, and, behind its end, a byte for each weight of attention.

    A byte is 255 times the root of the weight: small weights are kept as exactly, for their size, as great ones. They
    stand sentence by sentence, layer by layer, query by query, as words and then regions.

    Args:
        sentences: what is shown.
        pictures: by image id.
        layer: that is shown first, as `looking_layer` has it.
        most: bytes of packed attention.
    """
    planes = list(range(max((len(sentence.attention) for sentence in sentences), default=1)))
    attention = _attention(sentences, planes)
    if len(gzip.compress(attention)) > most:
        planes = sorted({0, layer})
        attention = _attention(sentences, planes)
    shown = [image for image in dict.fromkeys(sentence.image for sentence in sentences) if image in pictures]
    labels = list(dict.fromkeys(region.label for sentence in sentences for region in sentence.regions))
    facts: dict[str, Any] = {
        "planes": planes,
        "plane": layer,
        "regions": max((len(sentence.regions) for sentence in sentences), default=0),
        "width": WIDTH,
        "height": SKETCH_HEIGHT,
        "labels": labels,
        "pictures": [{"uri": pictures[image].uri, "height": picture_height(pictures[image])} for image in shown],
        "sentences": [],
    }
    start = 0
    for sentence in sentences:
        picture = shown.index(sentence.image) if sentence.image in shown else None
        height = SKETCH_HEIGHT if picture is None else facts["pictures"][picture]["height"]
        queries, columns = sentence.attention.shape[1:]
        facts["sentences"].append({
            "number": sentence.number,
            "image": sentence.image,
            "picture": picture,
            "change": round(sentence.change, 4),
            "note": sentence.note,
            "mark": sentence.mark,
            "start": start,
            "queries": queries,
            "keys": columns - len(sentence.regions),
            "lines": [_line(line) for line in sentence.lines],
            "regions": [_region(region, labels.index(region.label), height) for region in sentence.regions],
            "predictions": [_prediction(word) for word in sentence.predictions],
        })  # fmt: skip
        start += len(planes) * queries * columns
    text = json.dumps(_printable(facts), separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b64encode(gzip.compress(text + b"\n" + attention, mtime=0)).decode()


def _printable(value: Any) -> Any:
    """All texts of a value with the control characters of strangers shown as elsewhere."""
    if isinstance(value, dict):
        return {name: _printable(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value


def picture_height(picture: Picture) -> int:
    """Of a picture that is `WIDTH` wide."""
    return round(WIDTH * picture.height / picture.width)


def _attention(sentences: Sequence[Sentence], planes: Sequence[int]) -> bytes:
    coded = (sentence.attention[list(planes)].clamp(0, 1).sqrt() * 255 for sentence in sentences)
    return b"".join(values.round().to(torch.uint8).numpy().tobytes() for values in coded)


def _line(line: ShownLine) -> dict[str, Any]:
    words = [
        [w.text, -1 if w.query is None else w.query, -1 if w.key is None else w.key, int(w.predicted),
         int(w.changed)] for w in line.words
    ]  # fmt: skip
    return {"name": line.name, "lang": line.lang, "note": line.note, "words": words}


def _region(region: Region, label: int, height: int) -> dict[str, Any]:
    predictions = [guess for k, guess in enumerate(region.predictions) if not k or guess[1] >= LIKELY]
    sizes = (WIDTH, height, WIDTH, height)
    return {
        "box": [round(min(max(x, 0.0), 1.0) * size, 1) for x, size in zip(region.box, sizes, strict=True)],
        "label": label,
        "score": round(region.score, 2),
        "masked": int(region.masked),
        "predictions": _ranking(predictions),
    }


def _prediction(word: Prediction) -> dict[str, Any]:
    return {
        "line": word.line,
        "truth": word.truth,
        "seen": word.seen,
        "with": _ranking(word.with_image),
        "without": word.without_image and _ranking(word.without_image),
    }


def _ranking(guesses) -> list[list]:
    return [[name, round(p, 4)] for name, p in guesses]
