"""Both models: size, layout, invariances, initial statistics, decoding step by step."""

import math

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fairseq.modules import layer_norm

from tiny import (
    PAPER_RATES,
    as_task,
    dictionary,
    line_regions,
    lm_dataset,
    model_config,
    sentences,
    translation_model,
    vtlm_model,
)
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer, MultimodalTransformerConfig
from vtlm_fairseq.models.vtlm import VTLMConfig, VTLMModel

REGIONS = {"region_dim": 4, "region_classes": 5}
SOURCE = [[10, 11, 12, 13, 2], [14, 2], [15, 16, 2]]
TARGET = [[20, 2], [21, 22, 23, 2], [24, 2]]
MASK = 45


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def pretraining_batch(counts=(3, 1, 0), *, select=0.5):
    rates = MaskingRates(select=select, keep=0, random=0)
    dataset = lm_dataset(SOURCE, TARGET, regions=line_regions(list(counts)), rates=rates, region_rates=rates)
    return [dataset[i] for i in range(3)], dataset.collater


def encode(model, net) -> tuple[torch.Tensor, torch.Tensor]:
    """States B x (T+R) x d and padding B x (T+R)."""
    with torch.no_grad():
        out = model.encoder(**net)
    return out["encoder_out"][0].transpose(0, 1), out["encoder_padding_mask"][0]


# ---- size


@pytest.mark.slow
def test_parameter_count_of_the_papers_encoder():
    """10,014 words, three language rows (two languages and the image), 601 classes, D 1536."""
    words = dictionary(10_014 - 4 - 1)
    while len(words) > 10_014:  # the paper's dictionary is not padded to a multiple of 8
        del words.indices[words.symbols.pop()], words.count[-1]
    cfg = model_config(VTLMConfig, region_dim=1536, region_classes=601)
    model = VTLMModel.build_model(cfg, as_task(words))
    assert count(model) == 25_414_007
    assert len(model.encoder.layers) == 6 and model.encoder.layers[0].self_attn.num_heads == 8
    assert model.max_positions() == (512, 512)


def test_no_region_parameters_without_regions():
    with_regions, without = vtlm_model(**REGIONS), vtlm_model()
    assert not [name for name, _ in without.named_parameters() if "region" in name]
    assert without.region_head is None
    # two projections d x D and d x 4 with bias, the head 5 x d with bias
    assert count(with_regions) - count(without) == 32 * 4 + 32 + 32 * 4 + 32 + 5 * 32 + 5
    options = vtlm_model(**REGIONS, region_no_bias=True, region_layernorm=True, region_positions=7)
    assert count(options) - count(with_regions) == -2 * 32 + 2 * 32 + 7 * 32
    assert not [name for name, _ in translation_model().named_parameters() if "region" in name]


def test_the_two_halves_of_the_translation_model_are_separate_and_tied_within():
    """With one vocabulary: decoder = encoder + cross-attention, and the output bias."""
    model = translation_model()
    attention = 4 * (32 * 32 + 32) + 2 * 32
    assert count(model.decoder) == count(model.encoder) + 2 * attention + 48
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    assert model.encoder.embed_tokens.weight is not model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.bias.shape == (48,)
    pretrained = vtlm_model()
    assert pretrained.lm_head.weight is pretrained.encoder.embed_tokens.weight
    assert pretrained.lm_head.bias.shape == (48,)


# ---- initial statistics


@pytest.mark.parametrize("build", [vtlm_model, translation_model])
def test_initial_statistics(build):
    words = dictionary(2000)
    model = build(words, encoder_embed_dim=64, **REGIONS)
    tables = {name: m for name, m in model.named_modules() if isinstance(m, nn.Embedding)}
    assert len(tables) == (3 if build is vtlm_model else 6)
    for name, table in tables.items():
        weight = table.weight.detach()
        if name.endswith("embed_tokens"):
            assert not weight[1].any() and weight[0].any()
            weight = weight[2:]
        assert weight.std().item() == pytest.approx(1 / 8, rel=0.12 if "languages" in name else 0.02), name
        assert abs(weight.mean().item()) < (0.04 if "languages" in name else 0.003)
    for name, part in model.named_modules():
        if isinstance(part, nn.LayerNorm):
            assert part.eps == 1e-12 and (part.weight == 1).all() and not part.bias.any(), name
        if isinstance(part, nn.Linear) and "embed_tokens" not in name and name.split(".")[-1] != "output_projection":
            if name == "lm_head":
                continue
            bound = part.in_features**-0.5  # PyTorch's own initialisation, uniform
            assert 0.9 * bound < part.weight.abs().max() <= bound, name
            assert 0 < part.bias.abs().max() <= bound, name
    assert not [p for p in model.parameters() if not torch.isfinite(p).all()]


