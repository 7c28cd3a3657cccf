"""Objectives over regions: losses against plain references, mismatched pairs, gradients, names and weights."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fairseq.logging import metrics
from torch import nn

from stores import ends_with, fault
from tiny import as_task, dictionary, line_regions, lm_dataset, sentences, vtlm_model
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.translation_lm_dataset import IGNORE
from vtlm_fairseq.objectives import RegionObjective, needs_of, read_objectives, register_region_objective

RATES = MaskingRates(select=0.5, keep=0.3, random=0.3)
COUNTS = [3, 1, 0, 4, 2, 3, 2, 4]  # regions of images; lines 4 and 5 share the fifth
ROWS = [0, 1, 2, 3, 4, 4, 5, 6, 7]
IMAGE = ("features", "boxes", "region_padding_mask", "region_mask")
PAD = 1


def dataset_of(objectives, *, counts=COUNTS, rows=ROWS, rates=RATES, region_rates=RATES, num_soft=3, **options):
    count = len(rows)
    regions = line_regions(counts, rows)
    regions.store.add_soft(num_soft)
    needs = needs_of(read_objectives(objectives))
    return lm_dataset(sentences(count), sentences(count, seed=1), regions=regions, rates=rates,
                      region_rates=region_rates, needs=needs, **options)  # fmt: skip


def collate(dataset, rows=None) -> dict:
    rows = range(len(dataset)) if rows is None else rows
    return dataset.collater([dataset[i] for i in rows])


def model_of(objectives, **options):
    return vtlm_model(region_dim=4, region_classes=5, region_objectives=objectives, **options)


def criterion_of(objectives, mrc_weight=1.0) -> VTLMCriterion:
    task = SimpleNamespace(**vars(as_task(dictionary())), objectives=read_objectives(objectives))
    return VTLMCriterion(task, mrc_weight)


def logged(*logs) -> dict:
    with metrics.aggregate(new_root=True) as meters:
        VTLMCriterion.reduce_metrics(list(logs))
    return meters.get_smoothed_values()


# ---- losses


def alone(model, batch, k) -> torch.Tensor:
    """[T + R, d] states of a pair by itself, unpadded."""
    net, words = batch["net_input"], int(batch["net_input"]["src_lengths"][k])
    count = int((~net["region_padding_mask"][k]).sum())
    of_words = {name: net[name][k : k + 1, :words] for name in ("src_tokens", "positions", "langs")}
    out = model.encoder(**of_words, **{name: net[name][k : k + 1, :count] for name in IMAGE})
    return out["encoder_out"][0][:, 0]


def in_double(batch):
    net = batch["net_input"]
    return {**batch, "net_input": {**net, "features": net["features"].double(), "boxes": net["boxes"].double()}}


@pytest.mark.parametrize("standardise", [False, True])
def test_losses_are_those_of_a_plain_reference(standardise):
    """Float64, each pair and region by itself, from the parameters; the paper's two parts beside them."""
    objectives = "mrc:0.5,mrfr:2,itm:3,mrc-kl:4"
    dataset = dataset_of(objectives, num_soft=5 if standardise else 3)
    batch = in_double(collate(dataset))
    model = model_of(objectives, region_standardise=standardise).double()
    if standardise:
        model.encoder.embed_regions.standardise_by(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 0.5, 1, 3]))
    words = labels = features = matching = soft = 0.0
    counts, head = dict.fromkeys(("words", "regions", "pairs"), 0), model.objective_heads
    for k, row in enumerate(ROWS):
        states, length = alone(model, batch, k), int(batch["net_input"]["src_lengths"][k])
        for place in (batch["target"][k] != PAD).nonzero()[:, 0].tolist():
            scores = model.lm_head(states[place])
            words -= torch.log_softmax(scores, 0)[batch["target"][k, place]]
            counts["words"] += 1
        for place in (batch["region_target"][k] != IGNORE).nonzero()[:, 0].tolist():
            state = states[length + place]
            labels -= torch.log_softmax(model.region_head(state), 0)[batch["region_target"][k, place]]
            real = torch.from_numpy(dataset.regions.store[row].features[place]).double()
            if standardise:
                real = (real - torch.tensor([1.0, 2, 3, 4])) / torch.tensor([2.0, 0.5, 1, 3])
            guess = head["mrfr"].weight @ state + head["mrfr"].bias
            scores = dataset.regions.store.soft[row][place].astype(float)
            if not standardise:
                scores[np.argsort(scores)[:2]] = 0  # the best three of five are kept
            found = torch.log_softmax(model.region_head(state), 0)
            for c in range(5):
                if scores[c] > 0:
                    share = scores[c] / scores.sum()
                    soft += share * (math.log(share) - found[c])
            features += sum((guess[d] - real[d]) ** 2 for d in range(4)) / 4
            counts["regions"] += 1
        if COUNTS[row]:
            logit = head["itm"].out.weight[0] @ torch.tanh(head["itm"].dense(states[0])) + head["itm"].out.bias[0]
            given = batch["net_input"]["boxes"][k][: COUNTS[row]].float()
            own = torch.from_numpy(dataset.regions.store[row].boxes)
            is_own = given.shape == own.shape and torch.equal(given, own)
            matching -= torch.log(torch.sigmoid(logit if is_own else -logit))
            counts["pairs"] += 1
    loss, size, log = criterion_of(objectives)(model, batch)
    parts = {"mlm": (words, "words", 1), "mrc": (labels, "regions", 0.5), "mrfr": (features, "regions", 2),
             "itm": (matching, "pairs", 3), "mrc_kl": (soft, "regions", 4)}  # fmt: skip
    assert size == 1 and counts["pairs"] == 8 and 0 < counts["regions"] < 15
    for key, (total, what, weight) in parts.items():
        assert float(log[f"{key}_loss_sum"]) == pytest.approx(float(total), rel=1e-6), key
        assert log[f"{key}_count"] == counts[what]
        assert float(log[f"{key}_weighted_sum"]) == pytest.approx(weight * float(total), rel=1e-6)
    expected = sum(weight * total / counts[what] for total, what, weight in parts.values())
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    found = logged(log)
    assert found["loss"] == pytest.approx(float(expected) / math.log(2), rel=1e-6)
    assert found["mrfr_loss"] == pytest.approx(float(features) / counts["regions"] / math.log(2), abs=1e-3)
    assert 0 <= found["itm_accuracy"] <= 100 and "mrfr_accuracy" not in found


