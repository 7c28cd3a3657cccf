"""Masked words of pairs through a real checkpoint folder, and what a folder stands for."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from stores import fault, make_store
from tiny import (
    folder,
    line_regions,
    pretraining_config,
    pretraining_task,
    sentences,
    translation_config,
    translation_model,
    translation_task,
    vtlm_model,
)
from toy import spoil
from vtlm_fairseq.evaluation.teacher_forcing import score_translations
from vtlm_fairseq.hub import VTLM, MultimodalTransformer, find_checkpoint, find_checkpoints

REGIONS = {"region_dim": 4, "region_classes": 5}


def save(path, model, config, task) -> str:
    """A checkpoint as fairseq's trainer writes it, without optimizer."""
    for name, value in {**REGIONS, "langs": "de,en", "source_lang": "en", "target_lang": "de"}.items():
        config.model[name] = value
    state = {
        "cfg": OmegaConf.to_container(config, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "task_state": task.state_dict(),
        "extra_state": {},
        "optimizer_history": [{"num_updates": 1, "criterion_name": "VTLMCriterion", "optimizer_name": "FairseqAdam",
                               "lr_scheduler_state": {}}],
    }  # fmt: skip
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def vtlm(tmp_path_factory) -> VTLM:
    """A VTLM with regions from memory; texts are words of the tiny dictionary."""
    data = folder(tmp_path_factory.mktemp("hub") / "bin", {"train": 3})
    config = pretraining_config(data.path)
    model = vtlm_model(data.dictionary, **REGIONS)
    path = save(data.path / "checkpoint_last.pt", model, config, pretraining_task(data.path))
    loaded = VTLM(path, region_order="none", preprocessed=True, cpu=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.model.state_dict().items())
    return loaded


def masked(sentence: torch.Tensor, vtlm: VTLM, *places: int) -> torch.Tensor:
    sentence = sentence.clone()
    sentence[list(places)] = vtlm.mask_idx
    return sentence


def test_predictions_equal_a_forward_pass_whatever_the_batch(vtlm):
    """Log-probabilities of one pair by hand: ``</s> s </s> </s> t </s>``, positions restarting, all regions visible."""
    lines = sentences(8, seed=1)
    sources = [masked(line, vtlm, 0) for line in lines[:4]]
    targets = [masked(line, vtlm, 1, 0) for line in lines[4:]]
    regions = line_regions([3, 0, 2, 7])
    found = dict(vtlm.predict(sources, targets, regions=regions))
    assert sorted(found) == [0, 1, 2, 3] and {len(value) for value in found.values()} == {3}
    for i in range(4):
        eos = torch.tensor([2])
        sides = [torch.cat([eos, side]) for side in (sources[i], targets[i])]
        tokens = torch.cat(sides)[None]
        image = regions[i]
        logits, _ = vtlm.model(
            tokens,
            masked_tokens=tokens == vtlm.mask_idx,
            positions=torch.cat([torch.arange(len(side)) for side in sides])[None],
            langs=torch.cat([torch.full((len(side),), row) for side, row in zip(sides, (1, 0), strict=True)])[None],
            features=torch.from_numpy(image.features)[None],
            boxes=torch.from_numpy(image.boxes)[None],
            region_padding_mask=torch.zeros(1, len(image.labels), dtype=torch.bool),
            selected_regions=torch.zeros(1, len(image.labels), dtype=torch.bool),
        )
        assert (found[i] - torch.log_softmax(logits, -1)).abs().max() < 1e-4
    for number, value in vtlm.predict(sources, targets, regions=regions, batch_size=1):
        assert (value - found[number]).abs().max() < 1e-5


def test_regions_change_predictions(vtlm):
    """PITFALLS 4, for masked words."""
    (source, target) = sentences(2, seed=2)
    pair = ([masked(source, vtlm, 0)], [target])
    ((_, one),), ((_, other),), ((_, none),) = (
        vtlm.predict(*pair, regions=regions) for regions in (line_regions([3, 3], [0]), line_regions([3, 3], [1]), None)
    )
    assert (one - other).abs().max() > 1e-3 and (one - none).abs().max() > 1e-3


def test_source_alone_is_one_sentence(vtlm):
    """Without a target there is nothing behind the source's ``</s>``, also in a batch with pairs."""
    source, target = sentences(2, seed=3)
    source = masked(source, vtlm, 1)
    tokens = torch.cat([torch.tensor([2]), source])[None]
    logits, _ = vtlm.model(tokens, masked_tokens=tokens == vtlm.mask_idx)
    found = dict(vtlm.predict([source, source], [None, target]))
    assert (found[0] - torch.log_softmax(logits, -1)).abs().max() < 1e-4
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_fill_mask(vtlm):
    """The source's masks first; words only, best first; probabilities are of the whole vocabulary."""
    filled = vtlm.fill_mask("w3 <mask> w5", "<mask> w7 <mask>", top=4)
    assert [len(words) for words in filled] == [4, 4, 4]
    sides = [vtlm.encode(text, "en") for text in ("w3 <mask> w5", "<mask> w7 <mask>")]
    ((_, log_probs),) = vtlm.predict(sides[:1], sides[1:])
    for words, row in zip(filled, log_probs, strict=True):
        expected = sorted(((float(row[i].exp()), vtlm.dictionary[i]) for i in range(4, 45)), reverse=True)[:4]
        assert [word for word, _ in words] == [word for _, word in expected]
        assert [share for _, share in words] == pytest.approx([share for share, _ in expected], rel=1e-4)
    everything = vtlm.fill_mask("<mask>", top=1000)[0]
    assert len(everything) == 41 and sum(share for _, share in everything) < 1


def test_a_checkpoint_is_read_once(vtlm, monkeypatch):
    """What was checked is what is built."""
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **options: read.append(path) or load(path, **options))
    VTLM(vtlm.path, region_order="none", preprocessed=True, cpu=True)
    assert read == [vtlm.path]


