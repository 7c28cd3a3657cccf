"""Messages of checkpoints, conversion, tasks and inference: from where they come, and what they name."""

import importlib
import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import tasks

from messages import message, says
from originals import convert, random_original
from stores import make_store
from tiny import (
    MemoryStore,
    dictionary,
    folder,
    lm_dataset,
    pretraining_task,
    sentences,
    translation_config,
    translation_task,
)
from vtlm_fairseq import checkpoint_guard, checkpoints, loading, precision
from vtlm_fairseq.cli import convert as command
from vtlm_fairseq.cli import translate
from vtlm_fairseq.data.batching import FAULT, raise_fault
from vtlm_fairseq.data.dictionary import check_symbols
from vtlm_fairseq.hub import VTLM, MultimodalTransformer, find_checkpoint
from vtlm_fairseq.inference import Translator
from vtlm_fairseq.interop import conversion, reference
from vtlm_fairseq.interop.original import read_original
from vtlm_fairseq.interop.reference import check
from vtlm_fairseq.interop.vocabulary import our_ids
from vtlm_fairseq.models.transfer import PretrainedEncoder
from vtlm_fairseq.tasks.captions import read_image_names
from vtlm_fairseq.tasks.visual_translation_lm import VisualTranslationLMTask, masking_rates


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with binarised data and regions."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "bin", {"train": 5, "valid": 3})
    make_store("regions/train.h5", 4)
    make_store("regions/valid.h5", 4)
    return tmp_path


def saved(content, name: str = "x.pt") -> str:
    """A file that torch wrote."""
    torch.save(content, name)
    return name


# ---- checkpoints


def test_checkpoints_that_hold_something_else(here):
    rows = [
        ("checkpoints.load_checkpoint", "x.pt: not a whole fairseq checkpoint (no model in it)", {"model": [1]}),
        ("checkpoints.load_checkpoint", "(no configuration of a model in it)", {"model": {}, "cfg": [1]}),
        ("checkpoints.load_checkpoint", "x.pt: not a whole fairseq checkpoint (UnpicklingError: ", Path("class")),
    ]
    for site, words, content in rows:
        says(site, words, checkpoints.load_checkpoint, saved(content))


def test_checkpoints_that_cannot_be_copied(here):
    Path("file").touch()
    says("writing.check_writable", "file/x.pt: cannot be written (", checkpoints.copy_file, "file", "file/x.pt")
    says("checkpoints.load_checkpoint", "none.pt: no such file", loading.check_files, "none.pt")
    room = (checkpoints.check_room, ".", 1 << 60, 0.0)
    says("checkpoints.check_room", " MiB are free, a checkpoint takes 1,099,511,627,776.0; make room", *room)
    config = {"cfg": {"model": {"_name": "vtlm"}}}
    paths = [saved({"model": {"a": torch.ones(n)}, **config}, f"{n}.pt") for n in (1, 2)]
    says("convert.average", "2.pt: other parameters than 1.pt", command.main, ["average", *paths, "--out", "x.pt"])


def test_configurations_that_are_not_plain(here):
    deep, model = {}, {"_name": "vtlm", "langs": "de,en"}
    for _ in range(30):
        deep = {"a": deep}
    torch.save({"model": {}, "cfg": {"model": {**model, "encoder_layers": 1 << 40}, "task": None}}, "big.pt")
    Path("x-shard0.pt").touch()
    rows = [
        ("check_plain", "holds an interpolation (a: '${oc.env:HOME}')", {"cfg": {"a": "${oc.env:HOME}"}}),
        ("check_plain", "adam_betas in its configuration is code", {"cfg": {"optimizer": {"adam_betas": "f()"}}}),
        ("_leaves", "is nested without end", {"cfg": deep}),
        ("_leaves", "has a name that is float, not text", {"cfg": {1.5: 3}}),
        ("_leaves", "its configuration holds a Tensor (a), not values", {"cfg": {"a": torch.zeros(1)}}),
    ]
    for site, words, state in rows:
        says(f"checkpoint_guard.{site}", words, checkpoint_guard.check_plain, state, "x.pt")
    rows = [
        ("check_parts", "with options of older versions of fairseq (args) is not", {"args": {}}),
        ("check_part", "gives no name of a model", {"cfg": {"model": {"fconv": {}}}}),
        ("check_part", "bpe would fetch m from 'http://h'", {"cfg": {"bpe": {"_name": "bytes", "m": "http://h"}}}),
    ]
    for site, words, state in rows:
        says(f"checkpoint_guard.{site}", words, checkpoint_guard.check_parts, state, "x.pt")
    rows = [
        ("its options (args) are a list, not those", {"args": []}),
        ("task 'ctc' is not translation", {"cfg": {"task": {"_name": "ctc"}}}),
        ("model 'fconv' is no Transformer", {"cfg": {"model": {"_name": "fconv"}}}),
    ]
    for words, state in rows:
        says("checkpoint_guard.check_stock", words, checkpoint_guard.check_stock, state, "x.pt")
    own = {**model, "_name": "mine"}
    for site, words, config in (
        ("checkpoints.check_config", "x.pt: task 'mine' is not one of this package", {"task": own, "model": model}),
        ("checkpoints.check_model_name", "x.pt: model 'mine' is not one of this package", {"model": own}),
    ):
        says(site, words, checkpoints.check_config, {"cfg": config}, "x.pt")
    says("loading.check_beside", "x-shard0.pt lies beside x.pt", loading.check_beside, "x.pt")
    says("loading.load_models", "no model can be built from it", loading.load_models, ["big.pt"], {})


