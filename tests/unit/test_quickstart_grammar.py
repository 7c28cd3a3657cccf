"""The quickstart's data: correct German, and nothing but the content of one region tells the sense."""

import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from pathlib import Path

import h5py
import numpy as np
import pytest

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
sys.path.insert(0, str(QUICKSTART))

import grammar  # noqa: E402
import lexicon  # noqa: E402
import make_data  # noqa: E402
import scenes  # noqa: E402

from vtlm_fairseq.errors import VTLMError  # noqa: E402

SIZES = {"train": 540, "valid": 18, "test": 603}
SPLITS = ("train", "valid", "test")


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
        bounds = file["offsets"][:]
        ids = [name.decode() for name in file["ids"][:]]
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
    right = sum(max(counter.values()) for counter in counts.values())
    return right / sum(counter.total() for counter in counts.values())


def test_german_cases_articles_and_endings():
    """Mixed declension in all genders, and a weak noun."""
    small = grammar.Adjective("small", "klein")

    def phrases(name: str, sense: int = 0) -> tuple[str, str, str]:
        noun = next(n for n in lexicon.FOCUS_NOUNS + lexicon.PERSONS if n.english == name)
        german = grammar.NounPhrase(noun, small).german(sense)
        return german.nom, german.acc, german.dat

    assert phrases("dog") == ("ein kleiner hund", "einen kleinen hund", "einem kleinen hund")
    assert phrases("cat") == ("eine kleine katze", "eine kleine katze", "einer kleinen katze")
    assert phrases("horse") == ("ein kleines pferd", "ein kleines pferd", "einem kleinen pferd")
    assert phrases("bat", 1) == ("ein kleiner schläger", "einen kleinen schläger", "einem kleinen schläger")
    assert phrases("letter", 1)[1:] == ("einen kleinen buchstaben", "einem kleinen buchstaben")
    bare = grammar.NounPhrase(lexicon.PERSONS[3]).german(0)
    assert (bare.nom, bare.dat) == ("ein mädchen", "einem mädchen")


def test_english_article():
    noun = lexicon.THINGS[0]
    assert str(grammar.NounPhrase(noun, grammar.Adjective("old", "alt"))) == "an old table"
    assert str(grammar.NounPhrase(noun)) == "a table"


def test_lexicon_senses_cannot_be_confused():
    """Eight or more ambiguous nouns; no German word stands for two nouns, or is also another word."""
    assert len(lexicon.AMBIGUOUS) >= 8
    nouns = lexicon.AMBIGUOUS + lexicon.THINGS + lexicon.PERSONS + lexicon.PLACES
    german = [form for noun in nouns for word in noun.german for form in word.forms]
    english = [noun.english for noun in nouns]
    adjectives = {a.english: a for a in lexicon.THING_ADJECTIVES + lexicon.PERSON_ADJECTIVES}.values()
    german += [form for adjective in adjectives for form in adjective.forms]
    english += [adjective.english for adjective in adjectives]
    words = lexicon.VERBS + lexicon.POSTURES + lexicon.PREPOSITIONS
    german += [word.german for word in words]
    english += [word.english for word in words]
    assert len(set(german)) == len(german)
    assert len(set(english)) == len(english)
    assert len(set(lexicon.CLASS_NAMES)) == len(lexicon.CLASS_NAMES)
    assert all(word == word.lower() and " " not in word for word in german + english)


@pytest.mark.parametrize("split", SPLITS)
def test_look_up_by_sentence_scores_half(data, split):
    found = records(data, split)
    assert best_look_up(found, lambda record: record["english"]) == 0.5
    counts = Counter(record["english"] for record in found)
    assert set(counts.values()) == {2}


@pytest.mark.parametrize("split", SPLITS)
def test_look_up_by_number_order_and_boxes_scores_half(data, split):
    images = store(data, split)

    def geometry(record: dict) -> Hashable:
        boxes = images[record["image"]]["boxes"]
        return len(boxes), boxes.tobytes()

    found = records(data, split)
    assert best_look_up(found, geometry) == 0.5
    assert best_look_up(found, lambda record: (record["english"], geometry(record))) == 0.5


@pytest.mark.parametrize("split", SPLITS)
def test_only_one_region_tells_the_sense(data, split):
    """All of a scene but the features and label of one region is the same for both senses."""
    images = store(data, split)
    found = records(data, split)

    def all_but_one(record: dict) -> Hashable:
        scene = images[record["image"]]
        rest = np.arange(len(scene["labels"])) != record["differing_region"]
        kept = [scene["boxes"], scene["scores"], scene["features"][rest], scene["labels"][rest]]
        return record["english"], record["differing_region"], *(values.tobytes() for values in kept)

    assert best_look_up(found, all_but_one) == 0.5
    for number, record in enumerate(found):
        partner = found[record["partner"]]
        assert (partner["partner"], partner["pair"]) == (number, record["pair"])
        assert all_but_one(record) == all_but_one(partner)
        scene, other = images[record["image"]], images[partner["image"]]
        region = record["differing_region"]
        assert scene["labels"][region] != other["labels"][region]
        assert (scene["features"][region] != other["features"][region]).any()
        if record["ambiguous"]:
            shown = f"{record['ambiguous']} ({record['sense']})"
            assert record["scene"][region] == shown
            assert record["scene"].count(shown) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_scenes(data, split):
    """Sizes, metadata and store agree, distractors are there, the order of the regions is the score's."""
    images = store(data, split)
    senses = {name for noun in lexicon.AMBIGUOUS for name in noun.classes}
    for record in records(data, split):
        scene = images[record["image"]]
        names = [lexicon.CLASS_NAMES[label] for label in scene["labels"]]
        assert names == record["scene"]
        assert 3 <= len(names) <= 8
        distractors = senses.intersection(names) - {names[record["differing_region"]]}
        assert distractors
        assert not any(name.startswith(f"{record['ambiguous']} ") for name in distractors)
        assert (np.diff(scene["scores"]) < 0).all()


