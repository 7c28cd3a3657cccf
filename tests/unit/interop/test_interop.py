"""Reading checkpoints of the paper's code: what is allowed, what is refused, the dictionary, the configuration."""

import os

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from omegaconf import OmegaConf

from originals import FIXTURES, convert, random_original, reference
from originals import check as command
from stores import fault
from tiny import pretraining_config, translation_config
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.interop.conversion import convert as conversion
from vtlm_fairseq.interop.original import numpy_classes, read_original
from vtlm_fairseq.interop.reference import PRETRAINING, TRANSLATION, check, compare
from vtlm_fairseq.interop.vocabulary import make_dictionary, our_ids, write_dictionaries

ORIGINAL = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]


class Foreign:
    """A class that no such file holds; unpickling it runs code."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def refused(tmp_path, state, **options) -> str:
    """The one line for a file that holds ``state``."""
    torch.save(state, tmp_path / "in.pth")
    return fault(conversion, str(tmp_path / "in.pth"), folder=str(tmp_path), **options)


# ---- reading


def test_recorded_files_are_read_in_restricted_mode():
    """They hold numpy arrays and scalars, which are allowed for the reading only."""
    before = set(torch.serialization.get_safe_globals())
    for name in ("pretrained", "mmt"):
        with pytest.raises(Exception, match="numpy._core.multiarray"):
            torch.load(FIXTURES / f"{name}.pth", weights_only=True)
        assert read_original(str(FIXTURES / f"{name}.pth")).words[14:16] == ["w0", "w1"]
    assert set(torch.serialization.get_safe_globals()) == before
    named = {
        entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__name__}" for entry in numpy_classes()
    }
    assert {name.split(".")[0] for name in named} == {"numpy"} and not [name for name in named if "bject" in name]


def test_files_of_old_numpy_are_read(tmp_path):
    """The original ran on numpy that called its core module ``numpy.core``, and on torch that wrote no archives."""
    state = random_original()
    state["params"]["mask_scores"] = np.arange(3)
    state["best_metrics"] = {"valid_ppl": np.float64(3.5)}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pth").read_bytes()
    assert content.count(b"numpy._core.multiarray") == 2
    (tmp_path / "old.pth").write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    read = read_original(str(tmp_path / "old.pth"))
    assert list(read.params["mask_scores"]) == [0, 1, 2]


def test_foreign_classes_are_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = random_original()
    state["params"]["logger"] = Foreign()
    assert "it holds posix.mkdir" in refused(tmp_path, state)
    state["params"]["logger"] = np.array([Foreign()], dtype=object)
    assert "refused" in refused(tmp_path, state)
    assert not (tmp_path / "unpickled").exists()


def test_cut_off_missing_and_other_files(tmp_path):
    content = (FIXTURES / "mmt.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.pth").write_text("not a checkpoint", encoding="utf-8")
    for name in ("cut.pth", "text.pth"):
        message = fault(conversion, str(tmp_path / name), folder=str(tmp_path))
        assert name in message and "refused" in message and "weights_only" not in message
    assert "no such file" in fault(conversion, str(tmp_path / "none.pth"), folder=str(tmp_path))
    assert "dictionary" in refused(tmp_path, [1, 2])
    assert "lacks model, dico_id2word, dico_counts, params" in refused(tmp_path, {"epoch": 3})
    assert "lacks encoder" in refused(tmp_path, {**random_original(translation=True), "encoder": None})


# ---- what makes no model here


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["model"].update({"pred_layer.proj.weight": s["model"]["embeddings.weight"] + 1}), "not tied"),
        (lambda s: s["model"].update({"memories.0.keys": torch.ones(2)}), "memories.0.keys has no counterpart"),
        (lambda s: s["model"].pop("layer_norm1.2.bias"), "nothing in it becomes encoder.layers.2.self_attn_layer_norm"),
        (lambda s: s["model"].update({"layer_norm1.3.bias": torch.ones(24)}), "layers.3.self_attn_layer_norm.bias has"),
        (lambda s: s["model"].update({"ffns.1.lin1.bias": torch.ones(41)}), "encoder.layers.1.fc1.bias would be (41,)"),
        (lambda s: s["model"].pop("regional_encodings.linear.weight"), "nothing in it becomes encoder.embed_regions"),
        (lambda s: s["model"]["ffns.1.lin1.bias"].fill_(float("nan")), "ffns.1.lin1.bias of model has values that are"),
        (lambda s: s["model"].pop("embeddings.weight"), "embeddings"),
        (lambda s: s["params"].update(n_heads=5), "width 24"),
        (lambda s: s["params"].update(scale_emb=True), "scale_emb True"),
        (lambda s: s["params"].pop("lang2id"), "lang2id"),
        (lambda s: s["params"].update(lang2id={"en": 0, "ja": 1, "img": 2, "x": 3}), "has 3 rows for 4 languages"),
        (lambda s: s["params"].update(lang2id={"en": 0, "ja": 1, "fr": 2}), "no language 'img'"),
        (lambda s: s["params"].update(mlm_steps=[]), "give -s and -t, two of en, ja"),
        (lambda s: s["params"].update(mlm_steps=[("en", "ja"), ("ja", "en")]), "give -s and -t"),
        (lambda s: s["dico_id2word"].update({31: "new"}), "has 31 rows for 32 symbols"),
        (lambda s: s["dico_id2word"].pop(20), "dico_id2word does not"),
        (lambda s: s["dico_id2word"].update({2: "<padding>"}), "<s> </s> <pad>"),
        (lambda s: s["dico_id2word"].update({20: "<mask>"}), "the word '<mask>' is there twice, or is one of"),
        (lambda s: s["dico_id2word"].update({20: "v0"}), "the word 'v0' is there twice"),
        (lambda s: s["dico_id2word"].update({20: "a\u2028b"}), "dict.txt"),
        (lambda s: s["dico_counts"].update({s["dico_id2word"][20]: "many"}), "dico_counts"),
        (lambda s: s["model"].update(x=1), "x of model is a int"),
        (lambda s: s["params"].update(lang2id={"en": 0, "ja": 1, "img": 2, "image": 3}), "'image'"),
        (lambda s: s["params"].update(lang2id={"en": 0, "ja": 1, "img": 2, "a,b": 3}), "'a,b'"),
        (lambda s: [s["model"].pop(f"projector.linear.{n}") for n in ("weight", "bias")], "box_proj.weight has no"),
        (lambda s: [s["model"].pop(f"img_pred_layer.proj.{n}") for n in ("weight", "bias")]
         + [s["params"].pop("num_obj_labels", None)], "'num_obj_labels'"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(tmp_path, change, message):
    state = random_original()
    change(state)
    assert message in refused(tmp_path, state)


def test_language_pair_of_a_file_that_does_not_say(tmp_path):
    """``-s`` and ``-t`` name it; the languages of an option ``lgs`` do where there are two."""
    state = random_original()
    state["params"]["mlm_steps"] = [("en", None), ("ja", None)]
    message = refused(tmp_path, state)
    assert "give -s and -t, two of en, ja" in message
    assert "'fr' is not one of its languages (en, ja)" in refused(tmp_path, state, source_lang="fr", target_lang="en")
    path = str(tmp_path / "in.pth")
    assert conversion(path, folder="", source_lang="ja", target_lang="en").languages == ("ja", "en")
    state["params"]["lgs"] = "ja-en-img"
    torch.save(state, path)
    assert conversion(path, folder="").languages == ("ja", "en")


# ---- dictionary


def test_dictionary_layout_and_way_back():
    """As many symbols as the original's; the nine specials are no words; ids there and back."""
    words = [*ORIGINAL, "haus", "ha@@", "madeupword0001", "us"]
    dictionary = make_dictionary(words, [0] * 14 + [9, 7, 5, 3], path="x")
    assert dictionary.symbols[4:9] == ["haus", "ha@@", "madeupword0001", "us", "<mask>"]
    assert dictionary.symbols[9:] == [f"madeupword{i:04d}" for i in (0, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert len(dictionary) == len(words)
    assert list(np.flatnonzero(word_mask(dictionary))) == [4, 5, 6, 7]
    ids = our_ids(dictionary.symbols)
    assert ids.tolist() == [0, 2, 1, 3, 9, 8, 10, 11, 12, 13, 14, 15, 16, 17, 4, 5, 6, 7]
    assert [dictionary.symbols[i] for i in ids[14:]] == words[14:]
    assert sorted(ids.tolist()) == list(range(18))
    assert "vtlm-convert checkpoint" in fault(our_ids, Dictionary().symbols)
    assert "vtlm-convert checkpoint" in fault(our_ids, [*dictionary.symbols, "madeupword0010"])


def test_dictionary_files(tmp_path):
    """They read back as the same symbols and counts; another dictionary in the folder is not overwritten."""
    words = [*ORIGINAL, "\ufeffx", "café", "#", "<special1>x", "\u200b"]
    dictionary = make_dictionary(words, [0] * 14 + [5, 4, 3, 2, 1], path="x")
    write_dictionaries(dictionary, str(tmp_path / "new"), ["en", "de"])
    for lang in ("en", "de"):
        read = Dictionary.load(str(tmp_path / f"new/dict.{lang}.txt"))
        assert read.symbols == dictionary.symbols and read.count[4:9] == [5, 4, 3, 2, 1]
    write_dictionaries(dictionary, str(tmp_path / "new"), ["en"])
    other = make_dictionary(words[:-1], [0] * 14 + [5, 4, 3, 2], path="x")
    assert "dict.de.txt is another dictionary" in fault(write_dictionaries, other, str(tmp_path / "new"), ["de"])
    assert sorted(os.listdir(tmp_path / "new")) == ["dict.de.txt", "dict.en.txt"]


# ---- the checkpoint


@pytest.mark.parametrize("translation", [False, True])
def test_fairseq_loads_it_without_options(tmp_path, translation):
    """The folder is complete; configuration, symbols and counts are those of the file."""
    torch.save(random_original(translation=translation), tmp_path / "in.pth")
    path = convert(tmp_path / "in.pth", tmp_path / "out")
    overrides = {"region_order": "none"}  # no store here
    (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    assert cfg.model._name == ("multimodal_transformer" if translation else "vtlm")
    assert (task.cfg.source_lang, task.cfg.target_lang, task.langs) == ("en", "ja", "en,ja")
    assert (task.region_dim, task.region_classes) == (10, 9)
    assert len(task.source_dictionary) == 31 and model.encoder.max_positions() == 20
    assert model.encoder.layers[0].self_attn.num_heads == 3
    saved = torch.load(path, weights_only=True)
    assert saved["last_optimizer_state"] is None and saved["optimizer_history"][-1]["num_updates"] == 0
    assert saved["cfg"]["common"]["user_dir"] is None  # no path of this machine but the folder's


def test_configuration_has_every_field(tmp_path):
    """As many as fairseq-train's own parser would have saved, in every group."""
    for translation, config in ((False, pretraining_config), (True, translation_config)):
        torch.save(random_original(translation=translation), tmp_path / "in.pth")
        ours = conversion(str(tmp_path / "in.pth"), folder=str(tmp_path)).state["cfg"]
        theirs = OmegaConf.to_container(config(tmp_path), resolve=True, enum_to_str=True)
        assert ours.keys() == theirs.keys()
        for part, fields in theirs.items():
            if part not in ("lr_scheduler", "scoring", "optimizer"):  # of a training that goes on, chosen anew
                assert fields is None or isinstance(fields, str) or ours[part].keys() == fields.keys(), part


def test_checkpoints_that_cannot_be_checked(tmp_path):
    """Of ``vtlm-convert check``: without the symbols of the original the file is named."""
    path = str(convert(FIXTURES / "pretrained.pth", tmp_path / "out"))
    with np.load(FIXTURES / "pretrain_forward.npz") as arrays:
        assert {*arrays} == {name for kind in ("inputs", "region_inputs", "outputs", "region_outputs")
                             for name in getattr(PRETRAINING, kind)}  # fmt: skip
    state = torch.load(path, weights_only=True)
    for task_state in ({"symbols": ["<s>", "<pad>", "</s>", "<unk>", "a"]}, {}):
        torch.save({**state, "task_state": task_state}, tmp_path / "x.pt")
        assert fault(check, str(tmp_path / "x.pt"), str(FIXTURES / "pretrain_forward.npz")).startswith(str(tmp_path))


@pytest.mark.slow
def test_reference_files(tmp_path):
    """Of a translation model every output is computed; a file of another one, or of none, is one line that says why."""
    path, arrays = str(convert(FIXTURES / "mmt.pth", tmp_path)), reference("mmt")
    expected, computed = check(path, str(FIXTURES / "mmt_forward.npz"))
    assert {*expected} == {*TRANSLATION.outputs, *TRANSLATION.region_outputs}
    assert all(compare(name, values, computed[name]).passes for name, values in expected.items())
    assert not compare("nmt_greedy_tokens", np.array([1]), np.array([2])).passes

    assert command(path, FIXTURES / "mmt_forward.npz", "--dump", tmp_path / "dump.npz") is None
    with np.load(tmp_path / "dump.npz") as dumped:
        assert {*dumped} == {*expected}
    assert "is a folder" in command(path, FIXTURES / "mmt_forward.npz", "--dump", tmp_path)

    def refused(**changes) -> str:
        np.savez(tmp_path / "x.npz", **{name: a for name, a in {**arrays, **changes}.items() if a is not None})
        return fault(check, path, str(tmp_path / "x.npz"))

    assert "lacks greedy_tokens" in refused(greedy_tokens=None)
    assert "hidden_regions cannot be computed" in refused(hidden_regions=np.ones(2))
    assert "arrays" in refused(src=arrays["src"] + 1000)
    assert "decoder_hidden is (1, " in refused(decoder_hidden=arrays["decoder_hidden"][:1])
    (tmp_path / "x.npz").write_text("text")
    assert "not a readable .npz" in fault(check, path, str(tmp_path / "x.npz"))


def test_what_an_original_leaves_out(tmp_path):
    """Biases are 0, language rows too, and a row for images is drawn: each is noted."""

    def converted(*left_out: str, **params):
        state = random_original(regions="regional_encodings.linear.bias" in left_out)
        for name in left_out:
            state["model"].pop(name)
        state["params"].update(params)
        torch.save(state, tmp_path / "in.pth")
        return conversion(str(tmp_path / "in.pth"), folder="")

    made = converted("regional_encodings.linear.bias", "lang_embeddings.weight")
    assert sum("0" in note for note in made.notes) == 2
    assert not made.state["model"]["encoder.embed_regions.box_proj.bias"].any()
    assert not made.state["model"]["encoder.embed_positions.languages.weight"].any()
    made = converted(lang2id={"en": 0, "ja": 1, "fr": 2})
    assert any("fresh" in note for note in made.notes)
    assert made.state["model"]["encoder.embed_positions.languages.weight"][-1].any()
