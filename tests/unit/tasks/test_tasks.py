"""Both tasks: dictionaries, languages, regions, what a checkpoint contradicts, step and metric hooks."""

from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import tasks
from fairseq.data import Dictionary
from fairseq.logging import metrics
from omegaconf import OmegaConf

from stores import ends_with, fault, make_store
from tiny import (
    arguments,
    dictionary,
    folder,
    pretraining_config,
    pretraining_task,
    sentences,
    translation_config,
    translation_task,
)
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.split_files import language_pair
from vtlm_fairseq.data.translation_dataset import MultimodalTranslationDataset
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.regions.store import RegionStoreWriter
from vtlm_fairseq.tasks.multimodal_translation import MultimodalTranslationTask
from vtlm_fairseq.tasks.splits import read_image_names
from vtlm_fairseq.tasks.visual_translation_lm import VisualTranslationLMTask

TASKS = [VisualTranslationLMTask, MultimodalTranslationTask]
BUILDERS = [pretraining_task, translation_task]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("tasks")
    folder(path / "bin", {"train": 9, "valid": 5})
    make_store(path / "regions" / "train.h5", 4)
    make_store(path / "regions" / "valid.h5", 4, seed=1)
    return path


# ---- dictionaries


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("padding_factor", [8, 1])
def test_mask_is_a_line_after_the_words(tmp_path, task, padding_factor):
    """PITFALLS 7: stock fairseq reads the same ids from the file; appended where it is missing."""
    (tmp_path / "text").write_text("the cat sat\nthe dog sat down\nthe end\n")
    built = task.build_dictionary([str(tmp_path / "text")], padding_factor=padding_factor)
    assert built.symbols[4:6] == ["the", "sat"]
    assert sorted(built.symbols[6:10]) == ["cat", "dog", "down", "end"] and built.index("<mask>") == 10
    assert len(built) == (16 if padding_factor == 8 else 11) and len(set(built.symbols)) == len(built)
    built.save(str(tmp_path / "dict.txt"))
    stock, ours = Dictionary.load(str(tmp_path / "dict.txt")), task.load_dictionary(str(tmp_path / "dict.txt"))
    assert stock.symbols == ours.symbols == built.symbols
    assert [ours.index(symbol) for symbol in built.symbols] == list(range(len(built)))
    assert word_mask(ours).tolist() == [False] * 4 + [True] * 6 + [False] * (len(built) - 10)
    (tmp_path / "dict.txt").write_text("cat 3\ndog 2\n")
    loaded = task.load_dictionary(str(tmp_path / "dict.txt"))
    assert loaded.symbols[4:] == ["cat", "dog", "<mask>"] and loaded.index("dog") == 5
    assert "no such dictionary" in ends_with(task.load_dictionary, str(tmp_path / "absent.txt"))


@pytest.mark.parametrize("build", BUILDERS)
def test_checkpoint_symbols_are_compared(data, build):
    """PITFALLS 7."""
    task = build(data / "bin")
    state = task.state_dict()
    assert state["symbols"] == dictionary().symbols
    task.load_state_dict(state)
    task.load_state_dict({})  # an older checkpoint
    for symbols, named in (
        ([*state["symbols"][:10], "w7", "w6", *state["symbols"][12:]], "symbol 10 ('w6' and 'w7')"),
        ([*state["symbols"][:-1], "other"], "symbol 47 ('madeupword0001' and 'other')"),
        (state["symbols"][:-1], "(48 and 47 symbols)"),
    ):
        message = ends_with(task.load_state_dict, {"symbols": symbols})
        assert named in message and "--dict" in message


# ---- set-up


@pytest.mark.parametrize("build", BUILDERS)
def test_set_up_infers_the_pair(data, build):
    task = build(data / "bin")
    assert (task.cfg.source_lang, task.cfg.target_lang) == ("en", "de")
    assert task.source_dictionary.symbols == task.target_dictionary.symbols == dictionary().symbols
    reverse = build(data / "bin", "-s", "de", "-t", "en")
    reverse.load_dataset("valid")
    one = reverse.dataset("valid")[0]
    text = one["tokens"].tolist() if "tokens" in one else one["source"].tolist()
    lines = sentences(5, seed=3)  # of the German side
    assert text[1] in (int(lines[0][0]), 45) and len(lines) == len(reverse.dataset("valid"))


