"""Encoder-decoder for NMT (no regions) and MMT (regions as part of the source; paper, section 2.4)."""

from dataclasses import dataclass
from typing import Optional

import torch.nn as nn
from fairseq.dataclass import ChoiceEnum
from fairseq.models import FairseqEncoderDecoderModel, register_model
from torch import Tensor

from vtlm_fairseq.compatibility import check_task
from vtlm_fairseq.loading import CheckedHub
from vtlm_fairseq.models.config import EncoderConfig, sized
from vtlm_fairseq.models.decoder import CaptionDecoder
from vtlm_fairseq.models.description import fill_defaults
from vtlm_fairseq.models.embeddings import initialise
from vtlm_fairseq.models.encoder import MultimodalEncoder
from vtlm_fairseq.options import setting


@dataclass
class MultimodalTransformerConfig(EncoderConfig):
    """``multimodal_transformer``: the paper's size."""

    decoder_ffn_embed_dim: Optional[int] = setting(
        None, "width of the decoder's feed-forward layers (default: as the encoder)"
    )
    decoder_layers: Optional[int] = setting(None, "decoder layers (default: as the encoder)")
    decoder_attention_heads: Optional[int] = setting(
        None, "attention heads of a decoder layer (default: as the encoder)"
    )
    init_cross_attention: ChoiceEnum(["self-attention", "random"]) = setting(
        "self-attention",
        "with --pretrained: copy cross-attention from pre-trained self-attention (of a translation model: "
        "from its cross-attention), or draw it",
    )


@dataclass
@sized("base")
class MultimodalTransformerBaseConfig(MultimodalTransformerConfig):
    """``multimodal_transformer_base``: 768/3072/12/12."""


@dataclass
@sized("tiny")
class MultimodalTransformerTinyConfig(MultimodalTransformerConfig):
    """``multimodal_transformer_tiny``: 32/64/2/4, for tests."""


@register_model("multimodal_transformer", dataclass=MultimodalTransformerConfig)
class MultimodalTransformer(CheckedHub, FairseqEncoderDecoderModel):
    """The pre-training encoder and a decoder of the same recipe; the two halves share no parameters.

    With ``region_dim`` 0 it is a text-only NMT model without region parameters.
    """

    @classmethod
    def build_model(cls, cfg, task):
        """Build from a complete configuration (the task's ``build_model`` fills in languages and region sizes)."""
        check_task(task, cls)
        fill_defaults(cfg)

        def embedding(dictionary) -> nn.Embedding:
            return nn.Embedding(len(dictionary), cfg.encoder_embed_dim, padding_idx=dictionary.pad())

        source, target = task.source_dictionary, task.target_dictionary
        model = cls(MultimodalEncoder(cfg, source, embedding(source)), CaptionDecoder(cfg, target, embedding(target)))
        initialise(model, embed_dim=cfg.encoder_embed_dim, padding_idx=source.pad(), layernorm_eps=cfg.layernorm_eps)
        return model

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        features: Tensor | None = None,
        boxes: Tensor | None = None,
        region_padding_mask: Tensor | None = None,
        padded: bool | None = None,
        **decoder_options,
    ):
        """Teacher-forced translation.

        Args:
            src_tokens: B x S, ``</s> w1 ... wn </s>``, padded on the right.
            src_lengths: B.
            prev_output_tokens: B x T, ``</s> t1 ... tm``.
            features, boxes, region_padding_mask: B x R x D, B x R x 4, B x R; None for text only.
            padded: whether anything in the source is padding; None: not known.
            decoder_options: handed to the decoder (``alignment_layer``, ``features_only``, ...).

        Returns:
            logits B x T x V, and the decoder's dictionary (``attn``, ``inner_states``).
        """
        encoder_out = self.encoder(
            src_tokens,
            src_lengths,
            features=features,
            boxes=boxes,
            region_padding_mask=region_padding_mask,
            padded=padded,
        )
        return self.decoder(prev_output_tokens, encoder_out=encoder_out, src_lengths=src_lengths, **decoder_options)


@register_model("multimodal_transformer_base", dataclass=MultimodalTransformerBaseConfig)
class MultimodalTransformerBase(MultimodalTransformer):
    """:class:`MultimodalTransformer` with the defaults of ``multimodal_transformer_base``."""


@register_model("multimodal_transformer_tiny", dataclass=MultimodalTransformerTinyConfig)
class MultimodalTransformerTiny(MultimodalTransformer):
    """:class:`MultimodalTransformer` with the defaults of ``multimodal_transformer_tiny``."""
