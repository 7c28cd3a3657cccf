"""The report as one HTML page that needs nothing else: no network, no script but its own."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vtlm_fairseq.errors import printable
from vtlm_fairseq.evaluation.report.data import Sentence
from vtlm_fairseq.evaluation.report.payload import looking_layer, pack
from vtlm_fairseq.evaluation.report.pictures import Picture

SCRIPTS = ("sentence.js", "script.js")


def asset(name: str) -> str:
    """The text of a file of this package: ``style.css``, one of `SCRIPTS`, ``page.html.j2``. Nothing of it is data."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def render_page(
    sentences: Sequence[Sentence],
    *,
    title: str,
    facts: Sequence[str],
    pictures: Mapping[str, Picture],
    pretrained: bool,
) -> str:
    """The page. All text is escaped; a content security policy allows nothing but the page's own style and script.

    Args:
        sentences: what is shown.
        title: heading.
        facts: short statements below it (checkpoint, data, regions).
        pictures: by image id; an image without one is drawn as a sketch of its boxes.
        pretrained: whether words and regions were predicted (a pre-trained model), or translated.
    """
    style, script = asset("style.css"), "".join(map(asset, SCRIPTS))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'"
    )
    layer = looking_layer(sentences)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True, finalize=_without_controls
    )
    return environment.from_string(asset("page.html.j2")).render(
        title=title,
        facts=facts,
        pretrained=pretrained,
        regions=any(sentence.regions for sentence in sentences),
        compared=any(sentence.note for sentence in sentences),
        layer=layer,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=pack(sentences, pictures, layer=layer),
    )


def _without_controls(value: object) -> object:
    """What names and words of strangers hold is shown as elsewhere; the page's own parts stay."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
