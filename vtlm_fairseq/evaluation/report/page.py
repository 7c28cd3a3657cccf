"""The report as one HTML page that needs nothing else: no network, no script but its own."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from vtlm_fairseq.evaluation.report.assets import SCRIPT, STYLE
from vtlm_fairseq.evaluation.report.data import (
    Prediction,
    Ranking,
    Region,
    Sentence,
    ShownLine,
    ShownWord,
    show_piece,
)

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
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{_hash(STYLE)}'; script-src 'sha256-{_hash(SCRIPT)}'"
    )
    layers = max((sentence.attention.size(0) for sentence in sentences), default=1) - 1
    options = "".join(f'<option value="{k}">layer {k}</option>' for k in range(1, layers + 1))
    word = "word" if pretrained else "word of the hypothesis"
    attention = "self-attention of the encoder" if pretrained else "cross-attention of the decoder"
    articles = "\n".join(
        _article(k, sentence, pictures.get(sentence.image or "")) for k, sentence in enumerate(sentences)
    )
    content = json.dumps([_per_mille(sentence.attention) for sentence in sentences], separators=(",", ":"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<p class="facts">{"".join(f"<span>{escape(fact)}</span>" for fact in facts)}</p>
<div class="controls">
<label>Attention: <select id="layer"><option value="0">mean of all layers</option>{options}</select></label>
<p class="hint">Point at a {word}, or go to it with Tab and the arrow keys, to see what it attends to
({attention}, mean over heads; the strongest is brightest).</p>
</div>
</header>
<main>
{articles}
</main>
<script type="application/json" id="attention">{content}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _per_mille(attention: Tensor) -> list:
    return (attention * SCALE).round().int().tolist()


def _article(number: int, sentence: Sentence, picture: Picture | None) -> str:
    image = f" <span>image {escape(sentence.image)}</span>" if sentence.image is not None else ""
    first_region = sentence.attention.size(-1) - len(sentence.regions)
    figure = _figure(sentence, picture, first_region) if sentence.image is not None else ""
    lines = "\n".join(_line(line, first=k == _first_with_queries(sentence)) for k, line in enumerate(sentence.lines))
    chips = "\n".join(_chip(k, region, first_region) for k, region in enumerate(sentence.regions))
    regions = f'<h3>Regions</h3>\n<ol class="chips">\n{chips}\n</ol>' if sentence.regions else ""
    return f"""<article data-sentence="{number}" aria-labelledby="title-{number}">
<h2 id="title-{number}">Line {sentence.number}{image}</h2>
<div class="columns{"" if figure else " text-only"}">
{figure}
<div>
{lines}
<p class="summary" role="status"></p>
{regions}
{_predictions(sentence.predictions)}
</div>
</div>
</article>"""


def _first_with_queries(sentence: Sentence) -> int | None:
    return next((k for k, line in enumerate(sentence.lines) if any(w.query is not None for w in line.words)), None)


def _figure(sentence: Sentence, picture: Picture | None, first_region: int) -> str:
    height = round(WIDTH * picture.height / picture.width) if picture else SKETCH_HEIGHT
    labels = "; ".join(f"{k} {region.label}" for k, region in enumerate(sentence.regions, 1))
    name = f"Image {sentence.image}, {len(sentence.regions)} regions{': ' if labels else ''}{labels}"
    image = ""
    if picture:
        image = f'<image href="{escape(picture.uri)}" width="{WIDTH}" height="{height}" preserveAspectRatio="none"/>'
    boxes = [_box(k, region, first_region, height) for k, region in enumerate(sentence.regions)]
    numbers = [_number(k, region, height) for k, region in enumerate(sentence.regions)]  # above all boxes
    caption = "" if picture else "\n<figcaption>Sketch of the regions; no picture given.</figcaption>"
    return f"""<figure>
<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(name)}" class="{"picture" if picture else "sketch"}">
{image}{"".join(boxes)}{"".join(numbers)}
</svg>{caption}
</figure>"""


def _corners(region: Region, height: int) -> tuple[float, float, float, float]:
    x1, x2 = (min(max(x, 0.0), 1.0) * WIDTH for x in region.box[::2])
    y1, y2 = (min(max(y, 0.0), 1.0) * height for y in region.box[1::2])
    return x1, y1, x2, y2


def _box(number: int, region: Region, first_region: int, height: int) -> str:
    x1, y1, x2, y2 = _corners(region, height)
    kind = "region masked" if region.masked else "region"
    return (
        f'<g class="{kind}" data-key="{first_region + number}"><rect x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" '
        f'height="{y2 - y1:.1f}" rx="2"/></g>'
    )


def _number(number: int, region: Region, height: int) -> str:
    x1, y1, _, _ = _corners(region, height)
    return f'<text x="{min(x1 + 5, WIDTH - 20):.1f}" y="{min(y1 + 16, height - 4):.1f}">{number + 1}</text>'


def _line(line: ShownLine, *, first: bool) -> str:
    made, reachable = [], first
    for word in line.words:
        made.append(_word(word, reachable=reachable and word.query is not None))
        reachable = reachable and word.query is None
    return (
        f'<div class="line" role="group" aria-label="{escape(line.name)} ({escape(line.lang)})">'
        f'<span class="name">{escape(line.name)} ({escape(line.lang)})</span>'
        f'<span class="words" lang="{escape(line.lang)}">{"".join(made)}</span></div>'
    )


def _word(word: ShownWord, *, reachable: bool) -> str:
    kind = "word predicted" if word.predicted else "word"
    key = f' data-key="{word.key}" data-name="{escape(word.text)}"' if word.key is not None else ""
    if word.query is None:
        return f'<span class="{kind}"{key}>{escape(word.text)}</span>'
    return (
        f'<button type="button" class="{kind}" data-query="{word.query}"{key} aria-pressed="false" '
        f'tabindex="{0 if reachable else -1}">{escape(word.text)}</button>'
    )


def _chip(number: int, region: Region, first_region: int) -> str:
    name = escape(f"{number + 1} {region.label}")
    masked = ' <span class="badge">masked</span>' if region.masked else ""
    guess = ""
    if region.predictions:
        likely = [guess for k, guess in enumerate(region.predictions) if k == 0 or guess[1] >= LIKELY]
        ranking = ", ".join(f"{escape(label)} {p:.0%}" for label, p in likely)
        guess = f' <span class="badge">predicted: {ranking}</span>'
    return (
        f'<li class="chip" data-key="{first_region + number}" data-name="{name}">{name} '
        f"<span>{region.score:.2f}</span>{masked}{guess}</li>"
    )


def _predictions(predictions: Sequence[Prediction]) -> str:
    if not predictions:
        return ""
    with_two = any(prediction.without_image is not None for prediction in predictions)
    heads = ["Line", "Word", "Seen as", "With the image", "Without it"][: 5 if with_two else 4]
    if not with_two:
        heads[3] = "Predicted"
    rows = []
    for prediction in predictions:
        cells = [prediction.line, show_piece(prediction.truth), show_piece(prediction.seen)]
        rankings = [prediction.with_image, *([prediction.without_image] if with_two else [])]
        made = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        made += "".join(f"<td>{_ranking(ranking or [], prediction.truth)}</td>" for ranking in rankings)
        rows.append(f"<tr>{made}</tr>")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return (
        f'<div class="scroll"><table><caption>Predicted words</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _ranking(ranking: Ranking, truth: str) -> str:
    items = "".join(
        f"<li{' class=right' if name == truth else ''}>{escape(show_piece(name))} {p:.1%}</li>" for name, p in ranking
    )
    return f"<ol>{items}</ol>"
