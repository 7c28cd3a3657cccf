"""Text files and checkpoints made to mislead: one line each, and nothing in them runs."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch
from omegaconf import OmegaConf

from stores import Call, ends_with, fault
from tiny import folder as data_folder
from tiny import translation_task
from vtlm_fairseq.checkpoint_guard import check_stock
from vtlm_fairseq.checkpoints import load_checkpoint, read_model_config
from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses
from vtlm_fairseq.loading import load_models
from vtlm_fairseq.tasks.captions import CaptionsTask
from vtlm_fairseq.text.pipeline import load_bpe

# ---- text


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"cat 3\ndog\n", "Incorrect dictionary format"), (b"cat x\n", "Incorrect dictionary format"),
     (b"cat 3\ncat 2\n", "Duplicate word"), (b"<pad> 3\n", "Duplicate word"), (b"\xff\xfe 3\n", "encoding"),
     (b"cat " + b"9" * 5000 + b"\n", "Incorrect dictionary format")],
)  # fmt: skip
def test_dictionaries_that_fairseq_cannot_read(tmp_path, content, expected):
    path = tmp_path / "dict.en.txt"
    path.write_bytes(content)
    message = ends_with(CaptionsTask.load_dictionary, str(path))
    assert expected in message and str(path) in message and "prepare the data again" in message


@pytest.mark.parametrize("version", [": x", ":\0\0", ": 0.2\na b\n ", ": 0.7"])
def test_codes_that_subword_nmt_cannot_read(tmp_path, version):
    """It ends the program for some of them."""
    (tmp_path / "codes").write_text(f"#version{version}\na b\n")
    assert "--bpe-model" in fault(load_bpe, tmp_path / "codes")


def test_the_output_of_generation_does_not_ask_for_memory(tmp_path):
    """One line with a great id used to make a set of all numbers below it."""
    path = tmp_path / "out.txt"
    path.write_text("H-0\t-1.0\ta\nH-99999999999\t-1.0\tb\n")
    assert "2 hypotheses for 100000000000 sentences; missing: [1, 2, 3, 4, 5, ...]" in fault(read_hypotheses, path)
    assert read_hypotheses(path, allow_missing=True).ids == [0, 99999999999]
    path.write_text(f"H-0\t-1.0\ta\nH-{'9' * 5000}\t-1.0\tb\n")  # no number that Python would read: noise
    assert read_hypotheses(path).texts == ["a"]
    path.write_text("H-0\tnan\ta\n")
    assert "'nan'" in fault(read_hypotheses, path)


# ---- checkpoints


def checkpoint(**changes) -> dict:
    """A checkpoint of this package's, in small."""
    state = {
        "args": None,
        "cfg": {"task": {"_name": "visual_translation_lm"}, "model": {"_name": "vtlm_tiny", "langs": "de,en"}},
        "model": OrderedDict(weight=torch.zeros(2, 3)),
    }
    return {**state, **changes}


def saved(path, state) -> str:
    torch.save(state, path)
    return str(path)


def test_foreign_classes_are_refused_and_nothing_runs(tmp_path):
    mark = tmp_path / "executed"
    calls = [Call(os.mkdir, str(mark)), Call(os.system, f"touch {mark}"), Call(eval, f"open({str(mark)!r}, 'w')")]
    for call in calls:
        for state in (call, checkpoint(extra_state=call), checkpoint(model={"weight": call})):
            for new in (True, False):
                torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=new)
                message = fault(load_checkpoint, str(tmp_path / "x.pt"))
                assert "x.pt: " in message
        (tmp_path / "x.pt").write_bytes(pickle.dumps(call))
        assert "x.pt" in fault(load_checkpoint, str(tmp_path / "x.pt"))
    assert not mark.exists()


@pytest.mark.parametrize("mmap", [True, False])
def test_a_text_in_place_of_a_checkpoint(tmp_path, mmap):
    """No advice of PyTorch's to read it without its checks."""
    for text in ("hello world\n", "{}\n", ""):
        (tmp_path / "x.txt").write_text(text)
        message = fault(load_checkpoint, str(tmp_path / "x.txt"), mmap=mmap)
        assert "x.txt: " in message and "torch.load" not in message and "Error" not in message