@pytest.mark.parametrize("build", [vtlm_model, translation_model])
def test_gelu_is_exact(build):
    x = torch.linspace(-4, 4, 101)
    exact = x * (1 + torch.erf(x / math.sqrt(2))) / 2
    assert (F.gelu(x, approximate="tanh") - exact).abs().max() > 1e-4
    layers = [m for m in build().modules() if hasattr(m, "fc1")]
    assert len(layers) == (2 if build is vtlm_model else 4)
    for layer in layers:
        torch.testing.assert_close(layer.activation_fn(x), exact)
        assert layer.activation_fn(x.bfloat16()).dtype == torch.bfloat16
    relu = [m for m in build(activation_fn="relu").modules() if hasattr(m, "fc1")]
    assert all(layer.activation_fn(torch.tensor(-1.0)) == 0 for layer in relu)


# ---- embeddings


def plain_of(model, features, boxes):
    """Region vectors without activation."""
    regions = model.encoder.embed_regions
    return (regions.feature_proj(features) + regions.box_proj(boxes)).detach()


def test_region_options():
    features, boxes = torch.randn(1, 3, 4).half().float(), torch.rand(1, 3, 4)

    def embed(**options):
        model = vtlm_model(**REGIONS, **options)
        row = torch.zeros(32)
        with torch.no_grad():
            return model, model.encoder.embed_regions(features.half(), boxes, image_row=row, mask_row=row)

    model, plain = embed(region_activation="none")
    regions = model.encoder.embed_regions
    torch.testing.assert_close(plain, regions.feature_proj(features) + regions.box_proj(boxes))
    model, gelu = embed(region_activation="gelu")
    torch.testing.assert_close(gelu, F.gelu(regions.feature_proj(features)) + F.gelu(regions.box_proj(boxes)))
    assert embed()[1].min() >= 0
    normed = embed(region_layernorm=True)[1]
    torch.testing.assert_close(normed.mean(-1), torch.zeros(1, 3), atol=1e-5, rtol=0)
    model, as_they_are = embed(region_standardise=True, region_activation="none")
    torch.testing.assert_close(as_they_are, plain_of(model, features, boxes))
    regions = model.encoder.embed_regions
    regions.standardise_by(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 0.5, 0, 1]))
    with torch.no_grad():
        standardised = regions(features.half(), boxes, image_row=torch.zeros(32), mask_row=torch.zeros(32))
    expected = (features - torch.tensor([1.0, 2, 3, 4])) / torch.tensor([2.0, 0.5, 1, 1])  # one that does not vary
    torch.testing.assert_close(standardised, plain_of(model, expected, boxes))
    model, ranked = embed(region_positions=3, region_activation="none")
    again = model.encoder.embed_regions
    without = again.feature_proj(features) + again.box_proj(boxes)
    torch.testing.assert_close(ranked - without, again.rank_positions.weight[None], atol=1e-5, rtol=1e-4)


# ---- invariances


def test_a_batch_equals_each_example_alone():
    """PITFALLS 14: padded words and padded regions have no influence."""
    model = vtlm_model(**REGIONS)
    items, collater = pretraining_batch()
    net = collater(items)["net_input"]
    states, padding = encode(model, net)
    width = net["src_tokens"].size(1)
    for i, item in enumerate(items):
        alone, alone_padding = encode(model, collater([item])["net_input"])
        torch.testing.assert_close(states[i][~padding[i]], alone[0][~alone_padding[0]], atol=1e-5, rtol=0)
    poisoned = dict(net, features=net["features"].clone(), boxes=net["boxes"].clone())
    poisoned["features"][net["region_padding_mask"]] = 100.0
    poisoned["boxes"][net["region_padding_mask"]] = 100.0
    again, _ = encode(model, poisoned)
    assert torch.equal(again[~padding], states[~padding])
    assert padding[:, :width].equal(net["src_tokens"].eq(1)) and padding[:, width:].equal(net["region_padding_mask"])


