"""From a pre-trained encoder to a translation model: every tensor accounted for, every misfit named."""

import pytest
import torch
from omegaconf import OmegaConf
from torch import equal as same

from stores import fault
from tiny import as_task, dictionary, model_config
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer, MultimodalTransformerTinyConfig
from vtlm_fairseq.models.transfer import PretrainedEncoder
from vtlm_fairseq.models.vtlm import VTLMModel, VTLMTinyConfig

REGIONS = {"region_dim": 4, "region_classes": 5}
NOT_PARAMETERS = {"decoder.version"}  # fairseq's marker of the decoder's format


def pretrained_of(**options) -> PretrainedEncoder:
    torch.manual_seed(7)
    cfg = model_config(VTLMTinyConfig, **options)
    model = VTLMModel.build_model(cfg, as_task(dictionary()))
    for parameter in model.parameters():  # LayerNorms and biases too shall be recognised
        parameter.data.add_(torch.randn_like(parameter))
    config = {**OmegaConf.to_container(cfg, enum_to_str=True), "_name": "vtlm_tiny"}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return PretrainedEncoder("pre.pt", config, state, list(dictionary().symbols))


def new_model(**options):
    torch.manual_seed(1)
    cfg = model_config(MultimodalTransformerTinyConfig, **options)
    return MultimodalTransformer.build_model(cfg, as_task(dictionary())), cfg


def transfer(pretrained, *, cross="self-attention", **options):
    """The filled model's tensors, those before, and the report."""
    model, cfg = new_model(**options)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = pretrained.fill(model, cfg, init_cross_attention=cross)
    return model.state_dict(), before, report


def assert_complete(report, state, pretrained):
    """PITFALLS 8: every tensor of the new model is in one list, every one of the old is used or listed."""
    lists = [*report.copied, *report.from_self_attention, *report.random]
    assert len(lists) == len(set(lists)) and set(lists) == set(state) - NOT_PARAMETERS
    assert set(report.unused) <= set(pretrained.state)


@pytest.mark.parametrize("cross", ["self-attention", "random"])
@pytest.mark.parametrize("regions", [{}, REGIONS])
def test_every_tensor_has_the_value_the_report_says(cross, regions):
    """PITFALLS 8: bit for bit, in both halves; what is left random is as it was."""
    pretrained = pretrained_of(**regions)
    state, before, report = transfer(pretrained, cross=cross, **regions)
    assert_complete(report, state, pretrained)
    crossed = [name for name in state if "encoder_attn" in name]
    assert len(crossed) == 2 * (8 + 2)
    assert (report.from_self_attention, report.random) == ((crossed, []) if cross != "random" else ([], crossed))
    old = pretrained.state
    for name in report.copied:
        if name.startswith("encoder."):
            expected = old[name]
        elif name.startswith("decoder.output_projection."):
            expected = old[name.replace("decoder.output_projection", "lm_head")]
        else:
            expected = old[name.replace("decoder.", "encoder.", 1)]
        assert same(state[name], expected), name
        assert not same(state[name], before[name]), name
    for name in crossed:
        source = name.replace("decoder.", "encoder.").replace("encoder_attn", "self_attn")
        assert same(state[name], old[source] if cross != "random" else before[name]), name
    layers = [state[f"decoder.layers.{i}.encoder_attn.k_proj.weight"] for i in (0, 1)]
    assert not same(*layers)  # layer by layer
    tables = [state[f"{name}.weight"].data_ptr() for name in
              ("encoder.embed_tokens", "decoder.embed_tokens", "decoder.output_projection")]  # fmt: skip
    assert tables[0] != tables[1] == tables[2]  # the halves stay apart
    assert report.unused == (["region_head.weight", "region_head.bias"] if regions else [])
    assert report.notes == []


def test_language_rows_meet_by_name():
    """PITFALLS 7: other orders, a language more, a language less."""
    pretrained = pretrained_of(langs="de,en,fr")
    old = pretrained.state["encoder.embed_positions.languages.weight"]
    assert pretrained.langs == "de,en,fr"
    for langs, rows in (("de,en,fr", [0, 1, 2, 3]), ("fr,en,de", [2, 1, 0, 3]), ("en,de", [1, 0, 3])):
        state, _, report = transfer(pretrained, langs=langs)
        for half in ("encoder", "decoder"):
            assert same(state[f"{half}.embed_positions.languages.weight"], old[rows])
        assert report.notes == []


