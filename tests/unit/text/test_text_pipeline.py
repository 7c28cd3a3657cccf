"""Text preparation: what happens to words, to `<mask>`, to odd characters, and what `text.json` promises."""

import codecs
import json
import pickle
import re
from dataclasses import replace

import pytest
from fairseq.data.data_utils import post_process
from preparation import write

from stores import fault
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.pipeline import STEPS, TextPipeline, learn_sentencepiece, load_bpe

LINES = [
    "a man in a red shirt is riding a bike down the street .",
    "ein mann in einem roten hemd fährt mit dem fahrrad die straße hinunter .",
    "two dogs are running through the grass near the water .",
    "zwei hunde rennen durch das gras am wasser .",
]


@pytest.fixture
def folder(tmp_path):
    """A prepared folder with a sentencepiece model and two dictionaries."""
    (tmp_path / "bpe.model").write_bytes(learn_sentencepiece(LINES * 3, vocab_size=90))
    for lang in ("en", "de"):
        write(tmp_path / f"dict.{lang}.txt", "x 1\n")
    TextPipeline("en", "de", bpe="sentencepiece").save(tmp_path)
    return tmp_path


def pipeline(*left_out: str, more: tuple[str, ...] = ()) -> TextPipeline:
    steps = [step for step in STEPS if step not in left_out and (step != "strip_accents" or step in more)]
    return TextPipeline("en", "de", steps=tuple(steps))


@pytest.mark.parametrize(
    ("text", "lang", "words"),
    [
        ("A man's dog, 3 years old.", "en", "a man &apos;s dog , 3 years old ."),
        ("„Ein Hund“ – groß", "de", "&quot; ein hund &quot; - groß"),
        # outside English the full stop moves behind a closing quote, at the end of a line too
        ("Er sagt: „Komm.“", "de", "er sagt : &quot; komm &quot; ."),
        ("He says: “Come.”", "en", "he says : &quot; come . &quot;"),
        # lower-cased before tokenisation: "Bart." is no abbreviation
        ("rasiert seinen Bart.", "de", "rasiert seinen bart ."),
        ("AT&T [x] a|b", "en", "at &amp; t &#91; x &#93; a &#124; b"),
        ("", "en", ""),
        (" \t\u00a0\r\n", "de", ""),
    ],
)
def test_words(text, lang, words):
    assert pipeline().preprocess(text, lang) == words


def test_each_step_can_be_left_out_and_accents_stripped():
    assert pipeline("lowercase").preprocess("Ein Mann's", "de") == "Ein Mann &apos; s"
    assert pipeline("escape").preprocess('A "dog"', "en") == 'a " dog "'
    assert pipeline(*STEPS).preprocess("A  „dog“,", "en") == "A „dog“,"
    assert pipeline(more=("strip_accents",)).preprocess("Fährt über die Straße, Café", "de") == (
        "fahrt uber die straße , cafe"
    )


@pytest.mark.parametrize("character", ["\r", "\n", "\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\x00", "\ufeff"])
def test_space_like_characters_never_break_a_line(character):
    assert pipeline().preprocess(f"a dog{character}runs", "en") == "a dog runs"
    assert pipeline(*STEPS).preprocess(f"a dog{character}runs", "en") == "a dog runs"


def test_mask_is_a_symbol_of_its_own(folder):
    text = TextPipeline.load(folder)
    assert text.preprocess("A <mask> rides<mask>.", "en") == "a <mask> rides <mask> ."
    pieces = text.encode("A <mask> rides<mask><mask>.", "en").split()
    assert [p for p in pieces if "mask" in p] == ["<mask>"] * 3
    assert pieces[:2] == ["▁a", "<mask>"] and pieces[-3:] == ["<mask>", "<mask>", "▁."]
    assert text.decode(" ".join(pieces), "en") == "a <mask> rides <mask> <mask> ."
    assert text.encode("<mask>", "en") == "<mask>"


def test_decoding_undoes_encoding(folder):
    """As fairseq does."""
    text = TextPipeline.load(folder)
    for raw, lang in (("Two dogs, a man's “bike”.", "en"), ("Zwei Hunde fahren die Straße hinunter!", "de")):
        pieces = text.encode(raw, lang)
        assert all(piece for piece in pieces.split(" ")) and "\u2581" in pieces
        assert text.decode(pieces, lang) == post_process(pieces, text.bpe) == text.preprocess(raw, lang)
    assert text.decode(text.encode("Two dogs, a man's “bike”.", "en"), "en", detokenize=True) == (
        'two dogs, a man\'s "bike."'
    )
    assert text.encode("", "en") == "" and text.decode("", "en", detokenize=True) == ""
    # unknown characters reach the dictionary as symbols that it does not hold
    assert text.encode("狗 a", "en").split() == ["▁", "狗", "▁a"]


