"""The report's page: escaping, policy, what is packed, size, contrast, pictures."""

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
from report_page import unpack

from vtlm_fairseq.cli.report import parse_lines
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.report import collect
from vtlm_fairseq.evaluation.report.changes import differing
from vtlm_fairseq.evaluation.report.data import Prediction, Region, Sentence, ShownLine, ShownWord
from vtlm_fairseq.evaluation.report.page import SCRIPTS, asset, render_page
from vtlm_fairseq.evaluation.report.payload import looking_layer
from vtlm_fairseq.evaluation.report.pictures import (
    ALL_BYTES,
    MAX_BYTES,
    Picture,
    find_picture,
    load_pictures,
    small_picture,
)

STYLE, SCRIPT = asset("style.css"), "".join(map(asset, SCRIPTS))
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
    """Title and facts cannot open a tag or leave an attribute; nothing else is markup at all.

    That the script makes text of them: tests/integration/test_report.py.
    """
    made = page([sentence(HOSTILE, image=HOSTILE)], title=HOSTILE, facts=[HOSTILE])
    found = Reader(made)
    plain = Reader(page([sentence("word", image="word")], title="word", facts=["word"]))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in found.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert found.text.count(HOSTILE) == 3
    assert made.count("alert") == 6  # twice in each of these
    (shown,) = unpack(made).sentences
    assert shown["image"] == HOSTILE and unpack(made).facts["labels"] == [HOSTILE]
    assert {word[0] for line in shown["lines"] for word in line["words"]} == {HOSTILE}


def test_a_split_of_few_lines_is_shown_whole(monkeypatch):
    monkeypatch.setattr(collect, "translated_sentences", lambda loaded, lines, **_: lines)
    for size, shown in ((4, 4), (13, 10)):
        loaded = SimpleNamespace(dataset=range(size), model=None)
        assert collect.collect(loaded, None, spelling=None, beam=1) == list(range(shown))


def test_control_characters_are_shown():
    """Of a class name, say: an escape or a mark that turns the direction of writing does not reach the page."""
    made = page([sentence("a\x1b[2J\u202e\x00", image="\x1b")], title="t\x1b", facts=["f\x1b"])
    assert r"t\x1b" in made and r"f\x1b" in made
    assert not set("\x1b\u202e\x00") & set(made)
    packed = json.dumps(unpack(made).facts, ensure_ascii=False)
    assert packed.count(r"a\\x1b[2J\\u202e\\x00") >= 10
    assert r"\u001b" not in packed and r"\u0000" not in packed and "\u202e" not in packed


