"""The report's page: escaping, policy, size, contrast, pictures."""

import base64
import hashlib
import html.parser
import io
import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from vtlm_fairseq.cli.report import parse_lines
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.report import data as report_data
from vtlm_fairseq.evaluation.report.data import Prediction, Region, Sentence, ShownLine, ShownWord
from vtlm_fairseq.evaluation.report.page import asset, render_page
from vtlm_fairseq.evaluation.report.pictures import MAX_BYTES, find_picture, load_pictures

STYLE, SCRIPT = asset("style.css"), asset("script.js")
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&lt;"


class Reader(html.parser.HTMLParser):
    """Tags with their attributes, and the text of the page without script and style."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.open = [], "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        if self.open not in ("script", "style"):
            self.text += data


def sentence(text="word", *, image="img", regions=2, words=3):
    """A sentence of ``words`` words with attention between them and to regions."""
    lines = [
        ShownLine(text, "en", [ShownWord(text, key=k) for k in range(words)]),
        ShownLine("Hypothesis", text, [ShownWord(text, query=q) for q in range(words)]),
    ]
    boxes = [Region((0.1, 0.2, 0.3, 0.4), text, 0.9, masked=True, predictions=[(text, 0.75)]) for _ in range(regions)]
    attention = torch.full((7, words, words + regions), 1 / (words + regions))
    guess = Prediction(text, text, "<mask>", [(text, 0.5)], [("other", 0.25)])
    return Sentence(1, image if regions else None, lines, boxes, attention, [guess])


def page(sentences, pictures=None, **options):
    facts = options.pop("facts", ["fact"])
    return render_page(
        sentences, title=options.pop("title", "t"), facts=facts, pictures=pictures or {}, pretrained=True
    )


def test_hostile_text_stays_text():
    """Captions, labels, ids, languages, title and facts cannot open a tag or leave an attribute."""
    made = page([sentence(HOSTILE, image=HOSTILE)], title=HOSTILE, facts=[HOSTILE])
    found = Reader(made)
    plain = Reader(page([sentence("word", image="word")], title="word", facts=["word"]))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in found.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    assert found.text.count(HOSTILE) >= 12
    assert "alert" not in "".join(re.findall(r"<script[^>]*>(.*?)</script>", made, re.S))


def test_a_split_of_few_lines_is_shown_whole(monkeypatch):
    monkeypatch.setattr(report_data, "translation_sentence", lambda loaded, line, *_, **__: line)
    for size, shown in ((4, 4), (13, 10)):
        loaded = SimpleNamespace(dataset=range(size), model=None, task=SimpleNamespace(build_generator=lambda *_: None))
        assert report_data.collect(loaded, None, spelling=None, beam=1) == list(range(shown))


def test_control_characters_are_shown():
    """Of a class name, say: an escape or a mark that turns the direction of writing does not reach the page."""
    made = page([sentence("a\x1b[2J\u202e\x00")], title="t\x1b", facts=["f\x1b"])
    assert not set("\x1b\u202e\x00") & set(made) and made.count(r"a\x1b[2J\u202e\x00") >= 12


def test_nothing_is_loaded_and_only_its_own_script_may_run(tmp_path):
    noise(80, 60).save(tmp_path / "img.png")
    found = Reader(page([sentence()], load_pictures(tmp_path, ["img"])))
    addresses = [value for _, attrs in found.tags for name, value in attrs.items() if name in ("src", "href")]
    assert len(addresses) == 1 and addresses[0].startswith("data:image/jpeg;base64,")
    (policy,) = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for name, content in (("script-src", SCRIPT), ("style-src", STYLE)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    assert not any("style" in attrs for _, attrs in found.tags)
    assert "http:" not in STYLE + SCRIPT and "https:" not in STYLE + SCRIPT


def test_attention_in_the_page():
    made = page([sentence(words=1, regions=1), sentence(regions=0)])
    (content,) = re.findall(r'<script type="application/json" id="attention">(.*?)</script>', made)
    first, second = json.loads(content)
    assert first == [[[500, 500]]] * 7
    assert second == [[[333] * 3] * 3] * 7
    assert made.count("<svg") == 1 and made.count("text-only") == 2  # a rule of the style, and the second sentence
    # one word a sentence takes the tab key
    found = Reader(page([sentence(), sentence()]))
    reachable = [attrs["tabindex"] for tag, attrs in found.tags if tag == "button"]
    assert reachable == ["0", "-1", "-1"] * 2


def test_contrast():
    """WCAG AA: 4.5 for text on everything that it can lie on, 3 for the focus ring; light and dark."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    light, dark = (
        dict(re.findall(r"--([a-z]+): (#\w{6})", block)) for block in STYLE.split("prefers-color-scheme: dark")
    )
    assert light["bg"] != dark["bg"]
    for theme in (light, dark):
        for text, ground in itertools.product(("fg", "muted"), ("bg", "card")):
            assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
        for ground in ("glow", "badge"):
            assert contrast(theme["fg"], theme[ground]) >= 4.5, ground
        for ground in ("bg", "card"):
            assert contrast(theme["focus"], theme[ground]) >= 3


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_pictures_are_small(tmp_path):
    """Twenty sentences with 36 regions, 30 words and the worst of pictures stay under 2 MB."""
    noise(1600, 1200).save(tmp_path / "img0.jpg")
    pictures = load_pictures(tmp_path, ["img0", "absent"])
    assert list(pictures) == ["img0"]
    picture = pictures["img0"]
    content = base64.b64decode(picture.uri.removeprefix("data:image/jpeg;base64,"))
    assert len(content) <= MAX_BYTES
    assert Image.open(io.BytesIO(content)).size == (picture.width, picture.height)
    assert 4 * picture.height == 3 * picture.width
    sentences = [sentence(image=f"img{i}", regions=36, words=30) for i in range(20)]
    made = page(sentences, {f"img{i}": picture for i in range(20)})
    assert made.count("<image ") == 20
    assert len(made.encode()) < 2_000_000


def test_picture_files(tmp_path):
    for name in ("a", "b.jpg", "c.PNG", "d.png"):
        noise(8, 8).save(tmp_path / name, "PNG")
    assert find_picture(tmp_path, "a") == tmp_path / "a"
    assert find_picture(tmp_path, "b") == find_picture(tmp_path, "b.jpg") == tmp_path / "b.jpg"
    assert find_picture(tmp_path, "d") == tmp_path / "d.png"
    (tmp_path / "inner").mkdir()
    for image_id in ("../d.png", ".", "", "..\\d"):
        assert find_picture(tmp_path / "inner", image_id) is None
    with pytest.raises(VTLMError, match="--images .*nowhere: no such folder"):
        load_pictures(tmp_path / "nowhere", ["a"])


def test_line_numbers():
    assert parse_lines("3,1,5-7,6") == [3, 1, 5, 6, 7]
    for bad in ("", "0", "a", "1-", "1,,2", "5-300", "-3", "1-150,200-300"):
        with pytest.raises(Exception, match="1,5,7-9|200"):
            parse_lines(bad)
