"""Task ``multimodal_translation``: text-only NMT and multimodal MT (paper, section 2.4)."""

from dataclasses import dataclass, fields
from typing import Optional

import sacrebleu
import torch
from fairseq import utils
from fairseq.criterions.cross_entropy import CrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.criterions.label_smoothed_cross_entropy_with_alignment import (
    LabelSmoothedCrossEntropyCriterionWithAlignment,
)
from fairseq.criterions.label_smoothed_cross_entropy_with_rdrop import RdropLabelSmoothedCrossEntropyCriterion
from fairseq.dataclass.configs import GenerationConfig
from fairseq.logging import metrics
from fairseq.models import BaseFairseqModel
from fairseq.tasks import register_task
from fairseq.tasks.translation import EVAL_BLEU_ORDER, TranslationTask
from torch import Tensor

from vtlm_fairseq.checkpoints import load_checkpoint
from vtlm_fairseq.compatibility import tasks_of
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.data.translation_dataset import MultimodalTranslationDataset
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.models.alignment import align_words
from vtlm_fairseq.models.multimodal_transformer import MultimodalTransformer
from vtlm_fairseq.options import setting
from vtlm_fairseq.ranges import check_generation
from vtlm_fairseq.tasks.captions import CaptionsTask
from vtlm_fairseq.tasks.options import CaptionsConfig
from vtlm_fairseq.tasks.validation_bleu import Spelling, choose_spelling, count_anew
from vtlm_fairseq.tasks.warm_start import WarmStart
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

KNOWN = {"eval_bleu_args": {one.name for one in fields(GenerationConfig)} - {"_name"}}
"""Keys of JSON objects in options."""


@dataclass
class MultimodalTranslationConfig(CaptionsConfig):
    """Options of translation; those of ``--eval-bleu`` are fairseq's."""

    zero_shot: bool = setting(
        False, "decode a pair that the model was not trained on, of languages that it has from pre-training"
    )
    truncate_source: Optional[bool] = setting(None, "cut sources to --max-source-positions instead of skipping them")
    eval_bleu: bool = setting(False, "decode the validation set and log BLEU")
    eval_bleu_args: Optional[str] = setting("{}", 'options of decoding as JSON, such as \'{"beam": 4, "lenpen": 0.6}\'')
    eval_bleu_detok: str = setting(
        "space", "fairseq tokenizer that detokenises before BLEU (default: as text.json says; else none)"
    )
    eval_bleu_detok_args: Optional[str] = setting("{}", "its arguments as JSON")
    eval_tokenized_bleu: bool = setting(False, "BLEU with sacreBLEU's tokenize=none")
    eval_bleu_remove_bpe: Optional[str] = setting(
        None,
        "how to join sub-words before BLEU: sentencepiece, @@ or none (default: as text.json says)",
        argparse_const="@@ ",
    )
    eval_bleu_print_samples: bool = setting(False, "log a hypothesis at each validation")


