"""Checkpoints made to run something: the real commands end with one line, and what the file wanted did not happen."""

import copy
import os
import shutil
from argparse import Namespace

import pytest
import torch

from harness import USER_DIR
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.hub import MultimodalTransformer
from vtlm_fairseq.models import multimodal_transformer

TASK = "multimodal_translation"


@pytest.fixture(scope="module")
def clean(run, corpus, tmp_path_factory):
    """What a text-only model's checkpoint holds, and the data that it was trained on."""
    folder = tmp_path_factory.mktemp("clean")
    run.train(corpus.data, folder, "--max-update", "1", "--disable-validation")
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


def fconv(code: str) -> dict:
    """The configuration of fairseq's ``fconv``, which evaluates strings of it."""
    layers = dict.fromkeys(("encoder_layers", "decoder_layers", "decoder_attention"), code)
    sizes = dict.fromkeys(("encoder_embed_dim", "decoder_embed_dim", "decoder_out_embed_dim"), 8)
    return {"arch": "fconv", "encoder_embed_path": None, "decoder_embed_path": None, "dropout": 0.0,
            "share_input_output_embed": False, **sizes, **layers}  # fmt: skip


def stock_task(data) -> dict:
    """Options of fairseq's own ``translation``, which builds any model."""
    return {"data": str(data), "source_lang": "en", "target_lang": "de"}


def ctc(code: str) -> dict:
    """Options of fairseq's criterion ``ctc``, which evaluates one of them."""
    return {"zero_infinity": True, "sentence_avg": True, "post_process": "letter", "wer_kenlm_model": None,
            "wer_lexicon": None, "wer_args": code}  # fmt: skip


def spellings(code: str, mark: str, data) -> dict[str, dict]:
    """Changes of the parts of a checkpoint, by what they try."""
    named = {"_name": "fconv", **fconv(code)}
    stock = {"_name": "translation", **stock_task(data)}
    old = {**fconv(code), **stock_task(data), "task": "translation", "criterion": "ctc", **ctc(code)}
    return {
        "task and model of fairseq": {"task": stock, "model": named},
        "task as a Namespace": {"task": Namespace(task="translation", **stock_task(data)), "model": named},
        "task under another key": {"task": {**stock, "_name": TASK, "task": "translation"}, "model": named},
        "model by name": {"model": named},
        "model by arch": {"model": {**named, "_name": None}},
        "model of ours and another's arch": {"model": {**named, "_name": "multimodal_transformer_tiny"}},
        "model as a folder": {"model": {"fconv": fconv(code)}},
        "model as a Namespace": {"model": Namespace(**named)},
        "criterion by name": {"criterion": {"_name": "ctc", **ctc(code)}},
        "criterion as a word": {"criterion": "ctc"},
        "criterion as a Namespace": {"criterion": Namespace(criterion="ctc", **ctc(code))},
        "criterion with two names": {"criterion": Namespace(_name="cross_entropy", criterion="ctc", **ctc(code))},
        "criterion that opens a file": {"criterion": Namespace(criterion="sentence_ranking", save_predictions=mark)},
        "old options": {"args": Namespace(**old)},
        "optimizer that evaluates": {"optimizer": {"_name": "adam", "adam_betas": code}},
        "tokenizer that is not known": {"bpe": {"_name": "gpt2", "gpt2_encoder_json": mark}},
        "an interpolation": {"common_eval": {"results_path": "${oc.env:HOME}"}},
    }  # fmt: skip


