"""An NMT of this package that translates captions, in place of one of fairseq's."""

from __future__ import annotations

import argparse

from vtlm_fairseq.errors import VTLMError

_USUAL = 32  # source tokens of a caption, at most as a rule


class OwnTranslator:
    """An NMT of this package, whose folder holds ``text.json``: the same interface as `TextTranslator`.

    Attributes:
        cut: sentences that were too long for the model and lost their end.

    Raises:
        VTLMError: a file is missing or unreadable, or the model needs regions.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        from vtlm_fairseq.inference import Translator

        folder = arguments.model
        paths = [str(folder / name) for name in arguments.checkpoint.split(":")]
        self._model = Translator(paths, data=str(folder), cpu=arguments.cpu)
        languages = (arguments.source_lang, arguments.target_lang)
        if languages != (self._model.source_lang, self._model.target_lang):
            raise VTLMError(
                f"{paths[0]}: translates {self._model.source_lang} to {self._model.target_lang}, not "
                f"{' to '.join(languages)}; see -s and -t"
            )
        self.models, self.cuda = self._model.models, self._model.cuda
        self._detokenize = arguments.tokenizer == "moses"
        self._beam, self._batch = arguments.beam, max(1, arguments.max_tokens // _USUAL)
        self.cut = 0

    def translate(self, sentences: list[str]) -> list[str]:
        """Translations in order; an empty sentence gives an empty one, an over-long one is cut."""
        made = self._model.translate(
            [self._fit(sentence) for sentence in sentences],
            beam=self._beam,
            batch_size=self._batch,
            detokenize=self._detokenize,
        )
        return [" ".join(text.split()) for text in made]

    def _fit(self, sentence: str) -> str:
        """The sentence, or as many of its first words as the model takes."""
        words, limit = sentence.split(), self._model.max_positions[0] - 1
        fitting = words
        while len(self._model.encode(" ".join(fitting))) > limit:
            fitting = fitting[: len(fitting) // 2]
        self.cut += len(fitting) < len(words)
        return " ".join(fitting)