def test_pairs_that_fit_no_batch():
    dataset = lm_dataset(sentences(3), sentences(3))
    says(
        "batching.batch_by_size",
        "(words and regions), --max-tokens is 1; raise",
        dataset.batch_by_size,
        np.arange(3),
        1,
    )


def test_checkpoints_of_something_else(here):
    rows = [
        ("checkpoints.load_checkpoint", "none.pt: no such file", lambda: checkpoints.load_checkpoint("none.pt")),
        (
            "checkpoint_guard.check_part",
            "x.pt: task 'translation' is not one of this package",
            lambda: checkpoints.read_model_config(saved({"model": {}, "cfg": {"task": {"_name": "translation"}}})),
        ),
        (
            "checkpoint_guard.check_part",
            "x.pt: model 'transformer' is not one of this package",
            lambda: checkpoints.read_model_config(saved({"model": {}, "cfg": {"model": {"_name": "transformer"}}})),
        ),
        ("convert.run_latest", "none: no such folder", lambda: command.main(["latest", "none"])),
        (
            "convert.run_latest",
            "regions: no whole checkpoint*.pt in that folder",
            lambda: command.main(["latest", "regions"]),
        ),
        (
            "writing.check_writable",
            "none/x.pt: cannot be written (No such file",
            lambda: command.save("none/x.pt", lambda file: None),
        ),
        ("convert.tolerance", "-1 is not a number from 0 up", lambda: command.tolerance("-1")),
        (
            "hub.find_checkpoint",
            "bin: holds neither checkpoint_best.pt nor checkpoint_last.pt; name a checkpoint",
            lambda: find_checkpoint("bin"),
        ),
        ("batching.raise_fault", "error: image x", lambda: raise_fault({FAULT: "image x"})),
    ]
    for site, words, call in rows:
        says(site, words, call)


# ---- those of the paper's code


def original(**params) -> str:
    """A checkpoint of the paper's code with other parameters."""
    state = random_original()
    state["params"].update(params)
    return saved(state, "in.pth")


def changed(key, value) -> str:
    """A checkpoint of the paper's code with another part."""
    return saved({**random_original(), key: value}, "in.pth")


