"""The quickstart's data: correct German, and nothing but the content of one region tells the sense; its scores by
hand."""

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

import h5py
import numpy as np
import pytest

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.probes.contrastive import ContrastiveSet

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "quickstart"))

import make_data  # noqa: E402
import score  # noqa: E402

SIZES = {"train": 540, "valid": 18, "test": 603}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data set with the full test split."""
    out = tmp_path_factory.mktemp("quick start") / "data"
    make_data.make_data(out, seed=1, sizes=SIZES)
    return out


def records(data: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def lines(data: Path, name: str) -> list[str]:
    return (data / name).read_text(encoding="utf-8").splitlines()


def store(data: Path, split: str) -> dict[str, dict[str, np.ndarray]]:
    """Image id -> its arrays, read with nothing but h5py."""
    with h5py.File(data / "regions" / f"{split}.h5") as file:
        arrays = {name: file[name][:] for name in ("features", "boxes", "labels", "scores")}
        bounds, ids = file["offsets"][:], [name.decode() for name in file["ids"][:]]
    return {
        image: {name: values[bounds[i] : bounds[i + 1]] for name, values in arrays.items()}
        for i, image in enumerate(ids)
    }


def best_look_up(records_: list[dict], key: Callable[[dict], Hashable]) -> float:
    """The share of ambiguous lines that the best table from ``key`` to a German noun gets right."""
    counts = defaultdict(Counter)
    for record in records_:
        if record["ambiguous"]:
            counts[key(record)][record["right"][0]] += 1
    return sum(max(c.values()) for c in counts.values()) / sum(c.total() for c in counts.values())


@pytest.mark.slow
def test_seed_1_is_the_data_of_the_published_figures(data):
    """Sentences, references and what each scene shows, by checksum."""
    assert hashlib.sha256((data / "test.jsonl").read_bytes()).hexdigest().startswith("fd717acc36658109")
    with h5py.File(data / "regions" / "test.h5") as file:
        assert file.attrs["synthetic"] and "synthetic" in file.attrs["detector"]


@pytest.mark.slow
@pytest.mark.parametrize("split", SIZES)
def test_only_one_region_tells_the_sense(data, split):
    """Neither the sentence nor all of a scene but the features and label of one region; distractors show other
    senses."""
    images, found = store(data, split), records(data, split)
    assert best_look_up(found, lambda record: record["english"]) == 0.5

    def all_but_one(record: dict) -> Hashable:
        scene = images[record["image"]]
        rest = np.arange(len(scene["labels"])) != record["differing_region"]
        kept = [scene["boxes"], scene["scores"], scene["features"][rest], scene["labels"][rest]]
        return record["english"], record["differing_region"], *(values.tobytes() for values in kept)

    assert best_look_up(found, all_but_one) == 0.5
    for number, record in enumerate(found):
        partner, region = found[record["partner"]], record["differing_region"]
        assert (partner["partner"], partner["pair"]) == (number, record["pair"])
        assert all_but_one(record) == all_but_one(partner)
        scene, other = images[record["image"]], images[partner["image"]]
        assert scene["labels"][region] != other["labels"][region]
        assert (scene["features"][region] != other["features"][region]).any()
        names = [make_data.CLASS_NAMES[label] for label in scene["labels"]]
        assert names == record["scene"] and 3 <= len(names) <= 8 and (np.diff(scene["scores"]) < 0).all()
        distractors = [name for i, name in enumerate(names) if i != region and "(" in name]
        assert distractors and not any(name.startswith(f"{record['ambiguous']} ") for name in distractors)
        if record["ambiguous"]:
            assert names[region] == f"{record['ambiguous']} ({record['sense']})"


@pytest.mark.parametrize("split", SIZES)
def test_facts_about_each_line(data, split):
    """Two thirds are ambiguous, a third of these at the end; positions and forms are those of the words."""
    found = records(data, split)
    ambiguous = [record for record in found if record["ambiguous"]]
    assert len(found) == 2 * SIZES[split]
    assert 3 * len(ambiguous) == 2 * len(found)
    assert 3 * sum(record["last"] for record in ambiguous) == len(ambiguous)
    for record in ambiguous:
        english, german = record["english"].split(), record["german"].split()
        assert english[record["position_en"]] == record["ambiguous"]
        assert german[record["position_de"]] in record["right"]
        ends = (record["position_en"] == len(english) - 1, record["position_de"] == len(german) - 1)
        assert ends == (record["last"], record["last"])
        assert set(record["right"]).isdisjoint(record["wrong"]) and set(record["wrong"]).isdisjoint(german)
        assert all(set(forms) & set(german) for forms in record["content"])


def test_splits_share_words_alone(data):
    """No sentence, image or region is in two splits; each test focus (adjective and noun) is new, its words are
    known."""
    kinds = {"sentences": [], "images": [], "rows": [], "pairs": [], "words": []}
    for split in ("test", "train", "valid"):
        kinds["sentences"].append(set(lines(data, f"{split}.en")))
        kinds["images"].append(set(lines(data, f"{split}.images")))
        kinds["rows"].append({row.tobytes() for scene in store(data, split).values() for row in scene["features"]})
        texts = [line.split() for line in lines(data, f"{split}.en")]
        kinds["pairs"].append({pair for text in texts for pair in zip(text, text[1:], strict=False)})
        kinds["words"].append({word for text in texts for word in text})
    for name in ("sentences", "images", "rows"):
        test, train, valid = kinds[name]
        assert not (test & train or test & valid or train & valid)
    assert kinds["words"][0] <= kinds["words"][1]
    for record in records(data, "test"):
        if record["ambiguous"]:
            focus = (record["english"].split()[record["position_en"] - 1], record["ambiguous"])
            assert focus not in kinds["pairs"][1] | kinds["pairs"][2]


def test_files_of_the_test_split(data):
    """Swapped: each line has its partner's scene. Contrastive: the wrong translation is right for that scene."""
    found = records(data, "test")
    for lang in ("en", "de"):
        assert lines(data, f"test_swapped.{lang}") == lines(data, f"test.{lang}")
    assert lines(data, "test_swapped.images") == [found[record["partner"]]["image"] for record in found]
    assert store(data, "test_swapped").keys() == store(data, "test").keys()
    names = {"src": "src.en", "correct": "correct.de", "incorrect": "incorrect.de", "images": "img.order"}
    files = ContrastiveSet.read(**{name: str(data / "contrastive" / file) for name, file in names.items()})
    ambiguous = [record for record in found if record["ambiguous"]]
    for line, record in enumerate(ambiguous):
        assert (files.source[line], files.correct[line]) == (record["english"], record["german"])
        assert files.incorrect[line] == found[record["partner"]]["german"] != record["german"]
        assert files.images[line] == record["image"]
    assert len(files.source) == len(ambiguous)
    assert lines(data, "test_last.lines") == [str(record["line"] + 1) for record in found if record["last"]]


