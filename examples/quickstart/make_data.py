"""Write the quickstart's data: captions in English and German, scenes, and what is known about each line.

A sentence has one *focus*, a noun with an adjective. In two thirds of the sentences that noun is ambiguous, and stands
in two lines of the split with two scenes, which differ in one region: it shows the one sense or the other. So the text
says nothing about the sense, and the German reference is that of the scene. A scene is a few regions, each a noisy copy
of its class's prototype vector: synthetic numbers; no picture and no detector is behind them. A quarter of all pairs of
focus adjective and noun is the focus of every test sentence and of no other, so that the test combines known words in
unseen ways.
"""

import argparse
import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.regions.writer import RegionStoreWriter
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.text.pipeline import TextPipeline

SIZES = {"test": 603, "valid": 90, "train": 4500}
"""English sentences of each split, in the order in which they are drawn: the test split depends on no other."""
FEATURE_DIM = 64
SPREAD = 4.0  # standard deviation of the numbers of a class's prototype
NOISE = 4.0  # of a region's own noise
MAX_REGIONS = 8

# -- words -----------------------------------------------------------------------------------------------------------


class German(NamedTuple):
    """A German noun in the singular; ``oblique`` is accusative and dative, ``gender`` is m, f or n."""

    gender: str
    nominative: str
    oblique: str

    @property
    def forms(self) -> list[str]:
        """The distinct forms, nominative first."""
        return list(dict.fromkeys((self.nominative, self.oblique)))


class Noun(NamedTuple):
    """An English noun with one German noun, or with two and the names of their senses."""

    english: str
    german: tuple[German, ...]
    senses: tuple[str, ...] = ()

    @property
    def classes(self) -> list[str]:
        """The names of the region classes that show it, one a German noun."""
        return [f"{self.english} ({sense})" for sense in self.senses] or [self.english]


class Adjective(NamedTuple):
    """An adjective that is declined regularly: German ``stem`` + ending."""

    english: str
    stem: str

    @property
    def forms(self) -> list[str]:
        """All forms of the positive, the undeclined one first."""
        return [self.stem + ending for ending in ("", "e", "er", "es", "en", "em")]


def _german(words: str) -> German:
    gender, nominative, *oblique = words.split()
    return German(gender, nominative, *oblique or [nominative])


def _ambiguous(lines: str) -> list[Noun]:
    """A line a noun: English, then for each sense its name, gender and German."""
    nouns = []
    for line in lines.strip().splitlines():
        english, *senses = (part.strip() for part in line.split(","))
        named = [sense.split(maxsplit=1) for sense in senses]
        nouns.append(Noun(english, tuple(_german(word) for _, word in named), tuple(name for name, _ in named)))
    return nouns


def _plain(text: str) -> list[Noun]:
    """English, gender and German of each noun, comma-separated."""
    return [
        Noun(english, (_german(german),)) for english, german in (part.split(maxsplit=1) for part in text.split(","))
    ]


def _pairs(text: str) -> list[Adjective]:
    """English and German of each word, comma-separated; of verbs and prepositions ``stem`` is the whole word."""
    return [Adjective(*part.split()) for part in text.split(",")]


