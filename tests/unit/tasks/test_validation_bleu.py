"""What --eval-bleu compares: literal texts against sacreBLEU's own figure."""

import importlib.util
import logging

import pytest
import sacrebleu
import torch
from fairseq.data import Dictionary
from fairseq.logging import metrics

import tiny
from vtlm_fairseq.text.pipeline import STEPS, TextPipeline

PIECES = {
    "sentencepiece": ("▁der ▁h und ▁, ▁der ▁laut ▁&quot; ▁b ellt ▁&quot; ▁, ▁r ennt ▁.",
                      "▁der ▁h unde ▁, ▁der ▁laut ▁&quot; ▁b ellt ▁&quot; ▁, ▁r ennen ▁."),
    "subword_nmt": ("der h@@ und , der laut &quot; b@@ ellt &quot; , r@@ ennt .",
                    "der h@@ unde , der laut &quot; b@@ ellt &quot; , r@@ ennen ."),
}  # fmt: skip
"""Reference and what the model writes."""
WORDS = ("der hund , der laut &quot; bellt &quot; , rennt .", "der hunde , der laut &quot; bellt &quot; , rennen .")
RUNNING = ('der hund, der laut "bellt," rennt.', 'der hunde, der laut "bellt," rennen.')


def make_data(path, kind: str, *, text_json: bool = True, texts=None, lang: str = "de", steps=STEPS[:4]):
    """A folder with one pair, whose target is the first text."""
    symbols = Dictionary()
    texts = texts or PIECES[kind]
    for text in texts:
        for piece in text.split():
            symbols.add_symbol(piece)
    path.mkdir()
    for side in ("en", lang):
        symbols.save(str(path / f"dict.{side}.txt"))
    pair = [symbols.encode_line(texts[0], add_if_not_exist=False)]
    for split in ("train", "valid"):
        tiny.Folder(path, symbols).write(split, pair, pair)
    for file in path.glob("*.en-de.*"):
        file.rename(str(file).replace("en-de.de", f"en-de.{lang}").replace("en-de", f"en-{lang}"))
    if text_json:
        (path / ("bpe.model" if kind == "sentencepiece" else "bpe.codes")).write_text("not read")
        TextPipeline("en", lang, steps=steps, bpe=kind).save(path)
    return symbols


def validation_bleu(path, symbols, hypothesis: str, *argv) -> float:
    """BLEU that a validation logs where the model writes a hypothesis."""
    cfg = tiny.translation_config(path, "--eval-bleu", *argv)
    task = tiny.tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    task.load_dataset("valid")
    tokens = symbols.encode_line(hypothesis, add_if_not_exist=False)
    task.inference_step = lambda *args, **kwargs: [[{"tokens": tokens}]]
    dataset = task.dataset("valid")
    with torch.no_grad(), metrics.aggregate(new_root=True) as logged:
        *_, log = task.valid_step(dataset.collater([dataset[0]]), model, criterion)
        task.reduce_metrics([log], criterion)
    return logged.get_smoothed_values()["bleu"]


def figure(texts: tuple[str, str], tokenize: str = "13a") -> float:
    """sacreBLEU's figure of the second text against the first."""
    return sacrebleu.corpus_bleu([texts[1]], [[texts[0]]], tokenize=tokenize, force=True).score


MOSES = ("--eval-bleu-detok", "moses", "--eval-bleu-detok-args", '{"source_lang": "en", "target_lang": "de"}')


@pytest.mark.slow
@pytest.mark.parametrize("kind", PIECES)
def test_what_is_compared(tmp_path, caplog, kind):
    """text.json where the options are silent; explicit ones win; a line says what it is."""
    symbols = make_data(tmp_path / "data", kind)
    removal = "sentencepiece" if kind == "sentencepiece" else "@@ "
    figures = []
    for argv, expected, said in (
        ((), figure(RUNNING), "running text (as text.json says)"),
        (("--eval-tokenized-bleu",), figure(WORDS, "none"), "words (as text.json says)"),
        (("--eval-bleu-remove-bpe", removal), figure(WORDS), f"words (--eval-bleu-remove-bpe {removal})"),
        (("--eval-bleu-remove-bpe", "none"), figure(PIECES[kind]), "what the model writes"),
        (MOSES, figure(RUNNING), "words (as text.json says), detokenised by moses"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = validation_bleu(tmp_path / "data", symbols, PIECES[kind][1], *argv)
        assert found == pytest.approx(expected, abs=0.006), argv
        assert [r.getMessage() for r in caplog.records if "compares" in r.getMessage()] == [
            f"--eval-bleu compares {said}"
        ]
        figures.append(found)
    assert figures[3] > figures[0] + 5  # sub-words are easier


@pytest.mark.parametrize(
    ("lang", "words", "steps"),
    [("zh", "zh", ("characters",)), ("zh", "zh", ()), ("ja", "char", ("characters",)), ("th", "char", ("segmented",))],
)
def test_languages_without_spaces(tmp_path, lang, words, steps):
    """sacreBLEU's words of the language (characters of Japanese where MeCab is not installed), not 13a's."""
    if lang == "ja" and importlib.util.find_spec("MeCab"):
        pytest.skip("MeCab is installed")
    texts = {
        "zh": ("▁两 ▁只 ▁狗 ▁在 ▁2012 ▁年 ▁看 ▁t ▁恤 ▁。", "▁两 ▁只 ▁猫 ▁在 ▁2012 ▁年 ▁看 ▁t ▁恤 ▁。"),
        "ja": ("▁犬 ▁が ▁カ ▁メ ▁ラ ▁を ▁見 ▁る ▁。", "▁猫 ▁が ▁カ ▁メ ▁ラ ▁を ▁見 ▁る ▁。"),
        "th": ("▁ผม ▁กิน ▁ข้าว ▁ที่ ▁บ้าน", "▁เขา ▁กิน ▁ข้าว ▁ที่ ▁บ้าน"),
    }[lang]
    symbols = make_data(tmp_path / "data", "sentencepiece", texts=texts, lang=lang, steps=(*STEPS[:4], *steps))
    running = tuple(text.replace("▁", "").replace(" ", "") for text in texts)
    found = validation_bleu(tmp_path / "data", symbols, texts[1], "--target-lang", lang)
    assert found == pytest.approx(figure(running, words), abs=0.006) and 20 < found < 100
    if steps:
        assert figure(running) == 0


def test_without_text_json(tmp_path, caplog):
    """fairseq's default, and a warning where the dictionary shows sub-words."""
    symbols = make_data(tmp_path / "data", "sentencepiece", text_json=False)
    pieces = PIECES["sentencepiece"]
    for argv, warned in (((), True), (("--eval-bleu-remove-bpe", "none"), False)):
        caplog.clear()
        found = validation_bleu(tmp_path / "data", symbols, pieces[1], *argv)
        assert found == pytest.approx(figure(pieces), abs=0.006)
        assert ("--eval-bleu compares sub-words" in caplog.text) == warned
