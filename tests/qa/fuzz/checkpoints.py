"""Fuzz fairseq checkpoints: cut off, flipped bits in the pickle, foreign classes, names of what evaluates.

Nothing in them may run, and no name that is not harmless may pass.
"""

import io
import pickle
import random
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import torch
from fuzzing import Case
from hostile import hostile_pickle, never_executed
from mutations import damage

from vtlm_fairseq.checkpoint_guard import check_parts
from vtlm_fairseq.checkpoints import load_checkpoint, model_config, read_model_config


def setup(folder: Path) -> Case:
    """A small checkpoint in both of torch's formats."""
    mark = folder / "executed"
    path = folder / "case.pt"
    bases = [_save(checkpoint()), _save(checkpoint(), _use_new_zipfile_serialization=False)]

    def case(rng: random.Random) -> None:
        kind = rng.random()
        if kind < 0.25:
            data = rng.choice(bases)
            data = data[: rng.randrange(len(data))]
        elif kind < 0.45:
            data = damage(rng, rng.choice(bases), most=3)
        elif kind < 0.75:
            data = with_pickle(bases[0], damage(rng, pickle_of(bases[0]), most=3))
        elif kind < 0.85:
            data = with_pickle(bases[0], hostile_pickle(rng, mark))
        elif kind < 0.9:
            data = _save(spelled(rng, mark))
        elif kind < 0.95:
            data = rng.choice((hostile_pickle(rng, mark), pickle.dumps(plain(rng)), b"", b"PK\3\4", b"\x80\x02."))
        else:
            data = _save(plain(rng))
        path.write_bytes(data)
        with never_executed(mark):
            state = load_checkpoint(str(path), mmap=rng.random() < 0.5)
            assert isinstance(state, dict) and isinstance(model_config(state), dict), "no dictionary"
            kinds = {(type(name), isinstance(value, torch.Tensor)) for name, value in state["model"].items()}
            assert kinds <= {(str, True)}, "no model"
            read_model_config(str(path))
            check_parts(state, str(path))
            harmless(state)

    return case


def checkpoint() -> dict:
    """What fairseq writes, in small."""
    parameters = OrderedDict((f"encoder.layers.{i}.weight", torch.arange(6.0).view(2, 3)) for i in range(3))
    return {
        "args": None,
        "cfg": {
            "_name": None,
            "task": {"_name": "visual_translation_lm", "data": "data-bin"},
            "model": {"_name": "vtlm_tiny", "langs": "de,en", "region_dim": 12, "dropout": 0.1},
        },
        "model": parameters,
        "criterion": None,
        "optimizer_history": [{"criterion_name": "VTLMCriterion", "num_updates": 12, "lr_scheduler_state": {}}],
        "task_state": {"symbols": ["<s>", "<pad>", "</s>", "<unk>", "w"]},
        "extra_state": {"train_iterator": {"epoch": 2}, "best": 1.5},
        "last_optimizer_state": {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    }


def plain(rng: random.Random):
    """Something that is no checkpoint, without foreign classes."""
    state = checkpoint()
    key = rng.choice(list(state))
    other = (None, 3, "x", [], {}, {"model": None}, {"model": 3}, {3: torch.zeros(1)}, {"a": 3}, torch.zeros(2), [1, 2])
    state[key] = rng.choice(other)
    return rng.choice((state, state, state, [], 3, {"model": {}}, torch.zeros(3), {}))


PARTS = ("task", "model", "criterion", "optimizer", "lr_scheduler", "tokenizer", "bpe", "scoring")
KEYS = ("_name", "arch", *PARTS)
HARMLESS = {
    "visual_translation_lm", "multimodal_translation", "vtlm_tiny", "multimodal_transformer", "vtlm", "cross_entropy",
    "adam", "fixed", "space", "sentencepiece", "bleu",
}  # fmt: skip
HARMFUL = {
    "task": {"translation", "audio_pretraining"}, "model": {"fconv", "wav2vec", "transformer_lm"},
    "criterion": {"ctc", "sentence_ranking", "composite_loss", "wav2vec"}, "optimizer": {"composite"},
    "lr_scheduler": set(), "tokenizer": set(), "bpe": {"gpt2", "bert"}, "scoring": {"bert_score"},
}  # fmt: skip
NAMES = (*sorted(HARMLESS), *sorted(set().union(*HARMFUL.values())), None, 3, "none such")


def spelled(rng: random.Random, mark: Path) -> dict:
    """A checkpoint whose configuration names parts in any place and form, with code for their options."""
    state = checkpoint()
    code = f"open({str(mark)!r}, 'w')"
    for _ in range(rng.randint(1, 3)):
        part = rng.choice(PARTS)
        options = {"encoder_layers": code, "wer_args": code, "adam_betas": rng.choice((code, "(0.9, 0.98)", [0.9, 1]))}
        options |= {rng.choice(KEYS): rng.choice(NAMES) for _ in range(rng.randint(1, 3))}
        if rng.random() < 0.2:
            options[rng.choice(("data", "m"))] = rng.choice(("${oc.env:HOME}", "${task}", "http://h/x", options))
        forms = (dict, OrderedDict, lambda each: Namespace(**each), lambda each: [each], lambda each: rng.choice(NAMES))
        value = rng.choice(forms)(options)
        state["cfg"][part] = {rng.choice(NAMES): value} if rng.random() < 0.1 else value
    if rng.random() < 0.1:
        state["args"] = rng.choice((Namespace(**options), options, "x"))
    return state


def harmless(state: dict) -> None:
    """Demand that what has passed names only what is known, by the names alone and not by the code under test."""
    assert state.get("args") is None, "old options have passed"
    for part in PARTS:
        value = state["cfg"].get(part)
        value = vars(value) if isinstance(value, Namespace) else value
        options = value if isinstance(value, dict) else {"_name": value}
        for key in ("_name", part, *(("arch",) if part == "model" else ())):
            assert str(options.get(key)) not in HARMFUL[part], f"{part} {options[key]!r} has passed"
        if not isinstance(value, str):
            assert "${" not in str(value), "an interpolation has passed"
            assert "open(" not in str(options.get("adam_betas")), "code has passed"


def _save(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def pickle_of(data: bytes) -> bytes:
    """The pickle in a zip of torch's."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def with_pickle(data: bytes, new: bytes) -> bytes:
    """The same zip with another pickle, and checksums that fit."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as archive:
        for name in old.namelist():
            archive.writestr(name, new if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()
