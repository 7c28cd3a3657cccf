"""The last encoder layer, computed only where something is predicted."""

import pytest
import torch

from tiny import PAPER_RATES, line_regions, lm_dataset, sentences, vtlm_model


def batch(*, regions=True):
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
    sample = batch(regions=regions)
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
    sample = batch()
    model = vtlm_model(region_dim=4, region_classes=5)
    rows = []
    for layer in model.encoder.layers:
        layer.fc1.register_forward_hook(lambda module, args, output: rows.append(args[0].numel() // args[0].size(-1)))
    masked = sample["target"].ne(1)
    selected = sample["region_target"].ne(-1)
    model(**sample["net_input"], masked_tokens=masked, selected_regions=selected)
    positions = masked.numel() + selected.numel()
    assert rows == [positions, int(masked.sum() + selected.sum())]
