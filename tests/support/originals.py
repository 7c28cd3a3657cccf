"""Checkpoints of the paper's code for tests: the recorded ones, and random ones of any size with what they compute.

The functions here follow the published recipe with plain tensor operations and share nothing with the package.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vtlm_fairseq.cli import convert as command

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAIRS = {"pretrained": "pretrain_forward", "mmt": "mmt_forward"}
EOS, PAD, MASK = 1, 2, 5


def recorded(name: str) -> dict:
    """A checkpoint that the paper's code saved, ``pretrained`` or ``mmt``."""
    return torch.load(FIXTURES / f"{name}.pth", weights_only=False)


def reference(name: str) -> dict[str, np.ndarray]:
    """What that code computes from it."""
    with np.load(FIXTURES / f"{PAIRS[name]}.npz") as file:
        return dict(file)


def convert(source: Path, folder: Path, *argv) -> Path:
    """Convert a file by the command's main function; the new checkpoint."""
    assert command.main(["checkpoint", str(source), "--out", str(folder / "model.pt"), *argv]) == 0
    return folder / "model.pt"


def check(path: Path, arrays: Path, *argv) -> str | None:
    """Run the check; None if it passes, else its error line."""
    try:
        assert command.main(["check", str(path), "--reference", str(arrays), *map(str, argv)]) == 0
    except SystemExit as end:
        assert str(end.code).startswith("error: ")
        return str(end.code)
    return None


# ---- random checkpoints


