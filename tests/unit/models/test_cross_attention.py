"""Cross-attention: the same function as fairseq's, in training and in beam search."""

import pytest
import torch
from fairseq import search
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator
from fairseq.token_generation_constraints import pack_constraints

from tiny import dictionary, translation_model
from vtlm_fairseq.models.cross_attention import CrossAttention
from vtlm_fairseq.models.encoder import share_states

DIM, HEADS = 8, 2


def pair():
    torch.manual_seed(0)
    ours = CrossAttention(DIM, HEADS, kdim=DIM, vdim=DIM, encoder_decoder_attention=True).eval()
    stock = MultiheadAttention(DIM, HEADS, kdim=DIM, vdim=DIM, encoder_decoder_attention=True).eval()
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def states(batch=3, length=5, *, padded=True):
    torch.manual_seed(1)
    mask = torch.zeros(batch, length, dtype=torch.bool)
    if padded:
        mask[0, 3:] = mask[2, 4:] = True
    return torch.randn(length, batch, DIM), mask


@pytest.mark.parametrize("padded", [True, False])
def test_teacher_forcing_equals_fairseqs(padded):
    ours, stock = pair()
    key, mask = states(padded=padded)
    query = torch.randn(4, 3, DIM)
    for weights in ({}, {"need_head_weights": True}, {"need_weights": False}):
        found = ours(query, key, key, key_padding_mask=mask, static_kv=True, **weights)
        expected = stock(query, key, key, key_padding_mask=mask, static_kv=True, **weights)
        torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
        if weights.get("need_weights", True):
            torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-5)


def test_a_decoder_trains_in_half_precision_as_in_float32():
    """On a CPU by other operations: later words and padding of the source stay unseen, and gradients are the same."""
    model = translation_model(dropout=0.0, attention_dropout=0.0).train()
    source = torch.tensor([[2, 9, 8, 7, 2], [2, 5, 2, 1, 1]])
    target = torch.tensor([[2, 11, 12, 13], [2, 10, 14, 15]])
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(src_tokens=source, src_lengths=None, prev_output_tokens=target)[0]
        logits.float().square().sum().backward()
        assert logits.dtype == (torch.bfloat16 if half else torch.float32)
        layer = model.decoder.layers[0]
        weights = (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
        found.append([logits.detach().float(), *(one.weight.grad for one in weights)])
    for single, other in zip(*found, strict=True):
        assert (single - other).norm() <= 0.03 * single.norm()


@pytest.mark.parametrize("weights", [{"need_weights": False}, {"need_weights": True}, {"need_head_weights": True}])
def test_steps_of_beam_search_equal_fairseqs(weights):
    """Two steps, hypotheses reordered within sentences, then one step after the first sentence has finished."""
    beam = 2
    ours, stock = pair()
    key, mask = states()
    rows = torch.arange(3).repeat_interleave(beam)
    state, stock_state = {}, {}
    order, sentences = torch.arange(6), torch.arange(3)
    for new_order in (None, torch.tensor([1, 1, 2, 3, 5, 4]), torch.tensor([3, 2, 4, 4])):
        if new_order is not None:
            ours.reorder_incremental_state(state, new_order)
            stock.reorder_incremental_state(stock_state, new_order)
            rows, order = rows[new_order], order[new_order]
            sentences = rows[::beam]
        query = torch.randn(1, len(order), DIM)
        found, expected = (
            layer(query, key[:, of], key[:, of], key_padding_mask=mask[of], incremental_state=its, static_kv=True,
                  **weights)
            for layer, its, of in ((ours, state, sentences), (stock, stock_state, rows))
        )  # fmt: skip
        torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
        assert (found[1] is None) == (expected[1] is None)
        if found[1] is not None:
            torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-5)
    (saved,) = state.values()
    assert saved["prev_key"].shape == (2, HEADS, 5, DIM // HEADS)  # a sentence, not a hypothesis


def random_sample(padding: torch.Tensor) -> dict:
    """A batch of five sentences with three regions each."""
    torch.manual_seed(2)
    tokens = torch.randint(4, 45, (5, 6))
    tokens[:, 0] = tokens[:, -1] = 2
    return {"net_input": {"src_tokens": tokens, "src_lengths": torch.full((5,), 6), "features": torch.randn(5, 3, 4),
                          "boxes": torch.rand(5, 3, 4), "region_padding_mask": padding}}  # fmt: skip


def test_beam_search_with_shared_keys_gives_the_same_hypotheses():
    """PITFALLS 14: sharing is only a saving: tokens equal, scores equal to 1e-5."""
    words = dictionary()
    model = translation_model(words, region_dim=4, region_classes=5)
    sample = random_sample(torch.tensor([[False, False, i % 2 == 0] for i in range(5)]))
    said = SequenceGenerator([model], words, beam_size=4, max_len_b=12).generate([model], sample)
    # a word that some sentences say before others ends them at different steps
    generator = SequenceGenerator([model], words, beam_size=4, max_len_b=12, eos=int(said[2][0]["tokens"][4]))
    apart = generator.generate([model], sample)
    sizes = []
    reorder = model.encoder.reorder_encoder_out

    def counted(encoder_out, new_order):
        found = reorder(encoder_out, new_order)
        sizes.append((new_order.numel(), found["encoder_out"][0].size(1), found is encoder_out))
        return found

    model.encoder.reorder_encoder_out = counted
    together = generator.generate([model], share_states(sample, generator))
    # the states stay those of sentences, and are copied only where one has ended
    assert all(count == 4 * held for count, held, _ in sizes), sizes
    assert [same for _, _, same in sizes] == [i == 0 or sizes[i][0] == sizes[i - 1][0] for i in range(len(sizes))]
    counts = [count for count, _, _ in sizes]
    assert counts[0] == 20 and counts[-1] < 20 and len(counts) > len(set(counts)), counts
    for one, other in zip(apart, together, strict=True):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a["positional_scores"], b["positional_scores"], atol=1e-5, rtol=1e-5)


