"""What an update asks of a device: waits of the host for it, operations, graphs of the compiler."""

import traceback
from argparse import Namespace
from collections import Counter

import pytest
import torch
from fairseq import tasks
from fairseq.logging import metrics
from fairseq.optim.adam import FairseqAdam
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

from stores import make_store
from tiny import folder, pretraining_config, pretraining_task, translation_config, translation_task
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.optim.fused_adam import FusedAdam
from vtlm_fairseq.tasks.readings import Readings, as_numbers

WAITS = {"nonzero", "_local_scalar_dense", "masked_select", "equal", "unique", "_unique2"}
INDEXING = {"index", "index_put", "_index_put_impl", "index_put_"}
OBJECTIVES = ["--region-objectives", "mrc,mrfr,itm", "--regions-on-device"]
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "translation"])
@pytest.mark.parametrize(
    "options", [[], ["--autocast", "bf16"], ["--region-order", "none"], ["--regions-on-device"], OBJECTIVES]
)
def test_our_code_waits_for_nothing(data, kind, options):
    """fairseq's trainer looks twice at the norm of the gradients; for any number of batches."""
    if kind == "translation" and options == OBJECTIVES:
        pytest.skip("of pre-training")
    trainer, batches = training(data, kind, *options, "--update-freq", "2")
    for count in (cost(trainer, batches[:1]), cost(trainer, batches)):
        assert [file for file in count.waits if "vtlm_fairseq" in file] == []
        assert len(count.waits) <= 4
    text_only, batches = training(data, kind, regions=False)
    assert len(cost(text_only, batches[:1]).waits) <= 4


@pytest.mark.slow
def test_operations_of_an_update(data):
    """At the paper's depth; dropout is two operations more at each of 13 places, in attention none, on a GPU."""
    trainer, batches = training(data, "pretraining", "--encoder-layers", "6")
    count = cost(trainer, batches[:1])
    assert count.operations.total() + 2 * 26 <= 400
    assert count.operations["_foreach_norm"] == 1  # of all gradients at once


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "translation"])
def test_no_attention_of_a_cpu_trains_by_the_fused_kernel_in_half_precision(data, kind):
    """Its backward pass takes ten times as long as products and a softmax; in float32 it is the fastest."""
    found = []
    for options in ([], ["--autocast", "bf16"]):
        trainer, batches = training(data, kind, *options)
        found.append(cost(trainer, batches[:1]).operations["_scaled_dot_product_flash_attention_for_cpu_backward"])
    assert found[0] > 0 and found[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "translation"])
def test_lengths_of_a_batch_are_few(tmp_path, kind):
    """For graphs and kernels: multiples of 8, for regions up to the most of the split; what is real stays the same."""
    folder(tmp_path / "bin", {"train": 8}, images=8)
    make_store(tmp_path / "r.h5", 8, regions=[0, 1, 8, 9, 3, 17, 19, 2], dtype="float32")
    plain, batched = (
        pretraining_task(*argv) if kind == "pretraining" else translation_task(*argv)
        for argv in ((tmp_path / "bin", "--regions", tmp_path / "r.h5", *more)
                     for more in ((), ("--required-seq-len-multiple", "8")))
    )  # fmt: skip
    found = []
    for rows in ([0, 1], [1, 2], [2, 3], [4, 5], [6, 7]):
        batches = []
        for task in (plain, batched):
            if "train" not in task.datasets:
                task.load_dataset("train")
            dataset = task.dataset("train")
            examples = dataset.__getitems__(rows) if kind == "pretraining" else [dataset[i] for i in rows]
            batches.append(dataset.collater(examples)["net_input"])
        for one in batches:
            one["real"] = one["features"][~one["region_padding_mask"]]
        assert torch.equal(batches[0]["real"], batches[1]["real"]) and batches[1]["src_tokens"].size(1) % 8 == 0
        found.append(tuple(one["features"].size(1) for one in batches))
    assert found == [(1, 8), (8, 8), (9, 16), (17, 19), (19, 19)]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"print_alignment": "hard"}])
