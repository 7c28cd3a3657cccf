"""Cross-attention: the same function as fairseq's, in training and in beam search."""

import pytest
import torch
from fairseq.modules import MultiheadAttention
from fairseq.sequence_generator import SequenceGenerator

from tests.tiny import dictionary, translation_model
from vtlm_fairseq.models.cross_attention import CrossAttention, shared_keys

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


@pytest.mark.parametrize("weights", [{"need_weights": False}, {"need_weights": True}, {"need_head_weights": True}])
def test_steps_of_beam_search_equal_fairseqs(weights):
    """Two steps, hypotheses reordered within sentences, then one step after the first sentence has finished."""
    beam = 2
    ours, stock = pair()
    key, mask = states()
    rows = torch.arange(3).repeat_interleave(beam)
    key, mask = key[:, rows], mask[rows]
    state, stock_state = {}, {}
    order = torch.arange(6)
    with shared_keys([ours], beam):
        for new_order in (None, torch.tensor([1, 1, 2, 3, 5, 4]), torch.tensor([3, 2, 4, 4])):
            if new_order is not None:
                ours.reorder_incremental_state(state, new_order)
                stock.reorder_incremental_state(stock_state, new_order)
                key, mask, order = key[:, new_order], mask[new_order], order[new_order]
            query = torch.randn(1, len(order), DIM)
            found = ours(query, key, key, key_padding_mask=mask, incremental_state=state, static_kv=True, **weights)
            expected = stock(
                query, key, key, key_padding_mask=mask, incremental_state=stock_state, static_kv=True, **weights
            )
            torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-5)
            assert (found[1] is None) == (expected[1] is None)
            if found[1] is not None:
                torch.testing.assert_close(found[1], expected[1], atol=1e-6, rtol=1e-5)
    (saved,) = state.values()
    assert saved["prev_key"].shape == (2, HEADS, 5, DIM // HEADS)  # a sentence, not a hypothesis


def test_sharing_ends_with_the_block_even_after_an_error():
    ours, _ = pair()
    with pytest.raises(ZeroDivisionError), shared_keys([ours], 5):
        assert ours.beam == 5
        raise ZeroDivisionError
    assert ours.beam == 1


def test_beam_search_with_shared_keys_gives_the_same_hypotheses():
    """PITFALLS 14: sharing is only a saving: tokens equal, scores equal to 1e-5."""
    words = dictionary()
    model = translation_model(words, region_dim=4, region_classes=5)
    torch.manual_seed(2)
    tokens = torch.randint(4, 45, (5, 6))
    tokens[:, 0] = tokens[:, -1] = 2
    padding = torch.tensor([[False, False, i % 2 == 0] for i in range(5)])
    sample = {"net_input": {"src_tokens": tokens, "src_lengths": torch.full((5,), 6),
                            "features": torch.randn(5, 3, 4), "boxes": torch.rand(5, 3, 4),
                            "region_padding_mask": padding}}  # fmt: skip
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
    with shared_keys([model], 4):
        together = generator.generate([model], sample)
    # the states are copied once for the beams, and again only where a sentence has ended
    assert [count for count, _, _ in sizes] == [count for _, count, _ in sizes]
    assert [same for _, _, same in sizes] == [i > 0 and sizes[i][0] == sizes[i - 1][0] for i in range(len(sizes))]
    counts = [count for count, _, _ in sizes]
    assert counts[0] == 20 and counts[-1] < 20 and len(counts) > len(set(counts)), counts
    for one, other in zip(apart, together, strict=True):
        assert [h["tokens"].tolist() for h in one] == [h["tokens"].tolist() for h in other]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a["positional_scores"], b["positional_scores"], atol=1e-5, rtol=1e-5)