AMBIGUOUS = _ambiguous("""
    bat, animal f fledermaus, sport m schläger
    crane, bird m kranich, machine m kran
    seal, animal f robbe, stamp n siegel
    trunk, luggage m koffer, tree m baumstamm
    bow, ribbon f schleife, weapon m bogen
    nut, food f nuss, hardware f schraubenmutter
    key, lock m schlüssel, keyboard f taste
    pipe, tobacco f pfeife, plumbing n rohr
    letter, mail m brief, alphabet m buchstabe buchstaben
    bulb, light f glühbirne, flower f blumenzwiebel
    file, tool f feile, papers f akte
    plant, botany f pflanze, industry f fabrik
""")
THINGS = _plain(
    "table m tisch, chair m stuhl, car n auto, house n haus, tree m baum, lamp f lampe, door f tür, bicycle n "
    "fahrrad, boat n boot, wall f mauer, bottle f flasche, basket m korb, bed n bett, dog m hund, cat f katze, horse "
    "n pferd"
)
PERSONS = _plain(
    "man m mann, woman f frau, child n kind, girl n mädchen, king m könig, queen f königin, baker m bäcker, cook m "
    "koch, waitress f kellnerin, grandmother f großmutter"
)
PLACES = _plain(
    "garden m garten, park m park, kitchen f küche, city f stadt, village n dorf, forest m wald, valley n tal, "
    "courtyard m hof"
)
THING_ADJECTIVES = _pairs(
    "small klein, big groß, old alt, new neu, red rot, green grün, yellow gelb, brown braun, white weiß, black "
    "schwarz, heavy schwer, beautiful schön"
)
PERSON_ADJECTIVES = _pairs("old alt, young jung, happy glücklich, strong stark, friendly freundlich, famous berühmt")
WORDS = {
    "verb": _pairs(
        "sees sieht, finds findet, draws zeichnet, paints malt, photographs fotografiert, admires bewundert, watches "
        "beobachtet, buys kauft, shows zeigt, touches berührt"
    ),
    "posture": _pairs("stands steht, lies liegt"),
    "prep": _pairs("beside neben, behind hinter, near nahe"),
}
FOCUS_NOUNS = AMBIGUOUS + THINGS
CLASS_NAMES = [name for noun in AMBIGUOUS + THINGS + PERSONS for name in noun.classes]
"""The region classes: one for each sense of an ambiguous noun, each thing and each person."""

# -- sentences -------------------------------------------------------------------------------------------------------

# Mixed declension: the indefinite article and the ending of the adjective, by case and gender.
CASES = {
    "nom": ({"m": "ein", "f": "eine", "n": "ein"}, {"m": "er", "f": "e", "n": "es"}),
    "acc": ({"m": "einen", "f": "eine", "n": "ein"}, {"m": "en", "f": "e", "n": "es"}),
    "dat": ({"m": "einem", "f": "einer", "n": "einem"}, {"m": "en", "f": "en", "n": "en"}),
}
TEMPLATES = (
    ("{person} {verb} {focus}", "{person[nom]} {verb} {focus[acc]}"),
    ("in {place} {person} {verb} {focus}", "in {place[dat]} {verb} {person[nom]} {focus[acc]}"),
    ("{thing} {posture} {prep} {focus}", "{thing[nom]} {posture} {prep} {focus[dat]}"),
    ("{person} {posture} {prep} {focus}", "{person[nom]} {posture} {prep} {focus[dat]}"),
    ("{person} {verb} {focus} {prep} {thing}", "{person[nom]} {verb} {focus[acc]} {prep} {thing[dat]}"),
    ("{person} {verb} {focus} in {place}", "{person[nom]} {verb} {focus[acc]} in {place[dat]}"),
    ("{focus} {posture} {prep} {thing} in {place}", "{focus[nom]} {posture} {prep} {thing[dat]} in {place[dat]}"),
    ("{focus} {posture} {prep} {person}", "{focus[nom]} {posture} {prep} {person[dat]}"),
)
"""Sentences in both languages: noun phrases (the German ones in a case) and words."""


class Phrase(NamedTuple):
    """An indefinite noun phrase: article, adjective or none, noun."""

    noun: Noun
    adjective: Adjective | None = None

    @property
    def english(self) -> str:
        """``a small dog``."""
        words = [self.adjective.english] if self.adjective else []
        words.append(self.noun.english)
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])

    def german(self, sense: int) -> dict[str, str]:
        """Each case, with German noun number ``sense``: ``ein kleiner hund``, ``einen kleinen hund``, ..."""
        noun = self.noun.german[sense]
        cases = {}
        for case, (articles, endings) in CASES.items():
            adjective = [self.adjective.stem + endings[noun.gender]] if self.adjective else []
            cases[case] = " ".join(
                [articles[noun.gender], *adjective, noun.nominative if case == "nom" else noun.oblique]
            )
        return cases