@pytest.fixture
def mark(tmp_path):
    """What the code in a checkpoint would make."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


@pytest.fixture
def attacks(corpus, mark) -> dict[str, dict]:
    """The changes of `spellings` that would make ``mark``."""
    return spellings(f"__import__('os').mkdir({str(mark)!r})", str(mark), corpus.data)


def hostile(clean: dict, changes: dict, path) -> str:
    """The clean checkpoint with changes, as a file."""
    state = copy.copy(clean)
    state["cfg"] = {**clean["cfg"], **{name: value for name, value in changes.items() if name != "args"}}
    if "args" in changes:
        state |= {"args": changes["args"], "cfg": None}
    torch.save(state, path)
    return str(path)


def test_no_spelling_runs_anything(run, corpus, clean, attacks, mark, tmp_path):
    """Every part of the configuration, in every form that fairseq reads, given to every command that loads it."""
    commands, names = [], []
    for number, (what, changes) in enumerate(attacks.items()):
        path = hostile(clean, changes, tmp_path / f"{number}.pt")
        named = ("--user-dir", USER_DIR, "--task", TASK, "--path", path, "--cpu", "--batch-size", "8")
        commands.append(("fairseq_cli.validate", (corpus.data, *named)))
        commands.append(("fairseq_cli.generate", (corpus.data, *named)))
        commands.append(("vtlm_fairseq.cli.translate", ("--path", path, "--data", corpus.data, "--cpu")))
        names += [(what, kind) for kind in ("validate", "generate", "translate")]
    for name, result in zip(names, run.together(commands, ok=None), strict=True):
        assert not mark.exists(), f"executed by one of {names}"
        assert result.status != 0, name
        assert str(tmp_path) in result.fault(), name


def test_training_does_not_go_on_from_a_hostile_checkpoint(run, corpus, clean, attacks, tmp_path):
    """Resuming, fine-tuning and continuing read the file as fairseq does, before anything is compared."""
    path = hostile(clean, attacks["old options"], tmp_path / "old.pt")
    for option in ("--restore-file", "--finetune-from-model", "--continue-once"):
        done = run.train(corpus.data, tmp_path / "out", option, path, ok=False)
        done.fault("old.pt")


def test_shards_beside_a_checkpoint(run, corpus, clean, attacks, tmp_path):
    """fairseq reads NAME-shard0.pt in place of NAME.pt wherever it lies there."""
    path = hostile(clean, {}, tmp_path / "model.pt")
    for changes in (attacks["task and model of fairseq"], {}):  # the second is clean, but not the file that was named
        hostile(clean, changes, tmp_path / "model-shard0.pt")
        run.validate(corpus.data, path, task=TASK, ok=False).fault("model-shard0.pt")
        run.generate(corpus.data, path, ok=False).fault("model-shard0.pt")
    asked = ("--checkpoint-suffix=-shard0", "--beam", "2")
    assert len(run.generate(corpus.data, path, *asked).ids()) == 13
    hostile(clean, attacks["task and model of fairseq"], tmp_path / "model-shard0.pt")
    run.generate(corpus.data, path, *asked, ok=False).fault("model-shard0.pt")
    run.translate(path, "--data", corpus.data, "--preprocessed", stdin="a b\n", ok=False).fault("model-shard0.pt")


def test_fairseqs_own_hub(corpus, clean, attacks, tmp_path):
    """``from_pretrained`` of the registered models, which fairseq defines, checks the file too."""
    for name in ("dict.en.txt", "dict.de.txt"):
        shutil.copy(corpus.data / name, tmp_path)
    hostile(clean, attacks["task and model of fairseq"], tmp_path / "bad.pt")
    hostile(clean, {"bpe": {"_name": "sentencepiece", "sentencepiece_model": "http://h/m"}}, tmp_path / "far.pt")
    hostile(clean, {}, tmp_path / "good.pt")
    load = multimodal_transformer.MultimodalTransformer.from_pretrained
    for name in ("bad.pt", "far.pt"):
        with pytest.raises(VTLMError, match=name):
            load(str(tmp_path), name, source_lang="en", target_lang="de")
    assert load(str(tmp_path), "good.pt", source_lang="en", target_lang="de").translate("a b", beam=1) is not None


def test_what_a_checkpoint_names_is_neither_imported_nor_written(run, corpus, clean, mark, tmp_path):
    """A user-dir, folders to write, files to read: those of the command line count, the file's are not touched."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "__init__.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # who opens it waits
    task = {**clean["cfg"]["task"], "save_dir": str(mark), "path": str(fifo), "regions": "none",
            "restore_file": str(fifo), "finetune_from_model": str(fifo)}  # fmt: skip
    changes = {
        "common": {**clean["cfg"]["common"], "user_dir": str(tmp_path / "plugin"), "tensorboard_logdir": str(mark),
                   "wandb_project": "p", "log_file": str(mark)},
        "checkpoint": {**clean["cfg"]["checkpoint"], "save_dir": str(mark), "restore_file": str(fifo)},
        "common_eval": {**clean["cfg"]["common_eval"], "results_path": str(mark)},
        "model": {**clean["cfg"]["model"], "pretrained": str(fifo)},
        "task": task,
    }  # fmt: skip
    path = hostile(clean, changes, tmp_path / "x.pt")
    run.validate(corpus.data, path, task=TASK)
    run.generate(corpus.data, path, "--beam", "1")
    run.translate(path, "--data", corpus.data, "--preprocessed", stdin="a b\n")
    run.train(corpus.data, tmp_path / "tuned", "--finetune-from-model", path, "--max-update", "1")


