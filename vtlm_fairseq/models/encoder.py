"""The single-stream encoder of both models: text and regions through one Transformer (paper, section 2.2)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from fairseq.models import FairseqEncoder
from fairseq.modules import TransformerSentenceEncoderLayer
from torch import Tensor

from vtlm_fairseq.data.text_pipeline import MASK
from vtlm_fairseq.models.embeddings import PositionLanguageEmbedding, RegionEmbedding


class MultimodalEncoder(FairseqEncoder):
    """Post-norm Transformer over ``[text ; regions]``.

    Args:
        cfg: a model configuration of this package (``encoder_*``, ``dropout``, ``region_*``, ``langs``, ...).
        dictionary: joint dictionary that holds ``<mask>``.
        embed_tokens: V x d, with a padding index.
    """

    def __init__(self, cfg, dictionary, embed_tokens: nn.Embedding):
        super().__init__(dictionary)
        dim = cfg.encoder_embed_dim
        languages = cfg.langs.split(",")
        self.padding_idx = dictionary.pad()
        self.mask_idx = dictionary.index(MASK)
        self.language = languages.index(cfg.source_lang)
        self.embed_tokens = embed_tokens
        self.embed_positions = PositionLanguageEmbedding(
            num_positions=cfg.max_positions, num_languages=len(languages) + 1, embed_dim=dim
        )
        self.layernorm_embedding = nn.LayerNorm(dim, eps=cfg.layernorm_eps)
        self.embed_regions = None
        if cfg.region_dim:
            self.embed_regions = RegionEmbedding(
                region_dim=cfg.region_dim,
                embed_dim=dim,
                dropout=cfg.dropout,
                activation=str(cfg.region_activation),
                bias=not cfg.region_no_bias,
                layernorm_eps=cfg.layernorm_eps if cfg.region_layernorm else None,
                num_positions=cfg.region_positions,
            )
        self.dropout = nn.Dropout(cfg.dropout)
        self.layers = nn.ModuleList(self.build_layer(cfg) for _ in range(cfg.encoder_layers))

    @staticmethod
    def build_layer(cfg) -> TransformerSentenceEncoderLayer:
        """One post-norm layer of fairseq's."""
        layer = TransformerSentenceEncoderLayer(
            embedding_dim=cfg.encoder_embed_dim,
            ffn_embedding_dim=cfg.encoder_ffn_embed_dim,
            num_attention_heads=cfg.encoder_attention_heads,
            dropout=cfg.dropout,
            attention_dropout=cfg.attention_dropout,
            activation_dropout=cfg.activation_dropout,
            activation_fn=str(cfg.activation_fn),
        )
        use_torch_gelu(layer, cfg)
        return layer

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None = None,
        positions: Tensor | None = None,
        langs: Tensor | None = None,
        features: Tensor | None = None,
        boxes: Tensor | None = None,
        region_padding_mask: Tensor | None = None,
        region_mask: Tensor | None = None,
        return_all_hiddens: bool = False,
    ) -> dict[str, list[Tensor]]:
        """Encode a batch.

        Args:
            src_tokens: B x T, padded on the right.
            src_lengths: B, kept for fairseq's callers; padding is read from the tokens.
            positions: B x T, position within its sentence; None: 0, 1, 2, ... (one sentence).
            langs: B x T, language rows; None: the model's source language.
            features: B x R x D; None: no regions.
            boxes: B x R x 4.
            region_padding_mask: B x R, True at padded regions.
            region_mask: B x R, True where a region's content is replaced by the ``<mask>`` embedding.
            return_all_hiddens: also return the input and the output of each layer.

        Returns:
            fairseq's encoder dictionary; ``encoder_out`` holds one (T+R) x B x d, text first, and
            ``encoder_padding_mask`` one B x (T+R), True at padding.
        """
        if positions is None:
            positions = torch.arange(src_tokens.size(1), device=src_tokens.device).unsqueeze(0)
        if langs is None:
            langs = torch.full_like(positions, self.language)
        x = self.embed_tokens(src_tokens) + self.embed_positions(positions, langs)
        x = self.dropout(self.layernorm_embedding(x))
        padding_mask = src_tokens.eq(self.padding_idx)
        if features is not None and self.embed_regions is not None:
            regions = self.embed_regions(
                features,
                boxes,
                image_row=self.embed_positions.image_row(),
                mask_row=self.embed_tokens.weight[self.mask_idx],
                region_mask=region_mask,
            )
            x = torch.cat([x, regions.to(x.dtype)], dim=1)
            padding_mask = torch.cat([padding_mask, region_padding_mask], dim=1)
        x = x.transpose(0, 1)  # (T+R) x B x d
        embedding = x
        states = [x] if return_all_hiddens else []
        attention_mask = padding_mask if padding_mask.any() else None
        for layer in self.layers:
            x, _ = layer(x, self_attn_padding_mask=attention_mask)
            if return_all_hiddens:
                states.append(x)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding_mask],
            "encoder_embedding": [embedding.transpose(0, 1)],
            "encoder_states": states,
            "src_tokens": [src_tokens],
            "src_lengths": [] if src_lengths is None else [src_lengths],
        }

    def reorder_encoder_out(self, encoder_out: dict[str, list[Tensor]], new_order: Tensor) -> dict[str, list[Tensor]]:
        """Select and reorder the batch; ``new_order``: B' (int64)."""
        time_major = {"encoder_out", "encoder_states"}
        return {
            key: [value.index_select(1 if key in time_major else 0, new_order) for value in values]
            for key, values in encoder_out.items()
        }

    def max_positions(self) -> int:
        """Longest sentence in tokens, its leading ``</s>`` included."""
        return self.embed_positions.max_positions


def use_torch_gelu(layer: nn.Module, cfg) -> None:
    """Replace fairseq's GELU, which computes in float32 whatever the input, by PyTorch's own (same function)."""
    if str(cfg.activation_fn) == "gelu":
        layer.activation_fn = F.gelu