def random_original(
    *,
    translation: bool = False,
    regions: bool = True,
    dim: int = 24,
    ffn: int = 40,
    layers: int = 3,
    heads: int = 3,
    words: int = 17,
    positions: int = 20,
    region_dim: int = 10,
    classes: int = 9,
    languages: tuple[str, ...] = ("en", "img", "ja"),
    seed: int = 0,
) -> dict:
    """A checkpoint in the original's form; nothing in it is 0 or equal by chance."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * dim**-0.5

    def linear(name: str, inputs: int, outputs: int) -> dict[str, Tensor]:
        return {f"{name}.weight": draw(outputs, inputs), f"{name}.bias": draw(outputs)}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + draw(dim), f"{name}.bias": draw(dim)}

    vocabulary = ["<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10))]
    vocabulary += [f"v{i}@@" if i % 3 else f"v{i}" for i in range(words)]

    def half(*, cross: bool) -> dict[str, Tensor]:
        table = draw(len(vocabulary), dim)
        tensors = {
            "position_embeddings.weight": draw(positions, dim),
            "lang_embeddings.weight": draw(len(languages), dim),
            "embeddings.weight": table,
            **norm("layer_norm_emb"),
            "pred_layer.proj.weight": table,
            "pred_layer.proj.bias": draw(len(vocabulary)),
        }
        if regions:
            tensors |= linear("projector.linear", region_dim, dim) | linear("regional_encodings.linear", 4, dim)
            tensors |= linear("img_pred_layer.proj", dim, classes)
        for i in range(layers):
            for attention in ("attentions", "encoder_attn") if cross else ("attentions",):
                for part in "q_lin", "k_lin", "v_lin", "out_lin":
                    tensors |= linear(f"{attention}.{i}.{part}", dim, dim)
            for number in ("1", "15", "2") if cross else ("1", "2"):
                tensors |= norm(f"layer_norm{number}.{i}")
            tensors |= linear(f"ffns.{i}.lin1", dim, ffn) | linear(f"ffns.{i}.lin2", ffn, dim)
        return tensors

    source, target = [name for name in languages if name != "img"]
    steps = {"mmt_steps": [(source, target)]} if translation else {"mlm_steps": [(source, target)]}
    parts = {"encoder": half(cross=False), "decoder": half(cross=True)} if translation else {"model": half(cross=False)}
    return {
        **parts,
        "dico_id2word": dict(enumerate(vocabulary)),
        "dico_word2id": {word: i for i, word in enumerate(vocabulary)},
        "dico_counts": {word: 100 - i if i > 13 else 0 for i, word in enumerate(vocabulary)},
        "params": {
            "n_heads": heads,
            "dropout": 0.2,
            "attention_dropout": 0.05,
            "gelu_activation": True,
            "lang2id": {name: i for i, name in enumerate(languages)},
            **steps,
        },
    }


# ---- what they compute


def encode(
    tensors: dict[str, Tensor],
    tokens: Tensor,
    positions: Tensor,
    langs: Tensor,
    *,
    heads: int,
    image: int = -1,
    features: Tensor | None = None,
    boxes: Tensor | None = None,
    region_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """States B x (R+T) x d, regions first, zero at padding, and padding B x (R+T)."""
    x = _text(tensors, tokens, positions, langs)
    padding = tokens == PAD
    if features is not None:
        content = F.relu(_linear(tensors, "projector.linear", features))
        if region_mask is not None:
            content = torch.where(region_mask[..., None], tensors["embeddings.weight"][MASK], content)
        place = F.relu(_linear(tensors, "regional_encodings.linear", boxes))
        x = torch.cat([content + place + tensors["lang_embeddings.weight"][image], x], dim=1)
        padding = torch.cat([torch.zeros(features.shape[:2], dtype=torch.bool), padding], dim=1)
    hidden = padding[:, None, None, :]
    for i in range(_depth(tensors)):
        x = _norm(tensors, f"layer_norm1.{i}", x + _attend(tensors, f"attentions.{i}", x, x, hidden, heads))
        x = _feed_forward(tensors, i, x)
    return x.masked_fill(padding[..., None], 0), padding


def decode(
    tensors: dict[str, Tensor], tokens: Tensor, lang: int, states: Tensor, padding: Tensor, *, heads: int
) -> Tensor:
    """States B x T x d, zero at padding, of a target prefix."""
    steps = torch.arange(tokens.size(1))
    x = _text(tensors, tokens, steps.expand_as(tokens), torch.full_like(tokens, lang))
    own = (steps[None, :] > steps[:, None])[None, None] | (tokens == PAD)[:, None, None, :]
    cross = padding[:, None, None, :]
    for i in range(_depth(tensors)):
        x = _norm(tensors, f"layer_norm1.{i}", x + _attend(tensors, f"attentions.{i}", x, x, own, heads))
        x = _norm(tensors, f"layer_norm15.{i}", x + _attend(tensors, f"encoder_attn.{i}", x, states, cross, heads))
        x = _feed_forward(tensors, i, x)
    return x.masked_fill((tokens == PAD)[..., None], 0)


def pretraining_reference(state: dict, *, regions: bool = True, seed: int = 1) -> dict[str, np.ndarray]:
    """A reference file's arrays for a random pre-trained checkpoint; ``regions``: with those of images."""
    tensors, params = state["model"], state["params"]
    rng = np.random.default_rng(seed)
    sides = [torch.tensor([EOS, *rng.integers(14, len(state["dico_id2word"]), n), EOS]) for n in (3, 5, 2, 4, 1, 6)]
    pairs = [torch.cat(sides[k : k + 2]) for k in (0, 2, 4)]
    a, b = (params["lang2id"][name] for name in params["mlm_steps"][0])
    given = {
        "tokens": _padded(pairs, PAD),
        "lengths": torch.tensor([len(pair) for pair in pairs]),
        "positions": _padded([torch.cat([torch.arange(len(s)) for s in sides[k : k + 2]]) for k in (0, 2, 4)], 0),
        "langs": _padded([torch.tensor([a] * len(sides[k]) + [b] * len(sides[k + 1])) for k in (0, 2, 4)], a),
    }
    words = torch.zeros_like(given["tokens"], dtype=torch.bool)
    words[[0, 0, 1, 2], [1, 7, 2, 5]] = True
    given |= {"text_pred_mask": words, "tokens_in": given["tokens"].masked_fill(words, MASK)}
    text = (given["tokens_in"], given["positions"], given["langs"])
    heads = params["n_heads"]

    def words_of(states: Tensor) -> dict[str, Tensor]:
        logits = _linear(tensors, "pred_layer.proj", states.transpose(0, 1)[words.T])
        loss = F.cross_entropy(logits, given["tokens"].T[words.T])
        return {"hidden_text": states, "mlm_logits": logits, "mlm_loss": loss}

    found = {f"tlm_{name}": value for name, value in words_of(encode(tensors, *text, heads=heads)[0]).items()}
    if regions:
        count = 5
        given |= _random_regions(tensors, len(pairs), count, rng)
        masked = torch.zeros(len(pairs), count, dtype=torch.bool)
        masked[[0, 1, 1, 2], [4, 0, 3, 2]] = True
        given |= {"region_pred_mask": masked, "labels": torch.tensor(rng.integers(0, 9, (len(pairs), count)))}
        inputs = {"features": given["features"], "boxes": given["boxes"], "image": params["lang2id"]["img"]}
        states, _ = encode(tensors, *text, heads=heads, region_mask=masked, **inputs)
        found |= words_of(states[:, count:])
        logits = _linear(tensors, "img_pred_layer.proj", states[:, :count].transpose(0, 1)[masked.T])
        found |= {
            "hidden_regions": states[:, :count],
            "mrc_logits": logits,
            "mrc_loss": F.cross_entropy(logits, given["labels"].T[masked.T]),
            "unmasked_regions_hidden_text": encode(tensors, *text, heads=heads, **inputs)[0][:, count:],
        }
    return {name: value.numpy() for name, value in (given | found).items()}


