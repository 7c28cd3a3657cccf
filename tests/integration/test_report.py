"""``vtlm-report`` in a browser: what lights up is the attention in the page; nothing is loaded, nothing fails."""

import json
import math
import re
import shutil

import pytest
from PIL import Image

from vtlm_fairseq.evaluation.systems import load_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


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


LIT = """article => [...article.querySelectorAll("[data-key]")].map(element => {
    const rect = element.querySelector("rect");
    return [Number(element.dataset.key), element.dataset.weight, element.style.getPropertyValue("--a"),
            element.classList.contains("lit"), rect && getComputedStyle(rect).fillOpacity];
})"""


def attention(page):
    """The numbers in the page."""
    return json.loads(page.locator("#attention").text_content())


def check_lit(article, row):
    """Every word and region of a sentence shows its weight of ``row``; the summary holds the strongest."""
    found = article.evaluate(LIT)
    assert {key for key, *_ in found} == set(range(len(row)))
    most = max(row)
    for key, weight, strength, lit, opacity in found:
        assert int(weight) == row[key]
        assert float(strength) == pytest.approx(math.sqrt(row[key] / most), abs=6e-4)
        assert lit == (row[key] > 0)
        if opacity is not None:
            assert float(opacity) == pytest.approx(0.4 * float(strength), abs=1e-3)
    percent = f"{most / 10:.1f}" if most < 100 else str(math.floor(most / 10 + 0.5))  # the page rounds halves up
    assert f"{percent}\u00a0%" in article.locator(".summary").inner_text()


def is_dark(page):
    """Whether a page's ground is darker than its text."""
    ground, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    return sum(map(int, re.findall(r"\d+", ground)[:3])) < sum(map(int, re.findall(r"\d+", text)[:3]))


def test_pointing_at_a_word_lights_what_it_attends_to(corpus, mmt_page, open_page):
    page = open_page(mmt_page)
    numbers = attention(page)
    articles = page.locator("article")
    assert articles.count() == 4
    for k, line in enumerate((2, 1, 4, 5)):
        article = articles.nth(k)
        assert article.locator("h2").inner_text().startswith(f"Line {line} image {corpus.images('test')[line - 1]}")
        source = ["</s>", *corpus.lines("test", "en")[line - 1].split(), "</s>"]
        assert article.locator(".line").nth(0).locator(".word").all_inner_texts() == source
        assert article.locator(".line").nth(2).locator(".word").all_inner_texts() == (
            corpus.lines("test", "de")[line - 1].split()
        )
        words = article.locator("button.word")
        assert words.count() == len(numbers[k][0]) > 0
        for q in range(words.count()):
            words.nth(q).hover()
            row = numbers[k][0][q]
            assert sum(row) == pytest.approx(1000, abs=len(row) / 2)
            check_lit(article, row)
            assert article.locator("button[aria-pressed=true]").count() == 1
        assert page.locator(".lit").count() == article.locator(".lit").count()  # nothing in the sentence before
    assert articles.nth(0).locator("svg image").count() == 1
    box = articles.nth(0).locator("svg").get_attribute("viewBox")
    assert box == "0 0 480 240"  # the picture's proportions