def test_a_new_language_starts_fresh_and_is_reported():
    pretrained = pretrained_of()
    old = pretrained.state["encoder.embed_positions.languages.weight"]
    state, before, report = transfer(pretrained, langs="cs,en,de", source_lang="en", target_lang="cs")
    for half in ("encoder", "decoder"):
        name = f"{half}.embed_positions.languages.weight"
        assert same(state[name][0], before[name][0])
        assert same(state[name][1:], old[[1, 0, 2]])
        assert any(name in note and "'cs'" in note for note in report.notes)
    assert len(report.notes) == 2
    assert_complete(report, state, pretrained)


# ---- misfits


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"encoder_embed_dim": 16}, "--encoder-embed-dim 32"),
        ({"encoder_ffn_embed_dim": 128}, "--encoder-ffn-embed-dim 64"),
        ({"encoder_layers": 3}, "--encoder-layers 2"),
        ({"encoder_layers": 1}, "--encoder-layers 2"),
        ({"encoder_attention_heads": 8}, "--encoder-attention-heads 4"),
        ({"max_positions": 256}, "--max-positions 512"),
        ({"decoder_layers": 1}, "--decoder-layers"),
        ({"decoder_ffn_embed_dim": 128}, "--decoder-ffn-embed-dim"),
        ({"decoder_attention_heads": 2}, "--decoder-attention-heads"),
    ],
)
def test_misfit_names_the_option(options, named):
    """PITFALLS 9."""
    transfer(pretrained_of(), decoder_layers=2, decoder_ffn_embed_dim=64, decoder_attention_heads=4)  # as the encoder
    message = fault(transfer, pretrained_of(), **options)
    assert named in message and "pre.pt" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [({"region_dim": 6}, "region_dim detector"), ({"region_no_bias": True}, "region_no_bias detector"),
     ({"region_standardise": True}, "region_standardise detector"),
     ({"region_layernorm": True}, "region_layernorm detector"), ({"region_positions": 3}, "region_positions detector"),
     ({"activation_fn": "relu"}, "--activation-fn gelu"), ({"region_activation": "gelu"}, "activation")],
)  # fmt: skip
def test_other_regions_and_activations_are_named(change, named):
    """With another activation all shapes fit, and yet pre-training would be lost without a word."""
    message = fault(transfer, pretrained_of(**REGIONS), **{**REGIONS, **change})
    assert all(word in message for word in named.split())


def test_a_foreign_dictionary_names_the_first_symbol():
    """PITFALLS 7."""
    pretrained = pretrained_of()
    pretrained.check_dictionary(dictionary())
    other = dictionary()
    other.symbols[20], other.symbols[30] = "zwanzig", "dreissig"
    message = fault(pretrained.check_dictionary, other)
    assert "symbol 20" in message and "'zwanzig'" in message and "'w16'" in message and "dreissig" not in message
    assert "pre.pt" in message and "--dict" in message
    longer = dictionary(49)
    assert "symbol 45" in fault(pretrained.check_dictionary, longer)
    pretrained.symbols = None  # an older file
    pretrained.check_dictionary(other)


def test_a_tensor_of_another_shape_is_named():
    cfg = model_config(MultimodalTransformerTinyConfig)
    model = MultimodalTransformer.build_model(cfg, as_task(dictionary(49)))
    message = fault(pretrained_of().fill, model, cfg, init_cross_attention="random")
    assert "pre.pt" in message and "encoder.embed_tokens.weight is (48, 32)" in message and "(56, 32)" in message


# ---- files


def saved(path, *, name="vtlm_tiny", **changes):
    pretrained = pretrained_of()
    checkpoint = {"cfg": {"model": {**pretrained.config, "_name": name}}, "model": pretrained.state,
                  "task_state": {"symbols": pretrained.symbols}}  # fmt: skip
    torch.save({**checkpoint, **changes}, path)
    return str(path), pretrained


def test_files(tmp_path):
    """What was saved is read; each file that is no pre-trained model is named, and the option."""
    path, pretrained = saved(tmp_path / "pre.pt")
    loaded = PretrainedEncoder.load(path)
    assert (loaded.path, loaded.symbols, loaded.langs) == (path, pretrained.symbols, "de,en")
    assert loaded.state.keys() == pretrained.state.keys()
    assert all(same(loaded.state[name], tensor) for name, tensor in pretrained.state.items())
    assert PretrainedEncoder.load(saved(tmp_path / "old.pt", task_state={})[0]).symbols is None
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "pre.pt").read_bytes()[:999])
    saved(tmp_path / "stock.pt", name="transformer")
    for name, words in (("absent", "no such file"), ("cut", "cut.pt"), ("other", "fairseq checkpoint"),
                        ("stock", "'transformer'")):  # fmt: skip
        message = fault(PretrainedEncoder.load, str(tmp_path / f"{name}.pt"))
        assert f"--pretrained {tmp_path}/{name}.pt" in message and words in message
