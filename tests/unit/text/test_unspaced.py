"""Languages without spaces: how sentences are cut, what stays whole, and how they are put together again."""

import json
import sys
from argparse import ArgumentParser
from types import SimpleNamespace

import pytest
from preparation import write

from stores import fault
from vtlm_fairseq.text.options import add_text_options, make_pipeline
from vtlm_fairseq.text.pairs import Pair
from vtlm_fairseq.text.pipeline import STEPS, TextPipeline
from vtlm_fairseq.text.tokenised import watched
from vtlm_fairseq.text.unspaced import choose_segmentation

pytestmark = pytest.mark.slow  # sacremoses compiles its patterns of these scripts for two seconds


def pipeline(lang: str, *argv: str) -> TextPipeline:
    """What the preparation scripts make of options, for English and another language."""
    parser = ArgumentParser()
    add_text_options(parser, vocab_size=90, workers=1)
    return make_pipeline(parser.parse_args(["--out", "x", "--source-lang", "en", "--target-lang", lang, *argv]))


@pytest.mark.parametrize(
    ("lang", "raw", "words", "running"),
    [
        ("zh", "狗穿着T恤，在2012年买了iPhone 12 Pro。", "狗 穿 着 T 恤 ， 在 2012 年 买 了 iPhone 12 Pro 。", None),
        ("zh-CN", "“3.5米”高的A&B!", "&quot; 3.5 米 &quot; 高 的 A &amp; B !", '"3.5米"高的A & B!'),
        ("zho_Hans", "𠮷野家 见 <mask> 面", "𠮷 野 家 见 <mask> 面", "𠮷野家见<mask>面"),
        ("ja", "2匹の犬がカメラを見る。", "2 匹 の 犬 が カ メ ラ を 見 る 。", None),
        ("ja", "か\u3099く", "か\u3099 く", None),  # a mark stays with its letter
        ("ko", "두 마리의 개가 뛴다.", "두 마리의 개가 뛴다 .", None),
        ("zh", "", "", None),
    ],
)  # fmt: skip
def test_characters(lang, raw, words, running):
    """Characters are words; Latin words and numbers are Moses'; running text is cut alike."""
    found = pipeline(lang, "--keep-case")
    assert found.preprocess(raw, lang) == words
    assert found.decode(words, lang, detokenize=True) == (raw if running is None else running)
    assert found.preprocess(found.decode(words, lang, detokenize=True), lang) == words


def test_the_other_side_is_left_alone():
    steps = pipeline("zh").steps
    assert steps == (*STEPS[:4], "characters")
    assert pipeline("zh").preprocess("A man's 狗 sign.", "en") == "a man &apos;s 狗 sign ."
    assert pipeline("de").steps == pipeline("ko").steps == STEPS[:4]


@pytest.mark.parametrize(
    ("lang", "words", "cut", "running"),
    [
        ("th", "ผม กิน ข้าว ที่ บ้าน iPhone 12.", "ผม กิน ข้าว ที่ บ้าน iPhone 12 .", "ผมกินข้าวที่บ้าน iPhone 12."),
        ("km", "ខ្ញុំ\u200bញ៉ាំ បាយ", "ខ្ញុំ ញ៉ាំ បាយ", "ខ្ញុំញ៉ាំបាយ"),
        ("my", "ကျွန်တော် ထမင်း စား", "ကျွန်တော် ထမင်း စား", "ကျွန်တော်ထမင်းစား"),
        ("zh", "一只 狗 穿 T恤 ， 好", "一只 狗 穿 T 恤 ， 好", "一只狗穿T恤，好"),
    ],
)
def test_segmented_by_another_tool(lang, words, cut, running):
    """Moses, which tears marks off Thai letters, sees Latin parts only; blanks come from the text."""
    for option in (("--segment", "segmented"), ("--tokenised",)):
        found = pipeline(lang, "--keep-case", *option)
        assert found.steps[-1] == "segmented"
        assert found.preprocess(words, lang) == cut
        assert found.decode(cut, lang, detokenize=True) == running


def test_what_cannot_be_cut_is_refused():
    for lang in ("th", "lo_LA", "km", "mya"):
        for option in ((), ("--segment", "characters")):
            message = fault(pipeline, lang, *option)
            assert message.startswith(lang) and "--tokenised" in message and "--segment segmented" in message
        assert pipeline(lang, "--segment", "none").steps == STEPS[:4]
    assert "neither en nor de" in fault(pipeline, "de", "--segment", "characters")
    assert "en-ja" in fault(pipeline, "ja", "--segment", "jieba")
    assert "letters of ja" in fault(pipeline, "ja", "--strip-accents")
    assert pipeline("zh", "--strip-accents").preprocess("café狗", "zh") == "cafe 狗"


def test_jieba(monkeypatch):
    """Its words, of Chinese runs only; Japanese in the pair is cut into characters; without it the extra is named."""
    monkeypatch.setitem(sys.modules, "jieba", None)
    assert "vtlm-fairseq[zh]" in fault(pipeline, "zh", "--segment", "jieba")
    seen = []
    words = SimpleNamespace(setLogLevel=print, lcut=lambda run: seen.append(run) or [run[:2], run[2:]])
    monkeypatch.setitem(sys.modules, "jieba", words)
    found = pipeline("zh", "--segment", "jieba")
    assert found.preprocess("一只狗 wears 穿着T恤", "zh") == "一只 狗 wears 穿着 t 恤"
    assert seen == ["一只狗", "穿着", "恤"]
    assert choose_segmentation(("zh", "ja"), "jieba", tokenised=False) == ("characters", "jieba")
    both = TextPipeline("zh", "ja", steps=(*STEPS[:4], "characters", "jieba"))
    assert (both.preprocess("一只狗", "zh"), both.preprocess("犬の子", "ja")) == ("一只 狗", "犬 の 子")


def test_text_json_says_how_and_older_ones_stay(tmp_path):
    for lang in ("en", "zh"):
        write(tmp_path / f"dict.{lang}.txt", "x 1\n")
    TextPipeline("en", "zh", steps=(*STEPS[:4], "characters")).save(tmp_path)
    assert TextPipeline.load(tmp_path).preprocess("两只狗", "zh") == "两 只 狗"
    content = json.loads((tmp_path / "text.json").read_text(encoding="utf-8"))
    content["steps"].remove("characters")
    (tmp_path / "text.json").write_text(json.dumps(content), encoding="utf-8")
    older = TextPipeline.load(tmp_path)  # of Moses alone
    assert older.preprocess("两只狗，一只猫", "zh") == "两只狗 ， 一只猫"


def test_segmented_text_is_not_cut_again_unasked():
    lines = ["一只 狗", "两只 狗 。", "一 只 Golden 狗"]
    pairs = [Pair("i", "a dog", text, f"line {n}") for n, text in enumerate(lines)]
    text = pipeline("zh")
    message = fault(lambda: list(watched({"train": pairs}, text, None)["train"]))
    assert message.startswith("train, zh") and "3 with blanks between" in message and "--tokenised" in message
    raw = [pair._replace(target=pair.target.replace(" ", "")) for pair in pairs]
    assert list(watched({"train": [*raw, pairs[0]]}, text, None)["train"])
