"""Joining sub-words, detokenising, subsets; what is refused."""

import pytest

from harness import write_lines
from stores import fault
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.outputs import find_pipeline, join_subwords, read_output, read_reference
from vtlm_fairseq.text.pipeline import TextPipeline

LOWER = ("lowercase", "normalise", "tokenise", "escape")


@pytest.mark.parametrize(
    ("texts", "kind", "post_process", "joined"),
    [
        (["\u2581ein \u2581klei nes \u2581<unk>", "hund"], "sentencepiece", None, ["ein kleines <unk>", "hund"]),
        (["\u2581ein \u2581klei nes"], None, "sentencepiece", ["ein kleines"]),
        (["ein klei@@ nes", "hu@@"], "subword_nmt", None, ["ein kleines", "hu"]),
        (["ein klei@@ nes"], None, "subword_nmt", ["ein kleines"]),
        (["ein kleines haus"], "sentencepiece", None, ["ein kleines haus"]),  # fairseq-generate --post-process did it
    ],
)
def test_join(texts, kind, post_process, joined):
    assert join_subwords(texts, path="hyp", kind=kind, post_process=post_process) == joined


@pytest.mark.parametrize(
    ("texts", "kind", "post_process", "fault"),
    [
        (
            ["\u2581ein"],
            None,
            None,
            "hyp: sub-words of sentencepiece, and no text.json .* --post-process sentencepiece",
        ),
        (["ei@@ n"], "sentencepiece", None, "hyp: sub-words of subword_nmt, not sentencepiece"),
        (["\u2581ein"], "none", None, "not none"),
        (["ein kleines haus"], None, "sentencepiece", "no mark of sentencepiece sub-words in it"),
        (["\u2581ei@@ \u2581n"], "sentencepiece", None, "marks of subword_nmt sub-words are left"),
    ],
)
def test_subwords_are_never_scored_in_silence(texts, kind, post_process, fault):
    with pytest.raises(VTLMError, match=fault):
        join_subwords(texts, path="hyp", kind=kind, post_process=post_process)


def output(tmp_path, lines, raw, *, steps=LOWER, bpe="none", lang=None, words=None):
    """Read translations with these steps and references."""
    hyp = write_lines(tmp_path / "hyp", lines)
    files = {"words": words, "raw": raw}
    paths = {name: str(write_lines(tmp_path / name, texts)) for name, texts in files.items() if texts}
    pipeline = steps if steps is None else TextPipeline("en", "de", steps=steps, bpe=bpe)
    return read_output(str(hyp), read_reference("set", **paths), pipeline=pipeline, lang=lang)


def test_running_text_without_tokens_and_escapes(tmp_path):
    """Detokenised by the language's rules, `&apos;` and its like as they were."""
    lines = ["\u2581ein \u2581mann \u2581, \u2581der \u2581&quot; peter &apos;s \u2581&quot; \u2581liest \u2581."]
    read = output(tmp_path, lines, ["x"], bpe="sentencepiece")
    assert read.words == ["ein mann , der &quot;peter&apos;s &quot; liest ."]
    read = output(tmp_path, ["ein mann , der &quot; peter &quot; ruft &amp; lacht ."], ["x"])
    assert read.running == ['ein mann, der "peter" ruft & lacht.']
    assert output(tmp_path, ["ein mann, der liest ."], ["x"], steps=("lowercase",)).running == ["ein mann, der liest ."]


def test_what_cannot_be_compared_with_raw_references(tmp_path):
    """Stripped accents, unknown preparation, unknown language."""
    with pytest.raises(VTLMError, match="accents were stripped .* leave out --raw-ref"):
        output(tmp_path, ["a"], ["ä"], steps=(*LOWER, "strip_accents"))
    with pytest.raises(VTLMError, match="give --text-json .*--steps"):
        output(tmp_path, ["a"], ["a"], steps=None)
    hyp, ref = write_lines(tmp_path / "h", ["a"]), read_reference("set", raw=str(write_lines(tmp_path / "r", ["a"])))
    pipeline = find_pipeline(str(hyp), text_json=None, steps="tokenise", lang=None)
    assert "give --lang" in fault(read_output, str(hyp), ref, pipeline=pipeline, lang=None)