def test_sense_can_be_seen(data):
    """The mean of a class's training regions is nearest for 97 % of the test regions or more."""
    train = store(data, "train").values()
    rows, labels = (np.concatenate([scene[name] for scene in train]) for name in ("features", "labels"))
    means = np.stack([rows[labels == number].astype(float).mean(0) for number in range(len(make_data.CLASS_NAMES))])
    hits = []
    for scene in store(data, "test").values():
        hits.append(((scene["features"][:, None].astype(float) - means) ** 2).sum(-1).argmin(1) == scene["labels"])
    assert np.concatenate(hits).mean() >= 0.97


@pytest.mark.slow
def test_test_split_does_not_depend_on_the_training_size_but_on_the_seed(data, tmp_path):
    make_data.make_data(tmp_path / "larger", seed=1, sizes={**SIZES, "train": 549})
    assert lines(tmp_path / "larger", "test.jsonl") == lines(data, "test.jsonl")
    assert lines(tmp_path / "larger", "train.en") != lines(data, "train.en")
    make_data.make_data(tmp_path / "other", seed=2, sizes=SIZES)
    assert lines(tmp_path / "other", "test.en") != lines(data, "test.en")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--test-size", "10"), "--test-size 10: give a positive multiple of 9"),
        (("--train-size", "9"), "--train-size is too small"),
        (("--seed", "-1"), "--seed -1"),
    ],
)
def test_faults_are_one_clear_line(tmp_path, argv, words):
    with pytest.raises(SystemExit, match=words):
        make_data.main(["--out", str(tmp_path / "data"), "--valid-size", "9", *argv])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VTLMError, match="exists"):
        make_data.make_data(tmp_path, seed=1, sizes=SIZES)


def test_score_by_hand():
    """A noun is right where a form of it is there as a word and none of the other sense; any form of other words
    counts."""
    small = ["klein", "kleine", "kleiner", "kleines", "kleinen", "kleinem"]
    bat = {"ambiguous": "bat", "right": ["fledermaus"], "wrong": ["schläger"]}
    facts = [
        ({**bat, "last": True, "content": [["mann"], small]}, "ein mann sieht eine kleine fledermaus"),
        ({**bat, "last": True, "content": []}, "eine fledermaus sieht einen schläger"),
        ({**bat, "last": False, "content": []}, "ein mann sieht fledermausflügel"),
        ({**bat, "last": False, "content": [["frau"]]}, "ein kind sieht eine fledermaus"),
        (
            {"ambiguous": None, "last": False, "right": [], "wrong": [], "content": [["hund"], small]},
            "ein kleiner hund",
        ),
    ]
    assert score.score([text for _, text in facts], [record for record, _ in facts]) == {
        "ambiguous": {"right": 2, "total": 4, "accuracy": 0.5},
        "ambiguous_last": {"right": 1, "total": 2, "accuracy": 0.5},
        "other_content": {"right": 4, "total": 5, "accuracy": 0.8},
    }


def test_what_lies_outside_is_marked():
    good = {"mmt": 0.97, "mmt_swapped": 0.05, "mmt_shuffled": 0.31, "nmt": 0.5}
    scores = {
        name: {"ambiguous": {"accuracy": value}, "other_content": {"accuracy": 0.95}} for name, value in good.items()
    }
    assert "(!)" not in score.table(scores, expected=True)
    scores["nmt"]["ambiguous"]["accuracy"] = 0.51
    scores["mmt_swapped"]["other_content"]["accuracy"] = 0.94
    assert score.table(scores, expected=True).count("(!)") == 2
    assert "(!)" not in score.table(scores, expected=False)
