"""Cross-attention that keeps PyTorch's fast path in training and one copy of the keys a sentence in beam search."""

import torch.nn.functional as F
from fairseq.models.transformer import TransformerConfig
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from vtlm_fairseq.models.attention import Attention, DecoderSelfAttention, attention, trains_in_half
from vtlm_fairseq.models.dropout import Dropout


class CrossAttention(Attention):
    """fairseq's cross-attention with the same parameters and the same function.

    fairseq calls it with ``static_kv``, which keeps its own implementation off ``scaled_dot_product_attention``, and
    in beam search projects, stores and reads the encoder's states once for each hypothesis. Here the batch may hold
    several hypotheses of a sentence for each of the encoder's states; how many is seen from the two, and kept with the
    keys in ``incremental_state``, so that threads can share a model. (fairseq's own switch for this,
    ``set_beam_size``, is a state of the module, and stays on when decoding has ended.)
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: dict | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        before_softmax: bool = False,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend to the encoder's states.

        Args:
            query: T x B x d; while decoding T is 1 and B counts hypotheses, those of a sentence side by side.
            key: S x B x d, the encoder's states (``value`` is the same); while decoding B may count sentences.
            key_padding_mask: B x S, True at padding.
            incremental_state: fairseq's store of keys and values while decoding.
            need_weights: also return the weights, mean over heads.
            need_head_weights: return the weights of each head.

        Returns:
            T x B x d, and the weights (B x T x S, or H x B x T x S with ``need_head_weights``) or None.
        """
        if incremental_state is None:
            asked = need_weights or need_head_weights or before_softmax or attn_mask is not None
            if not asked and trains_in_half(query):
                mask = None if key_padding_mask is None else ~key_padding_mask.bool()[:, None, None, :]
                return self.attend(query, key, mask), None
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                static_kv=need_head_weights or before_softmax,  # fairseq's own path, the one that has them
                attn_mask=attn_mask,
                before_softmax=before_softmax,
                need_head_weights=need_head_weights,
            )
        length, hypotheses, dim = query.shape
        state = self._get_input_buffer(incremental_state)
        if not state:
            state = {**self._keys(key, key_padding_mask), "beam": hypotheses // key.size(1)}
            self._set_input_buffer(incremental_state, state)
        keys, values, mask = state["prev_key"], state["prev_value"], state["prev_key_padding_mask"]
        beam = state["beam"]
        # the hypotheses of a sentence are the queries of one attention
        q = self.q_proj(query).view(length, -1, beam, self.num_heads, self.head_dim)
        q = q.permute(1, 3, 2, 0, 4).reshape(-1, self.num_heads, beam * length, self.head_dim)
        weights = None
        if need_weights or need_head_weights:
            scores = q @ keys.transpose(2, 3) * self.scaling
            weights = (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).float().softmax(-1)
            x = self.dropout_module(weights.type_as(values)) @ values
        else:
            dropout_p = self.dropout_module.p if self.dropout_module.active else 0.0
            x = attention(q, keys, values, mask=mask, dropout_p=dropout_p)
        x = x.view(-1, self.num_heads, beam, length, self.head_dim).permute(3, 0, 2, 1, 4)
        x = self.out_proj(x.reshape(length, hypotheses, dim))
        if weights is not None:
            weights = weights.view(-1, self.num_heads, beam, length, weights.size(-1)).permute(1, 0, 2, 3, 4)
            weights = weights.reshape(self.num_heads, hypotheses, length, -1)
            weights = weights if need_head_weights else weights.mean(0)
        return x, weights

    def _keys(self, states: Tensor, padding_mask: Tensor | None) -> dict[str, Tensor | None]:
        """Keys and values, sentences x H x S x d/H, and where they are real, sentences x 1 x 1 x S or None."""

        def split(x: Tensor) -> Tensor:
            return x.view(x.size(0), x.size(1), self.num_heads, self.head_dim).permute(1, 2, 0, 3).contiguous()

        mask = None if padding_mask is None else ~padding_mask.bool()[:, None, None, :]
        return {
            "prev_key": split(self.k_proj(states)),
            "prev_value": split(self.v_proj(states)),
            "prev_key_padding_mask": mask,
        }

    def reorder_incremental_state(self, incremental_state: dict, new_order: Tensor) -> dict:
        """Follow a beam search that has dropped finished sentences; within a sentence all hypotheses share keys."""
        state = self._get_input_buffer(incremental_state)
        if state and state["prev_key"].size(0) * state["beam"] != new_order.numel():
            sentences = sentence_order(new_order, state["beam"])
            kept = {name: x.index_select(0, sentences) for name, x in state.items() if isinstance(x, Tensor)}
            self._set_input_buffer(incremental_state, {**state, **kept})
        return incremental_state


class CaptionDecoderLayer(TransformerDecoderLayerBase):
    """fairseq's decoder layer with this project's attention and dropout, and PyTorch's GELU."""

    def __init__(self, cfg: TransformerConfig, no_encoder_attn: bool = False):
        super().__init__(cfg, no_encoder_attn)
        if cfg.activation_fn == "gelu":
            self.activation_fn = F.gelu  # fairseq's computes in float32 whatever the input; same function
        self.dropout_module = Dropout(cfg.dropout, module_name=type(self).__name__)
        self.activation_dropout_module = Dropout(float(cfg.activation_dropout), module_name=type(self).__name__)

    def build_self_attention(
        self, embed_dim: int, cfg: TransformerConfig, add_bias_kv: bool = False, add_zero_attn: bool = False
    ) -> DecoderSelfAttention:
        """The same attention, under the same parameter names."""
        return DecoderSelfAttention(
            embed_dim,
            cfg.decoder.attention_heads,
            dropout=cfg.attention_dropout,
            add_bias_kv=add_bias_kv,
            add_zero_attn=add_zero_attn,
            self_attention=True,
        )

    def build_encoder_attention(self, embed_dim: int, cfg: TransformerConfig) -> CrossAttention:
        """The same attention, under the same parameter names."""
        return CrossAttention(
            embed_dim,
            cfg.decoder.attention_heads,
            kdim=cfg.encoder.embed_dim,
            vdim=cfg.encoder.embed_dim,
            dropout=cfg.attention_dropout,
            encoder_decoder_attention=True,
        )


def sentence_order(new_order: Tensor, beam: int) -> Tensor:
    """The sentences that go on, B' (int64), of an order of hypotheses, (B' x beam), ``beam`` of a sentence together."""
    return new_order.view(-1, beam)[:, 0] // beam