def test_every_cut_of_a_checkpoint_is_one_line(tmp_path):
    """Both of torch's formats, read whole and by mapping."""
    for new in (True, False):
        torch.save(checkpoint(), tmp_path / "x.pt", _use_new_zipfile_serialization=new)
        data = (tmp_path / "x.pt").read_bytes()
        for size in range(0, len(data) - 1, 37):
            (tmp_path / "x.pt").write_bytes(data[:size])
            for mmap in (True, False):
                assert "x.pt" in fault(load_checkpoint, str(tmp_path / "x.pt"), mmap=mmap)


@pytest.mark.parametrize(
    "state",
    [[], 3, {}, checkpoint(model=None), checkpoint(model={"weight": 3}), checkpoint(model={3: torch.zeros(1)}),
     checkpoint(cfg=[1]), checkpoint(cfg={"model": 3})],
)  # fmt: skip
def test_what_is_no_checkpoint(tmp_path, state):
    assert "x.pt" in fault(load_checkpoint, saved(tmp_path / "x.pt", state))


def test_models_and_criteria_that_evaluate_their_configuration_are_not_built(tmp_path):
    """Where fairseq-generate and fairseq-validate hand over what a checkpoint holds."""
    mark = tmp_path / "executed"
    code = f"__import__('os').mkdir({str(mark)!r})"
    task = translation_task(data_folder(tmp_path / "bin", {"train": 2}).path)
    model = {"_name": "fconv", "arch": "fconv", "langs": "de,en", "encoder_layers": code}
    assert "'fconv'" in ends_with(task.build_model, OmegaConf.create(model), from_checkpoint=True)
    assert "--criterion ctc" in ends_with(task.build_criterion, OmegaConf.create({"_name": "ctc", "wer_args": code}))
    assert not mark.exists()


DEEP: dict = {}
for _ in range(30):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"common": {"a": "${oc.env:HOME}"}}, "a: '${oc.env:HOME}'"),
        ({"optimizer": {"adam_betas": "f()"}}, "adam_betas"),
        ({"common": DEEP}, "nested"),
        ({"common": {1.5: 3}}, "float"),
        ({"common": {"a": torch.zeros(1)}}, "Tensor (a)"),
        ({"task": {"_name": "mine"}}, "task 'mine'"),
        ({"task": {"_name": "translation"}}, "task 'translation'"),
        ({"task": 3}, "task"),
        ({"model": {"_name": "mine"}}, "model 'mine'"),
        ({"model": {"fconv": {}}}, "model"),
        ({"bpe": {"_name": "bytes", "m": "http://h"}}, "m from 'http://h'"),
    ],
)
def test_configurations_that_are_refused(tmp_path, changes, named):
    """Whatever is not plain values, has other names than this package's, or would be fetched."""
    path = saved(tmp_path / "x.pt", checkpoint(cfg={**checkpoint()["cfg"], **changes}))
    message = fault(read_model_config, path)
    assert message.startswith(path) and named in message
    assert read_model_config(saved(tmp_path / "x.pt", checkpoint()))["langs"] == "de,en"
    old = saved(tmp_path / "old.pt", checkpoint(args={"arch": "fconv"}))  # which fairseq would use in its place
    assert "(args)" in fault(read_model_config, old)


@pytest.mark.parametrize(
    ("state", "named"),
    [({"args": []}, "list"), ({"cfg": {"task": {"_name": "ctc"}}}, "'ctc'"),
     ({"cfg": {"model": {"_name": "fconv"}}}, "'fconv'")],
)  # fmt: skip
def test_translators_of_fairseqs_own(state, named):
    """Of captions: a Transformer of its task of translation, nothing else."""
    assert named in fault(check_stock, state, "x.pt")


def test_a_model_that_cannot_be_built(tmp_path):
    model = {"_name": "vtlm", "langs": "de,en", "encoder_layers": 1 << 40, "source_lang": "en", "target_lang": "de"}
    path = saved(tmp_path / "x.pt", checkpoint(cfg={"model": model, "task": None}))
    assert fault(load_models, [path], {}).startswith(path)