@pytest.mark.parametrize("name", ["visual_translation_lm", "multimodal_translation"])
def test_set_up_from_a_namespace_and_from_a_configuration(data, name):
    """PITFALLS 5."""
    argv = (str(data / "bin"), "--regions", str(data / "regions"), "--max-regions", "3", "--seed", "5")
    argv += ("--save-dir", "saved")
    namespace = arguments(*argv, task=name)
    assert isinstance(namespace, Namespace)
    config = (pretraining_config if name == "visual_translation_lm" else translation_config)(*argv).task
    found = []
    for cfg in (namespace, config):
        task = tasks.setup_task(cfg)
        task.load_dataset("train")
        item = task.dataset("train")[3]
        found.append((task.cfg.seed, task.cfg.save_dir, task.cfg.train_subset, len(item["regions"].labels)))
        found[-1] += (item["tokens" if "tokens" in item else "source"].tolist(),)
    assert found[0] == found[1] and found[0][:4] == (5, "saved", "train", 3)


@pytest.mark.parametrize("build", BUILDERS)
def test_faults_of_the_data_folder(data, tmp_path, build):
    assert "does not exist" in ends_with(build, tmp_path / "absent")
    other = folder(tmp_path / "bin", {"train": 2})
    (other.path / "dict.de.txt").write_text("zwei 3\n")
    message = ends_with(build, other.path)
    assert "symbol 4 ('w0' and 'zwei')" in message and "--joined-dictionary" in message
    task = build(data / "bin")
    assert "'test'" in ends_with(task.load_dataset, "test")


def test_a_split_lacks_a_side_or_its_images(tmp_path):
    path = folder(tmp_path / "bin", {"train": 2, "valid": 3}).path
    message = fault(read_image_names, str(tmp_path), "valid")
    assert "valid.images" in message and "--regions none" in message
    for side in path.glob("valid.en-de.de.*"):
        side.unlink()
    message = ends_with(pretraining_task(path).load_dataset, "valid")
    assert "valid" in message and "de is missing" in message


