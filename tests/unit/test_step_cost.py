"""What an update asks of a device: waits of the host for it, operations, graphs of the compiler."""

import traceback
from collections import Counter

import pytest
import torch
from fairseq import tasks
from fairseq.logging import metrics
from fairseq.trainer import Trainer
from torch.utils._python_dispatch import TorchDispatchMode

from stores import make_store
from tiny import folder, pretraining_config, translation_config

WAITS = {"nonzero", "_local_scalar_dense", "masked_select", "equal", "unique", "_unique2"}
INDEXING = {"index", "index_put", "_index_put_impl", "index_put_"}
VIEWS = {
    "view", "_unsafe_view", "transpose", "t", "permute", "expand", "unsqueeze", "squeeze", "detach", "slice", "select",
    "unbind", "split", "split_with_sizes", "alias", "as_strided", "_reshape_alias", "lift_fresh",
}  # fmt: skip


class Count(TorchDispatchMode):
    """Operations by name, and those for whose result the host would wait for a GPU, with the module that asks."""

    def __init__(self):
        super().__init__()
        self.operations, self.waits = Counter(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.operations[name] += name not in VIEWS
        by_mask = name in INDEXING and any(one is not None and one.dtype == torch.bool for one in args[1])
        if name in WAITS or by_mask:
            files = [frame.filename for frame in traceback.extract_stack()]
            self.waits.append(next(file for file in reversed(files) if "/torch/" not in file and file != __file__))
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost")
    folder(path / "bin", {"train": 8})
    make_store(path / "r.h5", 4, dtype="float32")
    return path


def training(data, kind, *argv, regions=True):
    """A trainer, and its batches of four pairs."""
    config = pretraining_config if kind == "pretraining" else translation_config
    cfg = config(
        data / "bin", "--regions", data / "r.h5" if regions else "none", "--dropout", "0", "--attention-dropout", "0",
        "--optimizer", "fused_adam", "--lr", "1e-3", "--clip-norm", "1", *argv,
    )  # fmt: skip
    metrics.reset()  # of an earlier trainer of another task
    torch.manual_seed(1)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    trainer = Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
    task.begin_epoch(1, model)
    task.load_dataset("train")
    dataset = task.dataset("train")
    return trainer, [dataset.collater([dataset[i] for i in rows]) for rows in (range(4), range(4, 8))]


def cost(trainer, batches) -> Count:
    with metrics.aggregate(new_root=True):
        trainer.train_step(batches)  # the optimizer makes its state
        with Count() as count:
            trainer.train_step(batches)
    return count


@pytest.mark.parametrize("kind", ["pretraining", "translation"])
@pytest.mark.parametrize("options", [[], ["--autocast", "bf16"], ["--region-order", "none"]])
def test_our_code_waits_for_nothing(data, kind, options):
    """fairseq's trainer looks twice at the norm of the gradients; for any number of batches."""
    trainer, batches = training(data, kind, *options, "--update-freq", "2")
    for count in (cost(trainer, batches[:1]), cost(trainer, batches)):
        assert [file for file in count.waits if "vtlm_fairseq" in file] == []
        assert len(count.waits) <= 4
    text_only, batches = training(data, kind, regions=False)
    assert len(cost(text_only, batches[:1]).waits) <= 4


def test_operations_of_an_update(data):
    """At the paper's depth; dropout is two operations more at each of 13 places, in attention none, on a GPU."""
    trainer, batches = training(data, "pretraining", "--encoder-layers", "6")
    count = cost(trainer, batches[:1])
    assert count.operations.total() + 2 * 26 <= 400
    assert count.operations["_foreach_norm"] == 1  # of all gradients at once


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "translation"])
def test_the_model_is_one_graph(data, kind):
    trainer, (batch, _) = training(data, kind, "--dropout", "0.1", "--attention-dropout", "0.1")
    places = {"places": batch["predicted"]["places"]} if kind == "pretraining" else {}
    torch._dynamo.reset()
    found = torch._dynamo.explain(trainer.model)(**batch["net_input"], **places)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
def test_compiled_is_the_same_training(data):
    """Losses of updates of other lengths, the names of parameters, and one graph for all."""
    runs = []
    for options in ([], ["--compile"]):
        trainer, batches = training(data, "pretraining", "--encoder-layers", "1", *options)
        with metrics.aggregate(new_root=True):
            runs.append(
                ([trainer.train_step([batch])["loss"] for batch in 3 * batches], list(trainer.model.state_dict()))
            )
    (plain, names), (compiled, same_names) = runs
    assert compiled == pytest.approx(plain, abs=1e-4) and names == same_names
    assert len({round(loss, 3) for loss in plain}) == 6
