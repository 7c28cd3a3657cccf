"""Decoding through fairseq-generate and fairseq-interactive."""

import json

import pytest

from harness import write_lines
from toy import SIZES, binarised

SHORT = ("--max-len-b", "18")


@pytest.mark.parametrize("beam", [1, 5])
def test_batches_do_not_change_hypotheses(run, corpus, mmt, beam):
    """PITFALLS 14: batch 1 and batch 8, mixed lengths and region counts, for beam 1 and for beam 5."""
    one, eight = (
        run.generate(corpus.data, mmt, *SHORT, "--beam", beam, "--batch-size", size, regions=corpus.regions)
        for size in (1, 8)
    )
    assert len(one.hypotheses()) == SIZES["test"]
    assert one.hypotheses() == eight.hypotheses()
    assert one.scores() == pytest.approx(eight.scores(), abs=1e-4)
    assert len({len(line.split()) for line in one.hypotheses()}) > 3


def test_score_equals_teacher_forced_score(run, corpus, mmt, tmp_path):
    """PITFALLS 14: the hypotheses as references score what they scored in the search."""
    decoded = run.generate(corpus.data, mmt, *SHORT, "--beam", "8", "--batch-size", "8", regions=corpus.regions)
    texts = {"en": corpus.lines("test", "en"), "de": decoded.hypotheses()}
    data = binarised(run, corpus, tmp_path, corpus.images("test"), **texts)
    scored = run.generate(data, mmt, "--score-reference", "--batch-size", "3", regions=corpus.regions)
    assert scored.hypotheses() == decoded.hypotheses()
    assert scored.scores() == pytest.approx(decoded.scores(), abs=1e-4)
    assert len(set(decoded.scores())) > 5
    # and vtlm-score reads what fairseq-generate really prints
    argv = (write_lines(tmp_path / "out", [decoded.output]), "--ref", tmp_path / "raw/test.de", "--format", "json")
    assert json.loads(run("vtlm_fairseq.cli.score", *argv).output)["rows"][0]["score"] == pytest.approx(100)


def test_region_order(run, corpus, mmt):
    """PITFALLS 4: other regions give other scores; hidden regions need no store."""
    scores = {
        order: run.generate(corpus.data, mmt, *SHORT, "--region-order", order, regions=corpus.regions).scores()
        for order in ("given", "shuffle", "none")
    }
    again = run.generate(corpus.data, mmt, *SHORT, "--region-order", "shuffle", regions=corpus.regions)
    assert again.scores() == scores["shuffle"]
    for order in ("shuffle", "none"):
        differing = sum(abs(a - b) > 1e-4 for a, b in zip(scores["given"], scores[order], strict=True))
        assert differing >= 10, (order, scores)
    without = run.generate(corpus.data, mmt, *SHORT, "--region-order", "none", regions="none")
    assert without.scores() == pytest.approx(scores["none"], abs=1e-4)


def test_several_test_sets(run, corpus, mmt):
    """``--gen-subset`` takes each test set by its name, with its own regions."""
    for split in ("test", "test1", "valid"):
        decoded = run.generate(corpus.data, mmt, "--max-len-b", "4", "--gen-subset", split, regions=corpus.regions)
        assert decoded.ids() == list(range(SIZES[split]))
        assert decoded.references() == corpus.lines(split, "de")
        assert f"{split}: regions of {SIZES[split]} lines" in decoded.output


def test_interactive_serves_text_only_models(run, corpus, nmt):
    """fairseq-interactive gives what fairseq-generate gives on the same lines."""
    lines = "".join(f"{line}\n" for line in corpus.lines("test", "en"))
    argv = ("-s", "en", "-t", "de", "--buffer-size", "100", "--batch-size", "8")
    interactive = run.interactive(corpus.data, nmt, *SHORT, *argv, stdin=lines)
    generated = run.generate(corpus.data, nmt, *SHORT)
    assert interactive.ids() == list(range(SIZES["test"]))
    assert interactive.hypotheses() == generated.hypotheses()
    assert interactive.scores() == pytest.approx(generated.scores(), abs=1e-4)


def test_mask_is_never_generated(run, corpus, mmt, tmp_path):
    """Source text may hold ``<mask>`` (entity probe); hypotheses never hold it, nor the dictionary's padding words."""
    texts = {"en": ["<mask> word1 <mask>", "<mask>"], "de": ["Wort1", "Wort2"]}
    data = binarised(run, corpus, tmp_path, corpus.images("test")[:2], **texts)
    decoded = run.generate(data, mmt, *SHORT, "--nbest", "5", regions=corpus.regions)
    assert "S-0\t<mask> word1 <mask>" in decoded.output
    assert len(decoded.hypotheses()) == 10
    assert not [line for line in decoded.hypotheses() if "<mask>" in line or "madeupword" in line]