@dataclass(frozen=True)
class Sentence:
    """An English sentence and what is known about it.

    Attributes:
        english: the caption, tokenised and lower case.
        german: its translation, one for each German noun of the focus.
        focus: the noun that the sentence is about.
        last: whether it is the last word in both languages.
        mentioned: the other nouns that a scene can show.
        content: the German content words apart from an ambiguous focus noun, each as its allowed forms.
    """

    english: str
    german: tuple[str, ...]
    focus: Noun
    last: bool
    mentioned: tuple[Noun, ...]
    content: tuple[list[str], ...]

    @property
    def ambiguous(self) -> bool:
        """Whether the focus noun has two senses."""
        return bool(self.focus.senses)


def _thing_phrase(rng: random.Random, noun: Noun, *, unseen: bool, taken: set[str]) -> Phrase:
    """``noun`` with an adjective not in ``taken``, of the pairs for test (``unseen``) or of the others."""
    place = FOCUS_NOUNS.index(noun)
    held_out = {a for number, a in enumerate(THING_ADJECTIVES) if (number + place) % 4 == 0}
    return Phrase(
        noun, rng.choice([a for a in THING_ADJECTIVES if a.english not in taken and (a in held_out) == unseen])
    )


def _draw_sentence(rng: random.Random, focus: Noun, template: tuple[str, str], *, unseen_focus: bool) -> Sentence:
    """One sentence about ``focus``; no content word occurs twice in it."""
    english, german = template
    phrases = {"focus": _thing_phrase(rng, focus, unseen=unseen_focus, taken=set())}
    taken = {phrases["focus"].adjective.english}
    if "{person}" in english:
        adjectives = [a for a in PERSON_ADJECTIVES if a.english not in taken]
        adjective = rng.choice(adjectives) if rng.random() < 0.5 else None
        phrases["person"] = Phrase(rng.choice(PERSONS), adjective)
        taken |= {adjective.english} if adjective else set()
    if "{thing}" in english:
        noun = rng.choice([thing for thing in THINGS if thing != focus])
        seen = rng.random() < 0.5
        phrases["thing"] = _thing_phrase(rng, noun, unseen=False, taken=taken) if seen else Phrase(noun)
    mentioned = tuple(phrase.noun for slot, phrase in phrases.items() if slot != "focus")
    if "{place}" in english:
        phrases["place"] = Phrase(rng.choice(PLACES))
    words = {slot: rng.choice(choices) for slot, choices in WORDS.items() if f"{{{slot}}}" in english}
    content = [phrase.adjective.forms for phrase in phrases.values() if phrase.adjective]
    content += [phrase.noun.german[0].forms for phrase in phrases.values() if not phrase.noun.senses]
    content += [[word.stem] for slot, word in words.items() if slot != "prep"]
    slots = {slot: part.english for slot, part in (phrases | words).items()}
    stems = {slot: word.stem for slot, word in words.items()}
    translations = tuple(
        german.format(**{slot: p.german(sense if slot == "focus" else 0) for slot, p in phrases.items()}, **stems)
        for sense in range(len(focus.german))
    )
    last = english.endswith("{focus}")
    return Sentence(english.format(**slots), translations, focus, last, mentioned, tuple(content))


def _evenly(rng: random.Random, nouns: Sequence[Noun], count: int) -> list[Noun]:
    """``count`` nouns in random order, each as often as any other (to one)."""
    chosen = [nouns[i % len(nouns)] for i in range(count)]
    rng.shuffle(chosen)
    return chosen


