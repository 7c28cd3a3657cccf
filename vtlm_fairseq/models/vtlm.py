"""Pre-training model: the multimodal encoder with a word head and a region head (paper, sections 2.1 to 2.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Optional

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
from vtlm_fairseq.objectives import read_objectives
from vtlm_fairseq.options import setting


@dataclass
class VTLMConfig(EncoderConfig):
    """``vtlm``: the paper's size (d 512, feed-forward 2048, 6 layers, 8 heads)."""

    region_objectives: Optional[str] = setting(None, "as the task's: which heads the model has")


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
    """Encoder, masked-word head (tied weights and a bias) and the heads of the objectives over regions.

    Without regions (``region_dim`` 0) it is TLM and has no region parameters at all.

    Args:
        encoder: of words and regions.
        region_classes: of the region-label head; 0: no objective needs one.
        heads: of the other objectives, by their names, each with the place that it predicts at.
    """

    def __init__(
        self,
        encoder: MultimodalEncoder,
        *,
        region_classes: int,
        heads: Mapping[str, tuple[str, nn.Module]] = MappingProxyType({}),
    ):
        super().__init__()
        dim = encoder.embed_tokens.embedding_dim
        self.encoder = encoder
        self.lm_head = nn.Linear(dim, encoder.embed_tokens.num_embeddings)
        self.lm_head.weight = encoder.embed_tokens.weight
        has_labels = encoder.embed_regions is not None and region_classes > 0
        self.region_head = nn.Linear(dim, region_classes) if has_labels else None
        self.objective_heads = nn.ModuleDict({name: head for name, (_, head) in sorted(heads.items())})
        self._places = {name: place for name, (place, _) in heads.items()}

    @classmethod
    def build_model(cls, cfg, task):
        """Build from a complete configuration (the task's ``build_model`` fills in languages and region sizes)."""
        check_task(task, cls)
        fill_defaults(cfg)
        dictionary = task.source_dictionary
        embed_tokens = nn.Embedding(len(dictionary), cfg.encoder_embed_dim, padding_idx=dictionary.pad())
        objectives = read_objectives(cfg.region_objectives) if cfg.region_dim else []
        heads = {one.name: (one.place, one.head(cfg)) for one in objectives if one.own_head}
        has_labels = any(not one.own_head for one in objectives)
        model = cls(
            MultimodalEncoder(cfg, dictionary, embed_tokens),
            region_classes=cfg.region_classes if has_labels else 0,
            **({"heads": heads} if heads else {}),
        )
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
        objectives: bool = False,
        **net_input,
    ) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Predict masked words and selected regions.

        Args:
            src_tokens: B x T, the masked input.
            masked_tokens: B x T, True where a word is predicted.
            selected_regions: B x R, True where a region is predicted; None: nowhere.
            places: the two as :func:`vtlm_fairseq.data.predictions.predicted_places` gives them (they may be left out
                then); a batch of the training data has them.
            objectives: also give what other heads than that of labels predict; needs ``places``.
            net_input: the encoder's other inputs (see :class:`MultimodalEncoder`).

        Returns:
            logits of words, n_text x V, in row-major order of ``masked_tokens``; logits of regions,
            n_region x C, in row-major order of ``selected_regions``, or None without regions or their head. With
            ``objectives`` a third: outputs of the other heads by the names of their objectives.
        """
        has_regions = net_input.get("features") is not None and self.encoder.embed_regions is not None
        if places is None:
            if has_regions and selected_regions is None:
                selected_regions = torch.zeros_like(net_input["region_padding_mask"])
            places = predicted_places(masked_tokens, selected_regions if has_regions else None)
        words, of_regions, heads = places["words"], None, {}
        if not has_regions:
            of_words = self.encoder.predict(src_tokens, places["queries"], words, **net_input)
        else:
            wanted = [places[name] for name in ("words", "regions", "first") if name in places]
            states = self.encoder.predict(src_tokens, places["queries"], torch.cat(wanted), **net_input)
            of_words, *others = states.split([len(one) for one in wanted])
            of = dict(zip(("regions", "first"), others, strict=False))
            of_regions = None if self.region_head is None else self.region_head(of["regions"])
            if objectives:
                heads = {name: head(of[self._places[name]]) for name, head in self.objective_heads.items()}
        found = (self.lm_head(of_words), of_regions)
        return (*found, heads) if objectives else found

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target sentence in tokens; regions do not count, they have no positions."""
        return (self.encoder.max_positions(), self.encoder.max_positions())


@register_model("vtlm_base", dataclass=VTLMBaseConfig)
class VTLMBaseModel(VTLMModel):
    """:class:`VTLMModel` with the defaults of ``vtlm_base``."""


@register_model("vtlm_tiny", dataclass=VTLMTinyConfig)
class VTLMTinyModel(VTLMModel):
    """:class:`VTLMModel` with the defaults of ``vtlm_tiny``."""
