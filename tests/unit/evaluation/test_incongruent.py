"""Drops of BLEU on a hand-made case."""

import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from sacrebleu.metrics import BLEU

from stores import fault
from vtlm_fairseq.evaluation.plots import check_plot
from vtlm_fairseq.evaluation.probes import attention, incongruent
from vtlm_fairseq.evaluation.probes.incongruent import Outputs, compare

REFERENCES = [f"ein mann sieht {i} hunde und {i + 1} rote autos" for i in range(40)]
HALF = [text if i % 2 else "eine frau" for i, text in enumerate(REFERENCES)]
ONE_OFF = ["ein mann sieht 0 hunde und 1 rotes auto", *REFERENCES[1:]]


def bleu(texts: list[str]) -> float:
    return BLEU(tokenize="none").corpus_score(texts, [REFERENCES]).score


def test_drop_is_given_minus_the_mean_of_the_repeats_with_the_greatest_p():
    """Given regions are perfect (BLEU 100). One shuffling spoils half of the lines, the other one word pair."""
    rows, signature = compare(Outputs(REFERENCES, REFERENCES, {"shuffle": [HALF, ONE_OFF], "none": [HALF]}))
    assert [row[0] for row in rows] == ["given", "shuffle", "none"]
    assert rows[0][1:] == [pytest.approx(100), 0.0, None]
    mean = (bleu(HALF) + bleu(ONE_OFF)) / 2
    assert rows[1][1:3] == [pytest.approx(mean), pytest.approx(100 - mean)]
    assert rows[2][2] == pytest.approx(100 - bleu(HALF))
    assert rows[2][3] < 0.01 < rows[1][3]
    assert "tok:none" in signature


def test_a_system_that_ignores_regions_has_no_drop():
    """Equal translations: drop 0, and chance explains it; a text-only model has one row."""
    rows, _ = compare(Outputs(REFERENCES, HALF, {"shuffle": [HALF]}))
    assert rows[1][2] == pytest.approx(0, abs=1e-9)
    assert rows[1][3] > 0.9
    rows, _ = compare(Outputs(REFERENCES, HALF, {}))
    assert rows == [["none", pytest.approx(bleu(HALF)), 0.0, None]]


def test_a_split_without_references(tmp_path, monkeypatch):
    """Neither BLEU nor attention from the references can be had, and no plot without matplotlib."""
    args = Namespace(data="bin", gen_subset="test", regions="none", region_order="given", cpu=True, any_detector=False)
    args.on, args.batch_size = "references", 1
    task = SimpleNamespace(target_dictionary=None)
    pairs = type("Pairs", (list,), {"tgt": None})([0])
    loaded = SimpleNamespace(dataset=pairs, task=task, batches=lambda size: [{"net_input": {}}])
    for module, call in (
        (incongruent, incongruent.translate_orders),
        (attention, partial(attention.measure, label="x")),
    ):
        monkeypatch.setattr(module, "load_asked", lambda *a, **k: loaded)
        assert "test has no references" in fault(call, "x.pt", args)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "vtlm-fairseq[plots]" in fault(check_plot, Path("x.png"))
