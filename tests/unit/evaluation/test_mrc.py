"""Masked region classification: what is masked, what a model can see, and accuracies worked out by hand."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stores import fault
from tiny import line_regions, lm_dataset, vtlm_model
from vtlm_fairseq.cli.probe import build_parser
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.evaluation.probes import mrc
from vtlm_fairseq.evaluation.probes.last_word import Accuracy
from vtlm_fairseq.evaluation.probes.mrc import Classes, Result, SplitProbe, masked_items, predict
from vtlm_fairseq.evaluation.probes.parsers import TEXTS
from vtlm_fairseq.evaluation.splits import in_order
from vtlm_fairseq.evaluation.systems import LoadedModel
from vtlm_fairseq.regions.store import Regions

EOS, MASK = 2, 45
SOURCES = [[10, 11, 12, EOS], [13, EOS], [14, 15, EOS]]
TARGETS = [[20, 21, EOS], [22, EOS], [23, 24, 25, EOS]]
COUNTS = [3, 0, 4]  # regions; line 2 is longest, line 1 shortest


def by_hand(*images, split="train", lines=None) -> LineRegions:
    """Regions of lines from images given as (features, labels)."""
    made = line_regions([len(labels) for _, labels in images], lines, split=split, feature_dim=2)
    for k, (features, labels) in enumerate(images):
        one = made.store.images[k]
        made.store.images[k] = Regions(np.array(features, np.float16), one.boxes, np.array(labels), one.scores)
    return made


def probe(model=None, *, sources=SOURCES, regions=None, **options) -> SplitProbe:
    """Three lines, of which the second has no region."""
    regions = regions or line_regions(COUNTS)
    dataset = lm_dataset(sources, TARGETS, regions=regions, rates=MaskingRates(0, 0, 0), **options)
    model = model or vtlm_model(dataset.dictionary, region_dim=4, region_classes=5)
    return SplitProbe(LoadedModel(model, None, dataset, cuda=False), dataset.regions)


def logits(made: SplitProbe, *, hide_text=False, batch_size=64) -> dict[tuple[int, int], torch.Tensor]:
    """Logits by (line, region)."""
    found = {}
    items = masked_items(made.loaded.dataset, hide_text=hide_text)
    for batch, rows in predict(made.loaded, items, batch_size=batch_size):
        for item, row in zip(batch, rows, strict=True):
            found[item["id"], int(item["draw"].masked.argmax())] = row
    return found


class Stub:
    """A model whose answers are a function of the net input, the features and the place of the masked region."""

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, *, src_tokens, masked_tokens, selected_regions, **net_input):
        assert not masked_tokens.any() and masked_tokens.shape == src_tokens.shape
        assert (selected_regions.sum(dim=1) == 1).all()
        answers = [
            self.answer(tokens, net_input["features"][i], int(selected_regions[i].nonzero()))
            for i, tokens in enumerate(src_tokens)
        ]
        return None, torch.nn.functional.one_hot(torch.tensor(answers), 5).float()


def test_each_region_is_masked_alone_and_no_word():
    """Short lines first; the mask of pre-training and the target are the one region's."""
    made = probe()
    dataset = made.loaded.dataset
    items = list(masked_items(dataset, hide_text=False))
    assert [item["id"] for item in items] == [0] * 3 + [2] * 4
    assert [item["draw"].masked.argmax() for item in items] == [0, 1, 2, 0, 1, 2, 3]
    assert items[0]["tokens"].tolist() == [EOS, 10, 11, 12, EOS, EOS, 20, 21, EOS]
    batch = dataset.collater(items)
    assert batch["target"].eq(dataset.pad).all()  # no word is predicted
    assert batch["net_input"]["region_mask"].nonzero().tolist() == [[i, i if i < 3 else i - 3] for i in range(7)]
    wanted = [made.regions[line].labels[place] for line, place in ((0, 0), (0, 1), (0, 2), *((2, j) for j in range(4)))]
    assert batch["region_target"].max(dim=1).values.tolist() == wanted
    assert (batch["region_target"] >= 0).sum(dim=1).tolist() == [1] * 7


def test_hidden_text_is_a_mask_for_each_word():
    """``</s>`` stays, and so do positions and languages; an unknown word (3) is hidden too."""
    made = probe(sources=[[10, 3, 12, EOS], [13, EOS], [14, 15, EOS]])
    given, hidden = (next(masked_items(made.loaded.dataset, hide_text=hide)) for hide in (False, True))
    assert hidden["tokens"].tolist() == [EOS, MASK, MASK, MASK, EOS, EOS, MASK, MASK, EOS]
    assert given["tokens"].tolist() == [EOS, 10, 3, 12, EOS, EOS, 20, 21, EOS]
    for key in ("positions", "langs"):
        assert hidden[key].tolist() == given[key].tolist()


