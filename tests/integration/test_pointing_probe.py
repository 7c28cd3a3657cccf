"""vtlm-probe pointing over small models: each figure is what single sentences, words and regions add up to."""

import json
import shutil

import numpy as np
import pytest
import torch

from harness import write_lines
from toy import binarised
from vtlm_fairseq.evaluation.attention_weights import cross_attention, self_attention
from vtlm_fairseq.evaluation.systems import load_model
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter

NAMES = [f"word{k}" for k in range(7)]
BOX = (0, 0, 5 / 9, 5 / 9)  # of the phrase in the entities


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory):
    """The regions of test; classes are called as the first words of the vocabulary, and some boxes are near BOX."""
    path, rng = tmp_path_factory.mktemp("store") / "test.h5", np.random.default_rng(5)
    theirs = RegionStore.open(str(corpus.regions), "test")
    with RegionStoreWriter(path, feature_dim=theirs.feature_dim, class_names=NAMES, detector="named") as writer:
        for row, image in enumerate(theirs.ids()):
            regions = theirs[row]._asdict()
            near = np.array(BOX) * rng.uniform(0.6, 1.2, (len(regions["boxes"]), 1))
            regions["boxes"] = np.where(rng.random((len(near), 1)) < 0.5, near, regions["boxes"])
            writer.add(image, **regions)
    return path


@pytest.fixture(scope="module")
def other(mmt, tmp_path_factory):
    """Another seed: the model with other queries in its cross-attention."""
    state = torch.load(mmt, weights_only=False)
    for name, value in state["model"].items():
        if "encoder_attn.q_proj.weight" in name:
            value.copy_(value.flip(0))
    path = tmp_path_factory.mktemp("other") / "model.pt"
    torch.save(state, path)
    return path


def rows(done) -> dict:
    return json.loads(done.output[done.output.index("{\n") :])


def expected(path, data, store, words) -> np.ndarray:
    """[2, 2, 1 + 4]: share of right words, as the states are attended to and rolled out to the encoder's input, by
    layer, for the mean of the heads and each head; a sentence at a time.

    Args:
        words: line, place in the reference, right regions.
    """
    loaded = load_model(str(path), data=str(data), split="test", translates=True, regions=str(store), cpu=True,
                        any_detector=True)  # fmt: skip
    found = []
    for line, place, right in words:
        net_input = loaded.lines([line])["net_input"]
        on_states = cross_attention(loaded.model, net_input)[:, :, 0, place].numpy()
        net_input.pop("prev_output_tokens")
        from_inputs = np.eye(on_states.shape[-1])
        for layer in self_attention(loaded.model, net_input)[:, 0].numpy():
            from_inputs = 0.5 * from_inputs + 0.5 * layer @ from_inputs
        source = net_input["src_tokens"].size(1)
        found.append([])
        for on_regions in (on_states[..., source:], (on_states @ from_inputs)[..., source:]):
            assert on_regions.shape == (2, 4, len(right))
            heads = [[right[layer[head].argmax()] for head in range(4)] for layer in on_regions]
            mean = [right[layer.mean(0).argmax()] for layer in on_regions]
            found[-1].append([[one, *four] for one, four in zip(mean, heads, strict=True)])
    return np.mean(found, axis=0)


def partly(words) -> list:
    return [word for word in words if 0 < word[2].sum() < len(word[2])]


def check(done, paths, data, store, words) -> None:
    """Per-head table of a system of such checkpoints."""
    kept = partly(words)
    assert 3 < len(kept) < len(words)
    shares = 100 * np.array([expected(path, data, store, kept) for path in paths])
    assert (shares[:, 0] != shares[:, 1]).any()
    table = rows(done)
    assert [(row["layer"], row["head"]) for row in table["rows"]] == [(la, h) for la in (1, 2) for h in (1, 2, 3, 4)]
    for row in table["rows"]:
        of_seeds = shares[:, :, row["layer"] - 1, row["head"]]
        assert [row["right"], row["rollout"]] == pytest.approx(of_seeds.mean(0))
        if len(paths) > 1:
            assert [row["±"], row["rollout ±"]] == pytest.approx(of_seeds.std(0, ddof=1))
        assert row["chance"] == pytest.approx(100 * np.mean([word[2].mean() for word in kept]))
    assert f"{len(kept)} words; {len(words) - len(kept)} that name none or all" in table["notes"][0]


