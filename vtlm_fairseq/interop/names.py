"""Names and layout of the original's parameters in this project's models."""

import re

import torch
from torch import Tensor

from vtlm_fairseq.errors import VTLMError

# theirs: ymin, xmin, ymax, xmax; ours: x1, y1, x2, y2
BOX_COLUMNS = [1, 0, 3, 2]
REGION_PARTS = ("projector.", "regional_encodings.", "img_pred_layer.")
_RULES = [
    (r"embeddings\.weight", r"embed_tokens.weight"),
    (r"position_embeddings\.weight", r"embed_positions.positions.weight"),
    (r"lang_embeddings\.weight", r"embed_positions.languages.weight"),
    (r"layer_norm_emb\.(\w+)", r"layernorm_embedding.\1"),
    (r"projector\.linear\.(\w+)", r"embed_regions.feature_proj.\1"),
    (r"regional_encodings\.linear\.(\w+)", r"embed_regions.box_proj.\1"),
    (r"attentions\.(\d+)\.(q|k|v|out)_lin\.(\w+)", r"layers.\1.self_attn.\2_proj.\3"),
    (r"encoder_attn\.(\d+)\.(q|k|v|out)_lin\.(\w+)", r"layers.\1.encoder_attn.\2_proj.\3"),
    (r"layer_norm1\.(\d+)\.(\w+)", r"layers.\1.self_attn_layer_norm.\2"),
    (r"layer_norm15\.(\d+)\.(\w+)", r"layers.\1.encoder_attn_layer_norm.\2"),
    (r"layer_norm2\.(\d+)\.(\w+)", r"layers.\1.final_layer_norm.\2"),
    (r"ffns\.(\d+)\.lin([12])\.(\w+)", r"layers.\1.fc\2.\3"),
    (r"pred_layer\.proj\.(\w+)", r"word_head.\1"),
    (r"img_pred_layer\.proj\.(\w+)", r"region_head.\1"),
]


def our_name(name: str) -> str | None:
    """Counterpart of a parameter within one half of a model; None if there is none.

    ``word_head`` and ``region_head`` stand for the heads, whose place depends on the model.
    """
    for pattern, replacement in _RULES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return None


def our_layout(
    tensors: dict[str, Tensor], *, symbols: Tensor, languages: list[int | None], image_row: Tensor
) -> dict[str, Tensor]:
    """One half of a model under our names, with rows and columns in our order.

    Args:
        tensors: the original's parameters of one half.
        symbols: V, for each of our ids the original's.
        languages: for each of our language rows the original's; None: a row that the original lacks.
        image_row: d, that row.

    Raises:
        VTLMError: a parameter has no counterpart.
    """
    ours = {}
    for name, tensor in tensors.items():
        renamed = our_name(name)
        if renamed is None:
            raise VTLMError(f"parameter {name} has no counterpart here: it is another kind of model")
        if renamed.startswith(("embed_tokens.", "word_head.")):
            tensor = tensor[symbols]
        elif renamed == "embed_positions.languages.weight":
            tensor = torch.stack([image_row if row is None else tensor[row] for row in languages])
        elif renamed == "embed_regions.box_proj.weight":
            tensor = tensor[:, BOX_COLUMNS]
        ours[renamed] = tensor.clone()
    return ours
