"""The encoder's layer: fairseq's, which can also compute its output at some positions only."""

import torch.nn.functional as F
from fairseq.modules import TransformerSentenceEncoderLayer
from torch import Tensor

from vtlm_fairseq.models.attention import SelfAttention
from vtlm_fairseq.models.dropout import Dropout


class CaptionEncoderLayer(TransformerSentenceEncoderLayer):
    """Post-norm layer of fairseq's, with the same parameters.

    Args:
        cfg: a model configuration of this package.
    """

    def __init__(self, cfg):
        super().__init__(
            embedding_dim=cfg.encoder_embed_dim,
            ffn_embedding_dim=cfg.encoder_ffn_embed_dim,
            num_attention_heads=cfg.encoder_attention_heads,
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            activation_fn=str(cfg.activation_fn),
        )
        if str(cfg.activation_fn) == "gelu":
            self.activation_fn = F.gelu  # fairseq's computes in float32 whatever the input; same function
        self.dropout_module = Dropout(cfg.dropout, module_name=type(self).__name__)
        self.activation_dropout_module = Dropout(cfg.activation_dropout, module_name=type(self).__name__)

    def build_self_attention(self, embed_dim: int, num_attention_heads: int, **options) -> SelfAttention:
        """The same attention, under the same parameter names."""
        return SelfAttention(embed_dim, num_attention_heads, **options)

    def at(self, x: Tensor, queries: Tensor, places: Tensor, *, mask: Tensor | None) -> Tensor:
        """The layer's output at chosen positions; all positions are attended to.

        Args:
            x: T x B x d, the layer's input.
            queries: B x P, positions that attend.
            places: [n], places within P x B (row-major) to compute.
            mask: as :class:`SelfAttention`'s.

        Returns:
            n x d.
        """
        index = queries.transpose(0, 1).unsqueeze(-1)
        residual = x.gather(0, index.expand(-1, -1, x.size(-1)))  # P x B x d
        attended, _ = self.self_attn(query=residual, key=x, value=x, key_padding_mask=mask, need_weights=False)
        residual, attended = (states.flatten(0, 1).index_select(0, places) for states in (residual, attended))
        x = self.self_attn_layer_norm(residual + self.dropout_module(attended))
        hidden = self.activation_dropout_module(self.activation_fn(self.fc1(x)))
        return self.final_layer_norm(x + self.dropout_module(self.fc2(hidden)))
