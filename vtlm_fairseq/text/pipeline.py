"""Text preparation as `text.json` describes it: raw sentence to words, words to BPE pieces, and back.

`text.json` lies beside the binarised data and the BPE model; training copies all of them into the checkpoint
folder, so that a checkpoint can be given raw text. The steps, in order:

1. `lowercase`;
2. `normalise`: Moses punctuation normalisation of the language;
3. `tokenise`: Moses tokenisation of the language;
4. `escape`: `&`, quotes, `<`, `>`, `[`, `]` and `|` as Moses writes them (`&apos;`), as in Multi30k's own files;
5. `strip_accents`: decompose and drop combining marks (a with umlaut becomes a; sharp s stays);
6. `characters`, `jieba` or `segmented`: what `tokenise` does in a language without spaces (`unspaced.py`), or the name
   of a user's own way for a language (`own_words.py`).

The first four reproduce Multi30k's tokenised files (`*.lc.norm.tok.*`) without a difference. A literal `<mask>`
is a symbol of its own: it passes through all steps and BPE unchanged.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files import write_text
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.files.lines import split_lines
from vtlm_fairseq.files.names import check_languages, check_name
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.own_words import own_words
from vtlm_fairseq.text.subwords import BPE_KINDS, MASK, dictionary_kind, join_words
from vtlm_fairseq.text.unspaced import SEGMENTATIONS, join, segment, segmentation

logger = get_logger(__name__)

SCHEMA_VERSION = 1
FILE_NAME = "text.json"
STEPS = ("lowercase", "normalise", "tokenise", "escape", "strip_accents", *SEGMENTATIONS)
MOSES = STEPS[1:4]
"""Those that text which is tokenised already has."""
BPE_FILES = {"sentencepiece": "bpe.model", "subword_nmt": "bpe.codes", "none": None}
"""Name of the BPE model in a prepared folder."""
FEW_PIECES = 8_000  # of both languages of a corpus like Multi30k

_SPACE_LIKE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_REMEDY = "prepare the data again or copy the folder whole"
_WITHOUT = "give a folder made by a preparation script, or text that is prepared already with --preprocessed"


@dataclass(frozen=True)
class TextPipeline:
    """The contents of a `text.json`, and what they do to a sentence.

    Attributes:
        source_lang: language of the first side.
        target_lang: language of the second side.
        steps: those of `STEPS` that are applied, in that order.
        bpe: one of `BPE_KINDS`.
        folder: where BPE model and dictionaries lie.
        running_text: translations are running text where nobody says otherwise (see `gives_text`); False in a
            `text.json` that does not say so.
        checksums: sha256 of each file, by name; filled by `save` and `load`.
    """

    source_lang: str
    target_lang: str
    steps: tuple[str, ...] = STEPS[:4]
    bpe: str = "none"
    folder: Path = Path()
    running_text: bool = True
    checksums: dict[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        known = [*STEPS, *own_words()]
        if [step for step in known if step in self.steps] != list(self.steps):
            other = [step for step in self.steps if step not in known]
            own = " (what was registered by a --user-dir needs it again)" if other else ""
            raise VTLMError(f"steps {list(self.steps)} are not some of {known} in this order{own}")
        if "escape" in self.steps and "tokenise" not in self.steps:
            raise VTLMError("step escape needs tokenise")
        if self.bpe not in BPE_KINDS:
            raise VTLMError(f"BPE kind {self.bpe!r} is not one of {', '.join(BPE_KINDS)}")

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, hint: str = _WITHOUT) -> TextPipeline:
        """Read `text.json` of a data or checkpoint folder and check the files that it names.

        Args:
            folder: that has it.
            hint: what to do where it has none.

        Raises:
            VTLMError: `text.json` is missing or not of this schema, or a file is missing or not the one that
                `text.json` was written for.
        """
        folder = Path(folder)
        path = folder / FILE_NAME
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise VTLMError(f"{path}: no such file; {hint}") from None
        except OSError as error:
            raise VTLMError(f"{path}: unreadable ({reason(error)}); {_REMEDY}") from None
        pipeline = cls._from_json(parse_object(content, str(path), hint=_REMEDY), path)
        unchecked = set(pipeline.files()) - {FILE_NAME, *pipeline.checksums}
        if unchecked:
            raise VTLMError(f"{path}: 'sha256' has no checksum of {min(unchecked)}; {_REMEDY}")
        for name, checksum in pipeline.checksums.items():
            if _sha256(folder / name) != checksum:
                raise VTLMError(f"{folder / name}: not the file that {path} was written for (sha256); {_REMEDY}")
        return pipeline

    @classmethod
    def _from_json(cls, content: dict[str, Any], path: Path) -> TextPipeline:
        wanted = {"schema_version": int, "source_lang": str, "target_lang": str, "steps": list, "bpe": dict}
        wanted["sha256"] = dict
        content.setdefault("running_text", False)
        wanted["running_text"] = bool
        for key, kind in wanted.items():
            if not isinstance(content.get(key), kind):
                raise VTLMError(f"{path}: {key!r} is missing or not of type {kind.__name__}; {_REMEDY}")
        if content["schema_version"] != SCHEMA_VERSION:
            raise VTLMError(
                f"{path}: schema_version {content['schema_version']} is not known (this version reads "
                f"{SCHEMA_VERSION}); install the vtlm-fairseq that wrote it"
            )
        check_languages((content["source_lang"], content["target_lang"]), str(path))
        for name in (content["bpe"].get("file"), *content["sha256"]):
            name is None or check_name(name, f"{path}: file", hint=_REMEDY)
        kind = content["bpe"].get("kind")
        if kind not in BPE_KINDS or content["bpe"].get("file") != BPE_FILES[kind]:
            raise VTLMError(f"{path}: 'bpe' is {content['bpe']}, not a kind and its file; {_REMEDY}")
        try:
            return cls(
                source_lang=content["source_lang"],
                target_lang=content["target_lang"],
                steps=tuple(content["steps"]),
                bpe=kind,
                folder=path.parent,
                running_text=content["running_text"],
                checksums={name: str(value) for name, value in content["sha256"].items()},
            )
        except VTLMError as error:
            raise VTLMError(f"{path}: {error}; {_REMEDY}") from None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `text.json` with the checksums of BPE model and dictionaries, which must lie in the folder.

        Raises:
            VTLMError: one of them does not.
        """
        folder = Path(folder)
        content = {
            "schema_version": SCHEMA_VERSION,
            "source_lang": self.source_lang,
            "target_lang": self.target_lang,
            "steps": list(self.steps),
            "bpe": {"kind": self.bpe, "file": BPE_FILES[self.bpe]},
            "running_text": self.running_text,
            "sha256": {name: _sha256(folder / name) for name in self.files() if name != FILE_NAME},
        }
        write_text(folder / FILE_NAME, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def files(self) -> list[str]:
        """Names of the files that make a folder complete: `text.json`, dictionaries, BPE model."""
        names = [FILE_NAME, *(f"dict.{lang}.txt" for lang in dict.fromkeys((self.source_lang, self.target_lang)))]
        return names if self.bpe == "none" else [*names, BPE_FILES[self.bpe]]

    @property
    def gives_text(self) -> bool:
        """Whether translations are running text unless asked for as tokens: it was prepared so, from raw text."""
        return self.running_text and (
            "tokenise" in self.steps or segmentation(self.target_lang, self.steps) is not None
        )

    def preprocess(self, raw: str, lang: str) -> str:
        """Words of a raw sentence, separated by single spaces: all steps but BPE.

        Raises:
            VTLMError: `lang` is neither of the two languages.
        """
        self._check_language(lang)
        parts = [self._words(part, lang) for part in raw.split(MASK)]
        return _join_at_mask(parts)

    def encode(self, raw: str, lang: str) -> str:
        """BPE pieces of a raw sentence, separated by single spaces: what is binarised."""
        return self.apply_bpe(self.preprocess(raw, lang))

    def apply_bpe(self, words: str) -> str:
        """BPE pieces of a sentence that `preprocess` returned."""
        return _join_at_mask([self._segment(part.strip()) if part.strip() else "" for part in words.split(MASK)])

    def decode(self, pieces: str, lang: str, detokenize: bool = False) -> str:
        """Words of a sentence of BPE pieces; as running text, without escapes, where `detokenize` is set.

        Raises:
            VTLMError: `lang` is neither of the two languages.
        """
        self._check_language(lang)
        words = join_words(pieces, self.bpe)
        if not detokenize:
            return words
        way = segmentation(lang, self.steps)
        return _detokeniser(lang)(words) if way is None else join(words, lang, way, _detokeniser(lang))

    def _check_language(self, lang: str) -> None:
        if lang not in (self.source_lang, self.target_lang):
            raise VTLMError(
                f"language {lang!r}: this data is {self.source_lang}-{self.target_lang}; "
                "see --source-lang, --target-lang"
            )

    def _words(self, text: str, lang: str) -> str:
        text = _SPACE_LIKE.sub(" ", text)
        if "lowercase" in self.steps:
            text = text.lower()
        if "normalise" in self.steps:
            text = _normaliser(lang)(text)
        if "tokenise" in self.steps and text.strip():
            moses, escape = _tokeniser(lang), "escape" in self.steps
            text = self._cut(text, lang, lambda part: moses(part, return_str=True, escape=escape))
        else:
            text = self._cut(text, lang, str)
        if "strip_accents" in self.steps:
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        return " ".join(text.split())

    def _cut(self, text: str, lang: str, tokenise: Callable[[str], str]) -> str:
        way = segmentation(lang, self.steps)
        return tokenise(text) if way is None else segment(text, lang, way, tokenise)

    @cached_property
    def _segment(self) -> Callable[[str], str]:
        """Words to BPE pieces. The model is read at the first sentence."""
        if self.bpe == "none":
            return lambda words: words
        return load_bpe(self.folder / BPE_FILES[self.bpe])[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without the BPE model: it cannot be sent to another process, which reads its own."""
        return {name: value for name, value in self.__dict__.items() if name != "_segment"}


def bpe_kind(data: str, symbols: Sequence[str]) -> str:
    """Kind of BPE of a data folder: what its ``text.json`` says; without one, what its dictionary's symbols show."""
    if os.path.exists(os.path.join(data, FILE_NAME)):
        return TextPipeline.load(data).bpe
    return dictionary_kind(symbols) or "none"


def load_bpe(path: Path) -> tuple[str, Callable[[str], str]]:
    """Read a BPE model: sentencepiece's, or codes of subword-nmt or fastBPE.

    Returns:
        The kind (of `BPE_KINDS`) and the function from words to pieces, both separated by spaces.

    Raises:
        VTLMError: there is no such file, or it is none of these.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VTLMError(f"{path}: BPE model cannot be read ({error.strerror}); see --bpe-model") from None
    codes = _subword_nmt_codes(data)
    if codes is None:
        return "sentencepiece", _load_sentencepiece(path, data)
    from subword_nmt.apply_bpe import BPE

    try:
        bpe = BPE(io.StringIO(codes))
        bpe.process_line("ab")  # where the version is unknown, it says so only here
    except (ValueError, IndexError, NotImplementedError, SystemExit):  # it ends the program at a line of another form
        raise VTLMError(f"{path}: not codes of subword-nmt (two symbols a line); see --bpe-model") from None
    segment = bpe.process_line
    return "subword_nmt", lambda words: segment(words).strip()


def _load_sentencepiece(path: Path, data: bytes) -> Callable[[str], str]:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(data)
    except RuntimeError:
        raise VTLMError(
            f"{path}: neither a sentencepiece model nor codes of subword-nmt (two symbols a line); see --bpe-model"
        ) from None
    return lambda words: " ".join(processor.encode(words, out_type=str))


def _subword_nmt_codes(data: bytes) -> str | None:
    """The text of a codes file for subword-nmt, or None. fastBPE adds a count to each line; it is dropped."""
    try:
        lines = list(split_lines(io.BytesIO(data.rstrip(b"\n")), "codes")) or [""]
    except VTLMError:
        return None
    header, rules = ([lines[0]], lines[1:]) if lines[0].startswith("#version:") else ([], lines)
    fields = [rule.strip(" ").split(" ") for rule in rules]
    if not header and all(len(rule) == 3 and rule[2].isdecimal() for rule in fields):
        return "\n".join(["#version: 0.2", *(" ".join(rule[:2]) for rule in fields)]) + "\n"
    if all(len(rule) == 2 for rule in fields):
        return "\n".join([*header, *(" ".join(rule) for rule in fields)]) + "\n"
    return None


def learn_sentencepiece(lines: Iterable[str], *, vocab_size: int) -> bytes:
    """Learn a joint BPE model; the same lines give the same model.

    Args:
        lines: preprocessed sentences of both sides.
        vocab_size: pieces of the model, three of them special. Where the text holds fewer, all of them, with a warning.

    Returns:
        The model file's content.

    Raises:
        VTLMError: there is no text, or it has more characters than that.
    """
    import sentencepiece

    parts = [part.strip() for line in lines for part in line.split(MASK)]

    def learn(**limit: bool) -> bytes:
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([part for part in parts if part]),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=1.0,
            normalization_rule_name="identity",
            input_sentence_size=0,
            shuffle_input_sentence=False,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
            **limit,
        )
        return model.getvalue()

    try:
        try:
            return learn()
        except RuntimeError as error:
            if "too high" not in str(error):
                raise
        model = learn(hard_vocab_limit=False)
    except (RuntimeError, OSError) as error:
        detail = str(error).split("]")[-1].strip() or "no text"
        raise VTLMError(f"sentencepiece cannot learn {vocab_size} pieces ({detail}); change --vocab-size") from None
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model)
    logger.warning(
        "--vocab-size %d: the text holds %d pieces, which are learnt, so that each of its words is a piece; a small "
        "corpus is served better by fewer, such as --vocab-size %d",
        vocab_size, processor.get_piece_size(), min(FEW_PIECES, processor.get_piece_size() // 2),
    )  # fmt: skip
    return model


def _join_at_mask(parts: Sequence[str]) -> str:
    return " ".join(f" {MASK} ".join(parts).split())


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise VTLMError(f"{path}: {FILE_NAME} names it, but it cannot be read ({error.strerror}); {_REMEDY}") from None


@lru_cache
def _normaliser(lang: str) -> Callable[[str], str]:
    from sacremoses import MosesPunctNormalizer

    normalise = MosesPunctNormalizer(lang=lang).normalize
    # The Perl original sees each line with its line end, and outside English moves `."` at the end to `".`.
    return lambda text: normalise(text + "\n")


@lru_cache
def _tokeniser(lang: str) -> Callable[..., str]:
    from sacremoses import MosesTokenizer

    return MosesTokenizer(lang=lang).tokenize


@lru_cache
def _detokeniser(lang: str) -> Callable[[str], str]:
    from sacremoses import MosesDetokenizer

    detokenise = MosesDetokenizer(lang=lang).detokenize
    return lambda words: detokenise(words.split(), unescape=True)