def translation_reference(state: dict, *, width: int = 9, seed: int = 1) -> dict[str, np.ndarray]:
    """A reference file's arrays for a random translation checkpoint."""
    encoder, decoder, params = state["encoder"], state["decoder"], state["params"]
    rng = np.random.default_rng(seed)

    def sentences(*lengths: int) -> list[Tensor]:
        return [torch.tensor([EOS, *rng.integers(14, len(state["dico_id2word"]), n), EOS]) for n in lengths]

    source, target = sentences(4, 2, 6), sentences(3, 5, 1)
    given = {
        "src": _padded(source, PAD),
        "src_lengths": torch.tensor([len(s) for s in source]),
        "tgt": _padded(target, PAD),
        "tgt_lengths": torch.tensor([len(s) for s in target]),
        **_random_regions(encoder, 3, 5, rng),
    }
    heads = params["n_heads"]
    a, b = (params["lang2id"][name] for name in params["mmt_steps"][0])
    positions = torch.arange(given["src"].size(1)).expand_as(given["src"])
    predicted = torch.arange(given["tgt"].size(1)) < given["tgt_lengths"][:, None] - 1
    found = {"decoder_pred_mask": predicted}
    images = {"features": given["features"], "boxes": given["boxes"], "image": params["lang2id"]["img"]}
    for prefix, regions in (("", images), ("nmt_", {})):
        states, padding = encode(
            encoder, given["src"], positions, torch.full_like(given["src"], a), heads=heads, **regions
        )
        hidden = decode(decoder, given["tgt"], b, states, padding, heads=heads)
        logits = _linear(decoder, "pred_layer.proj", hidden.transpose(0, 1)[predicted.T])
        tokens, logprob = _greedy(decoder, b, states, padding, heads=heads, width=width)
        found |= {
            f"{prefix}encoder_out": states,
            f"{prefix}decoder_logits": logits,
            f"{prefix}decoder_loss": F.cross_entropy(logits, given["tgt"].T[1:][predicted.T[:-1]]),
            f"{prefix}greedy_tokens": tokens,
            f"{prefix}greedy_logprob": logprob,
        }
        if not prefix:
            found["decoder_hidden"] = hidden
    return {name: value.numpy() for name, value in (given | found).items()}


def _greedy(decoder, lang, states, padding, *, heads: int, width: int) -> tuple[Tensor, Tensor]:
    """Best word by word; a sentence that does not end is closed at the last place."""
    batch = len(states)
    tokens = torch.full((batch, width), PAD)
    tokens[:, 0] = EOS
    logprob = torch.zeros(batch, dtype=torch.float64)
    going = torch.ones(batch, dtype=torch.bool)
    for step in range(1, width):
        hidden = decode(decoder, tokens[:, :step], lang, states, padding, heads=heads)[:, -1]
        scores = F.log_softmax(_linear(decoder, "pred_layer.proj", hidden), dim=-1)
        best = scores.argmax(-1) if step < width - 1 else torch.full((batch,), EOS)
        logprob[going] += scores[going, best[going]].double()
        tokens[going, step] = best[going]
        going &= best != EOS
    return tokens, logprob


def _random_regions(tensors: dict[str, Tensor], batch: int, count: int, rng) -> dict[str, Tensor]:
    corners = np.sort(rng.random((batch, count, 2, 2)), axis=2).reshape(batch, count, 4)
    features = rng.normal(size=(batch, count, tensors["projector.linear.weight"].size(1)))
    return {"features": torch.tensor(features).float(), "boxes": torch.tensor(corners).float()}


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def _depth(tensors: dict[str, Tensor]) -> int:
    return sum(name.startswith("ffns.") and name.endswith("lin1.bias") for name in tensors)


def _linear(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _norm(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12)


def _text(tensors: dict[str, Tensor], tokens: Tensor, positions: Tensor, langs: Tensor) -> Tensor:
    x = tensors["embeddings.weight"][tokens] + tensors["position_embeddings.weight"][positions]
    x = _norm(tensors, "layer_norm_emb", x + tensors["lang_embeddings.weight"][langs])
    return x.masked_fill((tokens == PAD)[..., None], 0)


def _feed_forward(tensors: dict[str, Tensor], i: int, x: Tensor) -> Tensor:
    inner = F.gelu(_linear(tensors, f"ffns.{i}.lin1", x))
    return _norm(tensors, f"layer_norm2.{i}", x + _linear(tensors, f"ffns.{i}.lin2", inner))


def _attend(tensors, name: str, x: Tensor, memory: Tensor, hidden: Tensor, heads: int) -> Tensor:
    def split(value: Tensor) -> Tensor:
        return value.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = (
        split(_linear(tensors, f"{name}.{part}_lin", value)) for part, value in (("q", x), ("k", memory), ("v", memory))
    )
    scores = (q / q.size(-1) ** 0.5) @ k.transpose(-1, -2)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return _linear(tensors, f"{name}.out_lin", (weights @ v).transpose(1, 2).flatten(2))
