"""Pre-training model: the multimodal encoder with a word head and a region head (paper, sections 2.1 to 2.3)."""

from dataclasses import dataclass

import torch
import torch.nn as nn
from fairseq.models import BaseFairseqModel, register_model
from torch import Tensor

from vtlm_fairseq.compatibility import check_task
from vtlm_fairseq.data.predictions import predicted_places
from vtlm_fairseq.loading import CheckedHub
from vtlm_fairseq.models.config import EncoderConfig, sized
from vtlm_fairseq.models.description import fill_defaults
from vtlm_fairseq.models.embeddings import initialise
from vtlm_fairseq.models.encoder import MultimodalEncoder


@dataclass
class VTLMConfig(EncoderConfig):
    """``vtlm``: the paper's size (d 512, feed-forward 2048, 6 layers, 8 heads)."""


@dataclass
@sized("base")
class VTLMBaseConfig(VTLMConfig):
    """``vtlm_base``: 768/3072/12/12."""


@dataclass
@sized("tiny")
class VTLMTinyConfig(VTLMConfig):
    """``vtlm_tiny``: 32/64/2/4, for tests."""


@register_model("vtlm", dataclass=VTLMConfig)
class VTLMModel(CheckedHub, BaseFairseqModel):
    """Encoder, masked-word head (tied weights and a bias) and region-label head.

    Without regions (``region_dim`` 0) it is TLM and has no region parameters at all.
    """

    def __init__(self, encoder: MultimodalEncoder, *, region_classes: int):
        super().__init__()
        dim = encoder.embed_tokens.embedding_dim
        self.encoder = encoder
        self.lm_head = nn.Linear(dim, encoder.embed_tokens.num_embeddings)
        self.lm_head.weight = encoder.embed_tokens.weight
        self.region_head = nn.Linear(dim, region_classes) if encoder.embed_regions is not None else None

    @classmethod
    def build_model(cls, cfg, task):
        """Build from a complete configuration (the task's ``build_model`` fills in languages and region sizes)."""
        check_task(task, cls)
        fill_defaults(cfg)
        dictionary = task.source_dictionary
        embed_tokens = nn.Embedding(len(dictionary), cfg.encoder_embed_dim, padding_idx=dictionary.pad())
        model = cls(MultimodalEncoder(cfg, dictionary, embed_tokens), region_classes=cfg.region_classes)
        initialise(
            model,
            embed_dim=cfg.encoder_embed_dim,
            padding_idx=dictionary.pad(),
            layernorm_eps=cfg.layernorm_eps,
        )
        return model

    def forward(
        self,
        src_tokens: Tensor,
        *,
        masked_tokens: Tensor | None = None,
        selected_regions: Tensor | None = None,
        places: dict[str, Tensor] | None = None,
        **net_input,
    ) -> tuple[Tensor, Tensor | None]:
        """Predict masked words and selected regions.

        Args:
            src_tokens: B x T, the masked input.
            masked_tokens: B x T, True where a word is predicted.
            selected_regions: B x R, True where a region's label is predicted; None: nowhere.
            places: the two as :func:`vtlm_fairseq.data.predictions.predicted_places` gives them (they may be left out
                then); a batch of the training data has them.
            net_input: the encoder's other inputs (see :class:`MultimodalEncoder`).

        Returns:
            logits of words, n_text x V, in row-major order of ``masked_tokens``; logits of regions,
            n_region x C, in row-major order of ``selected_regions``, or None without regions.
        """
        has_regions = net_input.get("features") is not None and self.region_head is not None
        if places is None:
            if has_regions and selected_regions is None:
                selected_regions = torch.zeros_like(net_input["region_padding_mask"])
            places = predicted_places(masked_tokens, selected_regions if has_regions else None)
        words = places["words"]
        if not has_regions:
            return self.lm_head(self.encoder.predict(src_tokens, places["queries"], words, **net_input)), None
        regions = places["regions"]
        states = self.encoder.predict(src_tokens, places["queries"], torch.cat([words, regions]), **net_input)
        of_words, of_regions = states.split([words.size(0), regions.size(0)])
        return self.lm_head(of_words), self.region_head(of_regions)

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target sentence in tokens; regions do not count, they have no positions."""
        return (self.encoder.max_positions(), self.encoder.max_positions())


@register_model("vtlm_base", dataclass=VTLMBaseConfig)
class VTLMBaseModel(VTLMModel):
    """:class:`VTLMModel` with the defaults of ``vtlm_base``."""


@register_model("vtlm_tiny", dataclass=VTLMTinyConfig)
class VTLMTinyModel(VTLMModel):
    """:class:`VTLMModel` with the defaults of ``vtlm_tiny``."""