def test_originals(here):
    state = random_original()
    del state["model"]["projector.linear.weight"], state["model"]["projector.linear.bias"]
    without = saved(state, "without.pth")
    rows = [
        ("original.read_original", "none.pth: no such file", lambda: read_original("none.pth")),
        (
            "original.read_original",
            "in.pth: not a checkpoint of the original code (no dictionary of parts)",
            lambda: read_original(saved([1], "in.pth")),
        ),
        ("original.read_original", "(it lacks dico_counts)", lambda: read_original(changed("dico_counts", None))),
        (
            "original.read_original",
            "dico_id2word and dico_counts hold other things than words and their numbers",
            lambda: read_original(changed("dico_counts", dict.fromkeys(state["dico_word2id"], "many"))),
        ),
        (
            "original.read_original",
            "in.pth: trained with asm True, which has no counterpart here",
            lambda: read_original(original(asm=True)),
        ),
        (
            "original._parameters",
            "in.pth: x of model is a int, not a tensor",
            lambda: read_original(changed("model", {"x": 1})),
        ),
        (
            "original.languages",
            "params hold no 'lang2id' that numbers the languages",
            lambda: converted(original(lang2id=None)),
        ),
        (
            "conversion._language_pair",
            "a language called 'image' has no place here",
            lambda: converted(original(lang2id={"en": 0, "ja": 1, "img": 2, "image": 3})),
        ),
        (
            "names.check_language",
            "its params: language 'a,b' holds a comma or a blank; see -s, -t and --langs",
            lambda: converted(original(lang2id={"en": 0, "ja": 1, "img": 2, "a,b": 3})),
        ),
        (
            "conversion._region_classes",
            "neither a region head nor params' 'num_obj_labels' tell the number of region",
            lambda: conversion._region_classes(SimpleNamespace(encoder={}, params={})),
        ),
        (
            "conversion._fill",
            "encoder.embed_regions.box_proj.weight has no place in the model",
            lambda: converted(without),
        ),
        (
            "conversion.convert",
            "its parameters do not make a model (KeyError: ",
            lambda: converted(changed("model", {})),
        ),
        (
            "writing.check_writable",
            "--out in.pth/x/y.pt: cannot be written (Not a directory)",
            lambda: command.main(["checkpoint", original(), "--out", "in.pth/x/y.pt"]),
        ),
    ]
    for site, words, call in rows:
        says(site, words, call)


def converted(path: str):
    """What a file becomes."""
    return conversion.convert(path, folder=".")


def test_parts_without_counterpart(here):
    model = random_original()["model"]
    untied = {**model, "pred_layer.proj.weight": model["embeddings.weight"] + 1}
    rows = [
        (
            "conversion._completed",
            "input and output embeddings of model are not tied, as they are in every model here",
            lambda: converted(changed("model", untied)),
        ),
        (
            "names.our_layout",
            "parameter memories.0.keys has no counterpart here: it is another kind of model",
            lambda: converted(changed("model", {**model, "memories.0.keys": torch.ones(2)})),
        ),
        (
            "vocabulary.our_ids",
            "the checkpoint's dictionary is not that of a converted one (words, <mask>, nine madeupword lines)",
            lambda: our_ids(["a"]),
        ),
        (
            "conversion._tensors",
            "lang_embeddings.weight of model has 3 rows for 4 languages",
            lambda: converted(original(lang2id={"en": 0, "ja": 1, "img": 2, "x": 3})),
        ),
        (
            "conversion._language_pair",
            "the file names no single language pair; give -s and -t, two of en, ja",
            lambda: converted(original(mlm_steps=[])),
        ),
    ]
    for site, words, call in rows:
        says(site, words, call)


def test_references(here):
    torch.save(random_original(), "in.pth")
    path = str(convert(Path("in.pth"), Path("out")))
    np.savez("ref.npz", x=np.ones(1))
    Path("text").write_text("text")
    text = message("reference.check", check, path, "ref.npz")
    assert "ref.npz: not a whole pre-training reference, it lacks " in text
    says("reference.read_arrays", "--reference text: not a readable .npz file (", check, path, "text")
    kind = reference.PRETRAINING
    names = (*kind.inputs, *kind.region_inputs, *kind.outputs, *kind.region_outputs)
    np.savez("zeros.npz", **dict.fromkeys(names, np.zeros((1, 1))))
    says("reference.check", "zeros.npz: its arrays do not fit the model (", check, path, "zeros.npz")
    state = torch.load(path, weights_only=True)
    state["task_state"]["symbols"] = ["<s>", "<pad>", "</s>", "<unk>", "a"]
    words = "x.pt: the checkpoint's dictionary is not that of a converted one"
    says("reference.__init__", words, check, saved(state), "ref.npz")
    state["task_state"] = {}
    says("reference.__init__", "make one with vtlm-convert checkpoint", check, saved(state), "ref.npz")


# ---- tasks


def build(*argv, **changes):
    """The model of a task in training."""
    cfg = translation_config("bin", *argv)
    for name, value in changes.items():
        cfg.model[name] = value
    return lambda: tasks.setup_task(cfg.task).build_model(cfg.model)