def test_order_of_regions_does_not_matter():
    """Regions have no positions (unless --region-positions)."""
    items, collater = pretraining_batch((3, 3, 3))
    net = collater(items)["net_input"]
    order = torch.tensor([2, 0, 1])
    names = ("features", "boxes", "region_mask", "region_padding_mask")
    permuted = {key: value[:, order] if key in names else value for key, value in net.items()}
    width = net["src_tokens"].size(1)
    for options, invariant in (({}, True), ({"region_positions": 3}, False)):
        model = vtlm_model(**REGIONS, **options)
        states, other = encode(model, net)[0], encode(model, permuted)[0]
        assert torch.allclose(states[:, :width], other[:, :width], atol=1e-5) == invariant
        assert torch.allclose(states[:, width:][:, order], other[:, width:], atol=1e-5) == invariant


# ---- translation


def translation_batch():
    regions = torch.Generator().manual_seed(0)
    return {
        "src_tokens": torch.tensor([[2, 10, 11, 12, 2], [2, 13, 2, 1, 1], [2, 14, 15, 2, 1]]),
        "src_lengths": torch.tensor([5, 3, 4]),
        "features": torch.randn(3, 4, 4, generator=regions),
        "boxes": torch.rand(3, 4, 4, generator=regions),
        "region_padding_mask": torch.tensor([[False] * 4, [True] * 4, [False, False, True, True]]),
    }


def test_the_encoder_knows_its_language_and_positions():
    """fairseq-interactive and --eval-bleu hand over tokens and lengths only."""
    net = translation_batch()
    text = {key: net[key] for key in ("src_tokens", "src_lengths")}
    positions = torch.arange(5).expand(3, 5)
    for lang, row in (("en", 1), ("de", 0)):
        model = translation_model(source_lang=lang, target_lang="de")
        implicit, _ = encode(model, text)
        explicit, _ = encode(model, {**text, "positions": positions, "langs": torch.full((3, 5), row)})
        assert torch.equal(implicit, explicit)
        assert not torch.equal(implicit, encode(model, {**text, "langs": torch.full((3, 5), 1 - row)})[0])
    german, english = (translation_model(source_lang="fr", target_lang=t, langs="de,en,fr") for t in ("de", "en"))
    english.load_state_dict(german.state_dict())
    previous = torch.tensor([[2, 20, 21]] * 3)
    with torch.no_grad():
        assert not torch.allclose(german(**text, prev_output_tokens=previous)[0],
                                  english(**text, prev_output_tokens=previous)[0], atol=1e-3)  # fmt: skip


def test_reorder_encoder_out_equals_encoding_the_permuted_batch():
    """PITFALLS 4: region padding included."""
    model, net = translation_model(**REGIONS), translation_batch()
    order = torch.tensor([2, 0, 0, 1])
    with torch.no_grad():
        reordered = model.encoder.reorder_encoder_out(model.encoder(**net, return_all_hiddens=True), order)
        permuted = {key: value[order] for key, value in net.items()}
        expected = model.encoder(**permuted, return_all_hiddens=True)
    assert reordered.keys() == expected.keys()
    for key in expected:
        assert len(reordered[key]) == len(expected[key]), key
        for one, other in zip(reordered[key], expected[key], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0, msg=key)
    assert len(expected["encoder_states"]) == 3
    assert reordered["encoder_padding_mask"][0].shape == (4, 5 + 4)


