"""From files of translations and references to texts that can be compared: words joined, detokenised, selected."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses, read_sentences
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.text.pipeline import FILE_NAME, STEPS, TextPipeline
from vtlm_fairseq.text.subwords import join_words, subword_kind
from vtlm_fairseq.text.tokenised import looks_running
from vtlm_fairseq.text.unspaced import is_unspaced


@dataclass(frozen=True)
class Reference:
    """A test set's references.

    Attributes:
        name: of the test set.
        words: prepared as the model's text was, before BPE; None without ``--ref``.
        raw: as published; None without ``--raw-ref``.
        source: raw source sentences, for COMET; None without ``--src``.
        lines: 0-based numbers of the lines that are scored, ascending.
        count: lines of the corpus.
    """

    name: str
    words: list[str] | None
    raw: list[str] | None
    source: list[str] | None
    lines: list[int]
    count: int


@dataclass(frozen=True)
class Output:
    """Translations of the lines that are scored.

    Attributes:
        path: the file.
        ids: 0-based line numbers in the corpus, ascending.
        words: sub-words joined.
        running: detokenised and without escapes; None where raw references are not compared.
        missing: line numbers that should be scored and have no translation.
        pipeline: how the text was prepared; None if nothing says.
        lang: language of the translations; empty if nothing says.
    """

    path: str
    ids: list[int]
    words: list[str]
    running: list[str] | None
    missing: list[int]
    pipeline: TextPipeline | None
    lang: str

    @property
    def lowercase(self) -> bool:
        """Whether the text is lower-cased."""
        return self.pipeline is not None and "lowercase" in self.pipeline.steps


def read_reference(
    name: str,
    *,
    words: str | None = None,
    raw: str | None = None,
    source: str | None = None,
    subset: str | None = None,
) -> Reference:
    """Read a test set.

    Args:
        name: of the test set.
        words: file of prepared references.
        raw: file of raw references.
        source: file of raw source sentences.
        subset: file of 1-based line numbers, one a line, that are scored; all without it.

    Raises:
        VTLMError: unreadable, of different lengths, in sub-words, or a subset of lines that are not there.
    """
    files = {path: read_sentences(path) for path in (words, raw, source) if path}
    lengths = {path: len(lines) for path, lines in files.items()}
    if len(set(lengths.values())) > 1:
        raise VTLMError(f"different numbers of lines: {', '.join(f'{path} {n}' for path, n in lengths.items())}")
    count = next(iter(lengths.values()), 0)
    if not count:
        raise VTLMError(f"{next(iter(files), name)}: no lines; see --ref")
    if words and subword_kind(files[words]):
        raise VTLMError(f"{words}: the reference is in sub-words; give the prepared text before BPE (--ref)")
    lines = list(range(count)) if subset is None else read_line_numbers(subset, count, option="--subset")
    texts = [files[path] if path else None for path in (words, raw, source)]
    return Reference(name, *texts, lines, count)


def read_line_numbers(path: str, count: int, *, option: str) -> list[int]:
    """Lines of a test set, counted from 1 in the file and from 0 in the result, sorted.

    Raises:
        VTLMError: unreadable, empty, not a number, beyond the ``count`` lines, or there twice (names ``option``).
    """
    numbers = []
    for number, text in enumerate(read_lines(path), 1):
        if not text.strip().isdecimal() or len(text) > 20 or not 1 <= int(text) <= count:
            raise VTLMError(f"{path}, line {number}: {text[:20]!r} is not a line number from 1 to {count} ({option})")
        numbers.append(int(text) - 1)
    if not numbers or len(set(numbers)) != len(numbers):
        raise VTLMError(f"{path}: {'a line number is there twice' if numbers else 'no line numbers'} ({option})")
    return sorted(numbers)


def find_pipeline(path: str, *, text_json: str | None, steps: str | None, lang: str | None) -> TextPipeline | None:
    """How the text of a file of translations was prepared.

    Args:
        path: the file of translations; ``text.json`` is looked for beside it.
        text_json: that file, or the data or checkpoint folder that holds it.
        steps: comma-separated steps, or ``none``, instead of a ``text.json``.
        lang: language of the translations, for `steps`.

    Returns:
        None if nothing says.

    Raises:
        VTLMError: no such ``text.json``, or unknown steps.
    """
    if steps is not None:
        chosen = [] if steps == "none" else steps.split(",")
        if unknown := [step for step in chosen if step not in STEPS]:
            raise VTLMError(f"--steps: {unknown[0]!r} is not one of {', '.join(STEPS)}, or none alone")
        return TextPipeline(lang or "", lang or "", steps=tuple(step for step in STEPS if step in chosen))
    if text_json is not None:
        folder = Path(text_json) if os.path.isdir(text_json) else Path(text_json).parent
        if folder != Path(text_json) and Path(text_json).name != FILE_NAME:
            raise VTLMError(f"{text_json}: not a folder and not named {FILE_NAME} (--text-json)")
        return TextPipeline.load(folder, hint="--text-json names one or its folder; or say the steps with --steps")
    beside = Path(path).parent
    return TextPipeline.load(beside) if (beside / FILE_NAME).is_file() else None


def join_subwords(texts: Sequence[str], *, path: str, kind: str | None, post_process: str | None) -> list[str]:
    """Words of texts that may be in sub-words; texts without marks of sub-words are words already.

    Args:
        texts: of one file.
        path: the file, for messages.
        kind: of BPE, as ``text.json`` says; None if nothing says.
        post_process: the kind that the user names; ``none``: the texts are words.

    Raises:
        VTLMError: sub-words that are not of this kind or of a kind that nobody named, or none where the
            user named one.
    """
    shown = subword_kind(texts)
    if post_process not in (None, "none") and shown is None:
        raise VTLMError(f"{path}: no mark of {post_process} sub-words in it; leave out --post-process")
    expected = post_process or kind
    if shown is None:
        return list(texts)
    if shown != expected:
        says = f"not {expected}" if expected else "and no text.json says how to join them"
        raise VTLMError(f"{path}: sub-words of {shown}, {says}; join them with --post-process {shown}")
    joined = [join_words(text, shown) for text in texts]
    if left := subword_kind(joined):
        raise VTLMError(f"{path}: marks of {left} sub-words are left after joining those of {shown}")
    return joined


def read_output(
    path: str,
    reference: Reference,
    *,
    pipeline: TextPipeline | None,
    lang: str | None,
    post_process: str | None = None,
    allow_missing: bool = False,
) -> Output:
    """Read the translations of a test set, and detokenise them if it has raw references.

    Args:
        path: output of fairseq-generate, or plain lines.
        reference: the test set.
        pipeline: see `find_pipeline`.
        lang: language of the translations; needed with raw references and without a ``text.json``.
        post_process: see `join_subwords`.
        allow_missing: leave out lines without a translation.

    Raises:
        VTLMError: not one translation a line, sub-words, text that cannot be detokenised, or that is already.
    """
    hypotheses = read_hypotheses(path, allow_missing=allow_missing)
    absent = set(hypotheses.require(reference.count, allow_missing=allow_missing))
    kind = pipeline.bpe if pipeline else None
    words = join_subwords(hypotheses.texts, path=path, kind=kind, post_process=post_process)
    if pipeline is not None and looks_running(words, pipeline, lang or pipeline.target_lang):
        raise VTLMError(
            f"{path}: running text, where text.json or --steps says that words are cut by {', '.join(pipeline.steps)}; "
            "have vtlm-translate write tokens with --no-detokenize, or score it as it is: --steps none with --raw-ref"
        )
    wanted = set(reference.lines)
    chosen = [(number, text) for number, text in zip(hypotheses.ids, words, strict=True) if number in wanted]
    if not chosen:
        raise VTLMError(f"{path}: none of the lines that are scored has a translation")
    if reference.words is not None:
        _check_reference(path, reference, pipeline)
    ids, texts = [number for number, _ in chosen], [text for _, text in chosen]
    running = None if reference.raw is None else _running_text(path, texts, pipeline, lang)
    lang = lang or (pipeline.target_lang if pipeline else "")
    if running is not None and not lang and is_unspaced("".join(reference.raw)):
        raise VTLMError("--raw-ref is of a language without spaces, whose words sacreBLEU has to find: give --lang")
    return Output(path, ids, texts, running, sorted(absent & wanted), pipeline, lang)


def _check_reference(path: str, reference: Reference, pipeline: TextPipeline | None) -> None:
    if pipeline is None or "lowercase" not in pipeline.steps:
        return
    for number in reference.lines:
        if reference.words[number] != reference.words[number].lower():
            raise VTLMError(
                f"reference of {path}, line {number + 1}: has capitals, but text.json or --steps says that the model's "
                "text is lower-cased; --ref takes the prepared text, --raw-ref the raw one"
            )


def _running_text(path: str, words: Sequence[str], pipeline: TextPipeline | None, lang: str | None) -> list[str]:
    if pipeline is None:
        raise VTLMError(
            f"{path}: --raw-ref needs to know how the model's text was prepared; give --text-json (file or folder), or "
            "--steps lowercase,normalise,tokenise,escape for text like Multi30k's"
        )
    if "strip_accents" in pipeline.steps:
        raise VTLMError(
            f"{path}: accents were stripped from the model's text, so it cannot be compared with a raw reference; "
            "leave out --raw-ref and see 'BLEU, accents stripped'"
        )
    if "tokenise" not in pipeline.steps:
        return list(words)
    lang = lang or pipeline.target_lang
    if not lang:
        raise VTLMError("--raw-ref needs the language of the translations: give --lang")
    joined = dataclasses.replace(pipeline, bpe="none", target_lang=lang)
    return [joined.decode(text, lang, detokenize=True) for text in words]
