"""Scaled dot-product attention, and self-attention with one projection for queries, keys and values."""

import torch
import torch.nn.functional as F
from fairseq.modules import MultiheadAttention
from torch import Tensor

from vtlm_fairseq.models.dropout import Dropout, dropout


def attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None, dropout_p: float = 0.0) -> Tensor:
    """Softmax(q k^T / sqrt(head width)) v.

    PyTorch's fused kernel for CPUs has no dropout, and in half precision its backward pass takes ten times as long as
    that of these lines.

    Args:
        q: B x H x T x head width.
        k, v: B x H x S x head width.
        mask: added to the scores, or bool and True where a key may be attended to; anything that broadcasts to
            B x H x T x S; None: everywhere.
        dropout_p: dropout on the weights.

    Returns:
        B x H x T x head width.
    """
    drops = dropout_p > 0 and q.device.type == "cpu" and not torch.compiler.is_compiling()
    if not drops and not trains_in_half(q):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p)
    scores = (q * q.size(-1) ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return dropout(scores.softmax(-1), dropout_p) @ v


def trains_in_half(x: Tensor) -> bool:
    """Whether a CPU is asked for gradients in half precision, for which PyTorch's fused attention is slow."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    return dtype in (torch.bfloat16, torch.float16)


class Attention(MultiheadAttention):
    """fairseq's attention: same parameters, same function, and this project's dropout.

    Args:
        embed_dim, num_heads, options: as fairseq's.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, dropout: float = 0.0, **options):
        super().__init__(embed_dim, num_heads, **options)
        self.dropout_module = Dropout(dropout, module_name=type(self).__name__)

    def attend(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with one matrix product for all projections of the same input, without fairseq's own code.

        Args:
            query: T x B x d.
            key: S x B x d, also the values.
            mask: see :func:`attention`.

        Returns:
            T x B x d.
        """
        if query is key:
            q, k, v = self._project(query, self.q_proj, self.k_proj, self.v_proj)
        else:
            (q,), (k, v) = self._project(query, self.q_proj), self._project(key, self.k_proj, self.v_proj)
        x = attention(q, k, v, mask=mask, dropout_p=self.dropout_module.p if self.dropout_module.active else 0.0)
        return self.out_proj(x.permute(2, 0, 1, 3).reshape(query.shape))

    def _project(self, x: Tensor, *projections: torch.nn.Linear) -> tuple[Tensor, ...]:
        """T x B x d -> for each projection B x H x T x d/H."""
        weight = torch.cat([p.weight for p in projections])
        bias = torch.cat([p.bias for p in projections])
        x = F.linear(x, weight, bias).view(*x.shape[:2], len(projections), self.num_heads, self.head_dim)
        return x.permute(2, 1, 3, 0, 4).unbind(0)


class SelfAttention(Attention):
    """The encoder's."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: T x B x d.
            key: S x B x d (``value`` is the same).
            key_padding_mask: B x S, True at padding; or B x 1 x 1 x S, added to the scores.
            need_weights: also return the weights, mean over heads (then fairseq's own path computes all).
            attn_mask: fairseq's; None here.

        Returns:
            T x B x d, and the weights, B x T x S, or None.
        """
        if need_weights or attn_mask is not None:
            if key_padding_mask is not None and key_padding_mask.dim() == 4:
                key_padding_mask = key_padding_mask[:, 0, 0].isinf()
            return super().forward(
                query, key, value, key_padding_mask=key_padding_mask, need_weights=need_weights, attn_mask=attn_mask
            )
        mask = key_padding_mask
        if mask is not None and mask.dtype == torch.bool:
            mask = ~mask[:, None, None, :]
        return self.attend(query, key, mask), None


class DecoderSelfAttention(Attention):
    """The decoder's: fairseq's but where a CPU trains in half precision."""

    def __init__(self, embed_dim: int, num_heads: int, **options):
        super().__init__(embed_dim, num_heads, **options)
        self.dropout_module.module_name = MultiheadAttention.__name__  # for --retain-dropout-modules

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        **options,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            query: T x B x d.
            key: T x B x d (``value`` is the same).
            key_padding_mask: B x T, True at padding.
            incremental_state: fairseq's store of keys and values while decoding.
            need_weights: also return the weights, mean over heads.
            attn_mask: T x T, added to the scores.
            options: fairseq's.

        Returns:
            T x B x d, and the weights or None.
        """
        trains = incremental_state is None and key_padding_mask is None and not need_weights and not options
        if trains and trains_in_half(query):
            return self.attend(query, key, attn_mask), None
        options |= {"incremental_state": incremental_state, "need_weights": need_weights, "attn_mask": attn_mask}
        return super().forward(query, key, value, key_padding_mask=key_padding_mask, **options)