def test_hidden_regions_equal_no_regions_at_all():
    """--region-order none with a store (all regions padding) and without one."""
    model, net = translation_model(**REGIONS), translation_batch()
    hidden = dict(net, features=torch.zeros(3, 1, 4), boxes=torch.zeros(3, 1, 4),
                  region_padding_mask=torch.ones(3, 1, dtype=torch.bool))  # fmt: skip
    text = {key: net[key] for key in ("src_tokens", "src_lengths")}
    previous = torch.tensor([[2, 20, 21, 22]] * 3)
    with torch.no_grad():
        with_padding = model(**hidden, prev_output_tokens=previous)[0]
        nothing = model(**text, prev_output_tokens=previous)[0]
        regions = model(**net, prev_output_tokens=previous)[0]
    torch.testing.assert_close(with_padding, nothing, atol=1e-5, rtol=0)
    torch.testing.assert_close(regions[1], nothing[1], atol=1e-5, rtol=0)  # the image without regions
    assert (regions[0] - nothing[0]).abs().max() > 1e-3 < (regions[2] - nothing[2]).abs().max()


def test_step_by_step_equals_teacher_forced():
    """PITFALLS 14."""
    model, net = translation_model(**REGIONS), translation_batch()
    previous = torch.tensor([[2, 20, 21, 22, 23], [2, 24, 25, 26, 27], [2, 28, 29, 30, 31]])
    state = {}
    with torch.no_grad():
        forced = model(**net, prev_output_tokens=previous)[0]
        out = model.encoder(**net)
        steps = [model.decoder(previous[:, : n + 1], encoder_out=out, incremental_state=state)[0] for n in range(5)]
        earlier = model(**net, prev_output_tokens=previous.clone().index_fill_(1, torch.tensor([4]), 9))[0]
    assert all(step.size(1) == 1 for step in steps)
    torch.testing.assert_close(torch.cat(steps, dim=1), forced, atol=1e-5, rtol=0)
    torch.testing.assert_close(earlier[:, :4], forced[:, :4], atol=1e-6, rtol=0)  # no look-ahead


def test_attention_weights_only_on_demand():
    model, net = translation_model(**REGIONS), translation_batch()
    previous = torch.tensor([[2, 20, 21]] * 3)
    with torch.no_grad():
        assert model(**net, prev_output_tokens=previous)[1]["attn"] == [None]
        asked = model(**net, prev_output_tokens=previous, alignment_layer=1)[1]["attn"][0]
        assert asked.shape == (3, 3, 9)
        torch.testing.assert_close(asked.sum(-1), torch.ones(3, 3))
        assert not asked[1, :, 3:].any()  # padded words and regions
        model.decoder.make_generation_fast_(need_attn=True)
        aligned = model(**net, prev_output_tokens=previous)[1]["attn"][0]
        torch.testing.assert_close(aligned, asked[:, :, :5])  # for alignments: on words


def test_decoder_sizes_default_to_the_encoders():
    cfg = model_config(MultimodalTransformerConfig, encoder_embed_dim=16, encoder_ffn_embed_dim=24, encoder_layers=3,
                       encoder_attention_heads=2)  # fmt: skip
    decoder = MultimodalTransformer.build_model(cfg, as_task(dictionary())).decoder
    layer = decoder.layers[0]
    assert (len(decoder.layers), layer.self_attn.num_heads, layer.encoder_attn.num_heads) == (3, 2, 2)
    assert layer.fc1.weight.shape == (24, 16) and not layer.normalize_before
    other = translation_model(decoder_layers=1, decoder_ffn_embed_dim=40, decoder_attention_heads=8).decoder
    assert (len(other.layers), other.layers[0].fc1.out_features, other.layers[0].self_attn.num_heads) == (1, 40, 8)


# ---- the last layer, computed only where something is predicted


def random_batch(*, regions=True):
    counts = [3, 0, 5, 2, 1, 4]
    dataset = lm_dataset(sentences(6), sentences(6, seed=1), regions=line_regions(counts) if regions else None,
                         rates=PAPER_RATES, region_rates=PAPER_RATES)  # fmt: skip
    return dataset.collater([dataset[i] for i in range(6)])


def everywhere(model, net_input, masked, selected):
    """The same logits from the output of all positions."""
    states = model.encoder(**net_input)["encoder_out"][0].transpose(0, 1)
    width = masked.size(1)
    regions = None if selected is None else model.region_head(states[:, width:][selected])
    return model.lm_head(states[:, :width][masked]), regions