SEARCHES = {
    "sampling": lambda words: {"search_strategy": search.Sampling(words, sampling_topk=5)},
    "diverse beam": lambda words: {"search_strategy": search.DiverseBeamSearch(words, 2, 0.5)},
    "siblings": lambda words: {"search_strategy": search.DiverseSiblingsSearch(words, 0.5)},
    "constraints": lambda words: {"search_strategy": search.LexicallyConstrainedBeamSearch(words, "ordered")},
    "prefix": lambda words: {},
    "alignment": lambda words: {},
    "one hypothesis": lambda words: {"beam_size": 1},
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_every_search_gives_the_same_with_shared_states(kind):
    """Of an ensemble of NMT and MMT; sentences end at different steps."""
    words = dictionary()
    models = [translation_model(words, region_dim=4, region_classes=5), translation_model(words, seed=1)]
    sample = random_sample(torch.zeros(5, 3, dtype=torch.bool))
    options, given = {"beam_size": 4, "max_len_b": 8}, {}
    if kind == "alignment":
        for model in models:
            model.decoder.make_generation_fast_(need_attn=True)
    if kind == "prefix":
        given["prefix_tokens"] = torch.tensor([[7, 8], [9, 1], [10, 11], [12, 2], [13, 14]])
    if kind == "constraints":
        given["constraints"] = pack_constraints([[torch.tensor([20 + i])] for i in range(5)])
    found = []
    for shared in (False, True):
        options |= SEARCHES[kind](words)
        generator = SequenceGenerator(models, words, **options)
        torch.manual_seed(3)
        batch = share_states(sample, generator) if shared else sample
        found.append(generator.generate(models, batch, **given))
    for one, other in zip(*found, strict=True):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a["positional_scores"], b["positional_scores"], atol=1e-5, rtol=1e-5)
            assert (a["attention"].numel() > 0) == (kind == "alignment")
            torch.testing.assert_close(a["attention"], b["attention"], atol=1e-5, rtol=1e-5)
    assert len({tuple(h["tokens"].tolist()) for sentence in found[0] for h in sentence}) > 2
