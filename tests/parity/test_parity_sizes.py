"""Other sizes, languages and kinds of model, against an independent computation of what the original does."""

import numpy as np
import pytest
import torch

from originals import check, convert, pretraining_reference, random_original, recorded, reference, translation_reference
from originals import encode as original_encode


def save(folder, state, arrays):
    """Write both, convert, and return the converted file and the reference."""
    torch.save(state, folder / "in.pth")
    np.savez(folder / "reference.npz", **arrays)
    return convert(folder / "in.pth", folder / "out"), folder / "reference.npz"


def test_the_independent_computation_is_the_originals():
    """Against the recorded reference, so that what it says of other sizes counts."""
    state, arrays = recorded("pretrained"), {k: torch.from_numpy(v) for k, v in reference("pretrained").items()}
    states, _ = original_encode(
        state["model"], arrays["tokens_in"], arrays["positions"], arrays["langs"], heads=4, image=2,
        features=arrays["features"], boxes=arrays["boxes"], region_mask=arrays["region_pred_mask"],
    )  # fmt: skip
    torch.testing.assert_close(states[:, :36], arrays["hidden_regions"], atol=2e-5, rtol=0)
    torch.testing.assert_close(states[:, 36:], arrays["hidden_text"], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "size",
    [
        {},  # 24 wide, 3 layers, 3 heads, feed-forward 40, 31 symbols, 20 positions; the image row is not the last
        {"dim": 16, "heads": 2, "layers": 1, "words": 40, "ffn": 64, "languages": ("de", "en", "img"), "classes": 12},
    ],
)
def test_pretrained_of_another_size(tmp_path, size):
    state = random_original(**size)
    path, arrays = save(tmp_path, state, pretraining_reference(state))
    assert check(path, arrays) is None
    saved = torch.load(path, weights_only=True)
    cfg = saved["cfg"]["model"]
    assert (cfg["encoder_embed_dim"], cfg["encoder_layers"], cfg["encoder_attention_heads"]) == (
        (16, 1, 2) if size else (24, 3, 3)
    )
    assert (cfg["dropout"], cfg["attention_dropout"], cfg["max_positions"]) == (0.2, 0.05, 20)
    assert cfg["langs"] == ("de,en" if size else "en,ja")
    tied = ("pred_layer.proj.weight", "lm_head.weight")  # count once
    counts = [
        sum(tensor.numel() for name, tensor in model.items() if name not in tied)
        for model in (state["model"], saved["model"])
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("size", [{}, {"dim": 16, "heads": 4, "layers": 1, "words": 40, "positions": 30}])
def test_translation_of_another_size(tmp_path, size):
    state = random_original(translation=True, **size)
    assert check(*save(tmp_path, state, translation_reference(state))) is None


def test_plain_tlm_without_image_parameters(tmp_path, capsys):
    """An XLM file: two language rows, no regions; ours has a fresh row for images, the same each time."""
    state = random_original(regions=False, languages=("en", "fr"))
    path, arrays = save(tmp_path, state, pretraining_reference(state, regions=False))
    assert "no regions" in capsys.readouterr().out
    assert check(path, arrays) is None
    model = torch.load(path, weights_only=True)["model"]
    assert not [name for name in model if "region" in name]
    assert model["encoder.embed_positions.languages.weight"].shape == (3, 24)
    assert torch.equal(model["encoder.embed_positions.languages.weight"][:2], state["model"]["lang_embeddings.weight"])
    again = torch.load(convert(tmp_path / "in.pth", tmp_path / "again"), weights_only=True)["model"]
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.items())
    np.savez(tmp_path / "regions.npz", **pretraining_reference(random_original()))
    assert "hidden_text" in check(path, tmp_path / "regions.npz")  # named among what cannot be computed