def test_a_folder_of_the_other_direction(vtlm, tmp_path):
    """Source and target stay those that the model was trained with."""
    for file in Path(vtlm.path).parent.iterdir():
        shutil.copy(file, tmp_path / file.name.replace("en-de", "de-en"))
    turned = VTLM(vtlm.path, data=str(tmp_path), region_order="none", preprocessed=True, cpu=True)
    assert (turned.source_lang, turned.target_lang) == ("en", "de")


def test_faults(vtlm, tmp_path):
    assert "no <mask>" in fault(vtlm.fill_mask, "w1")
    assert "no region store" in fault(vtlm.fill_mask, "<mask>", image="img0.jpg")
    assert "the model takes 511" in fault(vtlm.fill_mask, "<mask> " * 600)
    assert "--top is 0" in fault(vtlm.fill_mask, "<mask>", top=0)
    for argv, options, named in (
        (("<mask>",), {"top": "5"}, "top='5'"), (("<mask>",), {"top": 2.0}, "top=2.0"), ((3,), {}, "3 is"),
        (("<mask>", ["w1"]), {}, "['w1']"),
        (("<mask>\rw1",), {}, r"'<mask>\rw1'"), (("<mask>\nw1",), {}, r"<mask>\nw1"),
    ):  # fmt: skip
        assert named in fault(vtlm.fill_mask, *argv, **options)
    for line_end in ("\n", "\r\n"):  # as a line read from a file may have it
        assert vtlm.fill_mask(f"w1 <mask>{line_end}") == vtlm.fill_mask("w1 <mask>")
    for options in ({"regions": ["r.h5"]}, {"regions": 3}, {"data": 3}, {"max_regions": "4"}, {"max_regions": 0}):
        name = next(iter(options)).replace("_", "[-_]")
        options = {"region_order": "none", "preprocessed": True, **options}
        assert re.match(f"(--)?{name}(=| is 0)", fault(VTLM.from_pretrained, vtlm.path, **options))
    assert "path=None" in fault(VTLM.from_pretrained, None)
    for regions in (None, "none"):
        loaded = VTLM.from_pretrained(vtlm.path, regions=regions, region_order="none", preprocessed=True, cpu=True)
        assert loaded.store is None
        text = fault(VTLM.from_pretrained, vtlm.path, regions=regions, preprocessed=True)
        assert "--regions is none" in text and "checkpoint_last.pt" not in text
    assert "checkpoint_best.pt nor checkpoint_last.pt" in fault(VTLM.from_pretrained, tmp_path)
    assert "pre-trained model (vtlm)" in fault(MultimodalTransformer.from_pretrained, vtlm.path)
    assert "region_order='other': not one of given, shuffle, none" in fault(
        VTLM.from_pretrained, vtlm.path, region_order="other", preprocessed=True
    )
    (one,) = sentences(1)
    for targets, options, named in (
        ([], {}, "1 sources, 0 targets"), ([None], {"regions": line_regions([0, 2])}, "regions of 2 lines"),
        ([None], {"batch_size": 0}, "--batch-size is 0"), ([None], {"batch_size": "8"}, "batch_size='8'"),
        (["w1"], {}, "targets: 'w1'"), (3, {}, "targets takes a list"),
        ([None], {"regions": ["img0.jpg"]}, "regions=["),
    ):  # fmt: skip
        assert named in fault(lambda t=targets, o=options: list(vtlm.predict([one], t, **o)))
    regions = line_regions([2, 3])
    regions.store.images[1].boxes[2, 0] = float("nan")
    pairs = [masked(line, vtlm, 0) for line in sentences(2)]
    text = fault(lambda: list(vtlm.predict(pairs, [None, None], regions=regions)))
    assert text.startswith("memory.h5: image 'img1.jpg' holds a feature or box that is not finite")