@register_task("multimodal_translation", dataclass=MultimodalTranslationConfig)
class MultimodalTranslationTask(WarmStart, CaptionsTask, TranslationTask):
    """Translation with ``--regions`` (MMT) or without (NMT), from scratch or from a pre-trained encoder."""

    cfg: MultimodalTranslationConfig
    spelling: Spelling | None = None  # with --eval-bleu
    model_class = MultimodalTransformer
    criteria = (
        CrossEntropyCriterion,
        LabelSmoothedCrossEntropyCriterion,
        LabelSmoothedCrossEntropyCriterionWithAlignment,
        RdropLabelSmoothedCrossEntropyCriterion,
    )

    def build_model(self, cfg, from_checkpoint=False):
        """Build a model, after a look at options that are not read before the end of an epoch."""
        with exit_on_error():
            for name in ("eval_bleu_args", "eval_bleu_detok_args") if self.cfg.eval_bleu else ():
                option = f"--{name.replace('_', '-')}"
                found = parse_object(self.cfg[name] or "", option, hint="give an object such as '{\"beam\": 4}'")
                if unknown := sorted(set(found) - KNOWN[name]) if name in KNOWN else ():
                    raise VTLMError(
                        f"{option}: no option of decoding: {', '.join(unknown)}; "
                        f"known are {', '.join(sorted(KNOWN[name]))}"
                    )
            model = super().build_model(cfg, from_checkpoint)
            if self.cfg.eval_bleu:
                folder = utils.split_paths(self.cfg.data)[0]
                self.tokenizer = self.spelling = choose_spelling(
                    self.cfg, folder=folder, dictionary=self.target_dictionary, tokenizer=self.tokenizer
                )
                logger.info("--eval-bleu compares %s", self.spelling.name)
            return model

    def state_dict(self) -> dict:
        """Besides the symbols, what the BLEU of validation compares."""
        return {**super().state_dict(), **({"bleu_of": self.spelling.name} if self.spelling else {})}

    def begin_best(self) -> None:
        """As in pre-training; a best BLEU of other text does not count."""
        super().begin_best()
        by_bleu = self.training is not None and self.training.best.metric == "bleu"
        if self.spelling and by_bleu and (restored := self.restored_checkpoint()):
            count_anew(self.spelling, load_checkpoint(restored, mmap=True))

    def _adopt(self, cfg) -> None:
        super()._adopt(cfg)
        ours, theirs = (self.cfg.source_lang, self.cfg.target_lang), (cfg.source_lang, cfg.target_lang)
        if ours == theirs:
            return
        said = f"the checkpoint translates {theirs[0]}-{theirs[1]}, this command asks for {ours[0]}-{ours[1]}"
        lacking = [lang for lang in ours if lang not in cfg.langs.split(",")]
        if lacking or not self.cfg.zero_shot:
            more = (
                f" (it has no {lacking[0]})" if lacking else ", or try a pair that it was not trained on: --zero-shot"
            )
            raise VTLMError(f"{said}; use -s {theirs[0]} -t {theirs[1]}{more}")
        logger.warning("%s, which it was not trained on: --zero-shot", said)
        cfg.source_lang, cfg.target_lang = ours  # rows of the tables of languages

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target sentence in tokens."""
        return (self.option("max_source_positions"), self.option("max_target_positions"))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs) -> None:
        """Load a split; ``train`` is shuffled, any other keeps its order."""
        with exit_on_error():
            self.complete(kwargs.get("task_cfg"))
            pair, regions = self.load_pair(split, epoch=epoch, combine=combine)
            self.datasets[split] = MultimodalTranslationDataset.from_pair(
                pair, regions=regions, shuffle=split == self.cfg.train_subset
            )

    def build_dataset_for_inference(self, src_tokens, src_lengths, constraints=None):
        """Dataset of new sentences, text only (fairseq-interactive keeps nothing but the source tokens)."""
        with exit_on_error():
            if self.has_regions and self.option("region_order") != "none":
                raise VTLMError(
                    "this model translates with regions, for which fairseq-interactive has no input; "
                    "use vtlm-translate, or hide the regions with --region-order none"
                )
        return self.inference_dataset(src_tokens, src_lengths, regions=None, constraints=constraints)

    def inference_dataset(
        self, src_tokens, src_lengths, *, regions: LineRegions | None, constraints=None
    ) -> MultimodalTranslationDataset:
        """Dataset of new sentences: tensors of ids ending in ``</s>``, their lengths, and their regions."""
        tokens = [self.cut(ids) for ids in src_tokens]
        return MultimodalTranslationDataset(
            tokens,
            [len(ids) for ids in tokens],
            self.source_dictionary,
            tgt_dict=self.target_dictionary,
            left_pad_source=False,
            shuffle=False,
            constraints=constraints,
            regions=regions,
        )

    def cut(self, ids: Tensor) -> Tensor:
        """A source sentence [n], which ends in ``</s>``, as a split with ``--truncate-source`` has it."""
        longest = self.option("max_source_positions") - 1  # the leading </s>
        if not self.option("truncate_source") or len(ids) <= longest:
            return ids
        return torch.cat([ids[: longest - 1], ids[-1:]])

    def build_generator(self, models, args, seq_gen_cls=None, extra_gen_cls_kwargs=None, **kwargs):
        """As fairseq's; ``<mask>`` and the dictionary's padding words are never generated."""
        extra = dict(extra_gen_cls_kwargs or {})
        with exit_on_error():
            check_generation(args)
            if isinstance(extra.get("lm_model"), BaseFairseqModel) and tasks_of(type(extra["lm_model"])):
                raise VTLMError("--lm-path is for a language model of fairseq's; no model of this package is one")
        if not getattr(args, "score_reference", False):
            is_word = word_mask(self.target_dictionary)
            is_word[: self.target_dictionary.nspecial] = True  # fairseq's own symbols are its own business
            extra["tokens_to_suppress"] = tuple(
                symbol for symbol, keep in zip(self.target_dictionary.symbols, is_word, strict=True) if not keep
            )
        return super().build_generator(models, args, seq_gen_cls, extra, **kwargs)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """As the parent task's; alignments (``--print-alignment``) are those of words."""
        return align_words(super().inference_step(generator, models, sample, prefix_tokens, constraints))

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        """As TranslationTask's, with the BLEU counts as plain numbers.

        TranslationTask logs numpy arrays; they would be saved with the checkpoint, which ``torch.load`` then refuses.
        """
        logging_outputs = self.agreed_logs(logging_outputs, criterion)
        super(TranslationTask, self).reduce_metrics(logging_outputs, criterion)
        if not self.cfg.eval_bleu or not any("_bleu_sys_len" in log for log in logging_outputs):
            return  # a batch of training
        names = ["_bleu_sys_len", "_bleu_ref_len"]
        names += [f"_bleu_{kind}_{i}" for kind in ("counts", "totals") for i in range(EVAL_BLEU_ORDER)]
        sums = {name: float(utils.item(sum(log.get(name, 0) for log in logging_outputs))) for name in names}
        for name, value in sums.items():
            metrics.log_scalar(name, value)

        def bleu(meters) -> float:
            score = sacrebleu.BLEU.compute_bleu(
                correct=[int(meters[f"_bleu_counts_{i}"].sum) for i in range(EVAL_BLEU_ORDER)],
                total=[int(meters[f"_bleu_totals_{i}"].sum) for i in range(EVAL_BLEU_ORDER)],
                sys_len=int(meters["_bleu_sys_len"].sum),
                ref_len=int(meters["_bleu_ref_len"].sum),
                smooth_method="exp",
            )
            return float(round(score.score, 2))

        metrics.log_derived("bleu", bleu)
