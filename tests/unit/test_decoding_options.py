"""fairseq's options of decoding do what they do for fairseq's own models."""

from argparse import Namespace

import pytest
import torch
from fairseq.data import LanguagePairDataset
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.modules.fairseq_dropout import FairseqDropout
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf

from tiny import folder, line_regions, translation_model, translation_task

SOURCES = [torch.tensor([*range(10, 10 + length), 2]) for length in (5, 2, 9)]
DROPOUT = {"dropout": 0.3, "attention_dropout": 0.3, "activation_dropout": 0.3}
REGIONS = {"region_dim": 4, "region_classes": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("decoding") / "bin", {"train": 3})


def decode(task, model, dataset, **options) -> dict[int, dict]:
    """Best hypothesis of each sentence."""
    batch = dataset.collater([dataset[i] for i in range(len(dataset))])
    generator = task.build_generator([model], Namespace(**{"beam": 3, "max_len_b": 9, **options}))
    found = task.inference_step(generator, [model], batch)
    return {i: one[0] for i, one in zip(batch["id"].tolist(), found, strict=True)}


def ours(task, *, regions=None):
    return task.inference_dataset(SOURCES, [len(source) for source in SOURCES], regions=regions)


def stock(data):
    """fairseq's task, a model of its, and the same sentences."""
    config = TranslationConfig(source_lang="en", target_lang="de", data=str(data.path))
    task = TranslationTask(config, data.dictionary, data.dictionary)
    size = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in
            (("embed_dim", 32), ("ffn_embed_dim", 64), ("layers", 2), ("attention_heads", 4))}  # fmt: skip
    args = Namespace(**size, max_source_positions=64, max_target_positions=64)
    base_architecture(args)
    torch.manual_seed(0)
    model = TransformerModel.build_model(args, task).eval()
    return task, model, LanguagePairDataset(SOURCES, [len(source) for source in SOURCES], data.dictionary)


def test_match_source_len_is_that_of_fairseqs_translation(data):
    """The leading ``</s>`` of our sources does not count; without the option nothing changes, nor does the batch."""
    expected = {i: len(one["tokens"]) for i, one in decode(*stock(data), match_source_len=True).items()}
    task, model = translation_task(data.path), translation_model(data.dictionary)
    found = {i: len(one["tokens"]) for i, one in decode(task, model, ours(task), match_source_len=True).items()}
    assert found == expected and len(set(found.values())) == 3
    dataset = ours(task)
    batch = dataset.collater([dataset[0]])
    task.inference_step(task.build_generator([model], Namespace(beam=2, match_source_len=True)), [model], batch)
    assert batch["net_input"]["src_lengths"].tolist() == [7]


def retained(data, modules, **options) -> tuple[list[float], list[float]]:
    """Scores of two decodings of a model with ``--retain-dropout``, of seeds 1 and 2."""
    task = translation_task(data.path)
    model = translation_model(data.dictionary, **DROPOUT, **REGIONS)
    generation = {"retain_dropout": True, "retain_dropout_modules": modules}
    model.prepare_for_inference_(OmegaConf.create({"generation": generation}))
    task.has_regions = True
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made = decode(task, model, ours(task, regions=line_regions([3, 2, 4])), **options)
        scores.append([float(one["score"]) for one in made.values()])
    return scores[0], scores[1]


@pytest.mark.slow
def test_retained_dropout_in_each_kind_of_module(data):
    """Every module that has a dropout keeps its own while decoding, in beam search and in sampling."""
    model = translation_model(data.dictionary, **DROPOUT, **REGIONS)
    names = {part.module_name for part in model.modules() if isinstance(part, FairseqDropout) and part.p > 0}
    assert {"CrossAttention", "SelfAttention", "MultiheadAttention", "RegionEmbedding"} <= names
    for name in sorted(names):
        first, second = retained(data, [name])
        assert first != second, name
    first, second = retained(data, ["None of these"])
    assert first == second
    first, second = retained(data, None, beam=1)
    assert first != second


def test_retained_dropout_of_cross_attention_is_that_of_training(data):
    """A decoding step with the keys kept: right on average, and drawn for each hypothesis anew."""
    model = translation_model(data.dictionary, attention_dropout=0.4)
    attend = model.decoder.layers[0].encoder_attn
    states, query = torch.randn(5, 1, 32), torch.randn(1, 1, 32)
    for weights in (False, True):
        attend.dropout_module.apply_during_inference = False
        exact, _ = attend(query, states, states, incremental_state={}, need_weights=weights)
        attend.dropout_module.apply_during_inference = True
        many, _ = attend(query.expand(1, 4000, 32), states, states, incremental_state={}, need_weights=weights)
        assert many[0].std(0).min() > 1e-4
        torch.testing.assert_close(many.mean(1), exact[0], atol=0.05, rtol=0)
