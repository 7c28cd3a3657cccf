"""``vtlm-report`` in a browser: what lights up is the attention in the page; nothing is loaded, nothing fails."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_page import unpack

from vtlm_fairseq.evaluation.report.changes import differing
from vtlm_fairseq.evaluation.report.data import Region, Sentence, ShownLine, ShownWord
from vtlm_fairseq.evaluation.report.page import render_page
from vtlm_fairseq.evaluation.report.pictures import load_pictures
from vtlm_fairseq.evaluation.systems import load_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LOOKS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]


def report(run, corpus, path, out, *argv, regions=True, **kwargs):
    """vtlm-report on the CPU."""
    store = ("--regions", corpus.regions) if regions else ()
    return run("vtlm_fairseq.cli.report", corpus.data, "--path", path, *store, "--out", out, "--cpu", *argv, **kwargs)


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("there is no chromium to look at the page with")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; at the end of the test it must have loaded nothing else and said nothing on the console."""
    pages, requests, messages = [], [], []

    def open_(path, **options):
        page = browser.new_page(**options)
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        pages.append(path.as_uri())
        return page

    yield open_
    assert [url for url in requests if not url.startswith("data:")] == pages
    assert messages == []


@pytest.fixture(scope="module")
def mmt_page(run, corpus, mmt, tmp_path_factory):
    """The multimodal model on four lines; the image of line 2 has a picture, the image of line 1 no region."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "images").mkdir()
    Image.new("RGB", (600, 300), "navy").save(folder / "images" / f"{corpus.images('test')[1]}.png")
    argv = ("--lines", "2,1,4-5", "--beam", "2", "--images", folder / "images")
    report(run, corpus, mmt, folder / "mmt.html", *argv)
    return folder / "mmt.html"


@pytest.fixture(scope="module")
def vtlm_page(run, corpus, vtlm, tmp_path_factory):
    """The pre-trained model on all lines."""
    out = tmp_path_factory.mktemp("report") / "vtlm.html"
    report(run, corpus, vtlm, out, "--lines", "1-13")
    return out


WORDS = """article => [...article.querySelectorAll(".word")].map(word => [
    word.dataset.query ?? null, word.dataset.key ?? null, Number(word.style.getPropertyValue("--a"))])"""
BOXES = """article => [...article.querySelectorAll("svg g.region")].map(box => [Number(box.dataset.region),
    Number(box.style.getPropertyValue("--a")), getComputedStyle(box.querySelector("rect:not(.halo)")).fill])"""
ROWS = """article => [...article.querySelectorAll(".regions button")].map(row => [
    Number(row.dataset.region), row.querySelector(".share").textContent])"""


def spell(share):
    """A share as the page has it."""
    return f"{share * 100:.{1 if share < 0.0995 else 0}f}\u00a0%"


def strongest(weights, most):
    """Places of the greatest weights, the first of equal ones first."""
    return sorted(range(len(weights)), key=lambda k: (-weights[k], k))[:most]


def check_regions(article, weights, boxes=5):
    """The boxes and rows are those of the strongest regions, each with its share of all regions, and have no fill."""
    shown = strongest(weights, boxes)
    assert article.evaluate(ROWS) == [[k, spell(weights[k] / max(sum(weights), 1e-9))] for k in shown]
    drawn = article.evaluate(BOXES)
    assert {k for k, *_ in drawn} == set(shown) and [k for k, *_ in drawn] == shown[::-1]
    for k, strength, fill in drawn:
        assert strength == pytest.approx(weights[k] / max(weights.max(), 1e-9), abs=6e-4) and fill == "none"


def check_word(article, row, keys, boxes=5):
    """A chosen word: words and regions are each as strong as they are among themselves."""
    words, regions = row[:keys], row[keys:]
    found = [(int(key), strength) for _, key, strength in article.evaluate(WORDS) if key is not None]
    assert sorted(key for key, _ in found) == list(range(keys))
    for key, strength in found:
        assert strength == pytest.approx(math.sqrt(words[key] / words.max()), abs=6e-4)
    summary = article.locator(".summary").inner_text()
    for part in filter(len, (words, regions)):
        assert sum(part) == 0 or (spell(sum(part)) in summary and spell(max(part) / sum(part)) in summary)
    if len(regions):
        check_regions(article, regions, boxes)


def is_dark(page):
    """Whether a page's ground is darker than its text."""
    ground, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    return sum(map(int, re.findall(r"\d+", ground)[:3])) < sum(map(int, re.findall(r"\d+", text)[:3]))