def test_splits_share_nothing(data):
    sentences = [set(lines(data, f"{split}.en")) for split in SPLITS]
    images = [set(lines(data, f"{split}.images")) for split in SPLITS]
    rows = []
    for split in SPLITS:
        scenes_ = store(data, split).values()
        every = [row.tobytes() for scene in scenes_ for row in scene["features"]]
        rows.append(set(every))
        # Each region has its own noise; only the two scenes of a pair share rows, all but one each.
        count = sum(len(scene["labels"]) for scene in scenes_)
        assert 2 * len(set(every)) == count + len(scenes_)
    for kind in (sentences, images, rows):
        assert not (kind[0] & kind[1] or kind[0] & kind[2] or kind[1] & kind[2])


def test_test_split_combines_known_words_in_unseen_ways(data):
    """Each test focus (adjective and noun) is new, each of its words is known."""
    pairs, words = {}, {}
    for split in SPLITS:
        texts = [line.split() for line in lines(data, f"{split}.en")]
        pairs[split] = {pair for text in texts for pair in zip(text, text[1:], strict=False)}
        words[split] = {word for text in texts for word in text}
    assert words["test"] <= words["train"]
    for record in records(data, "test"):
        if record["ambiguous"]:
            text = record["english"].split()
            focus = (text[record["position_en"] - 1], record["ambiguous"])
            assert focus not in pairs["train"] | pairs["valid"]


@pytest.mark.parametrize("split", SPLITS)
def test_shares_of_the_kinds_of_sentence(data, split):
    found = records(data, split)
    ambiguous = [record for record in found if record["ambiguous"]]
    last = [record for record in ambiguous if record["last"]]
    assert len(found) == 2 * SIZES[split]
    assert 3 * len(ambiguous) == 2 * len(found)
    assert 3 * len(last) == len(ambiguous)
    for record in ambiguous:
        english, german = record["english"].split(), record["german"].split()
        assert english[record["position_en"]] == record["ambiguous"]
        assert german[record["position_de"]] in record["right"]
        ends = (record["position_en"] == len(english) - 1, record["position_de"] == len(german) - 1)
        assert ends == (record["last"], record["last"])
        assert set(record["right"]).isdisjoint(record["wrong"])
        assert set(record["wrong"]).isdisjoint(german)
        assert all(set(forms) & set(german) for forms in record["content"])
        assert 6 <= len(english) <= 12
    if split == "test":
        assert len({record["pair"] for record in ambiguous}) >= 400


def test_swapped_split_gives_each_line_the_scene_of_its_partner(data):
    found = records(data, "test")
    assert lines(data, "test_swapped.en") == lines(data, "test.en")
    assert lines(data, "test_swapped.de") == lines(data, "test.de")
    swapped = lines(data, "test_swapped.images")
    assert swapped == [found[record["partner"]]["image"] for record in found]
    assert not set(enumerate(swapped)) & set(enumerate(lines(data, "test.images")))
    assert store(data, "test_swapped").keys() == store(data, "test").keys()


def test_sense_can_be_seen(data):
    """The nearest prototype names the class of 97 % of the regions or more."""
    prototypes = scenes.ScenePainter(1, stream=0).prototypes
    hits = []
    for scene in store(data, "test").values():
        distances = ((scene["features"][:, None].astype(float) - prototypes) ** 2).sum(-1)
        hits.append(distances.argmin(1) == scene["labels"])
    assert np.concatenate(hits).mean() >= 0.97


def test_store_says_that_it_is_synthetic(data):
    with h5py.File(data / "regions" / "train.h5") as file:
        assert file.attrs["synthetic"]
        assert "synthetic" in file.attrs["detector"]
        assert [name.decode() for name in file["class_names"][:]] == list(lexicon.CLASS_NAMES)


def test_same_seed_same_data_and_test_split_independent_of_training_size(data, tmp_path):
    again = tmp_path / "again"
    make_data.make_data(again, seed=1, sizes=SIZES)
    for path in data.rglob("*.*"):
        if path.suffix != ".h5":
            assert path.read_bytes() == (again / path.relative_to(data)).read_bytes()
    larger, other = tmp_path / "larger", tmp_path / "other"
    make_data.make_data(larger, seed=1, sizes={**SIZES, "train": 549})
    assert lines(larger, "test.jsonl") == lines(data, "test.jsonl")
    regions, same = store(data, "test"), store(larger, "test")
    assert all((same[image]["features"] == scene["features"]).all() for image, scene in regions.items())
    make_data.make_data(other, seed=2, sizes=SIZES)
    assert lines(other, "test.en") != lines(data, "test.en")


def test_faults_are_one_clear_line(tmp_path):
    with pytest.raises(VTLMError, match="--test-size 10: give a positive multiple of 9"):
        make_data.make_data(tmp_path / "a", seed=1, sizes={**SIZES, "test": 10})
    with pytest.raises(VTLMError, match="--train-size is too small"):
        make_data.make_data(tmp_path / "b", seed=1, sizes={**SIZES, "train": 9})
    with pytest.raises(VTLMError, match="exists"):
        make_data.make_data(tmp_path, seed=1, sizes=SIZES)
    assert list(tmp_path.iterdir()) == []


def test_sentences_are_new_to_the_taken_ones():
    taken: set[str] = set()
    first = [s.english for s in grammar.draw_sentences(random.Random(3), 90, test=False, taken=taken)]
    second = [s.english for s in grammar.draw_sentences(random.Random(3), 90, test=False, taken=taken)]
    assert len(set(first + second)) == len(taken) == 180
