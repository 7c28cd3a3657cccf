"""Measures against literal numbers and signatures, statistics over seeds, paired bootstrap."""

import math
import os

import pytest

from stores import fault
from vtlm_fairseq.evaluation.scoring.scores import (
    STRIPPED,
    TOKENISED,
    detokenised_measures,
    paired_bootstrap,
    seed_statistics,
    strip_accents,
)

HYPS = ["ein mann geht über die straße .", "zwei hunde spielen im schnee ."]
REFS = ["ein mann geht über die breite straße .", "zwei hunde spielen im gras ."]


def version_of(signature: str) -> str:
    return signature.rpartition("|version:")[2]


def test_tokenised_bleu_worked_by_hand():
    """PITFALLS 27. 7 + 6 words, all but `schnee` in the reference; lengths 13 and 14.

    1-grams 12 of 13; 2-grams 5 of 6 and 3 of 5 (`die straße`, `im schnee`, `schnee .` are not there); 3-grams 3 of 5
    and 2 of 4; 4-grams 2 of 4 and 1 of 3.
    """
    expected = 100 * math.exp(1 - 14 / 13) * (12 / 13 * 8 / 11 * 5 / 9 * 3 / 7) ** 0.25
    figure = TOKENISED.score(HYPS, REFS)
    assert figure.value == pytest.approx(expected, abs=1e-9)
    assert figure.value == pytest.approx(58.55, abs=0.005)
    signature = "nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:"
    assert figure.signature == signature + version_of(figure.signature)


def test_accents_are_dropped_and_sharp_s_stays():
    """The authors' text: NFD without category Mn, composed or not."""
    assert strip_accents("Über die Straße, señor; u\u0308ber ø") == "Uber die Straße, senor; uber ø"
    # a hypothesis of a model without accents: wrong words by plain BLEU, right ones by the variant, on both sides
    hyps = [strip_accents(text) for text in REFS]
    assert STRIPPED.score(hyps, REFS).value == pytest.approx(100)
    assert STRIPPED.score(REFS, hyps).value == pytest.approx(100)
    assert TOKENISED.score(hyps, REFS).value < 90


def test_languages_without_spaces():
    """13a takes a sentence for a word. Of 7 characters 6 are right, of 5 pairs 3, of 4 triples 2, of 3 quadruples 1."""
    hyps, refs = ["两只狗在跑。", "好"], ["两只狗在跳。", "好"]
    bleu, _, ter = (measure.score(hyps, refs) for measure in detokenised_measures(lowercase=False, lang="zh-CN"))
    assert bleu.value == pytest.approx(100 * (6 / 7 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    assert bleu.label == "BLEU zh" and "|tok:zh|" in bleu.signature
    assert ter.value == pytest.approx(100 / 7) and "|asian:yes" in ter.signature
    assert [measure.label for measure in detokenised_measures(lowercase=False, lang="th")] == ["BLEU char", "chrF2"]


def test_detokenised_measures_golden():
    """PITFALLS 27: literal values and signatures; case counts for cased models only (never for TER).

    BLEU without case: 7 of 8 tokens (13a splits the marks off), 4 of 6, 2 of 4, 1 of 3; lengths 8 and 10. TER: a
    substitution and two insertions to 8 words.
    """
    hyps, refs = ["Ein Mann, der läuft.", "zwei Hunde"], ["ein Mann, der rennt.", "Zwei Hunde im Gras"]
    lower = [measure.score(hyps, refs) for measure in detokenised_measures(lowercase=True)]
    cased = [measure.score(hyps, refs) for measure in detokenised_measures(lowercase=False)]
    assert lower[0].value == pytest.approx(100 * math.exp(1 - 10 / 8) * (7 / 8 * 4 / 6 * 2 / 4 * 1 / 3) ** 0.25)
    assert [figure.label for figure in lower] == ["BLEU 13a", "chrF2", "TER"]
    assert [figure.value for figure in lower] == pytest.approx([43.48783, 59.05481, 37.5], abs=5e-6)
    assert [figure.value for figure in cased] == pytest.approx([23.77187, 51.16105, 37.5], abs=5e-6)
    assert [figure.signature.rpartition("|version")[0] for figure in lower] == [
        "nrefs:1|case:lc|eff:no|tok:13a|smooth:exp",
        "nrefs:1|case:lc|eff:yes|nc:6|nw:0|space:no",
        "nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no",
    ]
    assert [figure.signature.split("|")[1] for figure in cased] == ["case:mixed", "case:mixed", "case:lc"]


def test_sentence_bleu_uses_the_effective_order():
    """A right sentence of two words has no 4-grams and yet 100. There is one reference a hypothesis."""
    assert TOKENISED.sentence_scores(["zwei hunde", "ein"], ["zwei hunde", "kein"]) == pytest.approx([100, 0])
    for hyps, refs in ((HYPS, REFS[:1]), ([], [])):
        assert f"{len(hyps)} hypotheses, {len(refs)} references" in fault(TOKENISED.score, hyps, refs)


def test_seed_statistics():
    """Deviation with n - 1: of 1, 2, 6 the squares are 4 + 1 + 9, halved 7."""
    mean, deviation, maximum = seed_statistics([1.0, 2.0, 6.0])
    assert (mean, maximum) == (3.0, 6.0)
    assert deviation == pytest.approx(math.sqrt(7))
    assert seed_statistics([4.5]) == (4.5, None, 4.5)
    with pytest.raises(ValueError, match="no values"):
        seed_statistics([])


@pytest.fixture(scope="module")
def systems():
    """100 references; one system with a wrong word in each tenth, one with a wrong word in each second line."""
    refs = [f"a{i} b{i} c{i} d{i} e{i} f{i}" for i in range(100)]
    better = [f"x {ref}" if i % 10 == 0 else ref for i, ref in enumerate(refs)]
    worse = [f"x {ref}" if i % 2 == 0 else ref for i, ref in enumerate(refs)]
    return better, worse, refs


def test_bootstrap_of_different_systems(systems):
    """The difference is significant; intervals hold the scores; scores are those of the measure."""
    better, worse, refs = systems
    result = paired_bootstrap(better, worse, refs)
    assert result.score == TOKENISED.score(better, refs).value
    assert result.baseline == TOKENISED.score(worse, refs).value
    assert result.difference == result.score - result.baseline > 3
    assert result.p_value == pytest.approx(1 / 1001)
    assert result.interval[0] < result.score < result.interval[1]
    assert "|bs:1000|seed:12345|" in result.signature
    # no difference is no significance, even where the texts differ: p is 1
    for other in (better, [text.replace("x ", "y ") for text in better]):
        result = paired_bootstrap(better, other, refs, samples=50)
        assert (result.difference, result.p_value) == (0, 1)


def test_bootstrap_depends_on_its_arguments_only(systems, monkeypatch):
    """The environment's seed does not matter and is left as it was; another seed resamples otherwise."""
    better, worse, refs = systems
    first = paired_bootstrap(better, worse, refs, samples=50, seed=7)
    monkeypatch.setenv("SACREBLEU_SEED", "99")
    assert paired_bootstrap(better, worse, refs, samples=50, seed=7) == first
    assert os.environ["SACREBLEU_SEED"] == "99"
    assert paired_bootstrap(better, worse, refs, samples=50, seed=8).interval != first.interval
    for wrong in ({"seed": 0}, {"samples": 0}):  # which sacreBLEU takes for any seed, and for 1,000
        (name,) = wrong
        assert name in fault(paired_bootstrap, better, worse, refs, **wrong)