def test_pointing_at_a_word_and_at_a_region(corpus, mmt_page, open_page):
    page = open_page(mmt_page)
    packed = unpack(mmt_page.read_text(encoding="utf-8"))
    plane = packed.facts["planes"].index(packed.facts["plane"])
    assert packed.facts["planes"] == [0, 1, 2] and plane > 0
    assert page.locator("#layer").input_value() == str(plane)
    assert page.locator("article").count() == 4
    for k, line in enumerate((2, 1, 4, 5)):
        sentence, weights = packed.sentences[k], packed.weights[k][plane]
        article = page.locator(f"#line-{line}")
        assert article.locator("h2").inner_text().startswith(f"Line {line} image {corpus.images('test')[line - 1]}")
        shown = {
            one.locator(".name").inner_text().split("\n")[0].strip(): one for one in article.locator(".line").all()
        }
        source = ["</s>", *corpus.lines("test", "en")[line - 1].split(), "</s>"]
        assert shown["Source"].locator(".word").all_inner_texts() == source
        assert shown["Reference"].locator(".word").all_inner_texts() == corpus.lines("test", "de")[line - 1].split()
        words = article.locator("button.word")
        assert words.count() == len(weights) > 0
        for q in range(words.count()):
            words.nth(q).hover()
            assert sum(weights[q]) == pytest.approx(1, abs=0.02)
            check_word(article, weights[q], sentence["keys"])
            assert article.locator("button.word[aria-pressed=true]").count() == 1
        if sentence["regions"]:
            article.locator(".regions button").nth(0).hover()
            chosen = article.evaluate(ROWS)[0][0]
            column = weights[:, sentence["keys"] + chosen]
            found = [strength for query, _, strength in article.evaluate(WORDS) if query is not None]
            assert found == pytest.approx(np.sqrt(column / column.max()).tolist(), abs=6e-4)
            assert spell(column.max()) in article.locator(".summary").inner_text()
            assert article.locator("svg .chosen").get_attribute("data-region") == str(chosen)
        assert page.locator(".lit").count() == article.locator(".lit").count()  # nothing in the sentence before
    assert page.locator("#line-2 svg image").count() == 1
    assert page.locator("#line-2 svg").get_attribute("viewBox") == "0 0 480 240"  # the picture's proportions