def test_data_that_a_shell_would_read(run, corpus, clean, tmp_path):
    """fairseq hands the name of a FASTA file to a shell; checkpoint and data folder could agree on one that runs."""
    lang = "x;>executed;y"
    data = tmp_path / "bin"
    data.mkdir()
    for file in corpus.data.iterdir():
        name = file.name.replace(".en-de.", f".{lang}-de.").replace(".en.", f".{lang}.")
        shutil.copy(file, data / name)
    for side in (lang, "de"):
        (data / f"test.{lang}-de.{side}.fasta").write_text(">a\nb\n")
    model = {**clean["cfg"]["model"], "langs": f"de,{lang}", "source_lang": lang}
    task = {**clean["cfg"]["task"], "dataset_impl": "fasta", "source_lang": lang, "target_lang": "de"}
    path = hostile(clean, {"model": model, "task": task}, tmp_path / "x.pt")
    done = run.validate(data, path, "--valid-subset", "test", task=TASK, cwd=tmp_path, ok=False)
    assert not (tmp_path / "executed").exists()
    done.fault("--dataset-impl fasta is for proteins; prepare the text with")


def test_a_checkpoint_of_a_users_own_parts_still_loads(run, corpus, clean, tmp_path):
    """A criterion that a user-dir registers is known where it is given, and does not matter where nothing builds it."""
    plugin = tmp_path / "mine"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(
        f"import sys\nsys.path.insert(0, {os.path.dirname(USER_DIR)!r})\n"
        "import vtlm_fairseq\n"
        "from fairseq.criterions import register_criterion\n"
        "from fairseq.criterions.label_smoothed_cross_entropy import *\n"
        "@register_criterion('mine', dataclass=LabelSmoothedCrossEntropyCriterionConfig)\n"
        "class Mine(LabelSmoothedCrossEntropyCriterion):\n    pass\n"
    )
    path = hostile(clean, {"criterion": {**clean["cfg"]["criterion"], "_name": "mine"}}, tmp_path / "x.pt")
    checked = run("fairseq_cli.validate", corpus.data, "--user-dir", plugin, "--task", TASK, "--path", path, "--cpu",
                  "--batch-size", "8")  # fmt: skip
    assert "valid" in checked.output
    run.validate(corpus.data, path, task=TASK, ok=False).fault("criterion 'mine'")
    run.translate(path, "--data", corpus.data, "--preprocessed", stdin="a b\n")
    run.generate(corpus.data, path, "--beam", "1")


def test_the_object_that_was_checked_is_the_one_that_is_built(corpus, clean, attacks, tmp_path, monkeypatch):
    """A file that is exchanged behind the reading changes nothing: it is read once; read again, it is refused."""
    path = hostile(clean, {}, tmp_path / "x.pt")
    other = hostile(clean, attacks["task and model of fairseq"], tmp_path / "other.pt")
    load = torch.load

    def exchange(file, *args, **kwargs):
        state = load(file, *args, **kwargs)
        os.replace(shutil.copy(other, tmp_path / "copy.pt"), path)
        return state

    options = {"data": str(corpus.data), "preprocessed": True, "cpu": True}
    expected = MultimodalTransformer([path], **options).translate(["a b"])
    monkeypatch.setattr(torch, "load", exchange)
    assert MultimodalTransformer([path], **options).translate(["a b"]) == expected
    with pytest.raises(VTLMError, match="is not one of this package"):
        MultimodalTransformer([path], **options)
