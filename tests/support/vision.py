"""Tiny vision transformers on disk, with random weights.

``python vision.py FOLDER`` makes a CLIP of 7 x 7 patches there.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

HIDDEN = ("torchaudio", "torchvision")
"""Packages that `transformers` imports where they are, whether they load or not."""

MEAN, DEVIATION = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
TEXT = {**SIZES, "num_hidden_layers": 1, "vocab_size": 20, "max_position_embeddings": 8}


def make_model(folder: Path, kind: str, *, layers: int, image: int, patch: int, seed: int = 0, **pixels) -> Path:
    """Save a model whose every weight is drawn at random, and how its pixels are made.

    Args:
        folder: where.
        kind: `clip`, `clip-vision`, `siglip`, `siglip-vision`, `vit`, `dinov2`, `registers` (DINOv2 with four of
            them) or `dinov3` (with three).
        layers: of the transformer.
        image: side in pixels.
        patch: side in pixels.
        pixels: more keys of preprocessor_config.json.
    """
    import torch
    import transformers as hf

    sizes = {**SIZES, "num_hidden_layers": layers, "image_size": image, "patch_size": patch}
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=sizes, projection_dim=8))
    elif kind == "siglip":
        model = hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=sizes))
    elif kind == "clip-vision":
        model = hf.CLIPVisionModel(hf.CLIPVisionConfig(**sizes))
    elif kind == "siglip-vision":
        model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**sizes))
    elif kind == "vit":
        model = hf.ViTModel(hf.ViTConfig(**sizes), add_pooling_layer=False)
    elif kind == "dinov3":
        model = hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**sizes, num_register_tokens=3))
    else:
        del sizes["intermediate_size"]
        if kind == "dinov2":
            model = hf.Dinov2Model(hf.Dinov2Config(**sizes))
        else:
            model = hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**sizes, num_register_tokens=4))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for values in model.parameters():
            values.copy_(torch.randn(values.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
    given = {"image_mean": MEAN, "image_std": DEVIATION, "resample": 3, **pixels}
    (folder / "preprocessor_config.json").write_text(json.dumps(given))
    return folder


def main(argv: Sequence[str]) -> None:
    """Make the model of the command line."""
    sys.modules.update(dict.fromkeys(HIDDEN))
    make_model(Path(argv[0]), "clip", layers=1, image=28, patch=4)


if __name__ == "__main__":
    main(sys.argv[1:])
