"""vtlm-probe masked-noun over a small model: each figure of a row is what single predictions add up to."""

import csv
import json

import numpy as np
import pytest
import torch

from harness import write_lines
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.hub import VTLM
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter

NAMES = [f"word{k}" for k in range(7)]


def named_store(corpus, path, names):
    """The regions of valid with words of the text as the names of their classes."""
    theirs = RegionStore.open(str(corpus.regions), "valid")
    with RegionStoreWriter(path, feature_dim=theirs.feature_dim, class_names=names, detector="named") as writer:
        for row, image in enumerate(theirs.ids()):
            writer.add(image, **theirs[row]._asdict())
    return path


@pytest.fixture(scope="module")
def store(corpus, tmp_path_factory):
    """Classes are called as the first words of the vocabulary."""
    return named_store(corpus, tmp_path_factory.mktemp("store") / "valid.h5", NAMES)


def probe(run, corpus, *argv, **kwargs):
    done = run("vtlm_fairseq.cli.probe", "masked-noun", corpus.data, *argv, "--subsets", "valid", "--cpu", **kwargs)
    return done


def rows(done) -> dict:
    table = json.loads(done.output[done.output.index("{\n") :])
    return {(row["masked"], row["word"], row["nouns"]): row for row in table["rows"]} | {"notes": table["notes"]}


def alone(model, regions, lines, nouns, sides) -> np.ndarray:
    """[N, sides, 2]: whether each noun, which stands in the same place of both sides, is right, and its log p."""
    found = []
    for line, place in nouns:
        tokens = [model.encode(side[line], lang) for side, lang in zip(lines, ("en", "de"), strict=True)]
        wanted = [int(tokens[k][place]) for k in sides]
        for k in sides:
            tokens[k][place] = model.mask_idx
        one = None
        if regions is not None:
            row = regions.line_rows[[line]]
            one = LineRegions(regions.store, row, order="given", seed=1, split="valid")
        ((_, log_probs),) = model.predict([tokens[0]], [tokens[1]], regions=one)
        found.append([[float(p.argmax() == word), float(p[word])] for p, word in zip(log_probs, wanted, strict=True)])
    return np.array(found)


def test_every_figure(run, corpus, vtlm, store, tmp_path):
    """Nouns are the class names; 2 derangements, of seeds 3 and 4; named where a region of the line has the class.

    --sentences holds the sums of each sentence, its named nouns and the others apart.
    """
    argv = ("--system", vtlm, "--regions", store, "--any-detector", "--repeats", "2", "--seed", "3", "--format", "json")
    found = rows(probe(run, corpus, *argv, "--sentences", tmp_path / "sentences.tsv"))
    with open(tmp_path / "sentences.tsv", encoding="utf-8") as file:
        written = list(csv.DictReader(file, delimiter="\t"))
    lines = [corpus.lines("valid", lang) for lang in ("en", "de")]
    nouns = [(i, k) for i, text in enumerate(lines[0]) for k, word in enumerate(text.split()) if word in NAMES]
    opened = RegionStore.open(str(store), "valid")
    at = opened.rows(corpus.images("valid"))
    named = np.array([NAMES.index(lines[0][i].split()[k]) in opened[int(at[i])].labels for i, k in nouns])
    assert found["en", "en", "all"]["number"] == len(nouns) and 3 < named.sum() < len(nouns) - 3
    model = VTLM(str(vtlm), data=str(corpus.data), region_order="none", preprocessed=True, any_detector=True, cpu=True)
    orders = {"given": LineRegions(opened, at, order="given", seed=1, split="valid"), "hidden": None}
    orders |= {seed: LineRegions(opened, at, order="shuffle", seed=seed, split="valid") for seed in (3, 4)}
    where = np.array([line for line, _ in nouns])
    for what, sides in (("en", [0]), ("de", [1]), ("both", [0, 1])):
        with torch.no_grad():
            asked = {order: alone(model, regions, lines, nouns, sides) for order, regions in orders.items()}
        shuffled = (asked[3] + asked[4]) / 2
        for s, k in enumerate(sides):
            for group, chosen in (("all", named | True), ("named by a region", named), ("not named", ~named)):
                row = found[what, ("en", "de")[k], group]
                assert row["number"] == chosen.sum()
                means = [100 * one[chosen, s, 0].mean() for one in (asked["given"], shuffled, asked["hidden"])]
                assert [row[name] for name in ("given", "shuffled", "hidden")] == pytest.approx(means)
                gains = (asked["given"] - shuffled)[chosen, s]
                assert row["given - shuffled"] == pytest.approx(100 * gains[:, 0].mean())
                assert row["log p, given - shuffled"] == pytest.approx(gains[:, 1].mean(), abs=1e-5)
                sums = [(gains[where[chosen] == i, 1].sum(), (where[chosen] == i).sum()) for i in set(where[chosen])]
                residuals = [total - count * gains[:, 1].mean() for total, count in sums]
                n = len(sums)
                half = 1.959964 * np.sqrt(n / (n - 1) * np.square(residuals).sum()) / len(gains)
                assert row["log p to"] - row["log p from"] == pytest.approx(2 * half, rel=1e-3)
            chosen = (where == where[0]) & (named == named[0])
            (line,) = [
                row
                for row in written
                if (row["masked"], row["word"], row["line"], row["named"])
                == (what, ("en", "de")[k], str(where[0] + 1), str(int(named[0])))
            ]
            assert int(line["nouns"]) == chosen.sum()
            expected = [one[chosen, s].sum(axis=0) for one in (asked["given"], shuffled, asked["hidden"])]
            names = [f"{order}{what}" for what in ("", " log p") for order in ("given", "shuffled", "hidden")]
            assert [float(line[name]) for name in names] == pytest.approx(np.array(expected).T.ravel(), rel=1e-4)
    assert sum(int(row["nouns"]) for row in written) == 4 * len(nouns)