def test_the_keyboard_does_the_same_in_every_layer(mmt_page, open_page):
    """On a light and a dark page."""
    assert not is_dark(open_page(mmt_page, color_scheme="light"))
    page = open_page(mmt_page, color_scheme="dark")
    assert is_dark(page)
    numbers = attention(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "layer"
    page.keyboard.press("Tab")
    first = page.locator("article").nth(0)
    check_lit(first, numbers[0][0][0])
    last = len(numbers[0][0]) - 1
    for key, query in (
        ("ArrowRight", min(1, last)),
        ("End", last),
        ("ArrowRight", last),
        ("Home", 0),
        ("ArrowLeft", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate("Number(document.activeElement.dataset.query)") == query
        check_lit(first, numbers[0][0][query])
    page.keyboard.press("Escape")
    assert page.locator(".lit").count() == 0 and first.locator(".summary").inner_text() == ""
    page.keyboard.press("Tab")
    check_lit(page.locator("article").nth(1), numbers[1][0][0])
    # a layer can be chosen
    assert len(numbers[0]) == 3  # mean, layer 1, layer 2
    first.locator("button.word").nth(0).hover()
    for layer in (1, 2):
        page.locator("#layer").select_option(str(layer))
        check_lit(first, numbers[0][layer][0])
    for query, row in enumerate(numbers[0][0]):
        for key, mean in enumerate(row):
            assert mean == pytest.approx((numbers[0][1][query][key] + numbers[0][2][query][key]) / 2, abs=1)


def test_pretrained_model(corpus, vtlm, vtlm_page, open_page):
    """Masked regions are marked, each masked word has its two top fives, and its word is framed."""
    page = open_page(vtlm_page)
    loaded = load_model(str(vtlm), data=corpus.data, split="test", regions=str(corpus.regions), cpu=True)
    names = loaded.dataset.regions.store.class_names
    numbers = attention(page)
    masked_regions = predicted_regions = 0
    for line in range(13):
        item = loaded.dataset[line]
        article = page.locator("article").nth(line)
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
        chips = article.locator(".chip")
        regions = loaded.dataset.regions[line]
        assert chips.count() == len(regions.labels)
        for k, label in enumerate(regions.labels):
            text = chips.nth(k).inner_text()
            assert text.startswith(f"{k + 1} {names[label]} {regions.scores[k]:.2f}")
            assert (" masked" in text) == bool(item["draw"].masked[k])
            assert ("predicted: " in text) == bool(item["draw"].selected[k])
        assert article.locator("g.masked").count() == int(item["draw"].masked.sum())
        masked_regions += int(item["draw"].masked.sum())
        predicted_regions += int(item["draw"].selected.sum())
        words.nth(0).hover()
        check_lit(article, numbers[line][0][0])
    assert 0 < masked_regions < predicted_regions


def predictions(path):
    """The two rankings of each predicted word."""
    rows = re.findall(r"<tr>(<td>.*?)</tr>", path.read_text(encoding="utf-8"))
    return [re.findall(r"<ol>(.*?)</ol>", row) for row in rows]


def test_without_the_image(run, corpus, vtlm, tlm, vtlm_page, tmp_path):
    """What is shown as "without" is what the model says when all regions are hidden; TLM has one ranking."""
    report(run, corpus, vtlm, tmp_path / "hidden.html", "--lines", "1-13", "--region-order", "none")
    given, hidden = predictions(vtlm_page), predictions(tmp_path / "hidden.html")
    assert len(given) == len(hidden) > 5
    assert [without for _, without in given] == [with_ for with_, _ in hidden]
    assert any(with_ != without for with_, without in given)
    report(run, corpus, tlm, tmp_path / "tlm.html", "--lines", "1-13", regions=False)
    assert all(len(row) == 1 for row in predictions(tmp_path / "tlm.html"))
    assert "<svg" not in (tmp_path / "tlm.html").read_text(encoding="utf-8")


def test_text_only_translation_and_faults(run, corpus, mmt, nmt, tmp_path):
    out = tmp_path / "page.html"
    result = report(run, corpus, nmt, out, "--lines", "1,2", regions=False)
    assert "2 sentences" in result.last_line and "no regions" in out.read_text(encoding="utf-8")
    one = ("--lines", "1")
    report(run, corpus, mmt, tmp_path / "a.html", "--lines", "14", ok=False).fault("no line 14, the split has 13")
    report(run, corpus, mmt, tmp_path / "no" / "a.html", *one, ok=False).fault("--out")
    report(run, corpus, mmt, tmp_path / "a.html", *one, "--images", tmp_path / "x", ok=False).fault("--images")
    assert not (tmp_path / "a.html").exists()
