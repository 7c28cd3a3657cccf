"""fairseq's Transformer decoder with this project's embedding recipe and output bias."""

import torch
import torch.nn as nn
from fairseq.models.transformer import TransformerConfig, TransformerDecoderBase
from torch import Tensor

from vtlm_fairseq.models.alignment import attention_to_text
from vtlm_fairseq.models.cross_attention import CaptionDecoderLayer
from vtlm_fairseq.models.dropout import Dropout
from vtlm_fairseq.models.embeddings import SentencePositionEmbedding


class CaptionDecoder(TransformerDecoderBase):
    """Post-norm decoder: token + position + language, LayerNorm, dropout; tied output projection with a bias.

    Args:
        cfg: the flat model configuration of :mod:`vtlm_fairseq.models.multimodal_transformer`.
        dictionary: joint dictionary.
        embed_tokens: V x d, the decoder's own.
    """

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(transformer_config(cfg), dictionary, embed_tokens)
        languages = cfg.langs.split(",")
        self.embed_positions = SentencePositionEmbedding(
            language=languages.index(cfg.target_lang),
            num_positions=cfg.max_positions,
            num_languages=len(languages) + 1,
            embed_dim=embed_tokens.embedding_dim,
            padding_idx=self.padding_idx,
        )
        self.dropout_module = Dropout(cfg.dropout, module_name=type(self).__name__)
        self.need_attn = False

    def build_decoder_layer(self, cfg: TransformerConfig, no_encoder_attn: bool = False) -> CaptionDecoderLayer:
        """A layer with this project's cross-attention."""
        return CaptionDecoderLayer(cfg, no_encoder_attn)

    def build_output_projection(self, cfg, dictionary, embed_tokens: nn.Embedding) -> None:
        """Tie the projection to the embedding; fairseq's tied projection has no bias, the paper's code has one."""
        self.output_projection = nn.Linear(embed_tokens.embedding_dim, len(dictionary))
        self.output_projection.weight = embed_tokens.weight

    def extract_features(
        self,
        prev_output_tokens,
        encoder_out,
        incremental_state=None,
        full_context_alignment=False,
        alignment_layer=None,
        alignment_heads=None,
    ):
        """As fairseq's; attention weights are computed only where a caller asks for a layer, or for alignments.

        For alignments they are those on text: models of an ensemble may have other regions, or none. fairseq's looks
        for padding, for which a GPU is waited for; targets are padded on the right, where no earlier word looks.
        """
        aligning = alignment_layer is None and self.need_attn
        if aligning:
            alignment_layer = self.num_layers - 1
        states, source_padding = None, None
        if encoder_out is not None:
            states, source_padding = (next(iter(encoder_out[k]), None) for k in ("encoder_out", "encoder_padding_mask"))
        positions = self.embed_positions(prev_output_tokens)
        if incremental_state is not None:
            prev_output_tokens, positions = prev_output_tokens[:, -1:], positions[:, -1:]
        x = self.layernorm_embedding(self.embed_tokens(prev_output_tokens) + positions)
        x = self.dropout_module(x).transpose(0, 1)
        future, padding = None, None
        if full_context_alignment:
            padding = prev_output_tokens.eq(self.padding_idx)
        elif incremental_state is None:
            future = self.buffered_future_mask(x)
        attention, inner_states = None, [x]
        for number, layer in enumerate(self.layers):
            wanted = number == alignment_layer
            x, weights, _ = layer(
                x,
                states,
                source_padding,
                incremental_state,
                self_attn_mask=future,
                self_attn_padding_mask=padding,
                need_attn=wanted,
                need_head_weights=wanted,
            )
            inner_states.append(x)
            if wanted and weights is not None:
                attention = weights[:alignment_heads].float().to(x).mean(dim=0)
        if aligning and attention is not None:
            attention = attention_to_text(attention, encoder_out["src_tokens"][0])
        return x.transpose(0, 1), {"attn": [attention], "inner_states": inner_states}

    def buffered_future_mask(self, tensor: Tensor) -> Tensor:
        """fairseq's mask of later positions, T x T for T x B x d: 0, and -inf above the diagonal.

        fairseq's reads its buffer again after it wrote it, which fails where threads share a model.
        """
        length, mask = tensor.size(0), self._future_mask
        if mask.size(0) < length or mask.device != tensor.device or mask.dtype != tensor.dtype:
            mask = torch.full((length, length), float("-inf"), device=tensor.device, dtype=tensor.dtype).triu(1)
            self._future_mask = mask
        return mask[:length, :length]

    def make_generation_fast_(self, need_attn: bool = False, **kwargs) -> None:
        """fairseq's hook before decoding; ``need_attn`` is set by ``--print-alignment``."""
        self.need_attn = need_attn


def transformer_config(cfg) -> TransformerConfig:
    """The nested configuration that fairseq's decoder wants, from this project's flat one."""
    nested = TransformerConfig()
    nested.activation_fn = str(cfg.activation_fn)
    nested.dropout = cfg.dropout
    nested.attention_dropout = cfg.attention_dropout
    nested.activation_dropout = cfg.activation_dropout
    nested.encoder.embed_dim = cfg.encoder_embed_dim
    nested.decoder.embed_dim = nested.decoder.input_dim = nested.decoder.output_dim = cfg.encoder_embed_dim
    nested.decoder.ffn_embed_dim = cfg.decoder_ffn_embed_dim or cfg.encoder_ffn_embed_dim
    nested.decoder.layers = cfg.decoder_layers or cfg.encoder_layers
    nested.decoder.attention_heads = cfg.decoder_attention_heads or cfg.encoder_attention_heads
    nested.max_target_positions = cfg.max_positions
    nested.no_token_positional_embeddings = True  # replaced by SentencePositionEmbedding
    nested.layernorm_embedding = True
    nested.no_scale_embedding = True
    nested.share_decoder_input_output_embed = True
    return nested