def test_words_of_a_list_and_text_only_models(run, corpus, tlm, vtlm, store, tmp_path):
    """TLM has hidden regions only, also beside a store that says what is named; nothing says the nouns: one line."""
    words = write_lines(tmp_path / "words", ["WORD8", "word9,word10"])
    found = rows(probe(run, corpus, "--system", tlm, "--words", words, "--format", "json"))
    text = " ".join(corpus.lines("valid", "en")).split()
    row = found["de", "de", "all"]
    assert row["number"] == sum(text.count(f"word{k}") for k in (8, 9, 10)) > 0
    assert row["given"] is row["shuffled"] is row["log p from"] is None and 0 <= row["hidden"] <= 100
    assert found["en", "en", "named by a region"]["number"] == 0
    beside = rows(probe(run, corpus, "--system", tlm, "--regions", store, "--format", "json"))
    assert beside["en", "en", "named by a region"]["number"] > 0
    probe(run, corpus, "--system", tlm, ok=False).fault("--words", "--entities", "--regions")
    probe(run, corpus, "--system", vtlm, "--words", words, ok=False).fault("--regions is none")
    none = write_lines(tmp_path / "none", ["elsewhere"])
    probe(run, corpus, "--system", tlm, "--words", none, ok=False).fault("valid", f"--words {none}")
    probe(run, corpus, "--system", tmp_path / "no.pt", "--words", tmp_path / "gone", ok=False).fault(
        str(tmp_path / "gone")
    )


def test_last_words_that_a_region_names(run, corpus, vtlm, tmp_path):
    """Both languages' words stand in the same place; the two groups add up to the whole, given and shuffled."""
    last = [line.split()[-1] for line in corpus.lines("valid", "en")]
    names = list(dict.fromkeys(last))[:7]
    store = named_store(corpus, tmp_path / "valid.h5", names)
    argv = ("last-word", corpus.data, "--system", vtlm, "--named", "--subsets", "valid", "--cpu", "--format", "json")
    orders = ("--region-order", "given", "--region-order", "shuffle", "--repeats", "2")
    done = run("vtlm_fairseq.cli.probe", *argv, *orders, "--regions", store, "--any-detector")
    table = json.loads(done.output[done.output.index("{\n") :])
    found = {(row["regions"], row["masked"]): row for row in table["rows"]}
    opened = RegionStore.open(str(store), "valid")
    labels = [opened[int(row)].labels for row in opened.rows(corpus.images("valid"))]
    named = sum(word in names and names.index(word) in those for word, those in zip(last, labels, strict=True))
    assert 1 < named < 12
    for order in ("given", "shuffle"):
        for side, sides in (("EN", 1), ("DE", 1), ("BOTH", 2)):
            whole, yes, no = (found[order, side + group] for group in ("", ", named", ", not named"))
            assert (yes["valid of"], no["valid of"]) == (sides * named, sides * (13 - named))
            assert yes["valid right"] + no["valid right"] == pytest.approx(whole["valid right"])
    run("vtlm_fairseq.cli.probe", *argv, ok=False).fault("--named", "--regions")


def test_heads_of_entities(run, entities, tlm):
    """Of a phrase its last word: the second and the last word of each longer sentence."""
    argv = (entities / "bin", "--system", tlm, "--entities", entities / "entities", "--subsets", "test", "--cpu",
            "--format", "json")  # fmt: skip
    found = rows(run("vtlm_fairseq.cli.probe", "masked-noun", *argv))
    lines = (entities / "bin" / "references" / "test.en").read_text().splitlines()
    expected = 2 * sum(len(line.split()) > 2 for line in lines)
    assert found["en", "en", "all"]["number"] + left_out(found) == expected


def left_out(found) -> int:
    (note,) = (note for note in found["notes"] if "left out" in note)
    return int(note.split(" nouns; ")[1].split()[0])