def test_dictionaries_and_data(here):
    Path("bad/dict.en.txt").parent.mkdir()
    Path("bad/dict.en.txt").write_text("a b c\n")
    Path("other").mkdir()
    for lang in ("en", "de"):
        Path(f"other/dict.{lang}.txt").write_text(f"{lang} 1\n")
    Path("bin/x.images").write_bytes(b"\xe9\n")
    load = VisualTranslationLMTask.load_dictionary
    pair = ("-s", "en", "-t", "de")
    rows = [
        (
            "captions.load_dictionary",
            "none: no such dictionary; prepare the data with fairseq-preprocess",
            lambda: load("none"),
        ),
        ("captions.load_dictionary", "bad/dict.en.txt: no dictionary (", lambda: load("bad/dict.en.txt")),
        (
            "captions.setup_task",
            "data folder 'none' does not exist; prepare it",
            lambda: translation_task("none", *pair),
        ),
        (
            "captions.setup_task",
            "other: dict.en.txt and dict.de.txt differ at symbol 4 ('en' and 'de'); "
            "run fairseq-preprocess with --joined-dictionary",
            lambda: translation_task("other", *pair),
        ),
        (
            "captions.language_pair",
            "regions: no binarised data and no text.json name the language pair; give -s and -t",
            lambda: translation_task("regions"),
        ),
        (
            "captions.split_parts",
            "bin: no split 'test' for en-de; prepare it with fairseq-preprocess",
            lambda: translation_task("bin").load_dataset("test"),
        ),
        (
            "captions.read_image_names",
            "bin/none.images: no such file; it holds the image id of each sentence pair",
            lambda: read_image_names("bin", "none"),
        ),
        ("captions.read_image_names", "bin/x.images: not UTF-8 (", lambda: read_image_names("bin", "x")),
    ]
    for site, words, call in rows:
        says(site, words, call)
    for path in Path("bin").glob("valid.en-de.de.*"):
        path.unlink()
    task = pretraining_task("bin")
    both = "split valid: de is missing; pre-training needs both sides"
    says("visual_translation_lm.load_dataset", both, task.load_dataset, "valid")


def test_models_in_training(here):
    rows = [
        (
            "described._describe",
            "--region-dim is 7, but regions has 8",
            build("--region-dim", "7", "--regions", "regions"),
        ),
        ("described._describe", "describe a region store; name it with --regions", build("--region-dim", "7")),
        ("described._describe", "--langs en,en: names must be distinct, and 'image' is", build("--langs", "en,en")),
        (
            "captions.build_model",
            "--autocast fp16 without gradient scaling loses small gradients; add --amp",
            build("--autocast", "fp16"),
        ),
        (
            "checkpoint_guard.check_part",
            "--criterion: criterion 'ctc' is not one of this package",
            lambda: translation_task("bin").build_criterion(SimpleNamespace(_name="cross_entropy", criterion="ctc")),
        ),
        (
            "visual_translation_lm.masking_rates",
            "--a is 2, must be within 0..1",
            lambda: masking_rates({"--a": 2, "--b": 0, "--c": 0}),
        ),
        (
            "visual_translation_lm.masking_rates",
            "--b 0.7 and --c 0.7 add up to more than 1",
            lambda: masking_rates({"--a": 0, "--b": 0.7, "--c": 0.7}),
        ),
        ("described._describe", "--langs en,fr lacks 'de', a language of the data; add it", build("--langs", "en,fr")),
    ]
    for site, words, call in rows:
        says(site, words, call)


