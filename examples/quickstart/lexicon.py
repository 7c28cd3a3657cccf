"""The words of the quickstart's grammar: English, German, gender, and what a region of the word is called.

Every German noun stands in the grammar with the indefinite article only, so three forms in the singular
(nominative, accusative, dative) and the gender are all there is to know about it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class GermanNoun:
    """A German noun in the singular; ``gender`` is ``m``, ``f`` or ``n``."""

    gender: str
    nominative: str
    accusative: str
    dative: str

    @property
    def forms(self) -> tuple[str, ...]:
        """The distinct forms, nominative first."""
        return tuple(dict.fromkeys((self.nominative, self.accusative, self.dative)))


@dataclass(frozen=True)
class Noun:
    """An English noun with one German noun, or with two where it is ambiguous.

    ``senses`` names what the two mean; it is empty for a noun with one meaning.
    """

    english: str
    german: tuple[GermanNoun, ...]
    senses: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the region classes that show this noun, one a German noun."""
        if not self.senses:
            return (self.english,)
        return tuple(f"{self.english} ({sense})" for sense in self.senses)


@dataclass(frozen=True)
class Adjective:
    """An adjective that is declined regularly: German ``stem`` + ending."""

    english: str
    stem: str

    @property
    def forms(self) -> tuple[str, ...]:
        """All forms of the positive, the undeclined one first."""
        return tuple(self.stem + ending for ending in ("", "e", "er", "es", "en", "em"))


@dataclass(frozen=True)
class Word:
    """A word that is not declined here (verb in the third person singular, preposition with dative)."""

    english: str
    german: str


def _german(gender: str, nominative: str, oblique: str | None = None) -> GermanNoun:
    """A noun whose accusative and dative are ``oblique`` (weak nouns) or like the nominative (all others)."""
    oblique = oblique or nominative
    return GermanNoun(gender, nominative, oblique, oblique)


def _ambiguous(english: str, first_sense: str, first: GermanNoun, second_sense: str, second: GermanNoun) -> Noun:
    return Noun(english, (first, second), (first_sense, second_sense))


def _plain(english: str, gender: str, german: str) -> Noun:
    return Noun(english, (_german(gender, german),))


AMBIGUOUS: tuple[Noun, ...] = (
    _ambiguous("bat", "animal", _german("f", "fledermaus"), "sport", _german("m", "schläger")),
    _ambiguous("crane", "bird", _german("m", "kranich"), "machine", _german("m", "kran")),
    _ambiguous("seal", "animal", _german("f", "robbe"), "stamp", _german("n", "siegel")),
    _ambiguous("trunk", "luggage", _german("m", "koffer"), "tree", _german("m", "baumstamm")),
    _ambiguous("bow", "ribbon", _german("f", "schleife"), "weapon", _german("m", "bogen")),
    _ambiguous("nut", "food", _german("f", "nuss"), "hardware", _german("f", "schraubenmutter")),
    _ambiguous("key", "lock", _german("m", "schlüssel"), "keyboard", _german("f", "taste")),
    _ambiguous("pipe", "tobacco", _german("f", "pfeife"), "plumbing", _german("n", "rohr")),
    _ambiguous("letter", "mail", _german("m", "brief"), "alphabet", _german("m", "buchstabe", "buchstaben")),
    _ambiguous("bulb", "light", _german("f", "glühbirne"), "flower", _german("f", "blumenzwiebel")),
    _ambiguous("file", "tool", _german("f", "feile"), "papers", _german("f", "akte")),
    _ambiguous("plant", "botany", _german("f", "pflanze"), "industry", _german("f", "fabrik")),
)

THINGS: tuple[Noun, ...] = (
    _plain("table", "m", "tisch"),
    _plain("chair", "m", "stuhl"),
    _plain("car", "n", "auto"),
    _plain("house", "n", "haus"),
    _plain("tree", "m", "baum"),
    _plain("lamp", "f", "lampe"),
    _plain("door", "f", "tür"),
    _plain("bicycle", "n", "fahrrad"),
    _plain("boat", "n", "boot"),
    _plain("wall", "f", "mauer"),
    _plain("bottle", "f", "flasche"),
    _plain("basket", "m", "korb"),
    _plain("bed", "n", "bett"),
    _plain("dog", "m", "hund"),
    _plain("cat", "f", "katze"),
    _plain("horse", "n", "pferd"),
)

PERSONS: tuple[Noun, ...] = (
    _plain("man", "m", "mann"),
    _plain("woman", "f", "frau"),
    _plain("child", "n", "kind"),
    _plain("girl", "n", "mädchen"),
    _plain("king", "m", "könig"),
    _plain("queen", "f", "königin"),
    _plain("baker", "m", "bäcker"),
    _plain("cook", "m", "koch"),
    _plain("waitress", "f", "kellnerin"),
    _plain("grandmother", "f", "großmutter"),
)

PLACES: tuple[Noun, ...] = (
    _plain("garden", "m", "garten"),
    _plain("park", "m", "park"),
    _plain("kitchen", "f", "küche"),
    _plain("city", "f", "stadt"),
    _plain("village", "n", "dorf"),
    _plain("forest", "m", "wald"),
    _plain("valley", "n", "tal"),
    _plain("courtyard", "m", "hof"),
)

THING_ADJECTIVES: tuple[Adjective, ...] = (
    Adjective("small", "klein"),
    Adjective("big", "groß"),
    Adjective("old", "alt"),
    Adjective("new", "neu"),
    Adjective("red", "rot"),
    Adjective("green", "grün"),
    Adjective("yellow", "gelb"),
    Adjective("brown", "braun"),
    Adjective("white", "weiß"),
    Adjective("black", "schwarz"),
    Adjective("heavy", "schwer"),
    Adjective("beautiful", "schön"),
)

PERSON_ADJECTIVES: tuple[Adjective, ...] = (
    Adjective("old", "alt"),
    Adjective("young", "jung"),
    Adjective("happy", "glücklich"),
    Adjective("strong", "stark"),
    Adjective("friendly", "freundlich"),
    Adjective("famous", "berühmt"),
)

VERBS: tuple[Word, ...] = (
    Word("sees", "sieht"),
    Word("finds", "findet"),
    Word("draws", "zeichnet"),
    Word("paints", "malt"),
    Word("photographs", "fotografiert"),
    Word("admires", "bewundert"),
    Word("watches", "beobachtet"),
    Word("buys", "kauft"),
    Word("shows", "zeigt"),
    Word("touches", "berührt"),
)

POSTURES: tuple[Word, ...] = (Word("stands", "steht"), Word("lies", "liegt"))

PREPOSITIONS: tuple[Word, ...] = (Word("beside", "neben"), Word("behind", "hinter"), Word("near", "nahe"))

FOCUS_NOUNS: tuple[Noun, ...] = AMBIGUOUS + THINGS
"""The nouns that a sentence can be about."""

CLASS_NAMES: tuple[str, ...] = tuple(
    name for nouns in (AMBIGUOUS, THINGS, PERSONS) for noun in nouns for name in noun.classes
)
"""The region classes: one for each sense of an ambiguous noun, each thing and each person."""
