"""From the same weights, text-only translation is fairseq's own `transformer`: batches, losses, updates, beam search.

The two differ in how they are initialised, in the epsilon of LayerNorm, and in what fairseq's has not: language rows,
an output bias, a ``</s>`` before the source sentence.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import recipes  # noqa: F401  (puts the examples on the path)
import torch
from fairseq import options, tasks
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from table1_data import Data
from table1_plan import Planner
from table1_rows import SIZES

import tiny

OURS_ALONE = ("embed_positions.languages.weight", "output_projection.bias")


def stock_config(data):
    """fairseq's own task and architecture as the row `stock` has them, small, without dropout."""
    size = replace(SIZES["tiny"], width=32, ffn=64, layers=2, heads=4)
    planner = Planner(Path("nowhere"), Data(("en", "de"), "none", (), frozenset(), (), False, False, {}), size)
    _, *line = planner.training_options(planner.plan(["stock"], [1]).trainings["stock.1"])
    line = [str(data), *line, "--cpu", "--dropout", "0", "--attention-dropout", "0"]
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), line))


def copy_weights(stock, ours) -> None:
    """Give ours the weights of stock; what ours has alone becomes zero and stays so."""
    theirs = dict(stock.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if name.endswith(OURS_ALONE):
                parameter.zero_().requires_grad_(False)
            elif name.endswith("embed_positions.positions.weight"):
                table = theirs.pop(name.replace("positions.positions", "positions"))
                parameter.copy_(table[2 : 2 + len(parameter)])  # fairseq's begin behind the padding index, 1
            else:
                parameter.copy_(theirs.pop(name))
    assert not theirs


def text_only(sample: dict) -> dict:
    """A batch of ours for a model of fairseq's."""
    inputs = {key: sample["net_input"][key] for key in ("src_tokens", "src_lengths", "prev_output_tokens")}
    return {**sample, "net_input": inputs}


def batches(task, split: str, **order) -> list[dict]:
    """One epoch of a split, in the order of fairseq with seed 1."""
    task.load_dataset(split)
    epochs = task.get_batch_iterator(task.dataset(split), max_sentences=8, required_batch_size_multiple=1, seed=1)
    return list(epochs.next_epoch_itr(**order))


def train(task, model, samples: list[dict]) -> list[float]:
    """Loss of each update."""
    criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    model.train()
    for sample in samples:
        optimizer.zero_grad()
        loss, size, _ = criterion(model, sample)
        (loss / size).backward()
        optimizer.step()
        losses.append(loss.item() / size)
    return losses


def translate(task, model, samples: list[dict]) -> list[tuple[list[int], float]]:
    """Tokens and score of the best hypothesis of each sentence."""
    generator = task.build_generator([model.eval()], SimpleNamespace(beam=8, max_len_b=12))
    found = [best[0] for sample in samples for best in task.inference_step(generator, [model], sample)]
    return [(best["tokens"].tolist(), best["score"].item()) for best in found]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Tasks and models, fairseq's and ours, with the same weights."""
    data = tmp_path_factory.mktemp("parity") / "data"
    tiny.folder(data, {"train": 60, "valid": 20})
    config = stock_config(data)
    theirs = tasks.setup_task(config.task)
    torch.manual_seed(1)
    stock = theirs.build_model(config.model)
    config = tiny.translation_config(
        data, *("--source-lang", "en", "--target-lang", "de", "--regions", "none", "--layernorm-eps", "1e-5"),
        *("--dropout", "0", "--attention-dropout", "0"),
    )  # fmt: skip
    task = tasks.setup_task(config.task)
    ours = task.build_model(config.model)
    copy_weights(stock, ours)
    return (theirs, stock), (task, ours)


def test_batches_are_fairseq_s_but_for_the_first_symbol(pair):
    """The same pairs in the same order; each source sentence begins with ``</s>``, as the paper's code has it."""
    theirs, ours = (batches(task, "train") for task, _ in pair)
    assert [sample["id"].tolist() for sample in ours] == [sample["id"].tolist() for sample in theirs]
    for their, our in zip(theirs, ours, strict=True):
        assert torch.equal(our["target"], their["target"])
        for theirs_row, ours_row in zip(their["net_input"]["src_tokens"], our["net_input"]["src_tokens"], strict=True):
            assert ours_row[ours_row != 1].tolist() == [2, *theirs_row[theirs_row != 1].tolist()]


def test_training_and_decoding_are_fairseq_s(pair):
    """Given our batches: every loss of 32 updates to 1e-4, then the same beam-8 hypotheses of 20 sentences."""
    (theirs, stock), (task, ours) = pair
    samples = batches(task, "train") * 4
    losses, expected = train(task, ours, samples), train(theirs, stock, [text_only(sample) for sample in samples])
    assert len(losses) == 32 and losses[-1] < 0.9 * losses[0]
    assert losses == pytest.approx(expected, rel=1e-4)
    samples = batches(task, "valid", shuffle=False)
    said, expected = translate(task, ours, samples), translate(theirs, stock, [text_only(sample) for sample in samples])
    assert len(said) == 20
    assert [tokens for tokens, _ in said] == [tokens for tokens, _ in expected]
    assert [score for _, score in said] == pytest.approx([score for _, score in expected], abs=1e-3)
