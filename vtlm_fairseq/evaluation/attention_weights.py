"""Attention weights of every layer, and what part of them falls on regions (paper, section 3.3)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@contextmanager
def record_attention(modules: Iterable[nn.Module], *, heads: bool) -> Iterator[list[Tensor]]:
    """Ask fairseq's attention modules for their weights while the block runs.

    Args:
        modules: ``MultiheadAttention``, one a layer.
        heads: weights of each head; else their mean.

    Yields:
        A list that holds, after each forward pass, the weights of each module in the order given: H x B x T x S
        with ``heads``, else B x T x S.
    """
    modules = list(modules)
    weights: list[Tensor] = [torch.empty(0)] * len(modules)

    def ask(module, args, kwargs):
        return args, {**kwargs, "need_weights": True, **({"need_head_weights": True} if heads else {})}

    def keeper(k: int):
        def keep(module, args, output):
            weights[k] = output[1].detach()

        return keep

    handles = []
    for k, module in enumerate(modules):
        handles.append(module.register_forward_pre_hook(ask, with_kwargs=True))
        handles.append(module.register_forward_hook(keeper(k)))
    try:
        yield weights
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def cross_attention(model: nn.Module, net_input: dict[str, Tensor]) -> Tensor:
    """Cross-attention of a teacher-forced pass.

    Args:
        model: a ``multimodal_transformer`` in evaluation mode.
        net_input: a batch of its dataset, ``prev_output_tokens`` included.

    Returns:
        L x H x B x T x S: weight of source position s (words, then regions) for target position t.
    """
    with record_attention((layer.encoder_attn for layer in model.decoder.layers), heads=True) as weights:
        model(**net_input)
    return torch.stack([layer.float() for layer in weights])


@torch.no_grad()
def rolled_out(model: nn.Module, net_input: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-attention of a teacher-forced pass, and the same followed through the encoder to its input.

    A state of the encoder holds what its position has taken up of others. Attention rollout (Abnar and Zuidema 2020):
    of a layer's output one half comes from its own position, the other from where it attends to (mean over heads).

    Args:
        model, net_input: as for :func:`cross_attention`.

    Returns:
        Two of L x H x B x T x S: weight of state s, and of input s, for target position t.
    """
    decoder = record_attention((layer.encoder_attn for layer in model.decoder.layers), heads=True)
    encoder = record_attention((layer.self_attn for layer in model.encoder.layers), heads=False)
    with decoder as cross, encoder as within:
        model(**net_input)
    weights = torch.stack([layer.float() for layer in cross])
    own = torch.eye(weights.size(-1), device=weights.device)
    inputs = weights
    for layer in reversed(within):
        inputs = inputs @ ((layer.float() + own) / 2)
    return weights, inputs


@torch.no_grad()
def self_attention(model: nn.Module, net_input: dict[str, Tensor]) -> Tensor:
    """Self-attention of the encoder.

    Args:
        model: a ``vtlm`` model in evaluation mode.
        net_input: a batch of its dataset.

    Returns:
        L x B x (T+R) x (T+R), the mean over heads.
    """
    with record_attention((layer.self_attn for layer in model.encoder.layers), heads=False) as weights:
        model.encoder(**net_input)
    return torch.stack([layer.float() for layer in weights])


@dataclass
class RegionMass:
    """Attention on regions, sentence by sentence.

    Attributes:
        mass: L x H x B', the share of attention on regions, mean over target positions.
        uniform: B', the share that equal weights give, R / (R + T) with T source positions (``</s>`` included).
        without: sentences of the batch that have no region; they are not among the B'.
    """

    mass: Tensor
    uniform: Tensor
    without: int


def region_mass(
    weights: Tensor, *, text_mask: Tensor, region_padding_mask: Tensor | None, target_mask: Tensor
) -> RegionMass:
    """Attention mass on regions of each sentence, and the uniform share.

    Args:
        weights: L x H x B x T x S, S = words, then regions.
        text_mask: B x S_w, True at source positions that are not padding.
        region_padding_mask: B x R, True at padded regions; None without regions.
        target_mask: B x T, True at target positions that count.
    """
    if region_padding_mask is None:
        empty = weights.new_zeros((*weights.shape[:2], 0))
        return RegionMass(empty, empty.new_zeros(0), without=len(text_mask))
    regions = ~region_padding_mask  # B x R
    on_regions = weights[..., text_mask.size(1) :].masked_fill(region_padding_mask[None, None, :, None], 0).sum(-1)
    counted = target_mask[None, None].to(weights.dtype)  # 1 x 1 x B x T
    mass = (on_regions * counted).sum(-1) / counted.sum(-1)  # L x H x B
    number = regions.sum(1)
    uniform = number / (number + text_mask.sum(1))
    kept = number > 0
    return RegionMass(mass[..., kept], uniform[kept].to(weights.dtype), without=int((~kept).sum()))