def draw_sentences(rng: random.Random, count: int, *, test: bool, taken: set[str]) -> Iterator[Sentence]:
    """``count`` sentences (a multiple of 9), none of which is in ``taken``; they are added to it.

    Two thirds are about an ambiguous noun, which is the last word in a third of those; the rest are about a noun with
    one meaning. ``test`` decides which pairs of focus adjective and noun are used.
    """
    templates = {last: [t for t in TEMPLATES if t[0].endswith("{focus}") == last] for last in (True, False)}
    plan = [(noun, templates[i % 3 == 0]) for i, noun in enumerate(_evenly(rng, AMBIGUOUS, count // 9 * 6))]
    plan += [(noun, list(TEMPLATES)) for noun in _evenly(rng, THINGS, count // 9 * 3)]
    rng.shuffle(plan)
    for focus, choices in plan:
        while (sentence := _draw_sentence(rng, focus, rng.choice(choices), unseen_focus=test)).english in taken:
            pass
        taken.add(sentence.english)
        yield sentence


# -- scenes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """The R regions of one synthetic image, best score first."""

    features: np.ndarray  # R x FEATURE_DIM, float16
    boxes: np.ndarray  # R x 4: x1, y1, x2, y2 within 0..1, float32
    labels: np.ndarray  # R class numbers
    scores: np.ndarray  # R, strictly descending, float32


class ScenePainter:
    """Draws scenes; prototypes depend on ``seed``, scenes on ``seed`` and ``stream``, the number of the split."""

    def __init__(self, seed: int, *, stream: int) -> None:
        shape = (len(CLASS_NAMES), FEATURE_DIM)
        self.prototypes = SPREAD * np.random.default_rng([seed, 0]).standard_normal(shape)
        self._numbers = np.random.default_rng([seed, 1, stream])
        self._choices = random.Random(f"{seed}/scenes/{stream}")

    def pair(self, sentence: Sentence) -> tuple[tuple[Scene, Scene], int]:
        """Two scenes for one sentence, and the number of the only region in which they differ.

        That region is the focus noun in its first and in its second sense, in the same place with the same box and
        score. For a sentence without an ambiguous noun it is a sense region of an ambiguous noun that the sentence does
        not mention, so that exchanging the scenes should change nothing. All else (which other regions there are, among
        them 1 to 3 sense regions of other ambiguous nouns, and where the region stands) is drawn before the sense is
        looked at.
        """
        rng = self._choices
        others = [noun for noun in AMBIGUOUS if noun != sentence.focus]
        rng.shuffle(others)
        changing = sentence.focus if sentence.ambiguous else others.pop()
        shown = [noun.classes[0] for noun in sentence.mentioned]
        shown += [] if sentence.ambiguous else [sentence.focus.classes[0]]
        shown += [rng.choice(noun.classes) for noun in others[: rng.randint(1, 3)]]
        fillers = [noun.classes[0] for noun in THINGS + PERSONS if noun not in (sentence.focus, *sentence.mentioned)]
        shown += rng.sample(fillers, rng.randint(0, min(2, MAX_REGIONS - 1 - len(shown))))
        shown.append(changing.classes[0])
        rng.shuffle(shown)
        place = shown.index(changing.classes[0])

        labels = np.array([CLASS_NAMES.index(name) for name in shown])
        first = Scene(self._features(labels), self._boxes(len(labels)), labels, self._scores(len(labels)))
        other_labels, other_features = labels.copy(), first.features.copy()
        other_labels[place] = CLASS_NAMES.index(changing.classes[1])
        other_features[place] = self._features(other_labels[place : place + 1])[0]
        return (first, Scene(other_features, first.boxes, other_labels, first.scores)), place

    def _features(self, labels: np.ndarray) -> np.ndarray:
        noise = self._numbers.standard_normal((len(labels), FEATURE_DIM))
        return (self.prototypes[labels] + NOISE * noise).astype(np.float16)

    def _boxes(self, count: int) -> np.ndarray:
        size = self._numbers.uniform(0.1, 0.5, (count, 2))
        corner = self._numbers.uniform(0.0, 1.0 - size)
        return np.concatenate([corner, corner + size], axis=1).astype(np.float32)

    def _scores(self, count: int) -> np.ndarray:
        """Distinct scores, best first: one from each of ``count`` equal slices of 0.3..1."""
        slices = np.arange(count, 0, -1) - self._numbers.uniform(0.1, 0.9, count)
        return (0.3 + 0.7 * slices / count).astype(np.float32)


# -- files -----------------------------------------------------------------------------------------------------------


@dataclass
class Line:
    """One line of a split: a sentence with one of its two scenes.

    ``partner`` is the line that has the same sentence and the other scene; ``region`` is the number of the region by
    which the two scenes differ.
    """

    sentence: Sentence
    pair: int
    sense: int
    scene: Scene
    region: int
    image: str = ""
    partner: int = -1

    @property
    def german(self) -> str:
        """The reference: for an ambiguous noun the one in the scene's sense."""
        return self.sentence.german[self.sense if self.sentence.ambiguous else 0]

    def record(self, number: int) -> dict[str, object]:
        """The line of ``{split}.jsonl``: what the evaluation needs to know."""
        focus, ambiguous = self.sentence.focus, self.sentence.ambiguous
        right, wrong = (focus.german[sense].forms if ambiguous else [] for sense in (self.sense, 1 - self.sense))
        words = self.german.split()
        return {
            "line": number,
            "pair": self.pair,
            "partner": self.partner,
            "image": self.image,
            "english": self.sentence.english,
            "german": self.german,
            "ambiguous": focus.english if ambiguous else None,
            "sense": focus.senses[self.sense] if ambiguous else None,
            "right": right,
            "wrong": wrong,
            "last": ambiguous and self.sentence.last,
            "position_en": self.sentence.english.split().index(focus.english) if ambiguous else None,
            "position_de": next((i for i, word in enumerate(words) if word in right), None),
            "content": self.sentence.content,
            "scene": [CLASS_NAMES[label] for label in self.scene.labels],
            "differing_region": self.region,
        }


def draw_split(split: str, *, size: int, seed: int, taken: set[str]) -> list[Line]:
    """The lines of one split in their order: ``size`` sentences, none of which is in ``taken``, each twice."""
    rng = random.Random(f"{seed}/sentences/{split}")
    painter = ScenePainter(seed, stream=list(SIZES).index(split))
    lines = []
    for pair, sentence in enumerate(draw_sentences(rng, size, test=split == "test", taken=taken)):
        scenes, region = painter.pair(sentence)
        lines += [Line(sentence, pair, sense, scene, region) for sense, scene in enumerate(scenes)]
    rng.shuffle(lines)
    numbers = rng.sample(range(len(lines)), len(lines))
    where = {(line.pair, line.sense): number for number, line in enumerate(lines)}
    for line, number in zip(lines, numbers, strict=True):
        line.image = f"{split}-{number:06d}"
        line.partner = where[line.pair, 1 - line.sense]
    return lines


def _write_text(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _write_split(folder: Path, split: str, lines: list[Line], *, seed: int) -> None:
    """Write the text, image ids, facts and regions of one split."""
    _write_text(folder / f"{split}.en", [line.sentence.english for line in lines])
    _write_text(folder / f"{split}.de", [line.german for line in lines])
    _write_text(folder / f"{split}.images", [line.image for line in lines])
    records = [json.dumps(line.record(number), ensure_ascii=False) for number, line in enumerate(lines)]
    _write_text(folder / f"{split}.jsonl", records)
    with RegionStoreWriter(
        folder / "regions" / f"{split}.h5",
        feature_dim=FEATURE_DIM,
        class_names=CLASS_NAMES,
        detector="none: synthetic regions, class prototypes with noise",
        created_by=f"examples/quickstart/make_data.py --seed {seed}",
        attributes={"synthetic": True, "seed": seed},
    ) as store:
        for line in sorted(lines, key=lambda line: line.image):
            scene = line.scene
            store.add(line.image, features=scene.features, boxes=scene.boxes, labels=scene.labels, scores=scene.scores)


def _write_test_extras(folder: Path, lines: list[Line]) -> None:
    """Write ``test_swapped``, where each line has the scene of its partner, and what the probes of the test split read.

    That is a contrastive set, where the wrong translation of a line is that of its partner, which has the other sense;
    the numbers of the lines that end in an ambiguous noun; the ambiguous nouns; and the German ones with the class of
    their sense.
    """
    for language in ("en", "de"):
        shutil.copyfile(folder / f"test.{language}", folder / f"test_swapped.{language}")
    _write_text(folder / "test_swapped.images", [lines[line.partner].image for line in lines])
    regions = folder / "regions"
    try:
        os.link(regions / "test.h5", regions / "test_swapped.h5")
    except OSError:  # a file system without hard links
        shutil.copyfile(regions / "test.h5", regions / "test_swapped.h5")
    ambiguous = [line for line in lines if line.sentence.ambiguous]
    (folder / "contrastive").mkdir()
    _write_text(folder / "contrastive/src.en", [line.sentence.english for line in ambiguous])
    _write_text(folder / "contrastive/correct.de", [line.german for line in ambiguous])
    _write_text(folder / "contrastive/incorrect.de", [lines[line.partner].german for line in ambiguous])
    _write_text(folder / "contrastive/img.order", [line.image for line in ambiguous])
    last = [str(number) for number, line in enumerate(lines, start=1) if line.record(0)["last"]]
    _write_text(folder / "test_last.lines", last)
    senses = [(form, name) for noun in AMBIGUOUS for german, name in zip(noun.german, noun.classes, strict=True)
              for form in german.forms]  # fmt: skip
    _write_text(folder / "ambiguous.en", [noun.english for noun in AMBIGUOUS])
    _write_text(folder / "ambiguous.tsv", [f"{form}\t{name}" for form, name in senses])


def make_data(out: Path, *, seed: int, sizes: dict[str, int]) -> None:
    """Write the data set into the new folder ``out``; it appears only when it is complete.

    Args:
        out: folder to make.
        seed: everything follows from it and the sizes.
        sizes: number of English sentences of ``train``, ``valid`` and ``test``, multiples of 9. Each stands in the
            split twice, so the split has twice as many lines.

    Raises:
        VTLMError: ``out`` exists, a size is not a positive multiple of 9, or the training split lacks a word of the
            test split.
    """
    if out.exists():
        raise VTLMError(f"{out} exists: remove it or choose another --out")
    for split in SIZES:
        if sizes[split] < 9 or sizes[split] % 9:
            raise VTLMError(f"--{split}-size {sizes[split]}: give a positive multiple of 9")
    taken: set[str] = set()
    splits = {split: draw_split(split, size=sizes[split], seed=seed, taken=taken) for split in SIZES}
    words = {
        split: {w for line in splits[split] for w in f"{line.sentence.english} {line.german}".split()}
        for split in splits
    }
    if unknown := sorted(words["test"] - words["train"]):
        raise VTLMError(f"--train-size is too small: {unknown[0]!r} occurs in the test split only")
    with new_folder(out) as partial:
        (partial / "regions").mkdir()
        for split, lines in splits.items():
            _write_split(partial, split, lines, seed=seed)
        _write_test_extras(partial, splits["test"])


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="folder to make")
    what.add_argument(
        "--text-json", type=Path, metavar="DIR", help="say in a binarised folder that text is taken as it is"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the data (default: %(default)s)")
    text = "English sentences, a multiple of 9; each makes 2 lines (default: %(default)s)"
    for split, size in SIZES.items():
        parser.add_argument(f"--{split}-size", type=int, default=size, metavar="N", help=text)
    args = parser.parse_args(argv)
    if args.text_json:
        TextPipeline(source_lang="en", target_lang="de", steps=(), bpe="none").save(args.text_json)
        return
    if args.seed < 0:
        raise VTLMError(f"--seed {args.seed}: give a number from 0")
    make_data(args.out, seed=args.seed, sizes={split: getattr(args, f"{split}_size") for split in SIZES})


if __name__ == "__main__":
    main()