def test_layout_of_every_tensor_that_is_permuted(tmp_path):
    """Rows of symbols and languages, columns of boxes; words keep their order."""
    state = random_original()
    theirs = state["model"]
    path, _ = save(tmp_path, state, pretraining_reference(state))
    saved = torch.load(path, weights_only=True)
    ours, symbols = saved["model"], saved["task_state"]["symbols"]
    words = [f"v{i}@@" if i % 3 else f"v{i}" for i in range(17)]
    assert symbols == ["<s>", "<pad>", "</s>", "<unk>", *words, "<mask>", *(f"madeupword{i:04d}" for i in range(9))]
    rows = [0, 2, 1, 3, *range(14, 31), 5, 4, *range(6, 14)]
    assert torch.equal(ours["encoder.embed_tokens.weight"], theirs["embeddings.weight"][rows])
    assert torch.equal(ours["lm_head.bias"], theirs["pred_layer.proj.bias"][rows])
    languages = ours["encoder.embed_positions.languages.weight"]
    assert torch.equal(languages, theirs["lang_embeddings.weight"][[0, 2, 1]])
    box = theirs["regional_encodings.linear.weight"].unbind(1)  # ymin, xmin, ymax, xmax
    for column, source in zip(ours["encoder.embed_regions.box_proj.weight"].unbind(1), (1, 0, 3, 2), strict=True):
        assert torch.equal(column, box[source])
    assert ours["lm_head.weight"].data_ptr() == ours["encoder.embed_tokens.weight"].data_ptr()


def test_what_the_original_leaves_out(tmp_path, capsys):
    """A box projection without bias is one with bias 0; heads of the two halves have no use."""
    state = random_original(translation=True)
    for name in ("regional_encodings.linear.bias", "img_pred_layer.proj.weight", "img_pred_layer.proj.bias"):
        del state["encoder"][name]
    state["params"]["num_obj_labels"] = 601
    torch.save(state, tmp_path / "in.pth")
    saved = torch.load(convert(tmp_path / "in.pth", tmp_path), weights_only=True)
    assert "regional_encodings.linear of encoder has no bias: 0" in capsys.readouterr().out
    assert not saved["model"]["encoder.embed_regions.box_proj.bias"].any()
    assert saved["cfg"]["model"]["region_classes"] == 601
    state["encoder"]["regional_encodings.linear.bias"] = torch.zeros(24)
    np.savez(tmp_path / "reference.npz", **translation_reference(state))
    assert check(tmp_path / "model.pt", tmp_path / "reference.npz") is None


def test_model_that_was_trained_on_text_alone(tmp_path):
    """Its untrained region parameters do not make it a multimodal one."""
    state = random_original(translation=True)
    arrays = translation_reference(state)
    state["params"]["mt_steps"] = state["params"].pop("mmt_steps")
    path, _ = save(tmp_path, state, arrays)
    saved = torch.load(path, weights_only=True)
    assert saved["cfg"]["model"]["region_dim"] == 0 and not [name for name in saved["model"] if "region" in name]
    text = {k: v for k, v in arrays.items() if k.startswith(("src", "tgt", "nmt_", "decoder_pred"))}
    np.savez(tmp_path / "text.npz", **text)
    assert check(path, tmp_path / "text.npz") is None


def test_wrapped_and_half_precision(tmp_path):
    """Files of several GPUs have ``module.`` before each name; float16 becomes float32."""
    state = random_original()
    arrays = pretraining_reference(state)
    path, _ = save(tmp_path, state, arrays)
    state["model"] = {f"module.{name}": tensor for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "wrapped.pth")
    assert check(convert(tmp_path / "wrapped.pth", tmp_path / "w"), tmp_path / "reference.npz") is None
    state["model"] = {name: tensor.half() for name, tensor in state["model"].items()}
    torch.save(state, tmp_path / "half.pth")
    model = torch.load(convert(tmp_path / "half.pth", tmp_path / "h"), weights_only=True)["model"]
    assert {tensor.dtype for tensor in model.values()} == {torch.float32}
    assert check(tmp_path / "h/model.pt", tmp_path / "reference.npz") is not None
