"""Configuration fields that both models share.

No ``from __future__ import annotations`` and no ``X | None`` here: fairseq's parser reads plain types only.
"""

from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq import utils
from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from vtlm_fairseq.options import OPTIONS, setting


@dataclass
class EncoderConfig(FairseqDataclass):
    """The encoder at the paper's size, and what a checkpoint has to know to be rebuilt."""

    encoder_embed_dim: int = setting(512, "width d")
    encoder_ffn_embed_dim: int = setting(2048, "width of the encoder's feed-forward layers")
    encoder_layers: int = setting(6, "encoder layers")
    encoder_attention_heads: int = setting(8, "attention heads of an encoder layer")
    activation_fn: ChoiceEnum(utils.get_available_activation_fns()) = setting(
        "gelu", "activation in feed-forward layers"
    )
    dropout: float = setting(0.1, "dropout probability (the paper: 0.4 from scratch)")
    attention_dropout: float = setting(0.1, "dropout on attention weights")
    activation_dropout: float = setting(0.0, "dropout after the feed-forward activation")
    max_positions: int = setting(512, "rows of the position tables: the longest sentence, </s> symbols included")
    # None: not given. Then it is that of the model to begin with, else the default of models/description.py, which
    # building a model fills in: a checkpoint holds no None
    layernorm_eps: Optional[float] = setting(
        None, "epsilon of every LayerNorm (default: the pre-trained model's, else 1e-12)"
    )
    region_activation: Optional[ChoiceEnum(["relu", "gelu", "none"])] = setting(
        None, "activation after the feature and box projections (default: relu)"
    )
    region_no_bias: Optional[bool] = setting(None, "feature and box projections without bias")
    region_layernorm: Optional[bool] = setting(None, "LayerNorm on region embeddings")
    region_standardise: Optional[bool] = setting(
        None,
        "standardise each dimension of the features by mean and deviation of the training store, kept in the model",
    )
    region_positions: Optional[int] = setting(
        None, "rows of a position table over region ranks (default: 0, no region positions)"
    )
    langs: Optional[str] = setting(None, OPTIONS["--langs"]["help"])
    source_lang: Optional[str] = setting(None, "source language", argparse_alias="-s")
    target_lang: Optional[str] = setting(None, "target language", argparse_alias="-t")
    region_dim: int = setting(0, "width of region features (0: as in the store; with --regions none: no regions)")
    region_classes: int = setting(0, "number of region classes (0: as in the store)")
    pretrained: Optional[str] = setting(
        None, "checkpoint whose parameters a new model begins with: vtlm, or for a translation model another one"
    )
    fresh_regions: bool = setting(
        False, "with --pretrained: draw region parameters instead of copying them, for another detector"
    )


SIZES = {"base": (768, 3072, 12, 12), "tiny": (32, 64, 2, 4)}
"""Defaults of the fields ``encoder_*`` of :class:`EncoderConfig` in archs whose names end so."""


def sized(size: str):
    """Give a configuration class, which is yet to be made a dataclass, the defaults of one of `SIZES`."""

    def change(kind: type) -> type:
        kind.__annotations__ = {}
        of_encoder = [one for one in fields(EncoderConfig) if one.name.startswith("encoder_")]
        for one, default in zip(of_encoder, SIZES[size], strict=True):
            kind.__annotations__[one.name] = one.type
            setattr(kind, one.name, field(default=default, metadata=one.metadata))
        return kind

    return change