def test_the_keyboard_layers_and_boxes(mmt_page, open_page):
    """On a light and a dark page."""
    assert not is_dark(open_page(mmt_page, color_scheme="light"))
    page = open_page(mmt_page, color_scheme="dark", viewport={"width": 1280, "height": 900})
    assert is_dark(page)
    packed = unpack(mmt_page.read_text(encoding="utf-8"))
    plane = packed.facts["planes"].index(packed.facts["plane"])
    seen = []
    while not page.evaluate("document.activeElement.matches('button.word')"):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
    assert seen[:4] == ["search", "order", "layer", "boxes"]
    first = page.locator("article").nth(0)
    number = int(first.get_attribute("id").removeprefix("line-"))
    k = [sentence["number"] for sentence in packed.sentences].index(number)
    keys, weights = packed.sentences[k]["keys"], packed.weights[k]
    check_word(first, weights[plane][0], keys)
    last = len(weights[plane]) - 1
    for key, query in (
        ("ArrowRight", min(1, last)),
        ("End", last),
        ("ArrowRight", last),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate("Number(document.activeElement.dataset.query)") == query
        check_word(first, weights[plane][query], keys)
    for layer in (1, 2, 0):
        page.locator("#layer").select_option(str(layer))
        check_word(first, weights[layer][0], keys)
    page.locator("#boxes").fill("2")
    check_word(first, weights[0][0], keys, boxes=2)
    assert page.locator("#count").inner_text() == "2 of 7"
    page.locator("#boxes").focus()
    page.keyboard.press("ArrowRight")
    check_word(first, weights[0][0], keys, boxes=3)
    first.locator("button.word").nth(0).focus()
    page.keyboard.press("Escape")
    assert page.locator(".lit").count() == 0 and first.locator(".summary").inner_text() == ""
    check_regions(first, weights[0][:, keys:].mean(0), boxes=3)  # of all words together
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('article .regions button')")


def test_translations_with_its_image_without_and_with_another(run, corpus, mmt, mmt_page, open_page):
    """As fairseq-generate makes them, with what differs marked; the lines that change most come first."""
    packed = unpack(mmt_page.read_text(encoding="utf-8"))
    decode = ("--beam", "2", "--batch-size", "4")
    made = {
        order: run.generate(corpus.data, mmt, *decode, "--region-order", order, regions=corpus.regions).hypotheses()
        for order in ("given", "none", "shuffle")
    }
    names = {"given": "With its image", "none": "Without the image", "shuffle": "With another image"}
    changes = {}
    for sentence in packed.sentences:
        lines = {line["name"]: line for line in sentence["lines"]}
        texts = {order: made[order][sentence["number"] - 1].split() for order in names}
        own = set()
        changes[sentence["number"]] = 0
        for order, name in names.items():
            assert [word[0] for word in lines[name]["words"]] == texts[order]
            here, there = differing(texts["given"], texts[order])
            own |= here
            changes[sentence["number"]] += max(len(here), len(there)) / max(map(len, texts.values()))
            assert order == "given" or {q for q, word in enumerate(lines[name]["words"]) if word[4]} == there
        assert {q for q, word in enumerate(lines["With its image"]["words"]) if word[4]} == own
    page = open_page(mmt_page)
    order = sorted(changes, key=lambda number: (-changes[number], number))
    assert [article.get_attribute("id") for article in page.locator("article").all()] == [f"line-{n}" for n in order]
    assert page.locator("article mark").count() == sum(
        word[4] for sentence in packed.sentences for line in sentence["lines"] for word in line["words"]
    )
    page.locator("#order").select_option("line")
    assert [one.get_attribute("id") for one in page.locator("article").all()] == [f"line-{n}" for n in (1, 2, 4, 5)]


def made_page(folder: Path, count: int, *, regions: int, text: str = "word", pictures: bool = False) -> Path:
    """A page of made-up sentences: `count` lines with so many regions each."""
    rng = np.random.default_rng(0)
    sentences = []
    for number in range(1, count + 1):
        corners = rng.random((regions, 2, 2))
        boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).tolist()
        shown = [Region(tuple(box), f"{text} {k}", 0.5) for k, box in enumerate(boxes)]
        weights = torch.from_numpy(rng.dirichlet(np.full(5 + regions, 0.2), size=(7, 6)))
        words = [f"{text}{number}", *(f"{text}{k}" for k in range(5))]
        lines = [
            ShownLine("Source", "en", [ShownWord(word, key=k) for k, word in enumerate(words[:5])]),
            ShownLine("With its image", text, [ShownWord(word, query=q) for q, word in enumerate(words)]),
        ]
        one = Sentence(number, f"{text}{number}", lines, shown, weights, change=number % 7, note=text, mark=text)
        sentences.append(one)
    found = load_pictures(folder, [one.image for one in sentences]) if pictures else {}
    path = folder / f"{count}-{regions}.html"
    page = render_page(sentences, title=text, facts=[text], pictures=found, pretrained=False)
    path.write_text(page, encoding="utf-8")
    return path