@pytest.mark.parametrize(
    "codes",
    ["#version: 0.2\nd o\ndo g</w>\n", "d o 12\ndo g</w> 7\n"],
    ids=["subword-nmt", "fastBPE"],
)
def test_codes_files(tmp_path, codes):
    write(tmp_path / "bpe.codes", codes)
    assert load_bpe(tmp_path / "bpe.codes")[0] == "subword_nmt"
    text = replace(pipeline(), bpe="subword_nmt", folder=tmp_path)
    assert text.encode("dog do <mask>", "en") == "dog d@@ o <mask>"
    assert text.decode("dog d@@ o <mask> d@@", "en") == "dog do <mask> d"


@pytest.mark.parametrize("content", [b"\x00\x01rubbish", b"one two three four\n", b""])
def test_a_file_that_is_no_bpe_model(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(VTLMError, match="--bpe-model") as error:
        load_bpe(tmp_path / "x")
    assert "\n" not in str(error.value)
    assert "--bpe-model" in fault(load_bpe, tmp_path / "missing")


def test_learning_is_deterministic_and_joint():
    model = learn_sentencepiece(LINES * 3, vocab_size=90)
    assert model == learn_sentencepiece(LINES * 3, vocab_size=90)
    assert model == learn_sentencepiece([line + " <mask>" for line in LINES * 3], vocab_size=90)
    assert "--vocab-size" in fault(learn_sentencepiece, LINES, vocab_size=9)
    assert "--vocab-size" in fault(learn_sentencepiece, [""], vocab_size=90)


def test_a_vocabulary_that_the_text_does_not_hold_is_lowered(tmp_path, caplog):
    """To one of whole words; the warning names what was asked for and what there is."""
    (tmp_path / "bpe.model").write_bytes(learn_sentencepiece(LINES, vocab_size=100_000))
    segment = load_bpe(tmp_path / "bpe.model")[1]
    for line in LINES:
        assert segment(line) == " ".join(f"\u2581{word}" for word in line.split())
    (record,) = caplog.records
    assert re.search(r"--vocab-size 100000.* (\d+) pieces", record.getMessage())[1] == str(size_of(tmp_path))
    learn_sentencepiece(LINES, vocab_size=size_of(tmp_path))
    assert len(caplog.records) == 1


def size_of(folder) -> int:
    """Pieces of a folder's model."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "bpe.model")).get_piece_size()


# ---- text.json


def test_text_json_survives_a_round_trip(folder, tmp_path):
    text = TextPipeline.load(folder)
    assert (text.source_lang, text.target_lang, text.steps) == ("en", "de", STEPS[:4])
    assert text.files() == ["text.json", "dict.en.txt", "dict.de.txt", "bpe.model"]
    other = tmp_path / "copy"
    other.mkdir()
    for name in text.files():
        (other / name).write_bytes((folder / name).read_bytes())
    path = other / "text.json"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())  # as an editor leaves it
    for copy in (TextPipeline.load(other), pickle.loads(pickle.dumps(text))):  # to another folder, another process
        assert copy.encode("two dogs", "en") == text.encode("two dogs", "en")


@pytest.mark.parametrize("name", ["bpe.model", "dict.de.txt"])
def test_a_changed_or_missing_file_is_named(folder, name):
    (folder / name).write_bytes((folder / name).read_bytes() + b"x")
    assert f"{name}: not the file" in fault(TextPipeline.load, folder)
    (folder / name).unlink()
    assert f"{name}: text.json names it" in fault(TextPipeline.load, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"steps": ["tokenise", "lowercase"]}, "in this order"),
        ({"steps": ["escape"]}, "escape needs tokenise"),
        ({"steps": "tokenise"}, "'steps' is missing or not of type list"),
        ({"steps": [["tokenise"]]}, "in this order"),
        ({"bpe": {"kind": "magic", "file": None}}, "'bpe' is"),
        ({"bpe": {"kind": "sentencepiece", "file": "../bpe.model"}}, "leads out of the folder"),
        ({"sha256": {"../dict.en.txt": "0"}}, "leads out of the folder"),
        ({"sha256": {}}, "'sha256'"),
        ({"source_lang": None}, "'source_lang'"),
    ],
)
def test_bad_text_json(folder, change, message):
    content = json.loads((folder / "text.json").read_text())
    write(folder / "text.json", json.dumps({**content, **change}))
    with pytest.raises(VTLMError, match=message) as error:
        TextPipeline.load(folder)
    assert "text.json" in str(error.value)


@pytest.mark.parametrize(("text", "named"), [(None, "--preprocessed"), ("{", "prepare"), ("[]", "object")])
def test_missing_or_broken_text_json(tmp_path, text, named):
    if text is not None:
        write(tmp_path / "text.json", text)
    with pytest.raises(VTLMError, match=f"text.json: .*{named}"):
        TextPipeline.load(tmp_path)


def test_a_third_language_and_unknown_parts_are_refused():
    for parts in ({"bpe": "x"}, {"steps": ("escape",)}):
        with pytest.raises(VTLMError, match="'x'|tokenise"):
            TextPipeline("en", "de", **parts)
    for act in (pipeline().preprocess, pipeline().encode, pipeline().decode):
        with pytest.raises(VTLMError, match="'fr'.*en-de"):
            act("un chien", "fr")