def test_models_of_checkpoints(here):
    make_store("wide.h5", 4, feature_dim=6)
    make_store("classes.h5", 4, num_classes=4)
    cfg = translation_config("bin", "--regions", "regions")
    tasks.setup_task(cfg.task).build_model(cfg.model)

    def load(*argv):
        task = translation_task("bin", *argv)
        task.build_model(cfg.model, from_checkpoint=True)
        return task

    rows = [
        (
            "multimodal_translation._adopt",
            "the checkpoint translates en-de, this command asks for de-en; use -s en -t de",
            lambda: load("-s", "de", "-t", "en", "--regions", "regions"),
        ),
        (
            "described._adopt",
            "the checkpoint has regions, --regions is none: name a region store (for new",
            lambda: load(),
        ),
        (
            "described.open_store",
            "--regions wide.h5 (valid): features are 6 wide, the model was built for 8; use regions",
            lambda: load("--regions", "wide.h5").load_dataset("valid"),
        ),
        (
            "described.open_store",
            "--regions classes.h5 (valid): it has 4 classes, the model was built for 5; use regions",
            lambda: load("--regions", "classes.h5").load_dataset("valid"),
        ),
        (
            "multimodal_translation.build_dataset_for_inference",
            "this model translates with regions, for which fairseq-interactive has no input; use vtlm-translate",
            lambda: load("--regions", "regions").build_dataset_for_inference([], []),
        ),
        (
            "described._adopt",
            "--langs en,de contradicts the checkpoint, which has de,en; omit it",
            lambda: load("--langs", "en,de", "--regions", "regions"),
        ),
    ]
    for site, words, call in rows:
        says(site, words, call)
    text = translation_config("bin")
    tasks.setup_task(text.task).build_model(text.model)
    build_model = translation_task("bin", "--regions", "regions").build_model
    says(
        "described._adopt",
        "the checkpoint is a text-only model (no region parameters); use --regions none",
        build_model,
        text.model,
        from_checkpoint=True,
    )


def test_over_long_pairs(here, caplog):
    task = translation_task("bin")
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    sources = [int(dataset.size(line)[0]) for line in range(3)]
    limit, longest = max(sources) - 1, [line for line in range(3) if sources[line] == max(sources)]
    kept = task.filter_indices_by_size(np.arange(3), dataset, (limit, 99), ignore_invalid_inputs=True)
    assert sorted(kept) == [line for line in range(3) if line not in longest] != []
    assert f"are skipped, first ids {longest}" in caplog.text
    text = message("captions.filter_indices_by_size", task.filter_indices_by_size, np.arange(3), dataset, (1, 1))
    assert "3 pairs are longer than (1, 1) tokens (source, target), the first is line 1 with" in text
    assert "--skip-invalid-size-inputs-valid-test" in text


def pretrained(**config) -> PretrainedEncoder:
    """A pre-trained encoder of the tiny size, with another configuration."""
    sizes = translation_config("bin").model
    names = (
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_layers",
        "encoder_attention_heads",
        "max_positions",
        "activation_fn",
        "region_activation",
        "region_no_bias",
        "region_layernorm",
        "region_positions",
    )
    whole = {name: sizes.get(name) for name in names} | {"region_dim": 0} | config
    return PretrainedEncoder("pre.pt", whole, {}, None)


def test_transfer(here):
    cfg = translation_config("bin").model
    cfg.decoder_layers = 9
    decoder = message("transfer.check_geometry", pretrained().check_geometry, cfg)
    assert "--pretrained pre.pt fills the decoder too: its encoder_layers is" in decoder
    assert "--decoder-layers is 9; omit that option" in decoder
    cfg.decoder_layers, cfg.region_dim = None, 8
    deeper, other = pretrained(encoder_layers=9).check_geometry, pretrained(region_dim=6).check_geometry
    says("transfer.check_geometry", "--encoder-layers 9, or choose the arch of the same size", deeper, cfg)
    says("transfer.check_geometry", "region_dim 6, the new model 8; use regions made by the same detector", other, cfg)
    says("transfer.load", "--pretrained none.pt: no such file", PretrainedEncoder.load, "none.pt")
    name, given = "encoder.embed_tokens.weight", pretrained()
    given.state[name] = torch.ones(2)
    model = SimpleNamespace(state_dict=lambda: {name: torch.ones(3)})
    cfg.region_dim = 0
    call = (given.fill, model, cfg)
    says("transfer.fill", "use the dictionary and the options of pre-training", *call, init_cross_attention="random")
    text = message("transfer.fill", *call, init_cross_attention="random")
    assert f"--pretrained pre.pt: {name} is (2,), {name} of the new model (3,)" in text


def test_dictionaries_that_differ():
    symbols = list(dictionary(40).symbols)
    says(
        "dictionary.check_symbols",
        "the dictionary of the data and that of x.pt differ at symbol 44",
        check_symbols,
        symbols,
        dictionary(),
        "x.pt",
    )


# ---- inference


def translator(**attributes) -> Translator:
    """A translator without a model."""
    made = Translator.__new__(Translator)
    made.__dict__.update({"store": MemoryStore([1]), "region_order": "given", "max_positions": (4, 4), **attributes})
    return made