def test_a_masked_regions_own_features_are_not_seen():
    """Of all other regions of its image the features are; so is its own box. With either fill of masked regions."""
    fills = []
    for zero in (False, True):
        before = logits(probe(zero_masked_regions=zero))
        regions = line_regions(COUNTS)
        regions.store.images[2].features[1] += 3.0
        after = logits(probe(regions=regions, zero_masked_regions=zero))
        assert after[2, 1].tolist() == before[2, 1].tolist()
        for place in (0, 2, 3):
            assert not torch.allclose(after[2, place], before[2, place], atol=1e-4)
        assert all(after[0, place].tolist() == before[0, place].tolist() for place in range(3))
        regions = line_regions(COUNTS)
        regions.store.images[2].boxes[1] = [0.0, 0.0, 0.1, 1.0]
        moved = logits(probe(regions=regions, zero_masked_regions=zero))
        assert not torch.allclose(moved[2, 1], before[2, 1], atol=1e-4)
        fills.append(before[0, 0])
    assert not torch.allclose(*fills, atol=1e-4)  # the <mask> embedding and zero features are two inputs


def test_words_matter_unless_they_are_hidden():
    """Other captions of the same lengths: the same logits with hidden text, others with given text."""
    other = probe(sources=[[30, 31, 32, EOS], [33, EOS], [34, 35, EOS]])
    assert {k: v.tolist() for k, v in logits(other, hide_text=True).items()} == {
        k: v.tolist() for k, v in logits(probe(), hide_text=True).items()
    }
    for key, row in logits(other).items():
        assert not torch.allclose(row, logits(probe())[key], atol=1e-4)


def test_batch_size_does_not_matter():
    """Padded and alone; 7 regions in batches of 1, 2, 3, 64."""
    alone = logits(probe(), batch_size=1)
    assert sorted(alone) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1), (2, 2), (2, 3)]
    for size in (2, 3, 64):
        together = logits(probe(), batch_size=size)
        for key, row in alone.items():
            assert torch.allclose(row, together[key], atol=1e-5)
    for text in TEXTS:
        assert len({probe().result(text, batch_size=size) for size in (1, 2, 64)}) == 1


LABELS = by_hand(([[0, 0]] * 3, [3, 1, 3]), ([], []), ([[0, 0]] * 4, [1, 3, 0, 0])).store.images


def hand_probe(answer) -> SplitProbe:
    """Labels 3 1 3, none, 1 3 0 0, feature 0 of a region being its label + 1."""
    regions = line_regions(COUNTS)
    for line, image in enumerate(LABELS):
        regions.store.images[line] = regions.store.images[line]._replace(labels=image.labels)
        regions.store.images[line].features[:, 0] = image.labels + 1
    return probe(Stub(answer), regions=regions, zero_masked_regions=True)


def test_accuracy_over_all_and_over_unique_labels():
    """Always 1: right in 2 of 7. Labels that occur once in their image: 1 of the first; 1 and 3 of the third."""
    found = hand_probe(lambda tokens, features, place: 1).result("given", batch_size=3)
    assert found == Result(Accuracy(2, 7), Accuracy(2, 3))


def test_copying_a_sibling_helps_only_where_there_is_one():
    """A model that answers with the label that most visible regions have, of several the lowest.

    For 3 1 3 it sees 1 3, 3 3, 3 1 and says 1, 3, 1: all wrong. For 1 3 0 0 it sees 3 0 0, 1 0 0, 1 3 0, 1 3 0 and
    says 0 each time: right for the two 0, which have each other.
    """

    def copy(tokens, features, place):
        seen = [int(label) - 1 for label in features[:, 0].tolist() if label > 0]
        assert len(seen) in (2, 3)  # the masked region's features are zero
        return max(sorted(set(seen)), key=seen.count)

    assert hand_probe(copy).result("given") == Result(Accuracy(2, 7), Accuracy(0, 3))


def test_shuffled_text_is_another_images():
    """How many regions are predicted beside each line's text: its own image's, or those that the shuffling gives."""
    beside: Counter[int] = Counter()

    def answer(tokens, features, place):
        beside[int(tokens[1])] += 1
        return 1

    made = hand_probe(answer)
    everything = Result(Accuracy(2, 7), Accuracy(2, 3))
    assert made.result("given") == everything and beside == {10: 3, 14: 4}
    for seed in (1, 2, 3):
        beside.clear()
        images = in_order(made.regions, "shuffle", seed=seed).line_rows
        wanted = {line[0]: COUNTS[image] for line, image in zip(SOURCES, images, strict=True) if COUNTS[image]}
        assert made.result("shuffle", seed=seed) == everything and beside == wanted
    for text, wanted in (("hidden", {MASK: 7}), ("given", {10: 3, 14: 4})):  # regions are put back
        beside.clear()
        assert made.result(text) == everything and beside == wanted


