"""Run a model of either task on some lines of a split, for the report."""

from collections.abc import Sequence

from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.report.data import Sentence, Spelling
from vtlm_fairseq.evaluation.report.pretraining import pretraining_sentence
from vtlm_fairseq.evaluation.report.translations import translated_sentences
from vtlm_fairseq.evaluation.systems import LoadedModel


def collect(loaded: LoadedModel, lines: Sequence[int] | None, *, spelling: Spelling, beam: int) -> list[Sentence]:
    """Run a model of either task on some lines.

    Args:
        loaded: the model and the split.
        lines: numbers, from 0; None: the first ten, or as many as there are.
        spelling: how words are shown.
        beam: of decoding.

    Raises:
        VTLMError: a line that the split does not have.
    """
    lines = range(min(10, len(loaded.dataset))) if lines is None else lines
    for line in lines:
        if not 0 <= line < len(loaded.dataset):
            raise VTLMError(f"--lines: no line {line + 1}, the split has {len(loaded.dataset)}")
    if isinstance(loaded.dataset, TranslationLMDataset):
        return [pretraining_sentence(loaded, line, spelling=spelling) for line in lines]
    return translated_sentences(loaded, list(lines), spelling=spelling, beam=beam)