def test_inference(here):
    rows = [
        (
            "inference.translate",
            "this model translates with regions: give one image id for each sentence",
            lambda: translator().translate(["a"]),
        ),
        (
            "inference.translate",
            "line 1 has 9 tokens, the model takes 3; split the sentence",
            lambda: translator(store=None, encode=lambda sentence: sentences(1)[0].new_zeros(9)).translate(["a"]),
        ),
        (
            "hub.translate",
            "translate takes a list of sentences, this is one string; put it into a list",
            lambda: MultimodalTransformer.__new__(MultimodalTransformer).translate("a"),
        ),
        (
            "translate.read_lines",
            "none: cannot be read (No such file or directory)",
            lambda: list(translate.read_lines("none")),
        ),
        (
            "translate.decode_lines",
            "-, line 2: not UTF-8 text; convert it",
            lambda: list(translate.decode_lines(io.BytesIO(b"a\n\xe9\n"), "-")),
        ),
        (
            "translate.split_line",
            "line 7: no image id; each line is sentence<TAB>image id (or --region-order none)",
            lambda: translate.split_line("a", 7, True),
        ),
        ("translate.positive", "must be 1 or more", lambda: translate.positive("0")),
    ]
    for site, words, call in rows:
        says(site, words, call)


def test_hub(here, monkeypatch):
    hub = importlib.import_module("vtlm_fairseq.hub")
    monkeypatch.setattr(hub, "read_model_config", lambda path: {"_name": "multimodal_transformer"})
    says("hub.__init__", "x.pt: a translation model; this needs a pre-trained one (vtlm)", VTLM, "x.pt")
    inference = importlib.import_module("vtlm_fairseq.inference")
    monkeypatch.setattr(inference, "read_model_config", lambda path: {"_name": "vtlm"})
    text = message("compatibility.check_translates", MultimodalTransformer.from_pretrained, "x.pt")
    assert "x.pt: a pre-trained model (vtlm); translating needs one of multimodal_translation" in text
    vtlm = VTLM.__new__(VTLM)
    vtlm.store, vtlm.model = None, SimpleNamespace(max_positions=lambda: (4, 4))
    text = message("hub.fill_mask", vtlm.fill_mask, "<mask>", image="a.jpg")
    assert text == "image 'a.jpg': no region store; name one with regions="
    says(
        "hub.predict",
        "pair 1 has 9 tokens, the model takes 3; split",
        lambda: list(vtlm.predict([torch.zeros(9)], [None])),
    )
    vtlm.source_lang, vtlm.target_lang, vtlm.encode = "en", "de", lambda text, lang: torch.zeros(2)
    vtlm.dictionary = dictionary()
    says("hub.fill_mask", "no <mask> in the text; write it in place of a word", vtlm.fill_mask, "a")


# ---- a GPU that is not used


def test_clipping_on_the_cpu_beside_a_gpu(tmp_path, monkeypatch):
    """fairseq cannot clip there; without a GPU, without clipping or on the GPU all is well."""
    data, model = folder(tmp_path, {"train": 5, "valid": 3}).path, torch.nn.Linear(2, 2)
    clipped = translation_task(data, "--clip-norm", "5", "--no-save")
    clipped.begin_epoch(1, model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    translation_task(data, "--no-save").begin_epoch(1, model)
    translation_task(data, "--clip-norm", "5", "--no-save").check_clipping(
        SimpleNamespace(parameters=lambda: [SimpleNamespace(is_cuda=True)])
    )
    says(
        "captions.check_clipping",
        "--cpu with --clip-norm does not work where fairseq sees a GPU; hide it with CUDA_VISIBLE_DEVICES=",
        translation_task(data, "--clip-norm", "5", "--no-save").begin_epoch,
        1,
        model,
    )


# ---- warnings


def test_warnings(caplog, monkeypatch):
    monkeypatch.setattr(precision, "is_fast", lambda *args: False)
    precision.warn_if_slow.__wrapped__("bf16", "cpu")
    precision.warn_if_slow.__wrapped__("bf16", "cuda")
    assert "--autocast bf16: this CPU lacks the instructions for it (AVX-512 or AMX)" in caplog.text
    assert "--autocast bf16: this GPU emulates it: slower than float32; leave --autocast out here" in caplog.text
