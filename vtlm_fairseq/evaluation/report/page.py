"""The report as one HTML page that needs nothing else: no network, no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vtlm_fairseq.errors import printable
from vtlm_fairseq.evaluation.report.data import Region, Sentence, show_piece

WIDTH, SKETCH_HEIGHT = 480, 360
SCALE = 1000
"""Attention is written in whole per mille."""
LIKELY = 0.05
"""Beside the best guess for a region's label, those above this probability are shown."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def asset(name: str) -> str:
    """The text of a file of this package: ``style.css``, ``script.js``, ``page.html.j2``. Nothing of it is data."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def render_page(
    sentences: Sequence[Sentence], *, title: str, facts: Sequence[str], pictures: dict[str, Picture], pretrained: bool
) -> str:
    """The page. All text is escaped; a content security policy allows nothing but the page's own style and script.

    Args:
        sentences: what is shown.
        title: heading.
        facts: short statements below it (checkpoint, data, regions).
        pictures: by image id; an image without one is drawn as a sketch of its boxes.
        pretrained: whether words and regions were predicted (a pre-trained model), or translated.
    """
    style, script = asset("style.css"), asset("script.js")
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'"
    )
    attention = [(sentence.attention * SCALE).round().int().tolist() for sentence in sentences]
    first_words = (
        next((word for line in sentence.lines for word in line.words if word.query is not None), None)
        for sentence in sentences
    )
    reachable = {id(word) for word in first_words}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_without_controls
    )
    environment.filters["piece"] = show_piece
    environment.filters["corners"] = _corners
    environment.filters["first_region"] = lambda sentence: sentence.attention.size(-1) - len(sentence.regions)
    environment.tests["reachable"] = lambda word: id(word) in reachable
    return environment.from_string(asset("page.html.j2")).render(
        sentences=sentences,
        title=title,
        facts=facts,
        pictures=pictures,
        pretrained=pretrained,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        attention=Markup(json.dumps(attention, separators=(",", ":"))),
        layers=max((sentence.attention.size(0) for sentence in sentences), default=1) - 1,
        width=WIDTH,
        sketch_height=SKETCH_HEIGHT,
        likely=LIKELY,
    )


def _without_controls(value: object) -> object:
    """What names and words of strangers hold is shown as elsewhere; the page's own parts stay."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _corners(region: Region, height: int) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a region in a picture of `WIDTH` and a height, in its pixels."""
    x1, x2 = (min(max(x, 0.0), 1.0) * WIDTH for x in region.box[::2])
    y1, y2 = (min(max(y, 0.0), 1.0) * height for y in region.box[1::2])
    return x1, y1, x2, y2
