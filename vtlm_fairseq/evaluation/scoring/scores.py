"""sacreBLEU's measures as this package uses them, each with its signature; statistics over seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED
from vtlm_fairseq.ranges import COUNT, RESAMPLING_SEED, check_numbers
from vtlm_fairseq.text.pipeline import TextPipeline
from vtlm_fairseq.text.unspaced import SACREBLEU_WORDS, language_of

_ACCENTS = TextPipeline(source_lang="", target_lang="", steps=("strip_accents",))


def strip_accents(text: str) -> str:
    """Decompose and drop combining marks, as the paper's authors did: a with umlaut becomes a, sharp s stays."""
    return _ACCENTS.preprocess(text, "")


@dataclass(frozen=True)
class Measure:
    """A measure of sacreBLEU with fixed settings.

    Attributes:
        label: its name in tables.
        build: makes the metric.
        prepare: applied to hypothesis and reference before.
        sentence: makes the metric for single sentences, where that differs (BLEU with effective order).
    """

    label: str
    build: Callable[[], Metric]
    prepare: Callable[[str], str] = str
    sentence: Callable[[], Metric] | None = None

    def score(self, hypotheses: Sequence[str], references: Sequence[str]) -> Figure:
        """The score of a corpus.

        Raises:
            VTLMError: not one reference for each hypothesis, or none at all.
        """
        hyps, refs = self._texts(hypotheses, references)
        metric = self.build()
        value = metric.corpus_score(hyps, [refs]).score
        return Figure(self.label, value, str(metric.get_signature()))

    def sentence_scores(self, hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
        """The score of each sentence by itself."""
        hyps, refs = self._texts(hypotheses, references)
        metric = (self.sentence or self.build)()
        return [metric.sentence_score(hyp, [ref]).score for hyp, ref in zip(hyps, refs, strict=True)]

    def statistics(self, hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """[N, M] statistics of each sentence; their sum is the corpus's."""
        hyps, refs = self._texts(hypotheses, references)
        return np.array(self.build()._extract_corpus_statistics(hyps, [refs]))

    def scores(self, statistics: np.ndarray) -> np.ndarray:
        """[...] scores of corpora from their statistics [..., M]."""
        metric, rows = self.build(), statistics.reshape(-1, statistics.shape[-1])
        # counts are whole numbers, which BLEU takes as such
        found = [metric._compute_score_from_stats(np.rint(row).astype(np.int64).tolist()).score for row in rows]
        return np.array(found).reshape(statistics.shape[:-1])

    def _texts(self, hypotheses: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
        if len(hypotheses) != len(references) or not hypotheses:
            raise VTLMError(f"{len(hypotheses)} hypotheses, {len(references)} references; give one for each, see --ref")
        return [self.prepare(text) for text in hypotheses], [self.prepare(text) for text in references]


@dataclass(frozen=True)
class Figure:
    """A score: the label of its measure, value in 0..100, and the signature that says how it was computed."""

    label: str
    value: float
    signature: str


def _bleu(*, tokenize: str, lowercase: bool = False, sentence: bool = False) -> Callable[[], Metric]:
    def build() -> Metric:
        try:
            # force: no warning that the text looks tokenised
            return BLEU(tokenize=tokenize, lowercase=lowercase, effective_order=sentence, force=True)
        except RuntimeError as error:  # MeCab is not installed
            lang = tokenize.partition("-")[0]
            raise VTLMError(
                f"BLEU of {lang} counts MeCab's words, which is not installed: pip install 'sacrebleu[{lang}]'"
            ) from error

    return build


TOKENISED = Measure("BLEU", _bleu(tokenize="none"), sentence=_bleu(tokenize="none", sentence=True))
"""BLEU of tokenised text as it is, sacreBLEU's ``tokenize=none``."""

STRIPPED = Measure("BLEU, accents stripped", TOKENISED.build, strip_accents, TOKENISED.sentence)
"""The authors' variant: the same on text without accents, hypotheses and references alike."""


def detokenised_measures(*, lowercase: bool, lang: str = "") -> list[Measure]:
    """BLEU, chrF and TER, for detokenised hypotheses and raw references.

    BLEU is that of sacreBLEU's words of the language (13a for most), TER counts Chinese and Japanese characters, and is
    left out for scripts without spaces whose words nothing here finds.

    Args:
        lowercase: ignore case (sacreBLEU's ``-lc``), for models of lower-cased text. TER always ignores it,
            which is sacreBLEU's default.
        lang: code of the language; what follows its first hyphen or underscore does not matter.
    """
    language = language_of(lang)
    words = SACREBLEU_WORDS.get(language, "13a")
    measures = [
        Measure(
            f"BLEU {words}",
            _bleu(tokenize=words, lowercase=lowercase),
            sentence=_bleu(tokenize=words, lowercase=lowercase, sentence=True),
        ),
        Measure("chrF2", lambda: CHRF(lowercase=lowercase)),
    ]
    if words != "char":
        asian = language in ("zh", "ja")  # sacreBLEU's asian_support does nothing unless text is normalised
        measures.append(Measure("TER", lambda: TER(normalized=asian, asian_support=asian)))
    return measures


def seed_statistics(values: Sequence[float]) -> tuple[float, float | None, float]:
    """Mean, sample standard deviation (n - 1; None for one value) and maximum over the seeds of a system.

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("no values")
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.fmean(values), deviation, max(values)


@dataclass(frozen=True)
class Comparison:
    """Paired bootstrap of a system against a baseline.

    Attributes:
        score: of the system.
        baseline: score of the baseline.
        p_value: how often resampling alone makes so great a difference, two-sided; 1 if there is none (sacreBLEU
            itself gives equal outputs its smallest p).
        interval: 95 % confidence interval of the system's score (lower, upper).
        signature: of the measure, with number of samples and seed.
    """

    score: float
    baseline: float
    p_value: float
    interval: tuple[float, float]
    signature: str

    @property
    def difference(self) -> float:
        """System minus baseline."""
        return self.score - self.baseline


def paired_bootstrap(
    hypotheses: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[str],
    *,
    measure: Measure = TOKENISED,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Comparison:
    """sacreBLEU's paired bootstrap test; the same arguments give the same result.

    Args:
        hypotheses: of the system.
        baseline: hypotheses of the other system.
        references: the same for both.
        measure: what is compared.
        samples: number of resamples.
        seed: of the resampling, from 1.

    Raises:
        VTLMError: the lengths differ, or samples or seed are out of range: of 0, sacreBLEU takes a default or none.
    """
    check_numbers({"samples": samples, "seed": seed}, {"samples": COUNT, "seed": RESAMPLING_SEED})
    hyps, refs = measure._texts(hypotheses, references)
    base, _ = measure._texts(baseline, references)
    with _sacrebleu_seed(seed):
        test = PairedTest(
            [("baseline", base), ("system", hyps)], {"it": measure.build()}, [refs], test_type="bs", n_samples=samples
        )
        signatures, results = test()
    (name,) = signatures
    theirs, ours = results[name]
    return Comparison(
        score=ours.score,
        baseline=theirs.score,
        p_value=ours.p_value if ours.score != theirs.score else 1.0,
        interval=(float(ours.mean - ours.ci), float(ours.mean + ours.ci)),
        signature=str(signatures[name]),
    )


@contextmanager
def _sacrebleu_seed(seed: int) -> Iterator[None]:
    """sacreBLEU takes the seed from the environment only."""
    name = "SACREBLEU_SEED"
    before = os.environ.get(name)
    os.environ[name] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
