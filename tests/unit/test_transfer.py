"""From a pre-trained encoder to a translation model: every tensor accounted for, every misfit named."""

import pytest
import torch
from omegaconf import OmegaConf

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


def same(one, other) -> bool:
    return torch.equal(one, other)


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
    assert report.unused == (["region_head.weight", "region_head.bias"] if regions else [])
    assert report.notes == []


def test_output_bias_comes_along_and_the_halves_stay_apart():
    pretrained = pretrained_of()
    model, cfg = new_model()
    pretrained.fill(model, cfg, init_cross_attention="random")
    assert same(model.decoder.output_projection.bias.data, pretrained.state["lm_head.bias"])
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    assert same(model.encoder.embed_tokens.weight.data, model.decoder.embed_tokens.weight.data)
    assert model.encoder.embed_tokens.weight.data_ptr() != model.decoder.embed_tokens.weight.data_ptr()


def test_filled_decoder_equals_pretrained_encoder_without_a_source():
    """Self-attention and feed-forward layers sit in the right places: the first token sees only itself in both."""
    pretrained = pretrained_of(encoder_layers=1)
    torch.manual_seed(3)
    encoder = VTLMModel.build_model(
        model_config(VTLMTinyConfig, encoder_layers=1), as_task(dictionary())
    ).eval()  # fmt: skip
    encoder.load_state_dict(pretrained.state)
    model, cfg = new_model(encoder_layers=1)
    pretrained.fill(model, cfg, init_cross_attention="random")
    model.eval()
    layer = model.decoder.layers[0]
    for part in (layer.encoder_attn.out_proj.weight, layer.encoder_attn.out_proj.bias):
        part.data.zero_()
    tokens = torch.tensor([[2]])
    source = model.encoder(tokens)
    captured = {}
    layer.encoder_attn_layer_norm.register_forward_hook(lambda m, args, out: captured.update(x=args[0]))
    with torch.no_grad():
        model.decoder(tokens, encoder_out=source)
        x = encoder.encoder.embed(tokens, langs=torch.zeros(1, 1, dtype=torch.long))[0].transpose(0, 1)
        own = encoder.encoder.layers[0]
        expected = own.self_attn_layer_norm(x + own.self_attn(x, x, x)[0])
    torch.testing.assert_close(captured["x"], expected, atol=1e-5, rtol=1e-5)


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


def test_from_text_only_to_regions_they_start_fresh_and_the_report_says_so():
    pretrained = pretrained_of()
    state, before, report = transfer(pretrained, **REGIONS)
    fresh = [name for name in state if "embed_regions" in name]
    assert len(fresh) == 4 and report.random == fresh
    assert all(same(state[name], before[name]) for name in fresh)
    assert len(report.notes) == 1 and "region" in report.notes[0]
    assert_complete(report, state, pretrained)


def test_from_regions_to_text_only_they_are_unused():
    pretrained = pretrained_of(**REGIONS)
    state, _, report = transfer(pretrained)
    assert report.random == [] and report.notes == []
    assert set(report.unused) == {name for name in pretrained.state if "region" in name}
    assert len(report.unused) == 6
    assert_complete(report, state, pretrained)


def test_the_report_is_logged(caplog):
    pretrained = pretrained_of(**REGIONS)
    _, _, report = transfer(pretrained, cross="random", langs="de,en,fr", **REGIONS)
    with caplog.at_level("INFO"):
        report.log()
    lines = [record.getMessage() for record in caplog.records]
    assert f"transfer: {len(report.copied)} tensors copied" in lines
    assert "transfer: 20 tensors left random" in lines
    assert "transfer: 2 tensors unused of the pre-trained model: region_head.weight, region_head.bias" in lines
    assert any("'fr'" in line for line in lines)


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
    "options",
    [{"region_dim": 6, "region_classes": 5}, {**REGIONS, "region_no_bias": True}, {**REGIONS, "region_layernorm": True},
     {**REGIONS, "region_positions": 3}],
)  # fmt: skip
def test_other_regions_are_named(options):
    changed = next(name for name in options if options[name] != REGIONS.get(name))
    message = fault(transfer, pretrained_of(**REGIONS), **options)
    assert changed in message and "detector" in message


@pytest.mark.parametrize(
    ("options", "named"),
    [({"activation_fn": "relu"}, "--activation-fn gelu"), ({**REGIONS, "region_activation": "gelu"}, "activation")],
)
def test_other_activations_are_named(options, named):
    """All shapes fit, and yet it is another function: pre-training would be lost without a word."""
    message = fault(transfer, pretrained_of(**REGIONS), **options)
    assert named in message


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


def test_load_reads_what_was_saved(tmp_path):
    path, pretrained = saved(tmp_path / "pre.pt")
    loaded = PretrainedEncoder.load(path)
    assert (loaded.path, loaded.symbols, loaded.langs) == (path, pretrained.symbols, "de,en")
    assert loaded.state.keys() == pretrained.state.keys()
    assert all(same(loaded.state[name], tensor) for name, tensor in pretrained.state.items())
    path, _ = saved(tmp_path / "old.pt", task_state={})
    assert PretrainedEncoder.load(path).symbols is None


def test_files_that_are_no_pretrained_model(tmp_path):
    message = fault(PretrainedEncoder.load, str(tmp_path / "absent.pt"))
    assert "--pretrained" in message and "absent.pt" in message and "no such file" in message
    (tmp_path / "text.pt").write_text("not a checkpoint")
    assert "text.pt" in fault(PretrainedEncoder.load, str(tmp_path / "text.pt"))
    (tmp_path / "empty.pt").write_bytes(b"")
    assert "empty.pt" in fault(PretrainedEncoder.load, str(tmp_path / "empty.pt"))
    path, _ = saved(tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[: len(content) // 2])
    assert "cut.pt" in fault(PretrainedEncoder.load, str(tmp_path / "cut.pt"))
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    message = fault(PretrainedEncoder.load, str(tmp_path / "other.pt"))
    assert "other.pt" in message and "fairseq checkpoint" in message
    path, _ = saved(tmp_path / "stock.pt", name="transformer")
    message = fault(PretrainedEncoder.load, path)
    assert "--pretrained" in message and "'transformer'" in message


class Foreign:
    """A class that restricted loading refuses."""


def test_a_file_with_foreign_classes_is_refused(tmp_path):
    path, _ = saved(tmp_path / "foreign.pt", extra_state=Foreign())
    assert "foreign.pt" in fault(PretrainedEncoder.load, path)
