"""Contrastive scores on hand-made cases, and teacher-forced scores against a plain forward pass."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores import fault
from tiny import folder, line_regions, sentences, translation_model, translation_task
from vtlm_fairseq.evaluation.probes.contrastive import ContrastiveSet, results
from vtlm_fairseq.evaluation.teacher_forcing import Score, score_translations


def test_results_by_hand():
    """Three lines of (right, wrong) sums over tokens.

    Means -2 against -2.5: right. -3 against -1: wrong. The same twice: a tie, which is wrong. With length penalty 0
    the sums count: -6 against -5 is wrong, -3 against -4 right.
    """
    lines = [(Score(-6, 3), Score(-5, 2)), (Score(-3, 1), Score(-4, 4)), (Score(-2, 2), Score(-2, 2))]
    assert results(lines) == {"perplexity": (1, 1), "log-probability": (1, 1)}
    assert results(lines, lenpen=0) == {"perplexity": (1, 1), "log-probability": (1, 1)}
    assert results(lines[:1], lenpen=0) == {"perplexity": (1, 0), "log-probability": (0, 0)}
    assert results(lines[1:2], lenpen=0) == {"perplexity": (0, 0), "log-probability": (1, 0)}
    score = Score(math.log(1 / 2) + math.log(1 / 8), 2)  # two tokens of probability 1/2 and 1/8
    assert score.perplexity == pytest.approx(4)
    assert score.normalised() == pytest.approx(-math.log(4))
    assert score.normalised(0.5) == pytest.approx(-math.log(16) / math.sqrt(2))


def test_files(tmp_path):
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    src, correct = write("src", "a\na"), write("correct", "ä\nb\n")
    incorrect, images = write("incorrect", "b\nä"), write("images", "1.jpeg\n2.jpeg")
    read = ContrastiveSet.read(src=src, correct=correct, incorrect=incorrect, images=images)
    assert read == ContrastiveSet(["a", "a"], ["ä", "b"], ["b", "ä"], ["1.jpeg", "2.jpeg"])
    assert ContrastiveSet.read(src=src, correct=correct, incorrect=incorrect).images is None
    empty = write("empty", "")
    assert "same number" in fault(ContrastiveSet.read, src=empty, correct=empty, incorrect=empty)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A translator with regions over in-memory sentences: one source, two targets, twice with different regions."""
    made = folder(tmp_path_factory.mktemp("bin") / "bin", {"test": 3})
    task = translation_task(made.path)
    model = translation_model(made.dictionary, region_dim=4, region_classes=5)
    translator = SimpleNamespace(task=task, models=[model], max_positions=(512, 512), cuda=False)
    return translator, sentences(6, seed=3)


def forward(model, source, target, regions) -> float:
    """Sum of log-probabilities of a target, from the model's forward pass alone."""
    eos = torch.tensor([2])
    regions = {
        "features": torch.from_numpy(regions.features)[None],
        "boxes": torch.from_numpy(regions.boxes)[None],
        "region_padding_mask": torch.zeros(1, len(regions.labels), dtype=torch.bool),
    }
    logits, _ = model(
        torch.cat([eos, source])[None],
        torch.tensor([len(source) + 1]),
        torch.cat([eos, target[:-1]])[None],
        **regions,
    )
    with torch.no_grad():
        return float(torch.log_softmax(logits[0], -1).gather(1, target[:, None]).sum())


@pytest.mark.slow
def test_scores_equal_a_forward_pass_and_batches_do_not_matter(world):
    """PITFALLS 14: scores of a batch equal those of single sentences; PITFALLS 4: other regions, other scores."""
    translator, lines = world
    sources, targets = [lines[0]] * 4, [lines[1], lines[2], lines[1], lines[3]]
    regions = line_regions([3, 1, 5], [0, 0, 2, 1])
    found = score_translations(translator, sources, targets, regions=regions)
    for line, score in enumerate(found):
        expected = forward(translator.models[0], sources[line], targets[line], regions[line])
        assert score.log_prob == pytest.approx(expected, abs=1e-4)
        assert score.tokens == len(targets[line])
    assert abs(found[0].log_prob - found[2].log_prob) > 1e-3
    alone = score_translations(translator, sources, targets, regions=regions, batch_size=1)
    assert [score.normalised() for score in alone] == pytest.approx([score.normalised() for score in found], abs=1e-5)


def test_equal_lines_are_scored_once(world, monkeypatch):
    """Twins in different batches would differ by rounding, so a text-only model would not get exactly 50 %."""
    translator, lines = world
    scored = []
    step = translator.task.inference_step

    def count(generator, models, sample, **kwargs):
        scored.extend(sample["id"].tolist())
        return step(generator, models, sample, **kwargs)

    monkeypatch.setattr(translator.task, "inference_step", count)
    sources, targets = [lines[0]] * 4, [lines[1], lines[2], lines[2], lines[1]]
    found = score_translations(translator, sources, targets, batch_size=1)
    assert len(scored) == 2
    assert (found[0], found[1]) == (found[3], found[2])
    twins = list(zip(found[:2], found[2:], strict=True))
    assert results(twins) == {"perplexity": (1, 0), "log-probability": (1, 0)}
    scored.clear()
    rows = line_regions([2, 2], np.array([0, 0, 1, 0]))
    score_translations(translator, sources, targets, regions=rows, batch_size=1)
    assert len(scored) == 3  # the last line is the first again, the third has another image