def test_a_beam_search_waits_only_where_fairseqs_does(data, options):
    """In the choice of what goes on, which is fairseq's."""
    trainer, (batch, _) = training(data, "translation")
    trainer.model.make_generation_fast_(need_attn=bool(options))
    generator = trainer.task.build_generator([trainer.model], Namespace(beam=4, max_len_a=0, max_len_b=6, **options))
    with Count() as count:
        found = trainer.task.inference_step(generator, [trainer.model.eval()], batch)
    assert len(found) == 4 and [file for file in count.waits if "vtlm_fairseq" in file] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretraining", "translation", "objectives"])
def test_the_model_is_one_graph(data, kind):
    objectives = OBJECTIVES[:2] if kind == "objectives" else []
    kind = "translation" if kind == "translation" else "pretraining"
    trainer, (batch, _) = training(data, kind, "--dropout", "0.1", "--attention-dropout", "0.1", *objectives)
    places = {"places": batch["predicted"]["places"]} if kind == "pretraining" else {}
    places |= {"objectives": True} if objectives else {}
    torch._dynamo.reset()
    found = torch._dynamo.explain(trainer.model)(**batch["net_input"], **places)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.slow
@pytest.mark.parametrize("objectives", [[], OBJECTIVES[:2]])
def test_compiled_is_the_same_training(data, objectives):
    """Losses of updates of other lengths, the names of parameters, and one graph for all."""
    runs = []
    for options in ([], ["--compile"]):
        trainer, batches = training(data, "pretraining", "--encoder-layers", "1", *options, *objectives)
        with metrics.aggregate(new_root=True):
            runs.append(
                ([trainer.train_step([batch])["loss"] for batch in 3 * batches], list(trainer.model.state_dict()))
            )
    (plain, names), (compiled, same_names) = runs
    assert compiled == pytest.approx(plain, abs=1e-4) and names == same_names
    assert len({round(loss, 3) for loss in plain}) == 6


def test_logs_are_read_as_they_were():
    """Counts beyond 24 bits stay whole, what is changed behind the step stays changed, other values are left alone."""
    readings, loss = Readings(), torch.tensor(1.5, dtype=torch.bfloat16)
    log = {"n": torch.tensor(2**24 + 1), "a": torch.tensor(1.0), "b": torch.tensor(2.0), "one": torch.tensor([3.0])}
    log |= {"name": "x", "none": None, "true": torch.tensor(True)}
    read, others = readings.add(loss, log), {name: log[name] for name in ("one", "name", "none", "true")}
    log["a"] = log["a"] + 7
    del log["b"]
    readings.settle()
    assert float(read) == 1.5 and log == {"n": 2**24 + 1, "a": log["a"], **others} and log["a"] == 8
    assert as_numbers([log])[0]["a"] == 8.0 and isinstance(log["a"], torch.Tensor)


@pytest.mark.slow
def test_a_users_criterion_gets_its_tensors(data):
    trainer, batches = training(data, "pretraining", "--autocast", "bf16")
    seen = []

    class Own(VTLMCriterion):
        @classmethod
        def reduce_metrics(cls, logging_outputs):
            seen.extend(logging_outputs)
            super().reduce_metrics(logging_outputs)

    trainer._criterion.__class__ = Own
    with metrics.aggregate(new_root=True):
        trainer.train_step(batches[:1])
    assert isinstance(seen[0]["mlm_loss_sum"], torch.Tensor)


def optimizer_config(name):
    values = {"_name": name, "lr": [0.1], "adam_betas": (0.9, 0.98), "adam_eps": 1.0, "weight_decay": 0.0}
    return OmegaConf.create({**values, "use_old_adam": False, "fp16_adam_stats": False, "tpu": False})


def test_clipping_is_fairseqs_and_of_one_step():
    """A step that is not taken leaves nothing behind; experts of a mixture do not count."""
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]
    for expert in (False, True):
        moved = []
        for cls in (FusedAdam, FairseqAdam):
            params = [torch.nn.Parameter(torch.zeros_like(one)) for one in gradients]
            if expert:
                params[1].expert = True
            made = cls(optimizer_config("fused_adam" if cls is FusedAdam else "adam"), params)
            for norm in (0.5, 1.0, 0):
                for parameter, gradient in zip(params, gradients, strict=True):
                    parameter.grad = gradient.clone()
                assert float(made.clip_grad_norm(norm)) == pytest.approx(5 if expert else 13)
                if norm != 0.5:  # the first is left out
                    made.step()
            moved.append(torch.cat([made.optimizer.state[parameter]["exp_avg"] for parameter in params]))
        torch.testing.assert_close(*moved)
