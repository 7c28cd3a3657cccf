"""The criterion: exact losses and metrics, gradients over micro-batches, counts of zero."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import tasks
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from omegaconf import open_dict

from stores import make_store
from tiny import arguments, dictionary, folder, line_regions, lm_dataset, pretraining_config, sentences, vtlm_model
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.translation_lm_dataset import IGNORE

NAMES = {"loss", "mlm_loss", "mlm_ppl", "mlm_accuracy", "mrc_loss", "mrc_accuracy", "accuracy"}
ALL_KEPT = MaskingRates(select=1, keep=1, random=0)


def criterion_of(mrc_weight: float = 1.0) -> VTLMCriterion:
    return VTLMCriterion(SimpleNamespace(target_dictionary=dictionary()), mrc_weight)


def reduce(*logs) -> dict:
    """What fairseq logs of some micro-batches."""
    with metrics.aggregate(new_root=True) as meters:
        VTLMCriterion.reduce_metrics(list(logs))
    return meters.get_smoothed_values()


def log_of(**values) -> dict:
    keys = [f"{part}_{key}" for part in ("mlm", "mrc") for key in ("loss_sum", "weighted_sum", "count", "correct")]
    return {key: values.pop(key, 0) for key in keys} | values


# ---- values


def by_hand():
    """Two words at 3 bits (wrong) and 1 bit (right), three regions at 2 (right), 4 (wrong) and 1 bit (right)."""
    words = torch.zeros(2, 8)
    words[1] = torch.tensor([1 / 14] * 6 + [1 / 2, 1 / 14]).log()
    regions = torch.zeros(3, 4)
    regions[1] = torch.tensor([13 / 16, 1 / 16, 1 / 16, 1 / 16]).log()
    regions[2] = torch.tensor([1 / 6, 1 / 2, 1 / 6, 1 / 6]).log()
    sample = {
        "net_input": {},
        "target": torch.tensor([[1, 5, 1], [6, 1, 1]]),
        "region_target": torch.tensor([[0, IGNORE, 3], [IGNORE, 1, IGNORE]]),
        "ntokens": 6,
        "nsentences": 2,
    }
    return sample, words, regions


def test_loss_and_metrics_by_hand():
    sample, words, regions = by_hand()
    asked = {}

    def model(**kwargs):
        asked.update(kwargs)
        return words, regions

    loss, sample_size, log = criterion_of(0.5)(model, sample)
    assert asked["masked_tokens"].tolist() == [[False, True, False], [True, False, False]]
    assert asked["selected_regions"].tolist() == [[True, False, True], [False, True, False]]
    assert sample_size == log["sample_size"] == 1
    assert loss.item() == pytest.approx((2 + 0.5 * 7 / 3) * math.log(2), rel=1e-6)
    assert (log["ntokens"], log["nsentences"], log["mlm_count"], log["mrc_count"]) == (6, 2, 2, 3)
    found = reduce(log)
    assert set(found) == NAMES
    assert found["loss"] == pytest.approx(2 + 0.5 * 7 / 3, rel=1e-6)
    assert found["mlm_loss"] == pytest.approx(2, abs=1e-3) and found["mlm_ppl"] == pytest.approx(4, abs=2e-3)
    assert found["mrc_loss"] == pytest.approx(7 / 3, abs=1e-3)
    assert found["mlm_accuracy"] == 50 and found["mrc_accuracy"] == 66.67 and found["accuracy"] == 60


def test_text_only_batch():
    sample, words, _ = by_hand()
    del sample["region_target"]

    def model(*, masked_tokens, selected_regions):
        assert selected_regions is None
        return words, None

    loss, _, log = criterion_of(0.5)(model, sample)
    assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)
    found = reduce(log)
    assert set(found) == NAMES and found["mrc_loss"] == 0 == found["mrc_accuracy"]
    assert found["loss"] == pytest.approx(2, rel=1e-6) and found["accuracy"] == 50


def test_sums_and_counts_add_up_over_micro_batches():
    """A mean of means would be 2.5, and 5 for the regions."""
    one = log_of(mlm_loss_sum=math.log(2), mlm_weighted_sum=math.log(2), mlm_count=1, mlm_correct=1)
    nats = 12 * math.log(2)
    regions = {"mrc_loss_sum": 10 * math.log(2), "mrc_weighted_sum": 5 * math.log(2), "mrc_count": 2, "mrc_correct": 2}
    other = log_of(mlm_loss_sum=nats, mlm_weighted_sum=nats, mlm_count=3, mlm_correct=0, **regions)
    assert VTLMCriterion.logging_outputs_can_be_summed()
    expected = {"loss": 3.25 + 2.5, "mlm_loss": 3.25, "mlm_ppl": round(2**3.25, 3), "mlm_accuracy": 25.0,
                "mrc_loss": 5.0, "mrc_accuracy": 100.0, "accuracy": 50.0}  # fmt: skip
    assert reduce(one, other) == pytest.approx(expected)
    assert reduce({key: one[key] + other[key] for key in one}) == pytest.approx(expected)
    with metrics.aggregate(new_root=True) as meters:  # and over updates
        VTLMCriterion.reduce_metrics([one])
        VTLMCriterion.reduce_metrics([other])
    assert meters.get_smoothed_values() == pytest.approx(expected)


@pytest.mark.parametrize(
    "log",
    [log_of(), {}, log_of(mlm_count=1, mlm_loss_sum=1.0), log_of(mrc_count=1),
     {key: torch.tensor(2.0, dtype=torch.float64) for key in log_of()}],
)  # fmt: skip
def test_every_metric_is_logged_as_a_plain_float_whatever_the_counts(log):
    """PITFALLS 13 and 15."""
    found = reduce(log, log)
    assert set(found) == NAMES
    assert {name: type(value) for name, value in found.items()} == dict.fromkeys(NAMES, float)
    if not log.get("mlm_count", 0):
        assert found["mlm_ppl"] == 1 and found["mlm_loss"] == found["mlm_accuracy"] == 0
    # 2 to the power of a loss above 1024 bits does not fit a float; fairseq's perplexities are infinite then
    found = reduce(log_of(mlm_loss_sum=2000 * math.log(2), mlm_weighted_sum=2000 * math.log(2), mlm_count=1))
    assert found["mlm_loss"] == pytest.approx(2000) and found["mlm_ppl"] == float("inf")


def test_regions_of_one_class_are_left_out_of_accuracy():
    """They are always right: one word of two and no region, where three regions would make it 80 %."""
    sample, words, regions = by_hand()
    sample["region_target"] = sample["region_target"].clamp(max=0)
    log = criterion_of()(lambda **_: (words, regions[:, :1]), sample)[2]
    found = reduce(log, log)
    assert found["mrc_accuracy"] == 100 and found["mlm_accuracy"] == found["accuracy"] == 50


# ---- gradients


def batch_of(regions, *, words_select=0.0, regions_select=0.0, count=3):
    """A real batch in which all words or none, all regions or none are predicted."""
    dataset = lm_dataset(
        sentences(count),
        sentences(count, seed=1),
        regions=regions,
        rates=MaskingRates(select=words_select, keep=0, random=0),
        region_rates=MaskingRates(select=regions_select, keep=0, random=0),
    )
    return dataset.collater([dataset[i] for i in range(count)])


@pytest.mark.parametrize("counts", [[3, 1, 2], [0, 0, 0], [0, 2, 0], None])
@pytest.mark.parametrize("words_select", [0, 1])
@pytest.mark.parametrize("regions_select", [0, 1])
def test_nothing_to_predict_is_finite_and_reaches_every_parameter(counts, words_select, regions_select):
    """PITFALLS 15: (0, k), (k, 0), (0, 0), with regions, without any, and text only."""
    batch = batch_of(counts and line_regions(counts), words_select=words_select, regions_select=regions_select)
    model = vtlm_model(region_dim=4 if counts else 0, region_classes=5 if counts else 0).train()
    loss, sample_size, log = criterion_of(2.0)(model, batch)
    assert torch.isfinite(loss) and sample_size == 1
    expected = (int(words_select) * int(batch["target"].ne(1).sum()), int(regions_select) * sum(counts or [0]))
    assert (log["mlm_count"], log.get("mrc_count", 0)) == expected
    assert (loss.item() > 0) == (sum(expected) > 0)
    (loss * 1).backward()  # fairseq scales dummy batches in place: the loss must not be a leaf
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    total = sum(float(p.grad.abs().sum()) for p in model.parameters())
    assert (total > 0) == (sum(expected) > 0)
    assert set(reduce(log)) == NAMES


def test_regions_that_are_not_selected_get_no_loss():
    """PITFALLS 17: the head sees the selected ones only, and an image without a selected region gets no gradient."""
    batch = batch_of(line_regions([3, 2, 4]), regions_select=1)
    batch["region_target"][0, 1] = batch["region_target"][1] = IGNORE
    del batch["predicted"]  # lists of what is predicted, made before
    model = vtlm_model(region_dim=4, region_classes=5)
    features = batch["net_input"]["features"].requires_grad_()
    batch["net_input"]["region_mask"] = torch.zeros_like(batch["net_input"]["region_mask"])
    seen = {}
    model.lm_head.register_forward_hook(lambda module, args, output: seen.update(words=args[0]))
    model.region_head.register_forward_hook(lambda module, args, output: seen.update(regions=args[0]))
    loss, _, log = criterion_of()(model, batch)
    loss.backward()
    width = batch["net_input"]["src_tokens"].size(1)
    states = model.encoder(**batch["net_input"])["encoder_out"][0].transpose(0, 1)[:, width:]
    selected = torch.tensor([[True, False, True, False], [False] * 4, [True] * 4])
    assert len(seen["words"]) == 0
    torch.testing.assert_close(seen["regions"], states[selected])
    assert log["mrc_count"] == 6
    assert not features.grad[1].any() and features.grad[0].any() and features.grad[2].any()


@pytest.mark.slow
def test_label_0_and_the_label_of_the_padding_index_can_be_learned():
    """PITFALLS 16."""
    regions = line_regions([4, 4, 4])
    for i, image in enumerate(regions.store.images):
        image.labels[:] = [0, 1, 0, 1]
        image.features[:] = np.eye(4)[i] * np.array([[3], [-3], [2], [-2]])
    dataset = lm_dataset(sentences(3), sentences(3), regions=regions, region_rates=ALL_KEPT,
                         rates=MaskingRates(select=0, keep=0, random=0))  # fmt: skip
    batch = dataset.collater([dataset[i] for i in range(3)])
    model = vtlm_model(region_dim=4, region_classes=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        loss, _, log = criterion_of()(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert log["mrc_count"] == 12 and log["mrc_correct"] == 12 and loss < 0.1


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A trainer without dropout whose update is exactly minus the gradient."""
    path = tmp_path_factory.mktemp("trainer")
    folder(path / "bin", {"train": 4})
    make_store(path / "r.h5", 4, dtype="float32")
    cfg = pretraining_config(
        path / "bin", "--regions", path / "r.h5", "--region-random-prob", "0", "--dropout", "0",
        "--attention-dropout", "0", "--optimizer", "sgd", "--lr", "1", "--update-freq", "2", "--mrc-weight", "0.5",
    )  # fmt: skip
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return cfg, task, model, start