@pytest.mark.slow
def test_faults_of_translation(tmp_path):
    data = folder(tmp_path / "bin", {"train": 3})
    config = translation_config(data.path)
    model = translation_model(data.dictionary, **REGIONS)
    path = save(data.path / "checkpoint_last.pt", model, config, translation_task(data.path))
    make_store(tmp_path / "r.h5", 4, feature_dim=4)
    make_store(tmp_path / "wide.h5", 4, feature_dim=6)
    (tmp_path / "none").mkdir()

    def load(regions):
        return MultimodalTransformer.from_pretrained(path, regions=str(tmp_path / regions), preprocessed=True, cpu=True)

    for regions, named in (("none", f"--regions {tmp_path}/none"), ("wide.h5", "6 wide")):
        assert named in fault(load, regions)
    hub = load("r.h5")
    for argv, named in (
        (("w1", ["img0.jpg"]), "list"), ((["w1"],), "image id"), ((["w1"], ["x.jpg"]), "x.jpg"),
        ((["w1", "w1 " * 600], ["img0.jpg"] * 2), "line 2 has 601 tokens, the model takes 511"),
        (([3], ["img0.jpg"]), "line 1: 3 is"), ((["w1"], "a"), "images"), ((["w1"], [3]), "id 3"),
        ((None, ["a"]), "sentences"), ((["w1 \ud800"], ["img0.jpg"]), r"line 1: 'w1 \ud800'"),
        ((["w1", "w2\rw3"], ["img0.jpg"] * 2), r"line 2: 'w2\rw3'"), ((["w2\nw3"], ["img0.jpg"]), r"line 1: 'w2\nw3'"),
    ):  # fmt: skip
        assert named in fault(hub.translate, *argv)
    for search in ({"beam": 0}, {"lenpen": float("nan")}, {"max_len_b": -1}, {"batch_size": 0}):
        assert "out of range" in fault(hub.translate, ["w1"], ["img0.jpg"], **search)
    for search in ({"beam": "2"}, {"lenpen": "1"}, {"max_len_b": 2.5}, {"batch_size": None}, {"beam": True},
                   {"beam": torch.tensor(1)}):  # fmt: skip
        ((name, value),) = search.items()
        assert f"{name}={value!r}" in fault(hub.translate, ["w1"], ["img0.jpg"], **search)
    images = (f"img{i}.jpg" for i in range(2))
    found = hub.translate((text for text in ("w1 w2\n", "w3")), images, max_len_b=5)
    assert found == hub.translate(["w1 w2", "w3"], ["img0.jpg", "img1.jpg"], max_len_b=5)
    assert "images" in fault(hub.line_regions, "img0.jpg")
    pair = [hub.encode("w1")], [hub.encode_target("w2")]
    assert "1 sources, 0 targets" in fault(score_translations, hub, pair[0], [])
    two = hub.line_regions(["img0.jpg"] * 2)
    assert "regions of 2 lines" in fault(score_translations, hub, *pair, regions=two)
    assert path in fault(VTLM, path)
    make_store(tmp_path / "huge.h5", 4, feature_dim=4, dtype="float32")
    spoil(tmp_path / "huge.h5", "features", lambda features: features * 1e30)
    text = fault(lambda: load("huge.h5").translate(["", "w1"], ["img0.jpg"] * 2, first_line=11))
    assert "not finite" in text and "--regions" in text and "line numbers from 0): 11;" in text


def test_names_with_colons(vtlm, tmp_path):
    (tmp_path / "run:1").mkdir()
    path = tmp_path / "run:1" / "checkpoint_last.pt"
    path.symlink_to(vtlm.path)
    text = fault(VTLM.from_pretrained, path, region_order="none", preprocessed=True)
    assert text.startswith(f"{tmp_path}/run:1: ") and "colon" in text
    assert f"--path {tmp_path}/run:1: a colon" in fault(find_checkpoints, f"{tmp_path}/run:1")
    for empty in ("", "a.pt:"):
        assert f"--path '{empty}': an empty name" in fault(find_checkpoints, empty)
    assert find_checkpoints("a.pt:b.pt") == ["a.pt", "b.pt"]


def test_a_folder_stands_for_its_best_checkpoint(tmp_path):
    (tmp_path / "checkpoint_last.pt").touch()
    assert find_checkpoint(tmp_path) == str(tmp_path / "checkpoint_last.pt")
    (tmp_path / "checkpoint_best.pt").touch()
    assert find_checkpoint(tmp_path) == str(tmp_path / "checkpoint_best.pt")
    assert find_checkpoint(tmp_path / "x.pt") == str(tmp_path / "x.pt")