def test_clipping_on_the_cpu_beside_a_gpu(data, monkeypatch):
    """fairseq cannot clip there; without a GPU, without clipping or on the GPU all is well."""
    model, argv = torch.nn.Linear(2, 2), (data / "bin", "--clip-norm", "5", "--no-save")
    clipped = translation_task(*argv)
    clipped.begin_epoch(1, model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    translation_task(data / "bin", "--no-save").begin_epoch(1, model)
    translation_task(*argv).check_clipping(SimpleNamespace(parameters=lambda: [SimpleNamespace(is_cuda=True)]))
    message = ends_with(translation_task(*argv).begin_epoch, 1, model)
    assert all(part in message for part in ("--cpu", "--clip-norm", "CUDA_VISIBLE_DEVICES"))


@pytest.mark.parametrize("build", BUILDERS)
def test_one_language_of_the_pair(data, tmp_path, build):
    """The other one is that of the files, in either direction; never is the given one overruled."""
    for argv, expected in (
        (("-s", "de"), ("de", "en")),
        (("-t", "en"), ("de", "en")),
        (("-s", "en"), ("en", "de")),
        (("-t", "de"), ("en", "de")),
    ):
        task = build(data / "bin", *argv)
        assert (task.cfg.source_lang, task.cfg.target_lang) == expected
        assert task.load_dataset("valid") is None
    for argv in (("-s", "fr"), ("-t", "fr")):
        message = ends_with(build, data / "bin", *argv)
        assert f"{argv[0]} fr alone does not tell the pair (en-de)" in message
    for name in ("train.en-de.en.idx", "train.en-fr.fr.idx"):
        (tmp_path / name).touch()
    assert language_pair(str(tmp_path), None, "fr") == ("en", "fr")
    assert "(en-de and en-fr)" in fault(language_pair, str(tmp_path), "en")
    (tmp_path / "empty").mkdir()
    assert "-s and -t" in ends_with(build, tmp_path / "empty")


@pytest.mark.parametrize("build", BUILDERS)
def test_datasets_shuffle_in_training_only(data, build):
    task = build(data / "bin", "--regions", data / "regions", "--region-order", "shuffle")
    for split in ("train", "valid"):
        task.load_dataset(split)
    train, valid = task.dataset("train"), task.dataset("valid")
    assert train.regions.redraw and not valid.regions.redraw
    if build is pretraining_task:
        assert type(train) is TranslationLMDataset and (train.train, valid.train) == (True, False)
        assert train.seed == 1 and train.languages == (1, 0)
    else:
        assert type(train) is MultimodalTranslationDataset and (train.shuffle, valid.shuffle) == (True, False)
        assert not train.left_pad_source and not train.left_pad_target


@pytest.mark.slow
def test_joined_splits_and_upsampling(tmp_path):
    """``train`` (repeated) and ``train1``: regions follow the text."""
    made = folder(tmp_path / "bin", {"train": 3, "train1": 4})
    (made.path / "train1.images").write_text("img3.jpg\n" * 4)
    make_store(tmp_path / "r.h5", 4)
    for build in BUILDERS:
        task = build(made.path, "--regions", tmp_path / "r.h5", "--upsample-primary", "2")
        task.load_dataset("train", combine=True)
        rows = task.dataset("train").regions.rows.tolist()
        assert rows == [0, 1, 2, 0, 1, 2, 3, 3, 3, 3] and len(task.dataset("train")) == 10
        task.load_dataset("train", combine=False)
        assert task.dataset("train").regions.rows.tolist() == [0, 1, 2]
        (made.path / "train1.images").write_text("img3.jpg\n" * 5)
        task = build(made.path, "--regions", tmp_path / "r.h5")
        message = ends_with(task.load_dataset, "train", combine=True)
        assert "train1.images has 5 lines, the text of train1 has 4 pairs" in message
        (made.path / "train1.images").write_text("img3.jpg\nimg3.jpg\n\nno\n")
        task = build(made.path, "--regions", tmp_path / "r.h5")
        message = ends_with(task.load_dataset, "train", combine=True)
        assert "r.h5" in message and f"line 3 of {made.path / 'train1.images'}" in message
        (made.path / "train1.images").write_text("img3.jpg\n" * 4)


@pytest.mark.parametrize("keep", [0, 5, 20, 40])
@pytest.mark.parametrize("build", BUILDERS)
def test_binarised_text_that_is_cut_off(tmp_path, build, keep):
    """One line that says which split."""
    made = folder(tmp_path / "bin", {"train": 9})
    index = made.path / "train.en-de.de.idx"
    index.write_bytes(index.read_bytes()[:keep])
    message = ends_with(build(made.path).load_dataset, "train")
    assert "bin: the binarised text of train cannot be read (" in message and "prepare the data again" in message


@pytest.mark.parametrize("build", BUILDERS)
def test_sides_of_different_lengths(tmp_path, build):
    """As after a carriage return inside a line, where fairseq-preprocess begins a new one; it ended in an assertion."""
    made, other = folder(tmp_path / "bin", {"train": 9}), folder(tmp_path / "other", {"train": 8})
    for end in ("bin", "idx"):
        (other.path / f"train.en-de.de.{end}").rename(made.path / f"train.en-de.de.{end}")
    message = ends_with(build(made.path).load_dataset, "train")
    assert "sides of train" in message and "carriage return" in message


# ---- .images


@pytest.mark.slow
def test_regions_that_are_cut_are_counted(data, caplog):
    """An image counts once, however many lines it has; images of the store that no line names do not count."""
    argv = ("--regions", data / "regions" / "train.h5", "--max-regions", "4")
    with caplog.at_level("INFO"):
        translation_task(data / "bin", *argv).load_dataset("train")
        translation_task(data / "bin", *argv[:2]).load_dataset("train")
    (line,) = [r.getMessage() for r in caplog.records if "beyond" in r.getMessage()]
    assert "train: 8 of 24 regions (33 %) lie beyond --max-regions 4" in line
    none = translation_task(data / "bin", *argv[:2], "--max-regions", "0")
    assert "--max-regions is 0" in ends_with(none.load_dataset, "train")


@pytest.mark.slow
def test_a_cut_that_is_chance_needs_the_number(data, tmp_path, caplog):
    """Cells of a grid have one score: which 36 of 49 are read must be said. Of a detector they are the best."""
    for name, scores in (("grid", np.ones(49)), ("detector", np.linspace(1, 0.1, 49))):
        with RegionStoreWriter(tmp_path / name, feature_dim=8, class_names=["a"], detector="d") as writer:
            for image in range(6):
                writer.add(
                    f"img{image}.jpg",
                    features=np.ones((49, 8)),
                    boxes=np.tile([0, 0, 1, 1], (49, 1)),
                    labels=np.zeros(49, int),
                    scores=scores,
                )
    line = ends_with(translation_task(data / "bin", "--regions", tmp_path / "grid").load_dataset, "train")
    assert "(27 %)" in line and "--max-regions" in line and "49" in line
    for name, number in (("grid", ["--max-regions", "49"]), ("grid", ["--max-regions", "36"]), ("detector", [])):
        caplog.clear()
        translation_task(data / "bin", "--regions", tmp_path / name, *number).load_dataset("train")
        cut = [r.levelname for r in caplog.records if "beyond" in r.getMessage()]
        assert cut == ([] if number == ["--max-regions", "49"] else ["WARNING"])


# ---- models


@pytest.mark.slow
@pytest.mark.parametrize("langs", [None, "fr,en,de"])
@pytest.mark.parametrize("pretraining", [True, False])
def test_the_model_learns_languages_and_region_sizes(data, pretraining, langs):
    config = pretraining_config if pretraining else translation_config
    argv = ["--regions", data / "regions", *(["--langs", langs] if langs else [])]
    cfg = config(data / "bin", *argv)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    assert (cfg.model.langs, cfg.model.source_lang, cfg.model.target_lang) == (langs or "de,en", "en", "de")
    assert (cfg.model.region_dim, cfg.model.region_classes) == (8, 5)
    assert model.encoder.embed_positions.languages.num_embeddings == (4 if langs else 3)
    assert model.encoder.embed_regions.feature_proj.in_features == 8
    again = tasks.setup_task(config(data / "bin", "--regions", data / "regions").task)
    loaded = again.build_model(cfg.model, from_checkpoint=True)  # a checkpoint describes itself
    loaded.load_state_dict(model.state_dict())
    assert again.langs == cfg.model.langs and again.has_regions
    for one in (task, tasks.setup_task(config(data / "bin", *argv).task)) if pretraining else ():
        one.load_dataset("valid")  # with a model or before one is built
        assert one.dataset("valid").languages == ((1, 2) if langs else (1, 0))


def test_a_resumed_run_keeps_its_languages_and_opens_no_pretrained_file(data, tmp_path):
    """PITFALLS 10: the pre-trained file may have gone."""
    first = translation_config(data / "bin", "--langs", "fr,en,de")
    model = tasks.setup_task(first.task).build_model(first.model)
    config = OmegaConf.to_container(first.model, enum_to_str=True)
    torch.save({"cfg": {"model": config}, "model": model.state_dict()}, tmp_path / "checkpoint_last.pt")
    for argv in (["--save-dir", tmp_path], ["--restore-file", tmp_path / "checkpoint_last.pt"]):
        cfg = translation_config(data / "bin", *argv, "--pretrained", tmp_path / "gone.pt")
        tasks.setup_task(cfg.task).build_model(cfg.model)
        assert cfg.model.langs == "fr,en,de"
    cfg = translation_config(data / "bin", "--pretrained", tmp_path / "gone.pt")
    assert "gone.pt" in ends_with(tasks.setup_task(cfg.task).build_model, cfg.model)
    cfg = translation_config(data / "bin", "--save-dir", tmp_path, "--langs", "en,de")
    assert "langs fr,en,de" in ends_with(tasks.setup_task(cfg.task).build_model, cfg.model)


@pytest.mark.slow
def test_contradictions_in_training(data):
    def build(*argv):
        cfg = translation_config(data / "bin", *argv)
        return tasks.setup_task(cfg.task).build_model(cfg.model)

    assert "'de'" in ends_with(build, "--langs", "en,fr")
    assert "distinct" in ends_with(build, "--langs", "en,de,en")
    assert "image" in ends_with(build, "--langs", "en,de,image")
    assert "--region-dim" in ends_with(build, "--region-dim", "8")
    assert "--region-dim is 7" in ends_with(build, "--region-dim", "7", "--regions", data / "regions")
    assert "--amp" in ends_with(build, "--autocast", "fp16")
    build("--autocast", "bf16")


@pytest.mark.slow
def test_contradictions_of_a_checkpoint(data):
    with_regions, without = (translation_config(data / "bin", *argv) for argv in ([], ["--regions", data / "regions"]))
    with_regions, without = without, with_regions
    for cfg in (with_regions, without):
        tasks.setup_task(cfg.task).build_model(cfg.model)

    def load(cfg, *argv):
        task = translation_task(data / "bin", *argv)
        return task, task.build_model(cfg.model, from_checkpoint=True)

    assert "--region-order none" in ends_with(load, with_regions)
    task, model = load(with_regions, "--region-order", "none")
    assert model.encoder.embed_regions is not None and task.has_regions
    assert "text-only" in ends_with(load, without, "--regions", data / "regions")
    assert "contradicts" in ends_with(load, with_regions, "--langs", "en,de", "--regions", data / "regions")
    message = ends_with(load, without, "-s", "de", "-t", "en")
    assert "en-de" in message and "-s en -t de" in message


@pytest.mark.slow
def test_a_store_of_another_detector_is_refused(data, tmp_path):
    cfg = translation_config(data / "bin", "--regions", data / "regions")
    tasks.setup_task(cfg.task).build_model(cfg.model)
    for name, sizes, named in (("wide", {"feature_dim": 6}, "6 wide"), ("classes", {"num_classes": 4}, "4 classes")):
        make_store(tmp_path / f"{name}.h5", 4, **sizes)
        task = translation_task(data / "bin", "--regions", tmp_path / f"{name}.h5")
        task.build_model(cfg.model, from_checkpoint=True)
        message = ends_with(task.load_dataset, "valid")
        assert f"--regions {tmp_path}/{name}.h5 (valid)" in message and named in message


# ---- filters, steps, metrics


def test_over_long_pairs(data):
    """PITFALLS 12: counted and named in training, an error elsewhere."""
    for build in BUILDERS:
        task = build(data / "bin")
        task.load_dataset("valid")
        dataset = task.dataset("valid")
        sizes = [tuple(map(int, dataset.size(i))) for i in range(5)]
        limit = (sorted(s for s, _ in sizes)[-2], 99)
        assert list(task.filter_indices_by_size(np.arange(5), dataset, (99, 99))) == list(range(5))
        long = [i for i, (s, _) in enumerate(sizes) if s > limit[0]]
        assert long
        message = ends_with(task.filter_indices_by_size, np.arange(5), dataset, limit)
        assert f"line {long[0] + 1} with {sizes[long[0]]}" in message and "--skip-invalid" in message
        kept = task.filter_indices_by_size(np.arange(5), dataset, limit, ignore_invalid_inputs=True)
        assert sorted(kept) == [i for i in range(5) if i not in long]


def test_source_limit_counts_the_leading_eos(data):
    """--truncate-source leaves room for it."""
    task = translation_task(data / "bin", "--max-source-positions", "4", "--truncate-source")
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    assert max(len(dataset[i]["source"]) for i in range(5)) == 4
    assert all(dataset.size(i)[0] == len(dataset[i]["source"]) for i in range(5))
    assert all(dataset[i]["source"][-1] == 2 == dataset[i]["source"][0] for i in range(5))


@pytest.mark.parametrize("build", BUILDERS)
def test_a_fault_ends_every_step(data, build):
    task = build(data / "bin")
    batch = {FAULT: "image 'x.jpg' is broken"}
    for step in (
        lambda: task.train_step(batch, None, None, None, 0),
        lambda: task.valid_step(batch, None, None),
        lambda: task.inference_step(None, None, batch),
    ):
        assert "'x.jpg'" in ends_with(step)


@pytest.mark.parametrize("kind", ["none", "bf16"])
def test_autocast_covers_the_criterion(data, kind):
    task = pretraining_task(data / "bin", "--autocast", kind)
    seen = []

    class Model:
        def train(self):
            return self

        eval = train

        def set_num_updates(self, number):
            pass

    def criterion(model, sample):
        seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return torch.zeros((), requires_grad=True), 1, {}

    sample = {"net_input": {"src_tokens": torch.ones(1, 1)}}
    optimizer = SimpleNamespace(backward=lambda loss: loss.backward())
    task.train_step(sample, Model(), criterion, optimizer, 0)
    task.valid_step(sample, Model(), criterion)
    assert seen == [torch.bfloat16 if kind == "bf16" else torch.float32] * 2


def test_options_reach_the_masks(data):
    task = pretraining_task(
        data / "bin", "--mask-prob", "0.3", "--leave-unmasked-prob", "0.2", "--random-token-prob", "0.05",
        "--region-mask-prob", "0.4", "--region-leave-unmasked-prob", "0.6", "--region-random-prob", "0.25",
        "--region-mask-fill", "zero", "--regions", data / "regions", "--seed", "9",
    )  # fmt: skip
    task.load_dataset("train")
    dataset = task.dataset("train")
    words, regions = dataset.word_masking.rates, dataset.region_rates
    assert (words.select, words.keep, words.random) == (0.3, 0.2, 0.05)
    assert (regions.select, regions.keep, regions.random) == (0.4, 0.6, 0.25)
    assert dataset.zero_masked_regions and dataset.seed == 9


@pytest.mark.parametrize(
    ("argv", "named"),
    [(("--mask-prob", "1.5"), "--mask-prob is 1.5"), (("--random-token-prob", "-0.1"), "--random-token-prob is -0.1"),
     (("--leave-unmasked-prob", "0.6", "--random-token-prob", "0.5"),
      "--leave-unmasked-prob 0.6 and --random-token-prob 0.5"),
     (("--region-leave-unmasked-prob", "1"), "--region-leave-unmasked-prob 1.0 and --region-random-prob 0.1")],
)  # fmt: skip
def test_options_out_of_range(data, argv, named):
    assert named in ends_with(pretraining_task, data / "bin", *argv)


def test_generation_never_makes_mask_or_padding_words(data):
    cfg = translation_config(data / "bin")
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model).eval()
    with torch.no_grad():  # the model itself would say nothing else
        model.decoder.output_projection.bias[[45, 46, 47]] = 100.0
    generator = task.build_generator([model], SimpleNamespace(beam=3, max_len_b=6))
    sample = {"net_input": {"src_tokens": torch.tensor([[2, 10, 11, 2]]), "src_lengths": torch.tensor([4])}}
    hypotheses = task.inference_step(generator, [model], sample)[0]
    assert len(hypotheses) == 3
    assert all(int(token) < 45 for hypothesis in hypotheses for token in hypothesis["tokens"])


