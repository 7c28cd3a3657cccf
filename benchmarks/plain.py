"""VTLM pre-training in plain PyTorch, as a measure: the same sizes and batches, no framework around the update."""

from collections.abc import Callable, Sequence
from itertools import cycle

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.data import Dictionary
from generated import Size
from torch import Tensor, nn


class PlainVTLM(nn.Module):
    """``nn.TransformerEncoder`` over words and regions, and two heads where something is predicted."""

    def __init__(self, size: Size, dictionary: Dictionary):
        super().__init__()
        self.words = nn.Embedding(len(dictionary), size.dim, dictionary.pad())
        self.positions = nn.Embedding(512, size.dim)
        self.languages = nn.Embedding(2, size.dim)
        self.features, self.boxes = nn.Linear(size.region_dim, size.dim), nn.Linear(4, size.dim)
        self.norm = nn.LayerNorm(size.dim)
        layer = nn.TransformerEncoderLayer(size.dim, size.heads, size.ffn, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, size.layers, enable_nested_tensor=False)
        self.labels = nn.Linear(size.dim, size.classes)
        nn.init.normal_(self.words.weight, std=size.dim**-0.5)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Loss of a batch (see :func:`_batch`)."""
        tokens = batch["tokens"]
        text = self.words(tokens) + self.positions.weight[: tokens.size(1)] + self.languages(batch["languages"])
        regions = F.relu(self.features(batch["features"].float())) + F.relu(self.boxes(batch["boxes"]))
        states = F.dropout(self.norm(torch.cat([text, regions], dim=1)), 0.1, self.training)
        states = self.encoder(states).flatten(0, 1)
        words = F.linear(states.index_select(0, batch["word_places"]), self.words.weight)
        labels = self.labels(states.index_select(0, batch["region_places"]))
        return F.cross_entropy(words.float(), batch["words"]) + F.cross_entropy(labels.float(), batch["labels"])


def update(
    batches: Sequence[dict], size: Size, dictionary: Dictionary, device: str, *, compiled: bool
) -> Callable[[], None]:
    """A function that makes one update in bf16: copy, forward, backward, clipping, fused AdamW; it waits for nothing.

    Args:
        batches: of the pre-training dataset, of one length; padding at their ends is left out.
        size: of model and batch.
        dictionary: of the words.
        device: cpu or cuda.
        compiled: with ``torch.compile``.
    """
    torch.manual_seed(1)
    model = PlainVTLM(size, dictionary).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.98), weight_decay=0, fused=True)
    forward = torch.compile(model) if compiled else model
    made = [_batch(batch, dictionary.pad()) for batch in batches]
    if device == "cuda":
        made = [utils.apply_to_sample(torch.Tensor.pin_memory, batch) for batch in made]
    following = cycle(made).__next__

    def run() -> None:
        batch = utils.apply_to_sample(lambda tensor: tensor.to(device, non_blocking=True), following())
        if compiled:  # how many words are predicted differs
            for name in ("word_places", "words", "region_places", "labels"):
                torch._dynamo.maybe_mark_dynamic(batch[name], 0)
        with torch.autocast(device, torch.bfloat16):
            loss = forward(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def _batch(batch: dict, padding: int) -> dict[str, Tensor]:
    """Tensors of a batch of the pre-training dataset, and where words and labels are predicted among B x (T + R)."""
    inputs, labels = batch["net_input"], batch["region_target"]
    length = int(inputs["src_lengths"].max())
    words = batch["target"][:, :length]
    predicted = torch.cat([words.ne(padding), labels.ge(0)], dim=1)
    is_word = torch.arange(predicted.size(1)).expand_as(predicted) < words.size(1)
    return {
        "tokens": inputs["src_tokens"][:, :length].contiguous(),
        "languages": (torch.arange(words.size(1)) >= words.size(1) // 2).long().expand_as(words).contiguous(),
        "features": inputs["features"],
        "boxes": inputs["boxes"],
        "word_places": (predicted & is_word).flatten().nonzero().flatten(),
        "region_places": (predicted & ~is_word).flatten().nonzero().flatten(),
        "words": words[words.ne(padding)],
        "labels": labels[labels.ge(0)],
    }