def gradients(model, logits):
    model.zero_grad()
    parts = [part for part in logits if part is not None]
    # weights that tell positions apart
    sum((part * torch.arange(part.numel()).view_as(part).cos()).sum() for part in parts).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("regions", [True, False])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_logits_and_gradients_equal_those_of_all_positions(regions, density):
    """Also where a sentence has nothing to predict, all of it, or the whole batch has nothing."""
    sample = random_batch(regions=regions)
    model = vtlm_model(**({"region_dim": 4, "region_classes": 5} if regions else {}))
    net_input, torch_rng = sample["net_input"], torch.Generator().manual_seed(3)
    masked = net_input["src_tokens"].ne(1) & (torch.rand(net_input["src_tokens"].shape, generator=torch_rng) < density)
    masked[2] = False
    selected = None
    if regions:
        padding = net_input["region_padding_mask"]
        selected = ~padding & (torch.rand(padding.shape, generator=torch_rng) < density)
        selected[2] = False
    found = model(**net_input, masked_tokens=masked, selected_regions=selected)
    expected = everywhere(model, net_input, masked, selected)
    assert found[0].shape == (int(masked.sum()), 48)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    ours, theirs = gradients(model, found), gradients(model, expected)
    assert ours.keys() == theirs.keys() == {name for name, _ in model.named_parameters()}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-5, rtol=1e-5, msg=name)


def test_it_computes_no_more_than_the_predicted_positions():
    """The feed-forward part of the last layer sees one row a prediction, the others all positions."""
    sample = random_batch()
    model = vtlm_model(region_dim=4, region_classes=5)
    rows = []
    for layer in model.encoder.layers:
        layer.fc1.register_forward_hook(lambda module, args, output: rows.append(args[0].numel() // args[0].size(-1)))
    masked = sample["target"].ne(1)
    selected = sample["region_target"].ne(-1)
    model(**sample["net_input"], masked_tokens=masked, selected_regions=selected)
    positions = masked.numel() + selected.numel()
    assert rows == [positions, int(masked.sum() + selected.sum())]


# ---- LayerNorm's epsilon


class Fused(nn.Module):
    """What apex's is to us: another class than PyTorch's, with the same attributes."""

    def __init__(self, normalized_shape, eps=1e-5, elementwise_affine=True):
        super().__init__()
        self.normalized_shape, self.eps = (normalized_shape,), eps
        self.weight, self.bias = nn.Parameter(torch.ones(normalized_shape)), nn.Parameter(torch.zeros(normalized_shape))

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


@pytest.mark.parametrize("build", [vtlm_model, translation_model])
def test_fused_layer_norm_has_the_epsilon_that_was_asked_for(monkeypatch, build):
    """fairseq takes apex's on a machine with a GPU."""
    plain = build(layernorm_eps=0.25)
    with monkeypatch.context() as patch:
        patch.setattr(layer_norm, "has_fused_layernorm", True)
        patch.setattr(layer_norm, "FusedLayerNorm", Fused, raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        fused = build(layernorm_eps=0.25)
    assert any(isinstance(part, Fused) for part in fused.modules())
    tokens = torch.tensor([[2, 9, 10, 11, 2]])
    states = [model.encoder(tokens)["encoder_out"][0] for model in (plain, fused)]
    assert torch.equal(*states)
    if build is translation_model:
        assert torch.equal(*(model(tokens, torch.tensor([5]), tokens)[0] for model in (plain, fused)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_epsilon_of_1e_12_acts_in_half_precision(dtype):
    """1e-12 is 0 as a float16, but LayerNorm computes in float32: a row of equal values does not become NaN."""
    model = vtlm_model(dictionary())
    assert torch.tensor(1e-12, dtype=torch.float16) == 0
    norm = model.encoder.layernorm_embedding.to(dtype)
    assert norm.eps == 1e-12
    constant = torch.full((1, 32), 3.0, dtype=dtype)
    assert norm(constant).eq(0).all()
    small = (torch.linspace(-2, 2, 32) * 2e-6).to(dtype)
    expected = F.layer_norm(small.float(), (32,), eps=1e-12)
    torch.testing.assert_close(norm(small).float(), expected, atol=1e-2, rtol=1e-2)
    assert expected.std() > 0.8
