"""The single-stream encoder of both models: text and regions through one Transformer (paper, section 2.2)."""

import torch
import torch.nn as nn
from fairseq.models import FairseqEncoder
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from vtlm_fairseq.models.cross_attention import sentence_order
from vtlm_fairseq.models.dropout import Dropout
from vtlm_fairseq.models.embeddings import PositionLanguageEmbedding, RegionEmbedding, first_positions
from vtlm_fairseq.models.encoder_layer import CaptionEncoderLayer
from vtlm_fairseq.text.subwords import MASK

BEAM = "beam"
"""Key of a batch's ``net_input`` and of encoder dictionaries: hypotheses that share the states of a sentence."""


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
                standardise=bool(cfg.region_standardise),
            )
        self.dropout = Dropout(cfg.dropout, module_name=type(self).__name__)
        self.layers = nn.ModuleList(CaptionEncoderLayer(cfg) for _ in range(cfg.encoder_layers))

    def embed(
        self,
        src_tokens: Tensor,
        *,
        positions: Tensor | None = None,
        langs: Tensor | None = None,
        features: Tensor | None = None,
        boxes: Tensor | None = None,
        region_padding_mask: Tensor | None = None,
        region_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The first layer's input, (T+R) x B x d, and its padding mask, B x (T+R) (arguments: see :meth:`forward`)."""
        if positions is None:
            positions = first_positions(src_tokens, self.embed_positions.max_positions, self.padding_idx).unsqueeze(0)
        if langs is None:
            langs = torch.full_like(positions, self.language)
        mask_row = None
        if region_mask is None:
            x = self.embed_tokens(src_tokens)
        else:  # looked up with the words: by itself, its gradient would be a table of V x d of its own
            mask = src_tokens.new_full((src_tokens.size(0), 1), self.mask_idx)
            x, mask_rows = self.embed_tokens(torch.cat([src_tokens, mask], dim=1)).split([src_tokens.size(1), 1], dim=1)
            mask_row = mask_rows[0, 0]
        x = self.dropout(self.layernorm_embedding(x + self.embed_positions(positions, langs)))
        padding_mask = src_tokens.eq(self.padding_idx)
        if features is not None and self.embed_regions is not None:
            regions = self.embed_regions(
                features,
                boxes,
                image_row=self.embed_positions.image_row(),
                mask_row=mask_row,
                region_mask=region_mask,
            )
            x = torch.cat([x, regions.to(x.dtype)], dim=1)
            padding_mask = torch.cat([padding_mask, region_padding_mask], dim=1)
        return x.transpose(0, 1), padding_mask

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
        padded: bool | None = None,
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
            padded: whether anything in the batch is padding; None: it is looked for, for which a GPU is waited for.
            return_all_hiddens: also return the input and the output of each layer.

        Returns:
            fairseq's encoder dictionary; ``encoder_out`` holds one (T+R) x B x d, text first, and
            ``encoder_padding_mask`` one B x (T+R), True at padding.
        """
        x, padding_mask = self.embed(
            src_tokens,
            positions=positions,
            langs=langs,
            features=features,
            boxes=boxes,
            region_padding_mask=region_padding_mask,
            region_mask=region_mask,
        )
        states = [x] if return_all_hiddens else []
        attention_mask = additive_mask(padding_mask, x, padded)
        for layer in self.layers:
            x, _ = layer(x, self_attn_padding_mask=attention_mask)
            if return_all_hiddens:
                states.append(x)
        return {
            "encoder_out": [x],
            "encoder_padding_mask": [padding_mask],
            "encoder_states": states,
            "src_tokens": [src_tokens],
            "src_lengths": [] if src_lengths is None else [src_lengths],
        }

    def forward_torchscript(self, net_input: dict) -> dict[str, list]:
        """As fairseq's, which beam search calls; with ``beam`` in ``net_input`` the states are those of sentences."""
        encoder_out = super().forward_torchscript({name: x for name, x in net_input.items() if name != BEAM})
        return {**encoder_out, BEAM: [net_input[BEAM]]} if BEAM in net_input else encoder_out

    def predict(
        self,
        src_tokens: Tensor,
        queries: Tensor,
        places: Tensor,
        *,
        src_lengths: Tensor | None = None,
        padded: bool | None = None,
        **inputs,
    ) -> Tensor:
        """States at chosen positions only, n x d in the order of ``places``.

        The last layer, whose output elsewhere nobody reads in pre-training, is computed at those positions alone;
        it attends to all. Equal to indexing what :meth:`forward` returns.

        Args:
            src_tokens: B x T.
            queries: B x P, positions within ``[text ; regions]`` at which the last layer attends.
            places: [n], places within P x B (row-major) that are wanted.
            src_lengths: unused, as in :meth:`forward`.
            padded: as in :meth:`forward`.
            inputs: as for :meth:`embed`.
        """
        x, padding_mask = self.embed(src_tokens, **inputs)
        attention_mask = additive_mask(padding_mask, x, padded)
        for layer in self.layers[:-1]:
            x, _ = layer(x, self_attn_padding_mask=attention_mask)
        return self.layers[-1].at(x, queries, places, mask=attention_mask)

    def reorder_encoder_out(self, encoder_out: dict[str, list[Tensor]], new_order: Tensor) -> dict[str, list[Tensor]]:
        """Select and reorder the batch.

        Args:
            encoder_out: what the encoder returned. If it holds ``beam``, its batch is one of sentences and stays so.
            new_order: B' (int64), rows of the batch; with ``beam``: hypotheses, those of a sentence side by side.
        """
        (beam,) = encoder_out.get(BEAM, [1])
        if beam > 1:
            if encoder_out["encoder_out"][0].size(1) * beam == new_order.numel():
                return encoder_out  # no sentence has ended, and its hypotheses have the same states
            new_order = sentence_order(new_order, beam)
        time_major = {"encoder_out", "encoder_states"}
        reordered = {
            key: [value.index_select(1 if key in time_major else 0, new_order) for value in values]
            for key, values in encoder_out.items()
            if key != BEAM
        }
        return {**reordered, BEAM: [beam]} if beam > 1 else reordered

    def max_positions(self) -> int:
        """Longest sentence in tokens, its leading ``</s>`` included."""
        return self.embed_positions.max_positions


def additive_mask(padding_mask: Tensor, x: Tensor, padded: bool | None) -> Tensor | None:
    """What every layer adds to its scores: -inf at padding and else 0; None where there is no padding.

    Its rows lie at multiples of 8 elements, as the kernels of GPUs want it.

    Args:
        padding_mask: B x S, True at padding.
        x: a layer's input; the mask has the type that attention computes in.
        padded: whether there is padding; None: it is looked for.

    Returns:
        B x 1 x 1 x S, or None.
    """
    if not (padding_mask.any() if padded is None else padded):
        return None
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    rows, length = padding_mask.shape
    mask = padding_mask.new_zeros(rows, 1, 1, -(-length // 8) * 8, dtype=dtype)[..., :length]
    return mask.masked_fill_(padding_mask[:, None, None, :], float("-inf"))


def share_states(sample: dict, generator) -> dict:
    """A batch for a generator's models, that has them keep the encoder's states once for all hypotheses of a sentence.

    The batch itself stays as it is. So does what is returned if a model has another encoder, or the generator is none
    of beam search.
    """
    if not isinstance(generator, SequenceGenerator) or generator.beam_size < 2:
        return sample
    if not all(isinstance(getattr(model, "encoder", None), MultimodalEncoder) for model in generator.model.models):
        return sample
    return {**sample, "net_input": {**sample["net_input"], BEAM: generator.beam_size}}


def match_source_length(sample: dict, generator) -> dict:
    """A batch whose ``src_lengths`` are those of fairseq's translation, where ``--match-source-len`` reads them.

    Our sources begin with a ``</s>`` that fairseq's do not have. The batch itself stays as it is.
    """
    if not getattr(generator, "match_source_len", False):
        return sample
    net_input = sample["net_input"]
    return {**sample, "net_input": {**net_input, "src_lengths": net_input["src_lengths"] - 1}}
