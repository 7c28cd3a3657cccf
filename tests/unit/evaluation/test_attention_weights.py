"""Cross-attention mass on regions against cases worked out by hand, and the recorded weights against fairseq's."""

import pytest
import torch

from tiny import dictionary, line_regions, pair_dataset, sentences, translation_model
from vtlm_fairseq.evaluation.attention_weights import cross_attention, record_attention, region_mass

COUNTS = [3, 0, 6, 1]


def batch(*, counts=COUNTS):
    """A padded batch of four pairs whose images have ``counts`` regions."""
    source, target = sentences(len(counts), seed=3), sentences(len(counts), seed=4)
    source[0] = source[0][-2:]  # one word
    dataset = pair_dataset(source, target, regions=line_regions(counts))
    sample = dataset.collater([dataset[i] for i in range(len(dataset))])
    return sample, {i: len(line) + 1 for i, line in enumerate(source)}


def masses(model, words, sample):
    net_input = sample["net_input"]
    weights = cross_attention(model, net_input)
    return weights, region_mass(
        weights,
        text_mask=net_input["src_tokens"].ne(words.pad()),
        region_padding_mask=net_input["region_padding_mask"],
        target_mask=net_input["prev_output_tokens"].ne(words.pad()),
    )


@pytest.fixture
def words():
    return dictionary()


def constant_attention(model):
    """Queries and keys of every cross-attention become 0, so that all positions get equal weights."""
    for layer in model.decoder.layers:
        for part in (layer.encoder_attn.q_proj, layer.encoder_attn.k_proj):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    return model


@pytest.mark.slow
def test_equal_weights_give_the_uniform_share(words):
    """Mass is exactly R / (R + T): padded words and regions are not counted, sentences without regions are left out."""
    model = constant_attention(translation_model(words, region_dim=4, region_classes=5))
    sample, lengths = batch()
    _, found = masses(model, words, sample)
    ids = [i for i in sample["id"].tolist() if COUNTS[i]]
    expected = torch.tensor([COUNTS[i] / (COUNTS[i] + lengths[i]) for i in ids])
    assert len(set(expected.tolist())) == 3
    torch.testing.assert_close(found.uniform, expected)
    assert found.mass.shape == (2, 4, 3)  # layers, heads, sentences
    torch.testing.assert_close(found.mass, expected.expand(2, 4, 3))
    assert found.without == 1


def test_target_positions_are_averaged_without_padding():
    """Masses 0.2 and 0.6 over two real target positions: 0.4; the third is padding, and so is the second region."""
    weights = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.0, 1.0, 0.0]]).view(1, 1, 1, 3, 3)
    found = region_mass(
        weights,
        text_mask=torch.ones(1, 1, dtype=torch.bool),
        region_padding_mask=torch.tensor([[False, True]]),
        target_mask=torch.tensor([[True, True, False]]),
    )
    assert found.mass.item() == pytest.approx(0.4)
    assert found.uniform.item() == 0.5


def test_without_region_inputs_every_sentence_is_left_out():
    found = region_mass(
        torch.ones(2, 4, 3, 1, 1),
        text_mask=torch.ones(3, 1, dtype=torch.bool),
        region_padding_mask=None,
        target_mask=torch.ones(3, 1, dtype=torch.bool),
    )
    assert found.mass.shape == (2, 4, 0) and found.without == 3


@pytest.mark.slow
def test_recorded_weights_are_fairseqs(words):
    """Layer by layer the mean over heads is what fairseq returns for that alignment layer; logits stay the same."""
    model = translation_model(words, region_dim=4, region_classes=5)
    sample, _ = batch()
    net_input = sample["net_input"]
    before, _ = model(**net_input)
    weights = cross_attention(model, net_input)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    for layer in range(2):
        _, extra = model(**net_input, alignment_layer=layer)
        torch.testing.assert_close(weights[layer].mean(0), extra["attn"][0])
    assert not torch.allclose(weights[0], weights[1])
    after, extra = model(**net_input)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert extra["attn"][0] is None


def test_recording_ends_with_the_block(words):
    model = translation_model(words, region_dim=4, region_classes=5)
    modules = [layer.encoder_attn for layer in model.decoder.layers]
    with pytest.raises(RuntimeError, match="stop"), record_attention(modules, heads=True):
        raise RuntimeError("stop")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