def update(training, *micro_batches) -> dict:
    """The gradient that fairseq's trainer applies for an update of these micro-batches."""
    cfg, task, model, start = training
    model.load_state_dict(start)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    trainer.train_step(list(micro_batches))
    return {name: start[name] - parameter.detach() for name, parameter in model.named_parameters()}


def micro_batches(words, regions, splits):
    """Batches of a corpus with `words` words and `regions` regions in each example."""
    lines = [[4 + (3 * i + k) % 41 for k in range(n)] + [2] for i, n in enumerate(words)]
    dataset = lm_dataset(
        lines, lines, regions=line_regions(regions, feature_dim=8), rates=ALL_KEPT,
        region_rates=MaskingRates(select=1, keep=0.5, random=0),
    )  # fmt: skip
    items = [dataset[i] for i in range(len(words))]
    return [dataset.collater([items[i] for i in part]) for part in splits]


def assert_close(one, other):
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.slow
def test_two_equal_halves_are_the_whole_batch(training):
    """PITFALLS 19: --update-freq 2 with equal counts."""
    whole, first, second = micro_batches([4, 5, 5, 4], [3, 1, 2, 2], [[0, 1, 2, 3], [0, 1], [2, 3]])
    split, together = update(training, first, second), update(training, whole)
    assert_close(split, together)
    assert max(float(gradient.abs().max()) for gradient in split.values()) > 1e-2