def test_interactive_input_has_no_regions(data):
    cfg = translation_config(data / "bin", "--regions", data / "regions")
    task = tasks.setup_task(cfg.task)
    task.build_model(cfg.model)
    lines = ([torch.tensor([10, 2])], np.array([2]))
    assert "vtlm-translate" in ends_with(task.build_dataset_for_inference, *lines)
    text = translation_config(data / "bin")
    task = tasks.setup_task(text.task)
    task.build_model(text.model)
    assert task.build_dataset_for_inference(*lines)[0]["source"].tolist() == [2, 10, 2]


def test_bleu_counts_are_plain_numbers(data):
    """PITFALLS 29: numpy arrays would be saved with the checkpoint, which restricted loading then refuses."""
    task = translation_task(data / "bin", "--eval-bleu")
    log = {"loss": 2.0, "ntokens": 10, "sample_size": 10, "nsentences": 2, "_bleu_sys_len": 9, "_bleu_ref_len": 10}
    log |= {f"_bleu_counts_{i}": np.int64(8 - 2 * i) for i in range(4)}
    log |= {f"_bleu_totals_{i}": np.int64(9 - 2 * i) for i in range(4)}

    class Criterion:
        @staticmethod
        def reduce_metrics(logging_outputs):
            metrics.log_scalar("loss", sum(one["loss"] for one in logging_outputs))

    with metrics.aggregate(new_root=True) as meters:
        task.reduce_metrics([log, log], Criterion())
        task.reduce_metrics([log], Criterion())
    precisions = np.prod([8 / 9, 6 / 7, 4 / 5, 2 / 3]) ** (1 / 4)
    expected = 100 * precisions * np.exp(1 - 10 / 9)
    assert meters.get_smoothed_values()["bleu"] == pytest.approx(expected, abs=0.006)
    values = [v for meter in meters.values() if hasattr(meter, "state_dict") for v in meter.state_dict().values()]
    assert len(values) >= 30 and all(value is None or type(value) in (int, float) for value in values)