def test_nothing_is_loaded_and_only_its_own_script_may_run(tmp_path):
    noise(80, 60).save(tmp_path / "img.png")
    made = page([sentence()], load_pictures(tmp_path, ["img"]))
    found = Reader(made)
    assert not any(name in ("src", "href", "style") for _, attrs in found.tags for name in attrs)
    assert not any(name.startswith("on") for _, attrs in found.tags for name in attrs)
    (picture,) = unpack(made).facts["pictures"]
    assert picture["uri"].startswith("data:image/")
    (policy,) = [a["content"] for _, a in found.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for name, content in (("script-src", SCRIPT), ("style-src", STYLE)):
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
    addresses = set(re.findall(r"https?://[^\"]*", STYLE + SCRIPT))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language
    assert "innerHTML" not in SCRIPT and "eval" not in SCRIPT


def test_attention_in_the_page():
    """Each weight to within a hundredth of itself, in the order in which the script reads them."""
    one, two = sentence(words=2, regions=3), sentence(words=3, regions=0)
    for shown in (one, two):
        shown.attention = torch.rand(shown.attention.shape, generator=torch.Generator().manual_seed(0)) ** 3 + 1e-2
        shown.attention = (shown.attention / shown.attention.sum(-1, keepdim=True)).clamp_min(1e-2)
    packed = unpack(page([one, two]))
    for shown, found in zip((one, two), packed.weights, strict=True):
        np.testing.assert_allclose(found, shown.attention, rtol=0.045)
    assert [s["keys"] for s in packed.sentences] == [2, 3] and packed.facts["planes"] == list(range(7))


def test_the_layer_that_singles_out_regions_is_shown_first():
    """Not the one with the most attention on all of them alike, nor the mean."""
    shown = sentence(words=2, regions=4)
    shown.attention = torch.zeros(4, 2, 6)  # mean, layers 1 to 3
    shown.attention[1, :, 2:] = 0.2
    shown.attention[2, 0, 2:] = torch.tensor([0.1, 0.06, 0.0, 0.04])
    shown.attention[3, 0, 2:] = torch.tensor([0.004, 0.0, 0.0, 0.0])  # too little to say anything
    shown.attention[0] = shown.attention[1:].mean(0)
    assert looking_layer([shown, sentence(regions=0)]) == 2
    assert unpack(page([shown])).facts["plane"] == 2
    shown.attention[3, 1, 3] = 0.1
    assert looking_layer([shown]) == 3
    assert looking_layer([sentence(regions=0)]) == 0


def test_words_that_differ():
    one, other = "ein alter mann sieht einen ball".split(), "ein mann sieht einen roten ball".split()
    assert differing(one, other) == ({1}, {4})
    assert differing(one, one) == (set(), set()) and differing([], one) == (set(), set(range(6)))
    assert differing("a b".split(), "b a".split()) in (({0}, {1}), ({1}, {0}))


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
        for ground in ("glow", "badge", "bar"):
            assert contrast(theme["fg"], theme[ground]) >= 4.5, ground
        for ground in ("bg", "card"):
            assert contrast(theme["focus"], theme[ground]) >= 3
            assert contrast(theme["beam"], theme[ground]) >= 3


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.slow
def test_five_hundred_sentences(tmp_path):
    """With 36 regions, 15 words and a picture each, of six layers with attention as random as it can be: under 2 MB."""
    generator = np.random.default_rng(0)
    shown, pictures = [], {}
    for number in range(500):
        one = sentence(" ".join(map(str, generator.integers(0, 9999, 2))), image=f"img{number}", regions=36, words=15)
        one.attention = torch.randn(one.attention.shape, generator=torch.Generator().manual_seed(number)).softmax(-1)
        shown.append(one)
        content = base64.b64encode(generator.bytes(ALL_BYTES // 500)).decode()
        pictures[one.image] = Picture(f"data:image/webp;base64,{content}", 4, 3)
    made = page(shown, pictures)
    assert len(made.encode()) < 2_000_000
    packed = unpack(made)
    assert len(packed.sentences) == len(packed.facts["pictures"]) == 500
    # what is shown first and the mean are left of the layers, and are what they were
    assert packed.facts["planes"] == sorted({0, packed.facts["plane"]})
    np.testing.assert_allclose(packed.weights[7][1], shown[7].attention[packed.facts["plane"]], atol=4e-3)


def test_pictures_are_small(tmp_path):
    """The worst of pictures, alone and as one of five hundred."""
    noise(1600, 1200).save(tmp_path / "img0.jpg")
    pictures = load_pictures(tmp_path, ["img0", "absent"])
    assert list(pictures) == ["img0"]
    small = small_picture(tmp_path / "img0.jpg", ALL_BYTES // 500)
    for picture, most in ((pictures["img0"], MAX_BYTES), (small, ALL_BYTES // 500)):
        content = base64.b64decode(picture.uri.partition("base64,")[2])
        assert len(content) <= most
        assert Image.open(io.BytesIO(content)).size == (picture.width, picture.height)
        assert 4 * picture.height == 3 * picture.width


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
    for bad in ("", "0", "a", "1-", "1,,2", "5-600", "-3", "9-5", "1,9-5", "1-350,400-600"):
        with pytest.raises(Exception, match="1,5,7-9|500|write 5-9"):
            parse_lines(bad)