def test_unequal_halves_give_the_mean_of_their_gradients(training):
    """PITFALLS 19: an update is the mean over its micro-batches, whatever they count."""
    whole, first, second = micro_batches([2, 9, 9, 9], [6, 1, 1, 2], [[0, 1, 2, 3], [0], [1, 2, 3]])
    split = update(training, first, second)
    apart = [update(training, half) for half in (first, second)]
    assert_close(split, {name: (apart[0][name] + apart[1][name]) / 2 for name in split})
    together = update(training, whole)
    assert max(float((split[name] - together[name]).abs().max()) for name in split) > 1e-3
    empty = {**first, "target": torch.full_like(first["target"], 1), "predicted": None,
             "region_target": torch.full_like(first["region_target"], IGNORE)}  # fmt: skip
    assert_close(update(training, first, empty), {name: gradient / 2 for name, gradient in apart[0].items()})


# ---- construction


def test_built_from_a_namespace_and_from_a_configuration(training):
    """PITFALLS 5."""
    cfg, task, *_ = training
    from_configuration = task.build_criterion(cfg.criterion)
    namespace = arguments(cfg.task.data, "--mrc-weight", "0.25")
    from_namespace = task.build_criterion(namespace)
    for criterion, weight in ((from_configuration, 0.5), (from_namespace, 0.25)):
        assert type(criterion) is VTLMCriterion
        assert (criterion.mrc_weight, criterion.padding_idx) == (weight, 1)


def test_a_field_that_the_class_has_lost_is_dropped(training):
    """PITFALLS 6, for fairseq-validate."""
    cfg, task, *_ = training
    with open_dict(cfg.criterion):
        old = cfg.criterion.copy()
        old.forgotten = 3
    assert task.build_criterion(old).mrc_weight == 0.5