def test_the_papers_loss_is_bit_equal():
    """Of the same batch and weights, whether another objective is computed beside or not."""
    batch, model = collate(dataset_of("mrc")), model_of("mrc,mrfr:0")
    plain = F.cross_entropy(model(**batch["net_input"], places=batch["predicted"]["places"])[1],
                            batch["predicted"]["regions"], reduction="sum")  # fmt: skip
    assert float(criterion_of("mrc", 0.5)(model, batch)[2]["mrc_loss_sum"]) == float(plain)


@pytest.mark.parametrize("words_select", [0, 1])
@pytest.mark.parametrize("regions_select", [0, 1])
@pytest.mark.parametrize("counts", [[3, 1, 2], [0, 0, 0], [0, 2, 0]])
def test_nothing_to_predict_reaches_every_parameter(counts, words_select, regions_select):
    objectives = "mrc-kl,mrfr,itm"
    rates = [MaskingRates(select, 0, 0) for select in (words_select, regions_select)]
    batch = collate(dataset_of(objectives, counts=counts, rows=range(3), rates=rates[0], region_rates=rates[1]))
    model = model_of(objectives).train()
    loss, _, log = criterion_of(objectives)(model, batch)
    assert torch.isfinite(loss) and log["itm_count"] == sum(map(bool, counts))
    assert log["mrfr_count"] == log["mrc_kl_count"] == int(batch["region_target"].ne(IGNORE).sum())
    (loss * 1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert all(math.isfinite(value) for value in logged(log).values())


# ---- mismatched pairs


def moved(batch) -> list[int]:
    """Pairs that have another's image, of those that have regions."""
    first = batch["predicted"]["places"]["first"].tolist()
    return [k for k, matched in zip(first, batch["predicted"]["matched"].tolist(), strict=True) if not matched]


def test_a_mismatched_pair_has_all_of_another_image_as_it_is_masked():
    """Never its own, also where two lines share one; no word or region of it is predicted; the others stay."""
    plain, shuffled = (dataset_of(objectives, train=True) for objectives in ("mrc", "mrc,itm"))
    seen = set()
    for epoch in range(1, 30):
        for dataset in (plain, shuffled):
            dataset.set_epoch(epoch)
        before, after = collate(plain), collate(shuffled)
        assert after["predicted"]["places"]["first"].tolist() == [0, 1, 3, 4, 5, 6, 7, 8]
        elsewhere = moved(after)
        for k in range(len(ROWS)):
            net, old = after["net_input"], before["net_input"]
            same = [all(net[name][k].equal(old[name][j]) for name in IMAGE) for j in range(len(ROWS))]
            assert net["src_tokens"][k].equal(old["src_tokens"][k])
            if k not in elsewhere:
                assert same[k] and after["target"][k].equal(before["target"][k])
                assert after["region_target"][k].equal(before["region_target"][k])
                continue
            (image,) = {ROWS[j] for j in range(len(ROWS)) if same[j]}
            assert image != ROWS[k] and COUNTS[image]
            seen.add((k, image))
            assert after["target"][k].eq(PAD).all() and after["region_target"][k].eq(IGNORE).all()
    assert {k for k, _ in seen} == {0, 1, 3, 4, 5, 6, 7, 8} and len(seen) > 40


@pytest.mark.slow
def test_half_of_the_pairs_by_their_own_draw():
    """Whatever batch they are in, epoch after epoch; the same in validation; within 3 standard deviations of half."""
    count = 400
    dataset = dataset_of("itm", counts=[1] * count, rows=range(count), train=True, seed=3)
    flags = {}
    for epoch in (1, 2, 1):
        dataset.set_epoch(epoch)
        together = collate(dataset)["predicted"]["matched"].tolist()
        assert flags.setdefault(epoch, together) == together
        for start in (0, 7):
            rows = range(start, count, 5)
            assert collate(dataset, rows)["predicted"]["matched"].tolist() == together[start::5]
            by_loader = dataset.collater(dataset.__getitems__(list(rows)))
            assert by_loader["predicted"]["matched"].tolist() == together[start::5]
        assert abs(sum(together) - count / 2) < 3 * math.sqrt(count / 4)
    assert flags[1] != flags[2]


def test_no_partner():
    """Alone, beside the same image, or beside one without regions: a pair keeps its image, and says so."""
    dataset = dataset_of("itm", counts=[2, 0], rows=[0, 0, 1], train=True)
    for epoch in range(1, 12):
        dataset.set_epoch(epoch)
        for rows, first in (([0], [0]), ([0, 1], [0, 1]), ([2], []), ([0, 2], [0])):
            predicted = collate(dataset, rows)["predicted"]
            assert predicted["places"]["first"].tolist() == first and predicted["matched"].all()


def test_the_target_of_features_is_before_masks_and_donors():
    """Also of regions that get another's features, with masked features of 0, and beside mismatched pairs."""
    dataset = dataset_of("mrfr,itm", zero_masked_regions=True, region_rates=MaskingRates(1, 0.1, 0.5))
    batch, found = collate(dataset), []
    for k, row in enumerate(ROWS):
        for place in (batch["region_target"][k] != IGNORE).nonzero()[:, 0].tolist():
            found.append(dataset.regions.store[row].features[place].tolist())
    assert batch["predicted"]["features"].tolist() == found and len(found) > 5
    assert set(moved(batch)) and "boxes" not in batch["predicted"]


# ---- names, weights, one's own


@register_region_objective("centre")
class Centre(RegionObjective):
    """Where a region's centre lies."""

    reads = ("boxes",)

    def head(self, cfg):
        return nn.Linear(cfg.encoder_embed_dim, 2)

    def target(self, predicted, model):
        return (predicted["boxes"][:, :2] + predicted["boxes"][:, 2:]) / 2

    def loss(self, output, target):
        return (output - target).abs().sum()


@pytest.mark.slow
def test_one_of_ones_own_learns():
    """It needs nothing but its class: its loss falls, and is logged apart."""
    batch, model, criterion = collate(dataset_of("centre")), model_of("centre"), criterion_of("centre:4")
    assert model.region_head is None and list(model.objective_heads) == ["centre"]
    optimizer, found = torch.optim.Adam(model.parameters(), lr=5e-3), []
    for _ in range(30):
        loss, _, log = criterion(model, batch)
        found.append(logged(log))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found[-1]["centre_loss"] < 0.5 * found[0]["centre_loss"] and "mrc_count" not in log
    assert found[0]["loss"] == pytest.approx(found[0]["mlm_loss"] + 4 * found[0]["centre_loss"], abs=5e-3)
    assert {"loss", "centre_loss", "mrc_loss"} <= criterion.logged() == set(found[0])


@pytest.mark.parametrize(
    ("text", "parts"),
    [("mrc,nothing", ["nothing", "mrfr"]), ("mrc,mrc:2", ["mrc", "twice"]), ("mrfr:x", ["mrfr:x"]),
     ("mrc,,itm", ["mrc,,itm"]), ("itm:-1", ["itm:-1"]), ("itm:nan", ["itm:nan"]), ("itm:inf", ["itm:inf"]),
     ("", ["--region-objectives"]), (3, ["3"])],
)  # fmt: skip
def test_values_that_are_refused(text, parts):
    message = fault(read_objectives, text)
    assert all(part in message for part in parts)


def test_weights():
    """``--mrc-weight`` is that of mrc where the list says none, and two that differ are refused."""
    weights = {text: [criterion_of(text, 0.25).weight(one) for one in read_objectives(text)]
               for text in ("mrc", "mrc,itm", "itm: 0 , mrfr:1e1")}  # fmt: skip
    assert weights == {"mrc": [0.25], "mrc,itm": [0.25, 1.0], "itm: 0 , mrfr:1e1": [0.0, 10.0]}
    criterion_of("mrc:0.25", 0.25)
    assert "--mrc-weight" in fault(criterion_of, "mrc:2", 0.25)


@pytest.mark.slow
def test_soft_labels_are_learnt():
    """Also where the store has fewer classes' scores; right is what agrees with the best of these."""
    for num_soft in (5, 2):
        batch = collate(dataset_of("mrc-kl", num_soft=num_soft, region_rates=MaskingRates(1, 1, 0)))
        model, criterion, found = model_of("mrc-kl"), criterion_of("mrc-kl"), []
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(60):
            loss, _, log = criterion(model, batch)
            found.append(logged(log))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert found[-1]["mrc_kl_loss"] < 0.1 * found[0]["mrc_kl_loss"] and found[-1]["mrc_kl_accuracy"] > 90
        assert "mrc_count" not in log and list(model.objective_heads) == []


@pytest.mark.parametrize("objectives", ["mrc-kl", "mrc,mrfr"])
def test_batches_without_lists_of_what_is_predicted(objectives):
    """Of a dataset of one's own; the paper's objective does without."""
    batch = collate(dataset_of("mrc"))
    del batch["predicted"]
    assert objectives.split(",")[-1] in ends_with(criterion_of(objectives), model_of(objectives), batch)
    assert criterion_of("mrc")(model_of("mrc"), batch)[2]["mrc_count"] > 0


@pytest.mark.parametrize("name", ["itm", "mlm", "Mine", "a_b", "train", "a:b", ""])
def test_names_that_are_refused(name):
    assert "--region-objectives" in fault(lambda: register_region_objective(name)(Centre))


def test_what_no_loader_gives_is_refused():
    for reads in (("boxes", "scores"), "boxes"):
        message = fault(register_region_objective("other"), type("Other", (Centre,), {"reads": reads}))
        assert "other" in message and "soft_labels" in message
    register_region_objective("other")(type("Other", (Centre,), {"reads": ("features",)}))  # the name is free


def test_boxes_and_features_are_there_where_they_are_read():
    batch = collate(dataset_of("centre,mrfr"))
    assert {"boxes", "features"} < set(batch["predicted"]) and "matched" not in batch["predicted"]
    assert np.array_equal(batch["predicted"]["boxes"].shape, (len(batch["predicted"]["regions"]), 4))
