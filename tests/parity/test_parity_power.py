"""The check notices: one weight of any module, and a reference that is not whole, end it with status 1."""

import numpy as np
import pytest
import torch

from originals import FIXTURES, PAIRS, check, convert, recorded, reference

ENCODER = """
    embeddings.weight position_embeddings.weight lang_embeddings.weight layer_norm_emb.weight
    projector.linear.weight projector.linear.bias regional_encodings.linear.weight regional_encodings.linear.bias
    attentions.0.q_lin.weight attentions.1.k_lin.weight attentions.0.v_lin.bias attentions.1.out_lin.weight
    layer_norm1.0.weight ffns.1.lin1.weight layer_norm2.1.bias
""".split()
DECODER = """
    embeddings.weight lang_embeddings.weight position_embeddings.weight attentions.1.q_lin.weight
    encoder_attn.0.q_lin.weight encoder_attn.0.k_lin.weight encoder_attn.1.v_lin.weight encoder_attn.1.out_lin.bias
    layer_norm15.0.weight ffns.0.lin2.weight pred_layer.proj.bias
""".split()
HEADS = ["pred_layer.proj.bias", "img_pred_layer.proj.weight", "img_pred_layer.proj.bias"]
CASES = [("pretrained", "model", name) for name in ENCODER + HEADS]
CASES += [("mmt", "encoder", "regional_encodings.linear.weight")]
CASES += [("mmt", "decoder", name) for name in DECODER]


@pytest.mark.parametrize(("checkpoint", "part", "name"), CASES)
def test_one_weight(tmp_path, checkpoint, part, name):
    """Changed by 1e-2 in the input. Behind a ReLU it is one of an open unit; of the tables, a row that is in use."""
    state = recorded(checkpoint)
    tensors = state[part]
    unit = 3
    if name.startswith(("projector", "regional_encodings")):
        unit = int(tensors[name.replace("weight", "bias")].argmax())
    if name == "lang_embeddings.weight":
        unit = 0
    if tensors[name].dim() == 1:
        tensors[name][unit] += 1e-2
    else:
        tensors[name][unit, 1] += 1e-2
    torch.save(state, tmp_path / "changed.pth")
    path = convert(tmp_path / "changed.pth", tmp_path)
    assert "above the tolerance" in check(path, FIXTURES / f"{PAIRS[checkpoint]}.npz")


def test_exchanged_box_columns(tmp_path):
    """x and y exchanged in the file."""
    state = recorded("mmt")
    weight = state["encoder"]["regional_encodings.linear.weight"]
    weight.copy_(weight[:, [1, 0, 3, 2]].clone())
    torch.save(state, tmp_path / "changed.pth")
    error = check(convert(tmp_path / "changed.pth", tmp_path), FIXTURES / "mmt_forward.npz")
    assert "encoder_out" in error and "nmt_encoder_out" not in error


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Both converted."""
    return {name: convert(FIXTURES / f"{name}.pth", tmp_path_factory.mktemp(name)) for name in PAIRS}


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [("pretrained", "hidden_regions"), ("pretrained", "tlm_mlm_loss"), ("pretrained", "features"),
     ("mmt", "decoder_pred_mask"), ("mmt", "nmt_greedy_logprob"), ("mmt", "tgt_lengths")],
)  # fmt: skip
def test_missing_and_renamed_arrays(converted, tmp_path, checkpoint, name):
    arrays = reference(checkpoint)
    values = arrays.pop(name)
    np.savez(tmp_path / "short.npz", **arrays)
    assert f"lacks {name}" in check(converted[checkpoint], tmp_path / "short.npz")
    np.savez(tmp_path / "renamed.npz", **arrays, **{f"{name}_": values})
    assert f"lacks {name}" in check(converted[checkpoint], tmp_path / "renamed.npz")
    np.savez(tmp_path / "more.npz", **arrays, **{name: values, "attention": values})
    assert "attention cannot be computed" in check(converted[checkpoint], tmp_path / "more.npz")


@pytest.mark.parametrize(("checkpoint", "name"), [("pretrained", "mlm_loss"), ("mmt", "greedy_tokens"),
                                                  ("mmt", "decoder_pred_mask"), ("mmt", "greedy_logprob")])  # fmt: skip
def test_other_values(converted, tmp_path, checkpoint, name):
    """A loss, a token, a position and a log-probability, each a little above its tolerance; and not a number."""
    arrays = reference(checkpoint)
    if name == "decoder_pred_mask":
        arrays[name][0, 0] ^= True
    else:
        step = {"mlm_loss": 1.2e-5, "greedy_tokens": 1, "greedy_logprob": 1.2e-4}[name]
        arrays[name] = arrays[name] + np.asarray(step, arrays[name].dtype)
    np.savez(tmp_path / "other.npz", **arrays)
    assert check(converted[checkpoint], tmp_path / "other.npz").endswith(f"above the tolerance: {name}")
    if name == "mlm_loss":
        arrays[name] = np.float32("nan")
        np.savez(tmp_path / "nan.npz", **arrays)
        assert check(converted[checkpoint], tmp_path / "nan.npz").endswith("tolerance: mlm_loss")


def test_reference_that_does_not_fit(converted, tmp_path):
    """The other kind, a word that the vocabulary lacks, another shape, a file that is no archive: one line each."""
    assert "lacks src" in check(converted["mmt"], FIXTURES / "pretrain_forward.npz")
    arrays = reference("pretrained")
    tokens = arrays["tokens_in"].copy()
    tokens[0, 0] = 134
    np.savez(tmp_path / "word.npz", **arrays | {"tokens_in": tokens})
    assert "do not fit" in check(converted["pretrained"], tmp_path / "word.npz")
    np.savez(tmp_path / "shape.npz", **arrays | {"mlm_logits": arrays["mlm_logits"][:, :-1]})
    assert "mlm_logits is (8, 133), the model gives (8, 134)" in check(converted["pretrained"], tmp_path / "shape.npz")
    (tmp_path / "text.npz").write_text("no archive", encoding="utf-8")
    assert "not a readable .npz" in check(converted["pretrained"], tmp_path / "text.npz")
    np.savez(tmp_path / "object.npz", **arrays | {"labels": np.array([{}])})
    assert "not a readable .npz" in check(converted["pretrained"], tmp_path / "object.npz")