def test_each_source_of_words(run, corpus, mmt, other, store, entities, tmp_path):
    """Class names by alignment, a lexicon of another meaning, and boxes, with sentences of many lengths in a batch."""
    opened = RegionStore.open(str(store), "test")
    at = opened.rows(corpus.images("test"))
    lines = [line.split() for line in corpus.lines("test", "de")]
    labels = [opened[int(row)].labels for row in at]
    argv = ("vtlm_fairseq.cli.probe", "pointing")
    more = ("--regions", store, "--any-detector", "--batch-size", "5", "--cpu", "--format", "json", "--per-head")

    longer = [f"Wort29 {line}" for line in corpus.lines("test", "de")]  # a translation stands behind its noun's place
    data = binarised(run, corpus, tmp_path / "longer", corpus.images("test"), en=corpus.lines("test", "en"), de=longer)
    for file in corpus.data.glob("train.*"):
        shutil.copy(file, data)
    words = [(i, k + 1, labels[i] == int(word[4:])) for i, line in enumerate(lines) for k, word in enumerate(line)
             if int(word[4:]) < 7]  # fmt: skip
    done = run(*argv, data, "--system", f"M={mmt},{other}", *more, "--plot", tmp_path / "plot.png")
    check(done, (mmt, other), data, store, words)
    assert "pin_memory" not in done.output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

    lexicon = write_lines(tmp_path / "lexicon", [*(f"Wort{k}\tword{k % 3}" for k in range(4, 20)), "Wort21\tnothing"])
    words = [(i, k, labels[i] == int(word[4:]) % 3) for i, line in enumerate(lines) for k, word in enumerate(line)
             if 4 <= int(word[4:]) < 20]  # fmt: skip
    done = run(*argv, corpus.data, "--system", f"M={mmt}", *more, "--class-lexicon", lexicon)
    check(done, (mmt,), corpus.data, store, words)

    words = []
    for i, line in enumerate(lines):
        boxes = opened[int(at[i])].boxes.astype(float)
        if len(line) > 2:  # the head of the phrase of two words
            overlap = np.prod(np.clip(np.minimum(boxes[:, 2:], BOX[2:]) - boxes[:, :2], 0, None), axis=1)
            both = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + BOX[2] * BOX[3]
            words.append((i, 1, overlap / (both - overlap) >= 0.5))
    done = run(*argv, entities / "bin", "--system", f"M={mmt}", *more, "--entities", entities / "entities")
    check(done, (mmt,), entities / "bin", store, words)


def test_faults(run, corpus, mmt, nmt, vtlm, store, tmp_path):
    argv = ("vtlm_fairseq.cli.probe", "pointing", corpus.data, "--cpu", "--any-detector")
    regions = ("--regions", store)
    run(*argv, *regions, "--system", nmt, ok=False).fault("has no regions to attend to")
    run(*argv, *regions, "--system", vtlm, ok=False).fault(str(vtlm))
    lexicon = write_lines(tmp_path / "lexicon", ["Wort1\tdog"])
    run(*argv, *regions, "--system", mmt, "--class-lexicon", lexicon, ok=False).fault("--class-lexicon", str(store))
    lexicon = write_lines(tmp_path / "lexicon", ["Wort99\tword1"])
    run(*argv, *regions, "--system", mmt, "--class-lexicon", lexicon, ok=False).fault("no word", "--class-lexicon")
    run(*argv, *regions, "--system", mmt, "--plot", "x.gif", ok=False).fault("--plot x.gif")
