"""Sentences of the quickstart: seeded English captions with their German translations.

A sentence has one *focus*: a noun with an adjective, ambiguous in two thirds of the sentences. A quarter of
all pairs of focus adjective and noun are held out: they are the focus of every test sentence and occur
nowhere in training or validation, so that the test combines known words in unseen ways.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from lexicon import (
    AMBIGUOUS,
    FOCUS_NOUNS,
    PERSON_ADJECTIVES,
    PERSONS,
    PLACES,
    POSTURES,
    PREPOSITIONS,
    THING_ADJECTIVES,
    THINGS,
    VERBS,
    Adjective,
    GermanNoun,
    Noun,
)

# Mixed declension: the indefinite article and the ending of the adjective, by case and gender.
_ARTICLES = {
    "nominative": {"m": "ein", "f": "eine", "n": "ein"},
    "accusative": {"m": "einen", "f": "eine", "n": "ein"},
    "dative": {"m": "einem", "f": "einer", "n": "einem"},
}
_ENDINGS = {
    "nominative": {"m": "er", "f": "e", "n": "es"},
    "accusative": {"m": "en", "f": "e", "n": "es"},
    "dative": {"m": "en", "f": "en", "n": "en"},
}


@dataclass(frozen=True)
class NounPhrase:
    """An indefinite noun phrase: article, adjective or none, noun."""

    noun: Noun
    adjective: Adjective | None = None

    def __str__(self) -> str:
        words = [self.adjective.english] if self.adjective else []
        words.append(self.noun.english)
        return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])

    def german(self, sense: int) -> "GermanPhrase":
        """The phrase in German, with German noun number ``sense`` (0 for a noun that has one only)."""
        return GermanPhrase(self.noun.german[sense], self.adjective)


@dataclass(frozen=True)
class GermanPhrase:
    """A German noun phrase; the templates take one of its cases by attribute."""

    noun: GermanNoun
    adjective: Adjective | None

    def _decline(self, case: str) -> str:
        words = [_ARTICLES[case][self.noun.gender]]
        if self.adjective:
            words.append(self.adjective.stem + _ENDINGS[case][self.noun.gender])
        return " ".join([*words, getattr(self.noun, case)])

    @property
    def nom(self) -> str:
        """Nominative: ``ein kleiner hund``."""
        return self._decline("nominative")

    @property
    def acc(self) -> str:
        """Accusative: ``einen kleinen hund``."""
        return self._decline("accusative")

    @property
    def dat(self) -> str:
        """Dative: ``einem kleinen hund``."""
        return self._decline("dative")


@dataclass(frozen=True)
class Template:
    """A sentence in both languages.

    Slots: ``focus``, ``person``, ``thing``, ``place`` (noun phrases), ``verb``, ``posture``, ``prep``.
    """

    english: str
    german: str

    @property
    def last(self) -> bool:
        """Whether the focus noun is the last word in both languages."""
        return self.english.endswith("{focus}")

    def has(self, slot: str) -> bool:
        """Whether the template has the slot."""
        return f"{{{slot}}}" in self.english


TEMPLATES: tuple[Template, ...] = (
    Template("{person} {verb} {focus}", "{person.nom} {verb} {focus.acc}"),
    Template("in {place} {person} {verb} {focus}", "in {place.dat} {verb} {person.nom} {focus.acc}"),
    Template("{thing} {posture} {prep} {focus}", "{thing.nom} {posture} {prep} {focus.dat}"),
    Template("{person} {posture} {prep} {focus}", "{person.nom} {posture} {prep} {focus.dat}"),
    Template("{person} {verb} {focus} {prep} {thing}", "{person.nom} {verb} {focus.acc} {prep} {thing.dat}"),
    Template("{person} {verb} {focus} in {place}", "{person.nom} {verb} {focus.acc} in {place.dat}"),
    Template(
        "{focus} {posture} {prep} {thing} in {place}",
        "{focus.nom} {posture} {prep} {thing.dat} in {place.dat}",
    ),
    Template("{focus} {posture} {prep} {person}", "{focus.nom} {posture} {prep} {person.dat}"),
)


@dataclass(frozen=True)
class Sentence:
    """An English sentence and what is known about it.

    Attributes:
        english: the caption, tokenised and lower case.
        german: its translation, one for each German noun of the focus.
        focus: the noun that the sentence is about.
        last: whether the focus is the last word in both languages.
        mentioned: the other nouns that a scene can show.
        content: the German content words apart from an ambiguous focus noun, each as its allowed forms.
    """

    english: str
    german: tuple[str, ...]
    focus: Noun
    last: bool
    mentioned: tuple[Noun, ...]
    content: tuple[tuple[str, ...], ...]

    @property
    def ambiguous(self) -> bool:
        """Whether the focus noun has two senses."""
        return self.focus in AMBIGUOUS


def held_out(adjective: Adjective, noun: Noun) -> bool:
    """Whether this pair of focus adjective and noun is kept for the test split (a quarter of all pairs)."""
    return (THING_ADJECTIVES.index(adjective) + FOCUS_NOUNS.index(noun)) % 4 == 0


def _thing_phrase(rng: random.Random, noun: Noun, *, unseen: bool, taken: set[str]) -> NounPhrase:
    """``noun`` with an adjective not in ``taken``, of the pairs for test (``unseen``) or of the others."""
    fitting = [a for a in THING_ADJECTIVES if a.english not in taken and held_out(a, noun) == unseen]
    return NounPhrase(noun, rng.choice(fitting))


def _draw_sentence(rng: random.Random, focus: Noun, template: Template, *, unseen_focus: bool) -> Sentence:
    """One sentence about ``focus``; no content word occurs twice in it."""
    phrases = {"focus": _thing_phrase(rng, focus, unseen=unseen_focus, taken=set())}
    taken = {phrases["focus"].adjective.english}
    mentioned = []
    if template.has("person"):
        adjectives = [a for a in PERSON_ADJECTIVES if a.english not in taken]
        adjective = rng.choice(adjectives) if rng.random() < 0.5 else None
        phrases["person"] = NounPhrase(rng.choice(PERSONS), adjective)
        mentioned.append(phrases["person"].noun)
        if adjective:
            taken.add(adjective.english)
    if template.has("thing"):
        noun = rng.choice([thing for thing in THINGS if thing != focus])
        phrases["thing"] = (
            _thing_phrase(rng, noun, unseen=False, taken=taken) if rng.random() < 0.5 else NounPhrase(noun)
        )
        mentioned.append(noun)
    if template.has("place"):
        phrases["place"] = NounPhrase(rng.choice(PLACES))
    words = {
        slot: rng.choice(choices)
        for slot, choices in (("verb", VERBS), ("posture", POSTURES), ("prep", PREPOSITIONS))
        if template.has(slot)
    }
    content = [phrase.adjective.forms for phrase in phrases.values() if phrase.adjective]
    content += [phrase.noun.german[0].forms for phrase in phrases.values() if phrase.noun not in AMBIGUOUS]
    content += [(word.german,) for slot, word in words.items() if slot != "prep"]
    return Sentence(
        english=template.english.format(**phrases, **{slot: word.english for slot, word in words.items()}),
        german=tuple(
            template.german.format(
                **{slot: phrase.german(sense if slot == "focus" else 0) for slot, phrase in phrases.items()},
                **{slot: word.german for slot, word in words.items()},
            )
            for sense in range(len(focus.german))
        ),
        focus=focus,
        last=template.last,
        mentioned=tuple(mentioned),
        content=tuple(content),
    )


def _evenly(rng: random.Random, nouns: tuple[Noun, ...], count: int) -> list[Noun]:
    """``count`` nouns in random order, each as often as any other (to one)."""
    chosen = [nouns[i % len(nouns)] for i in range(count)]
    rng.shuffle(chosen)
    return chosen


def draw_sentences(rng: random.Random, count: int, *, test: bool, taken: set[str]) -> Iterator[Sentence]:
    """``count`` sentences (a multiple of 9), none of which is in ``taken``; they are added to it.

    Two thirds are about an ambiguous noun, which is the last word in a third of those; the rest are about a
    noun with one meaning. ``test`` decides which pairs of focus adjective and noun are used.
    """
    templates = {last: [template for template in TEMPLATES if template.last == last] for last in (True, False)}
    plan = []
    for number, noun in enumerate(_evenly(rng, AMBIGUOUS, count // 9 * 6)):
        plan.append((noun, templates[number % 3 == 0]))
    for noun in _evenly(rng, THINGS, count // 9 * 3):
        plan.append((noun, list(TEMPLATES)))
    rng.shuffle(plan)
    for focus, choices in plan:
        while True:
            sentence = _draw_sentence(rng, focus, rng.choice(choices), unseen_focus=test)
            if sentence.english not in taken:
                break
        taken.add(sentence.english)
        yield sentence
