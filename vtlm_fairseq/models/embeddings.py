"""Input embeddings of both streams, and the initialisation that the paper's code uses (paper, sections 2.2, 2.3)."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.models.dropout import Dropout

IMAGE = "image"  # name of the last language row


class PositionLanguageEmbedding(nn.Module):
    """Sum of a learned position and a language row.

    Positions are a plain table that starts at row 0: fairseq's own learned positions begin behind the padding
    index and cannot restart for the second sentence of a pair.

    Args:
        num_positions: rows of the position table, the longest sentence with its ``</s>`` symbols.
        num_languages: rows of the language table, the image row included.
        embed_dim: width d.
    """

    def __init__(self, *, num_positions: int, num_languages: int, embed_dim: int):
        super().__init__()
        self.positions = nn.Embedding(num_positions, embed_dim)
        self.languages = nn.Embedding(num_languages, embed_dim)

    @property
    def max_positions(self) -> int:
        """Longest sentence in tokens."""
        return self.positions.num_embeddings

    def forward(self, positions: Tensor, languages: Tensor) -> Tensor:
        """positions, languages: B x T (int64), or anything that broadcasts to it -> B x T x d."""
        return self.positions(positions) + self.languages(languages)

    def image_row(self) -> Tensor:
        """The language row of regions, d."""
        return self.languages.weight[-1]


class SentencePositionEmbedding(PositionLanguageEmbedding):
    """The same, for one sentence of one language, with the signature that fairseq's decoder calls.

    Args:
        language: row of the sentence's language.
        padding_idx: of the tokens.
    """

    def __init__(self, *, language: int, num_positions: int, num_languages: int, embed_dim: int, padding_idx: int):
        super().__init__(num_positions=num_positions, num_languages=num_languages, embed_dim=embed_dim)
        self.language = language
        self.padding_idx = padding_idx

    def forward(self, tokens: Tensor, incremental_state=None) -> Tensor:
        """tokens: B x T (fairseq hands over the whole prefix, also when decoding step by step) -> 1 x T x d."""
        positions = first_positions(tokens, self.max_positions, self.padding_idx)
        return (self.positions(positions) + self.languages.weight[self.language]).unsqueeze(0)


def first_positions(tokens: Tensor, rows: int, padding_idx: int) -> Tensor:
    """Positions 0, 1, ... of B x T tokens, [T]; padding may reach beyond the table's rows, and then has the last one.

    Raises:
        IndexError: words do.
    """
    positions = torch.arange(tokens.size(1), device=tokens.device)
    if tokens.size(1) <= rows:
        return positions
    if tokens[:, rows:].ne(padding_idx).any():
        raise IndexError(f"a sentence has more than {rows} positions, which is all that the model has")
    return positions.clamp(max=rows - 1)


class RegionEmbedding(nn.Module):
    """Region vectors in the model's width: ``act(W_f f) + act(W_b b) + lang[image]`` (paper, section 2.2).

    Args:
        region_dim: width D of a region feature.
        embed_dim: width d.
        dropout: applied to the sum.
        activation: ``relu`` (the paper's code), ``gelu`` or ``none``.
        bias: whether the two projections have a bias.
        layernorm_eps: None for no LayerNorm (the paper), else its epsilon.
        num_positions: 0 for no position (the paper), else rows of a table over the regions' ranks.
        standardise: features have a mean taken off and are divided by a deviation, see :meth:`standardise_by`.
    """

    def __init__(
        self,
        *,
        region_dim: int,
        embed_dim: int,
        dropout: float,
        activation: str = "relu",
        bias: bool = True,
        layernorm_eps: float | None = None,
        num_positions: int = 0,
        standardise: bool = False,
    ):
        super().__init__()
        if standardise:
            self.register_buffer("feature_mean", torch.zeros(region_dim))
            self.register_buffer("feature_deviation", torch.ones(region_dim))
        self.standardises = standardise
        self.feature_proj = nn.Linear(region_dim, embed_dim, bias=bias)
        self.box_proj = nn.Linear(4, embed_dim, bias=bias)
        self.layer_norm = None if layernorm_eps is None else nn.LayerNorm(embed_dim, eps=layernorm_eps)
        self.rank_positions = nn.Embedding(num_positions, embed_dim) if num_positions else None
        self.activation = {"relu": F.relu, "gelu": F.gelu, "none": nn.Identity()}[activation]
        self.dropout = Dropout(dropout, module_name=type(self).__name__)

    def forward(
        self,
        features: Tensor,
        boxes: Tensor,
        *,
        image_row: Tensor,
        mask_row: Tensor | None,
        region_mask: Tensor | None = None,
    ) -> Tensor:
        """Embed the regions of a batch.

        Args:
            features: B x R x D, any floating type (cast to the projection's; under autocast it casts them).
            boxes: B x R x 4, x1 y1 x2 y2 within 0..1.
            image_row: d, the language row of images.
            mask_row: d, the token embedding of ``<mask>``; unused without ``region_mask``.
            region_mask: B x R, True where the projected feature is replaced by ``mask_row``; box and language stay.

        Returns:
            B x R x d.

        Raises:
            VTLMError: more regions than rows of the position table.
        """
        dtype = self.feature_proj.weight.dtype
        features = self.standardised(features)
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(dtype)
        x = self.activation(self.feature_proj(features))
        if region_mask is not None:
            x = torch.where(region_mask.unsqueeze(-1), mask_row.to(x.dtype), x)
        x = x + self.activation(self.box_proj(boxes.to(dtype))) + image_row
        if self.rank_positions is not None:
            check_region_positions(x.size(1), self.rank_positions.num_embeddings, "this batch")
            x = x + self.rank_positions.weight[: x.size(1)]
        if self.layer_norm is not None:
            x = self.layer_norm(x)
        return self.dropout(x)

    def standardised(self, features: Tensor) -> Tensor:
        """Features as they are projected, ... x D: in float32 if they are standardised, else as they are."""
        if not self.standardises:
            return features
        return (features.float() - self.feature_mean.float()) / self.feature_deviation.float()

    @torch.no_grad()
    def standardise_by(self, mean: Tensor, deviation: Tensor) -> None:
        """Set mean and deviation of each dimension, [D] each; a dimension that does not vary is only centred."""
        self.feature_mean.copy_(mean)
        self.feature_deviation.copy_(torch.where(deviation > 0, deviation, 1.0))


def check_region_positions(regions: int, rows: int, where: str) -> None:
    """Refuse more regions an image than a table of region positions has rows.

    Args:
        regions: of the image that has most.
        rows: of the table; 0: no region has a position.
        where: what the images are.

    Raises:
        VTLMError: there are more.
    """
    if rows and regions > rows:
        raise VTLMError(
            f"{where} has images with {regions} regions, the model has --region-positions {rows}; train with "
            f"--region-positions {regions}, or give --max-regions {rows}"
        )


def initialise(module: nn.Module, *, embed_dim: int, padding_idx: int, layernorm_eps: float) -> None:
    """Initialise as the paper's code does: embeddings N(0, d^-0.5), Linears as PyTorch, LayerNorm eps as given.

    fairseq's layers draw Xavier values and have no option for LayerNorm's epsilon, so both are set here, after
    construction. Tied output projections share their weight with a token embedding and follow it.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
        elif hasattr(part, "normalized_shape"):  # fairseq takes apex's LayerNorm where it is installed, another class
            part.eps = layernorm_eps
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, mean=0.0, std=embed_dim**-0.5)
            if part.padding_idx is not None:
                nn.init.zeros_(part.weight[padding_idx])