def test_five_hundred_lines_in_pages(tmp_path, open_page):
    """Ten at a time; the index and #line-N lead to any; search and order; turning a page takes no time to speak of."""
    page = open_page(made_page(tmp_path, 500, regions=36), viewport={"width": 1280, "height": 900})

    def numbers():
        return [int(one.get_attribute("id").removeprefix("line-")) for one in page.locator("article").all()]

    in_order = sorted(range(1, 501), key=lambda number: (-(number % 7), number))
    assert numbers() == in_order[:10]
    assert page.get_by_role("button", name="Previous page").is_disabled()
    page.get_by_role("button", name="Next page").click()
    assert numbers() == in_order[10:20] and page.locator("#page").inner_text() == "2 of 50"
    index = page.get_by_role("navigation", name="Lines")
    assert index.get_by_role("link").count() == 500
    assert [int(one.inner_text().split()[0]) for one in index.locator("[aria-current]").all()] == in_order[10:20]
    index.get_by_role("link").nth(444).click()
    page.wait_for_selector(f"#line-{in_order[444]}")
    assert numbers() == in_order[440:450]
    assert page.evaluate("document.activeElement.id") == f"title-{in_order[444]}"
    page.get_by_role("searchbox", name="Search").fill("WORD13 word2")
    assert numbers() == [n for n in in_order if str(n).startswith("13")][:10]
    assert page.locator("#found").inner_text() == "11 of 500 lines"  # 13, 130 to 139
    page.evaluate("location.hash = '#line-77'")
    page.wait_for_selector("#line-77")
    assert page.locator("#found").inner_text() == "500 lines"
    page.locator("#order").select_option("line")
    assert numbers() == list(range(1, 11))
    took = page.evaluate("""() => {
        const begin = performance.now();
        for (let turn = 0; turn < 10; turn += 1) document.getElementById("next").click();
        return (performance.now() - begin) / 10;
    }""")
    assert took < 400  # milliseconds; about 30 on an idle processor
    assert page.evaluate("document.querySelectorAll('*').length") < 12_000


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_36_regions_on_a_photo(tmp_path, open_page, width, scheme):
    """Nothing is wider than the page; five boxes, and all of them where the slider says so; controls stay in sight."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), np.uint8)
    for number in (1, 2, 3):
        Image.fromarray(noise).resize((640, 360)).save(tmp_path / f"word{number}.jpg")
    made = made_page(tmp_path, 3, regions=36, pictures=True)
    page = open_page(made, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert is_dark(page) == (scheme == "dark")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.locator("svg image").count() == 3
    article = page.locator("article").nth(2)
    word = article.locator("button.word").nth(1)
    word.hover()
    assert len(article.evaluate(BOXES)) == 5
    names = article.locator("svg text").evaluate_all(
        "all => all.map(one => one.getBBox()).map(({x, y, width}) => ({x, y, width}))"
    )
    for k, one in enumerate(names):
        for other in names[:k]:
            apart = abs(one["y"] - other["y"]) >= 15
            assert apart or one["x"] + one["width"] <= other["x"] or other["x"] + other["width"] <= one["x"]
    bar = page.get_by_role("region", name="What is shown").bounding_box()
    assert bar["y"] == 0 and bar["height"] < 110  # the page was scrolled to the word
    assert word.bounding_box()["y"] >= bar["height"]
    page.get_by_role("slider", name="Boxes").fill("36")
    assert len(article.evaluate(BOXES)) == len(article.evaluate(ROWS)) == 36


@pytest.mark.parametrize("width", [1280, 400])
def test_a_long_word_breaks(tmp_path, open_page, width):
    """Image ids, words, labels and headings without a blank are no wider than the page."""
    page = open_page(made_page(tmp_path, 2, regions=2, text="x" * 200), viewport={"width": width, "height": 800})
    page.locator("button.word").nth(0).hover()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_what_a_screen_reader_is_told(tmp_path, open_page):
    page = open_page(made_page(tmp_path, 2, regions=3))
    article = page.get_by_role("article", name="Line 1 image word1")
    line = article.get_by_role("group", name="With its image (word)")
    line.get_by_role("button", name="word2", exact=True).focus()
    assert line.get_by_role("button", pressed=True).inner_text() == "word2"
    status = article.get_by_role("status").inner_text()
    assert status.startswith("word2: of its attention ") and "on regions (" in status
    label = article.get_by_role("img").get_attribute("aria-label")
    assert label.startswith("Image word1, 3 regions; most attended: ")
    names = [one.inner_text().split(" 0.50")[0] for one in article.locator(".regions button").all()]
    assert label.endswith(", ".join(names[:3]))
    article.get_by_role("button", name=names[1]).focus()
    assert article.get_by_role("status").inner_text().startswith(f"{names[1]} is attended to by ")


def test_hostile_text_stays_text(tmp_path, open_page):
    hostile = "</script><img src=x onerror=document.title='gone'><b>"
    page = open_page(made_page(tmp_path, 2, regions=2, text=hostile))
    page.locator("button.word").nth(0).hover()
    assert page.title() == hostile and page.locator("article img, article b, nav img").count() == 0
    assert page.locator("#line-1 .word").nth(0).inner_text() == hostile + "1"
    assert hostile in page.locator(".regions").nth(0).inner_text()


def test_pretrained_model(corpus, vtlm, vtlm_page, open_page):
    """Masked regions are marked, each masked word has its two top fives, and its word is framed."""
    page = open_page(vtlm_page)
    page.locator("#order").select_option("line")
    page.locator("#boxes").fill("7")
    packed = unpack(vtlm_page.read_text(encoding="utf-8"))
    plane = packed.facts["planes"].index(packed.facts["plane"])
    loaded = load_model(str(vtlm), data=corpus.data, split="test", regions=str(corpus.regions), cpu=True)
    names = loaded.dataset.regions.store.class_names
    masked_regions = predicted_regions = 0
    for line in range(13):
        if line == 10:
            page.locator("#next").click()
        item = loaded.dataset[line]
        article = page.locator(f"#line-{line + 1}")
        places = [i for i, word in enumerate(item["target"]) if word != loaded.dataset.pad]
        words = article.locator("button.word")
        assert [i for i in range(words.count()) if "predicted" in words.nth(i).get_attribute("class")] == places
        rows = article.locator("tbody tr")
        assert rows.count() == len(places)
        for k, place in enumerate(places):
            cells = rows.nth(k).locator("td")
            truth, seen = (loaded.dataset.dictionary[int(item[key][place])] for key in ("target", "tokens"))
            assert cells.all_inner_texts()[1:3] == [truth, seen]
            assert [cells.nth(i).locator("li").count() for i in (3, 4)] == [5, 5]
        shown = {int(one.get_attribute("data-region")): one.inner_text() for one in article.locator("ol button").all()}
        regions = loaded.dataset.regions[line]
        assert sorted(shown) == list(range(len(regions.labels)))
        for k, label in enumerate(regions.labels):
            assert shown[k].startswith(f"{k + 1} {names[label]} {regions.scores[k]:.2f}")
            assert ("masked" in shown[k]) == bool(item["draw"].masked[k])
            assert ("predicted: " in shown[k]) == bool(item["draw"].selected[k])
        assert article.locator("g.masked").count() == int(item["draw"].masked.sum())
        masked_regions += int(item["draw"].masked.sum())
        predicted_regions += int(item["draw"].selected.sum())
        words.nth(0).hover()
        check_word(article, packed.weights[line][plane][0], packed.sentences[line]["keys"], boxes=7)
    assert 0 < masked_regions < predicted_regions


def predictions(path):
    """The two rankings of each predicted word."""
    sentences = unpack(path.read_text(encoding="utf-8")).sentences
    return [(word["with"], word["without"]) for sentence in sentences for word in sentence["predictions"]]


def test_without_the_image(run, corpus, vtlm, tlm, vtlm_page, tmp_path):
    """What is shown as "without" is what the model says when all regions are hidden; TLM has one ranking."""
    report(run, corpus, vtlm, tmp_path / "hidden.html", "--lines", "1-13", "--region-order", "none")
    given, hidden = predictions(vtlm_page), predictions(tmp_path / "hidden.html")
    assert len(given) == len(hidden) > 5
    assert [without for _, without in given] == [with_ for with_, _ in hidden]
    assert any(with_ != without for with_, without in given)
    report(run, corpus, tlm, tmp_path / "tlm.html", "--lines", "1-13", regions=False)
    assert all(without is None for _, without in predictions(tmp_path / "tlm.html"))
    changes = [sentence["change"] for sentence in unpack(vtlm_page.read_text(encoding="utf-8")).sentences]
    assert 0 < max(changes) <= 1


def test_text_only_translation_and_faults(run, corpus, mmt, nmt, tmp_path):
    out = tmp_path / "page.html"
    result = report(run, corpus, nmt, out, "--lines", "1,2", regions=False)
    assert "2 sentences" in result.last_line and "no regions" in out.read_text(encoding="utf-8")
    one = ("--lines", "1")
    report(run, corpus, mmt, tmp_path / "a.html", "--lines", "14", ok=False).fault("no line 14, the split has 13")
    report(run, corpus, mmt, tmp_path / "no" / "a.html", *one, ok=False).fault("--out")
    report(run, corpus, mmt, tmp_path / "a.html", *one, "--images", tmp_path / "x", ok=False).fault("--images")
    assert not (tmp_path / "a.html").exists()