def test_capitals_in_the_reference_of_a_lower_cased_model(tmp_path):
    """A raw reference given as --ref would lower the score without a word."""
    with pytest.raises(VTLMError, match="line 2: has capitals.*--raw-ref the raw one"):
        output(tmp_path, ["a", "b"], None, words=["a", "B"])
    assert output(tmp_path, ["a", "B"], None, words=["a", "B"], steps=("tokenise",)).words == ["a", "B"]


def test_subset_counts_from_one(tmp_path):
    ref = str(write_lines(tmp_path / "ref", ["r1", "r2", "r3", "r4"]))
    hyp = str(write_lines(tmp_path / "hyp", ["h1", "h2", "h3", "h4"]))
    reference = read_reference("set", words=ref, subset=str(write_lines(tmp_path / "s", ["4", "1"])))
    read = read_output(hyp, reference, pipeline=None, lang=None)
    assert (read.ids, read.words, read.missing) == ([0, 3], ["h1", "h4"], [])
    for lines, said in ((["0"], "line 1: '0' is not"), (["1", "5"], "line 2: '5' is not a line number from 1 to 4"),
                         (["1", "1"], "twice"), ([], "no line numbers"), (["1.0"], "'1.0' is not")):  # fmt: skip
        assert said in fault(read_reference, "set", words=ref, subset=str(write_lines(tmp_path / "s", lines)))
    # and missing lines matter within it only
    (tmp_path / "hyp").write_text("H-3\t-1\th4\nH-0\t-1\th1\n", encoding="utf-8")
    reference = read_reference("set", words=ref, subset=str(write_lines(tmp_path / "s", ["1", "3"])))
    read = read_output(str(tmp_path / "hyp"), reference, pipeline=None, lang=None, allow_missing=True)
    assert (read.ids, read.words, read.missing) == ([0], ["h1"], [2])


def test_references_that_do_not_fit(tmp_path):
    short, long = (str(write_lines(tmp_path / str(n), ["a"] * n)) for n in (2, 3))
    assert f"{short} 2, {long} 3" in fault(read_reference, "set", words=short, raw=long)
    pieces = str(write_lines(tmp_path / "pieces", ["\u2581a"]))
    assert "reference is in sub-words" in fault(read_reference, "set", words=pieces)
    assert "no lines" in fault(read_reference, "set", words=str(write_lines(tmp_path / "empty", [])))


def test_pipeline_is_found_beside_the_file_or_where_it_is_named(tmp_path):
    """A folder of data or checkpoints, text.json itself, or the file's own folder."""
    write_lines(tmp_path / "data/dict.en.txt", ["a 1"])
    write_lines(tmp_path / "data/dict.de.txt", ["a 1"])
    TextPipeline("en", "de", steps=("lowercase",)).save(tmp_path / "data")
    options = {"steps": None, "lang": None}
    assert find_pipeline(str(tmp_path / "hyp"), text_json=None, **options) is None
    for path, text_json in (
        (tmp_path / "data/hyp", None),
        (tmp_path / "hyp", tmp_path / "data"),
        (tmp_path / "hyp", tmp_path / "data/text.json"),
    ):
        found = find_pipeline(str(path), text_json=text_json and str(text_json), **options)
        assert (found.steps, found.target_lang) == (("lowercase",), "de")
    with pytest.raises(VTLMError, match="not a folder and not named text.json"):
        find_pipeline("hyp", text_json=str(tmp_path / "data/dict.en.txt"), **options)
    chosen = find_pipeline("hyp", text_json=None, steps="escape,tokenise", lang="fr")
    assert (chosen.steps, chosen.target_lang) == (("tokenise", "escape"), "fr")
    assert find_pipeline("hyp", text_json=None, steps="none", lang=None).steps == ()
    assert "'lower' is not one of" in fault(find_pipeline, "hyp", text_json=None, steps="lower", lang=None)
