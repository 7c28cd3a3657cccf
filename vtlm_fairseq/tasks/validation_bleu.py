"""What ``--eval-bleu`` compares: the text that people read, not sub-words, where ``text.json`` says how to make it.

fairseq's default is to compare what the model writes. Sub-words are more and easier to get right than words: their BLEU
is another figure, some twenty points higher.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fairseq.checkpoint_utils import save_checkpoint
from fairseq.data import Dictionary
from sacrebleu.metrics import BLEU

from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.pipeline import FILE_NAME, TextPipeline
from vtlm_fairseq.text.subwords import dictionary_kind
from vtlm_fairseq.text.unspaced import SACREBLEU_WORDS, is_unspaced_language, language_of

logger = get_logger(__name__)


@dataclass(frozen=True)
class Spelling:
    """How hypotheses and references are spelled before they are compared.

    Attributes:
        name: what is compared, for the log and the checkpoint.
        decode: from the symbols of a sentence, separated by spaces; takes the place of fairseq's tokenizer.
    """

    name: str
    decode: Callable[[str], str]


def choose_spelling(cfg, *, folder: str, dictionary: Dictionary, tokenizer=None) -> Spelling:
    """The spelling that options ask for, and where they are silent ``text.json``.

    Where ``--eval-bleu-remove-bpe`` is given, also as ``none``, nothing is taken from ``text.json``.

    Args:
        cfg: the task's configuration.
        folder: of the data.
        dictionary: of the target.
        tokenizer: fairseq's, that ``--eval-bleu-detok`` names.

    Raises:
        VTLMError: ``text.json`` is there and cannot be read.
    """
    ours = tokenizer.decode if tokenizer is not None else str
    detokenised = f", detokenised by {cfg.eval_bleu_detok}" if cfg.eval_bleu_detok not in (None, "space") else ""
    if cfg.eval_bleu_remove_bpe is not None:  # removed by fairseq, before it hands the sentence to the tokenizer
        kept = cfg.eval_bleu_remove_bpe == "none"
        what = "what the model writes" if kept else f"words (--eval-bleu-remove-bpe {cfg.eval_bleu_remove_bpe})"
        return Spelling(f"{what}{detokenised}", ours)
    if not os.path.exists(os.path.join(folder, FILE_NAME)):
        if dictionary_kind(dictionary.symbols):
            logger.warning(
                "--eval-bleu compares sub-words, whose BLEU is higher than that of words: %s holds no text.json; give "
                "--eval-bleu-remove-bpe sentencepiece or @@, or none if that is meant",
                folder,
            )
        return Spelling(f"what the model writes{detokenised}", ours)
    lang = cfg.target_lang
    pipeline = replace(TextPipeline.load(folder), target_lang=lang)  # which may be of another pair
    running = not detokenised and not cfg.eval_tokenized_bleu and "tokenise" in pipeline.steps
    if running:
        return _running(pipeline, lang)
    if pipeline.bpe == "none":
        return Spelling(f"what the model writes{detokenised}", ours)
    return Spelling(f"words (as text.json says){detokenised}", lambda pieces: ours(pipeline.decode(pieces, lang)))


def _running(pipeline: TextPipeline, lang: str) -> Spelling:
    name = "running text (as text.json says)"
    if not is_unspaced_language(lang):
        return Spelling(name, lambda pieces: pipeline.decode(pieces, lang, True))
    # fairseq has sacreBLEU cut it by 13a, which finds no words in a language without spaces, and leaves these alone
    kind = SACREBLEU_WORDS[language_of(lang)]
    try:
        cut = BLEU(tokenize=kind, force=True).tokenizer
    except RuntimeError:  # MeCab is not installed
        kind, cut = "char", BLEU(tokenize="char", force=True).tokenizer
    return Spelling(f"{name}, sacreBLEU's words ({kind})", lambda pieces: cut(pipeline.decode(pieces, lang, True)))


def count_anew(spelling: Spelling, restored: Mapping) -> None:
    """Forget the best BLEU of a checkpoint that was computed from another spelling.

    Args:
        spelling: of the training that goes on.
        restored: the checkpoint's state.
    """
    if _is_another(spelling, restored) and hasattr(save_checkpoint, "best"):
        logger.warning(
            "the checkpoint's BLEU is not one of %s, as from here on: the best checkpoint is counted anew; to go on as "
            "before, give --eval-bleu-remove-bpe none",
            spelling.name,
        )
        del save_checkpoint.best


def _is_another(spelling: Spelling, restored: Mapping) -> bool:
    # a checkpoint that does not say compared what the model writes, unless its options said otherwise
    task = (restored.get("cfg") or {}).get("task") or {}
    if not isinstance(task, Mapping) or not task.get("eval_bleu"):
        return False
    known = (restored.get("task_state") or {}).get("bleu_of")
    silent = task.get("eval_bleu_remove_bpe") is None
    return known != spelling.name if known is not None else silent and "text.json" in spelling.name