TRAIN = by_hand(
    ([[0, 0], [2, 0], [9, 9]], [0, 0, 2]), ([[0, 8], [9, 11]], [1, 2]), ([[50, 50]], [4]), lines=[0, 1, 1, 0]
)  # the third image is of no line


def test_class_means_by_hand():
    """0 has (0, 0) and (2, 0), 1 has (0, 8), 2 has (9, 9) and (9, 11); 3 and 4 have none. Lines do not count twice.

    Nearest: (0, 4.25) is 18.06 + 1 from (1, 0) and 14.06 from (0, 8); by dot product (9, 10) would win; (50, 50) is of
    no class with regions, so of the nearest one. (0.5, 4) is 16.25 from both 0 and 1: the first.
    """
    found = Classes.of(TRAIN)
    assert found.counts.tolist() == [2, 1, 2, 0, 0]
    assert found.means[:3].tolist() == [[1, 0], [0, 8], [9, 10]]
    assert found.commonest == 0  # of 0 and 2, the first
    points = np.array([[0, 4.25], [0, 3], [50, 50], [0.5, 4]], np.float32)
    assert found.nearest(points).tolist() == [1, 0, 2, 0]
    assert found.nearest(np.zeros((0, 2), np.float16)).tolist() == []


def test_references_by_hand():
    """Every line counts, also a second one of the same image.

    Image 0: labels 0 0 1, nearest 0 1 1: two right; commonest (0) right twice; unique: the 1, nearest right. Image 1:
    label 3, which training has not: always wrong, unique. Lines: 0, 1, 0.
    """
    test = by_hand(([[1, 1], [0, 7], [0, 9]], [0, 0, 1]), ([[1, 0]], [3]), split="test", lines=[0, 1, 0])
    assert Classes.of(TRAIN).results(test) == {
        "commonest class": Result(Accuracy(4, 7), Accuracy(0, 3)),
        "nearest prototype, own features": Result(Accuracy(4, 7), Accuracy(2, 3)),
    }


def test_nothing_to_predict(monkeypatch, capsys):
    """No system, no store, or regions of a detector that tells no classes apart."""
    parser = build_parser()
    with pytest.raises(SystemExit):
        parser.parse_args(["mrc", "d", "--system", "a="])
    assert "'a='" in capsys.readouterr().err
    monkeypatch.setattr(mrc, "read_model_config", lambda path: {"region_dim": 4})
    assert "--regions is none" in fault(mrc.run, parser.parse_args(["mrc", "d", "--system", "V=x.pt"]))
    made = probe(regions=line_regions(COUNTS, num_classes=1))
    made.regions.store.class_names = ["cell"]
    monkeypatch.setattr(mrc, "load_asked", lambda *args, **kwargs: made.loaded)
    args = SimpleNamespace(data="d", regions="grid.h5", any_detector=False, cpu=True)
    message = fault(SplitProbe.load, "x.pt", "valid", args)
    assert "--regions grid.h5 (valid)" in message and "'cell'" in message


def test_no_word_of_a_loaded_split_is_masked(monkeypatch):
    """Whatever the checkpoint's rates are; sentences that are too long are looked for, with the smaller limits."""
    checked = []
    dataset = lm_dataset(SOURCES, TARGETS, regions=line_regions(COUNTS), rates=MaskingRates(1.0, 0.0, 0.0))
    task = SimpleNamespace(
        max_positions=lambda: (99, 9),
        filter_indices_by_size=lambda indices, data, limits: checked.append((indices.tolist(), limits)),
    )
    model = SimpleNamespace(max_positions=lambda: (512, 512))
    monkeypatch.setattr(mrc, "load_asked", lambda *args, **kwargs: LoadedModel(model, task, dataset, cuda=False))
    made = SplitProbe.load("x.pt", "valid", SimpleNamespace(data="d", regions="r", any_detector=False, cpu=True))
    assert checked == [([0, 1, 2], (99, 9))]
    assert next(masked_items(made.loaded.dataset, hide_text=False))["tokens"].tolist()[1:4] == [10, 11, 12]


def test_features_that_are_not_finite():
    regions = line_regions(COUNTS)
    regions.store.images[2].features[1, 1] = np.nan
    assert "image 'img2.jpg' holds a feature or box that is not finite" in fault(probe(regions=regions).result, "given")
    assert "'img2.jpg'" in fault(Classes.of, regions)
