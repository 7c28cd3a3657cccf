"""Languages written without blanks between words: where a sentence is cut, and how its words are joined again.

Each is one of three ways, a step in `text.json`:

* `characters`: each Chinese or Japanese character is a word;
* `jieba`: Chinese words, by jieba's dictionary;
* `segmented`: the text has blanks between words already, from another tool, and so must new sentences.

Latin words and numbers between such characters are words of their own, which Moses tokenises. Moses itself leaves a
Chinese sentence as one word, and tears the vowels and tones off Thai letters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.own_words import get_words, own_words, words_for

SEGMENTATIONS = ("characters", "jieba", "segmented")
SACREBLEU_WORDS = {
    **{"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"},
    **dict.fromkeys(("th", "lo", "km", "my"), "char"),
}
"""sacreBLEU's ``tokenize`` for languages that 13a has no words of."""

_CODES = {
    **dict.fromkeys(("zho", "chi", "cmn", "yue"), "zh"),
    **{"jpn": "ja", "kor": "ko", "tha": "th", "lao": "lo", "khm": "km", "mya": "my", "bur": "my"},
}
_IN_CHARACTERS, _IN_SYLLABLES = ("zh", "ja"), ("th", "lo", "km", "my")
_MARKS = "\u0300-\u036f\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
_CHARACTERS = (
    "\u2e80-\u2fff\u3001-\u312f\u31a0-\u9fff\uf900-\ufaff\ufe30-\ufe4f"  # radicals, kana, Han and their punctuation
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f\uffe0-\uffe6"  # wide forms but for letters and digits
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_SYLLABLES = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\ua9e0-\ua9ff\uaa60-\uaa7f"
_CHARACTER = re.compile(f"[{_CHARACTERS}][{_MARKS}]*")
_RUNS = {
    **dict.fromkeys(_IN_CHARACTERS, re.compile(f"((?:[{_CHARACTERS}][{_MARKS}]*)+)")),
    **dict.fromkeys(_IN_SYLLABLES, re.compile(f"((?:[{_SYLLABLES}][{_MARKS}]*)+)")),
}
_ANY = re.compile(f"[{_CHARACTERS}{_SYLLABLES}]")
_APART = re.compile(f"[{_CHARACTERS}] +[{_CHARACTERS}]")
_ZERO_WIDTH = "\u200b"
"""Between words of Thai, Lao, Khmer and Burmese, where a line may be broken."""


def language_of(lang: str) -> str:
    """The two letters of a language code that this module knows: ``zh`` of ``zh-CN``, ``zho_Hans`` or ``ZH``."""
    code = lang.replace("_", "-").partition("-")[0].lower()
    return _CODES.get(code, code)


def is_unspaced_language(lang: str) -> bool:
    """Whether a language is Chinese, Japanese, Thai, Lao, Khmer or Burmese."""
    return language_of(lang) in _RUNS


def needs_marks(lang: str) -> bool:
    """Whether combining marks tell letters apart: vowels and tones of Thai, the voiced kana of Japanese."""
    return is_unspaced_language(lang) and language_of(lang) != "zh"


def is_unspaced(text: str) -> bool:
    """Whether a third of the letters are Chinese, Japanese, Thai, Lao, Khmer or Burmese."""
    letters = [letter for letter in text if letter.isalpha()]
    return 3 * sum(bool(_ANY.match(letter)) for letter in letters) > len(letters)


def is_apart(line: str) -> bool:
    """Whether a blank stands between two Chinese or Japanese characters."""
    return bool(_APART.search(line))


def choose_segmentation(langs: Iterable[str], choice: str | None, *, tokenised: bool) -> tuple[str, ...]:
    """The steps of `SEGMENTATIONS` that a pair of languages needs.

    Args:
        langs: the two languages.
        choice: one of `SEGMENTATIONS` or of a user's own, or ``none``; None: `segmented` for text that is tokenised,
            else `characters`.
        tokenised: whether the text is tokenised already.

    Raises:
        VTLMError: a choice that fits neither language, or a language whose words nothing here finds.
    """
    langs = list(langs)
    if choice in own_words():
        others = [lang for lang in langs if not words_for(lang, [choice])]
        if others == langs:
            raise VTLMError(f"--segment {choice} is for neither {' nor '.join(langs)}; leave it out")
        return (*choose_segmentation(others, None, tokenised=tokenised), choice)
    unspaced = {language_of(lang): lang for lang in langs if language_of(lang) in _RUNS}
    if choice in SEGMENTATIONS and not unspaced:
        raise VTLMError(f"--segment {choice}: neither {' nor '.join(langs)} is written without spaces; leave it out")
    if choice == "jieba":
        if "zh" not in unspaced:
            raise VTLMError(f"--segment jieba finds Chinese words; this pair is {'-'.join(langs)}")
        _jieba()
    if choice == "none":
        return ()
    chosen = set()
    for language, lang in unspaced.items():
        step = choice or ("segmented" if tokenised else "characters")
        if step == "jieba" and language != "zh":
            step = "characters"
        if step == "characters" and language in _IN_SYLLABLES:
            raise VTLMError(
                f"{lang} is written without spaces, and nothing here finds its words: put blanks between them with "
                "another tool, and give --tokenised, or --segment segmented where the other side is raw text"
            )
        chosen.add(step)
    return tuple(step for step in SEGMENTATIONS if step in chosen)


def segmentation(lang: str, steps: Iterable[str]) -> str | None:
    """The one among the steps, of `SEGMENTATIONS` or a user's own, that is for this language, or None."""
    steps = list(steps)
    if (own := words_for(lang, steps)) is not None:
        return own
    language, steps = language_of(lang), set(steps)
    possible = {"zh": ("jieba", "characters", "segmented"), "ja": ("characters", "segmented")}
    ways = possible.get(language, ("segmented",) if language in _RUNS else ())
    return next((way for way in ways if way in steps), None)


def segment(text: str, lang: str, way: str, others: Callable[[str], str] = str) -> str:
    """Words of a sentence, separated by blanks.

    Args:
        text: the sentence.
        lang: a language without spaces.
        way: one of `SEGMENTATIONS`, or a user's own.
        others: what is done with a part in Latin or another script.
    """
    if way in own_words():
        return " ".join(get_words(way).words(text))
    language = language_of(lang)
    if language in _IN_SYLLABLES:
        text = text.replace(_ZERO_WIDTH, " ")
    words = {"characters": _CHARACTER.findall, "jieba": _jieba_words, "segmented": lambda run: [run]}[way]
    parts = _RUNS[language].split(text)  # every second is a run of the language's characters
    return " ".join(" ".join(words(part)) if n % 2 else others(part) for n, part in enumerate(parts) if part.strip())


def join(words: str, lang: str, way: str, others: Callable[[str], str]) -> str:
    """Running text: no blank between such characters; in Chinese and Japanese none beside them either.

    Args:
        words: of a sentence, separated by blanks.
        lang: a language without spaces.
        way: as `segment` takes it.
        others: detokenises a part in Latin or another script.
    """
    if way in own_words():
        return get_words(way).join(words.split())
    language = language_of(lang)
    run, between = _RUNS[language], "" if language in _IN_CHARACTERS else " "
    parts: list[tuple[bool, list[str]]] = []
    for word in words.split():
        own = bool(run.search(word))
        if not parts or parts[-1][0] != own:
            parts.append((own, []))
        parts[-1][1].append(word)
    return between.join("".join(part) if own else others(" ".join(part)) for own, part in parts)


def _jieba_words(run: str) -> list[str]:
    return [word for word in _jieba().lcut(run) if word.strip()]


@lru_cache
def _jieba():
    try:
        import jieba
    except ImportError:
        raise VTLMError(
            "--segment jieba: jieba, which finds Chinese words, is not installed: pip install 'vtlm-fairseq[zh]'"
        ) from None
    import logging

    jieba.setLogLevel(logging.WARNING)
    return jieba
