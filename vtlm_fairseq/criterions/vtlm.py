"""Criterion ``vtlm``: masked language modelling plus masked region classification (paper, section 2.2)."""

import math
from dataclasses import dataclass

import torch.nn.functional as F
from fairseq import utils
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor

from vtlm_fairseq.compatibility import check_criterion_task
from vtlm_fairseq.data.translation_lm_dataset import IGNORE
from vtlm_fairseq.options import setting


@dataclass
class VTLMCriterionConfig(FairseqDataclass):
    """Options of the criterion."""

    mrc_weight: float = setting(1.0, "weight of the region loss")


@register_criterion("vtlm", dataclass=VTLMCriterionConfig)
class VTLMCriterion(FairseqCriterion):
    """Mean cross-entropy over masked words + ``mrc_weight`` x mean cross-entropy over selected regions.

    TLM is the same criterion on a batch without regions. ``sample_size`` is 1 for each micro-batch, so that an
    update is the mean over its micro-batches and ranks of the loss above.
    """

    def __init__(self, task, mrc_weight: float = 1.0):
        check_criterion_task(task, VTLMCriterion)
        super().__init__(task)
        self.mrc_weight = mrc_weight

    def forward(self, model, sample, reduce=True):
        """Loss (scalar, float32), sample size (1), and sums and counts for logging."""
        words = sample["target"]
        regions = sample.get("region_target")
        if (predicted := sample.get("predicted")) is not None:
            word_logits, region_logits = model(**sample["net_input"], places=predicted["places"])
            words, regions = predicted["words"], predicted.get("regions")
        else:
            masked_tokens = words.ne(self.padding_idx)
            selected = None if regions is None else regions.ne(IGNORE)
            word_logits, region_logits = model(
                **sample["net_input"], masked_tokens=masked_tokens, selected_regions=selected
            )
            words, regions = words[masked_tokens], None if regions is None else regions[selected]
        logging_output = {
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": 1,
        }
        loss = self._add_part(logging_output, "mlm", word_logits, words, weight=1.0)
        if region_logits is not None:
            loss = loss + self._add_part(logging_output, "mrc", region_logits, regions, weight=self.mrc_weight)
            logging_output["mrc_trivial"] = regions.numel() if region_logits.size(-1) == 1 else 0  # always right
        return loss, 1, logging_output

    @staticmethod
    def _add_part(log: dict, name: str, logits: Tensor, target: Tensor, *, weight: float) -> Tensor:
        """Weighted mean cross-entropy of n x K logits against n targets; 0, still attached, for n = 0."""
        total = F.cross_entropy(logits.float(), target, reduction="sum")
        count = target.numel()
        log[f"{name}_loss_sum"] = total.detach()
        log[f"{name}_weighted_sum"] = total.detach() if weight == 1 else weight * total.detach()
        log[f"{name}_count"] = count
        log[f"{name}_correct"] = (logits.argmax(-1) == target).sum()
        return total * (weight / max(count, 1))

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        """Log ``loss mlm_loss mlm_ppl mlm_accuracy mrc_loss mrc_accuracy accuracy``.

        ``accuracy`` is of words and regions; regions of a store with one class, which are always right, are left out.
        Losses are in base 2 as all of fairseq's, accuracies in per cent; with nothing predicted they are 0 (ppl 1).
        """

        def total(key: str) -> float:
            return float(utils.item(sum(log.get(key, 0) for log in logging_outputs)))

        def ratio(numerator: float, denominator: float) -> float:
            return numerator / denominator if denominator else 0.0

        counts = {name: total(f"{name}_count") for name in ("mlm", "mrc")}
        for name, count in counts.items():
            loss = ratio(total(f"{name}_loss_sum"), count) / math.log(2)
            weighted = ratio(total(f"{name}_weighted_sum"), count) / math.log(2)
            metrics.log_scalar(f"{name}_loss", loss, count, round=3)
            metrics.log_scalar(f"_{name}_weighted", weighted, count)
            accuracy = 100 * ratio(total(f"{name}_correct"), count)
            metrics.log_scalar(f"{name}_accuracy", accuracy, count, round=2)
        trivial = total("mrc_trivial")
        correct = total("mlm_correct") + total("mrc_correct") - trivial
        both = counts["mlm"] + counts["mrc"] - trivial
        metrics.log_scalar("accuracy", 100 * ratio(correct, both), both, round=2)
        metrics.log_derived("mlm_ppl", lambda meters: float(utils.get_perplexity(meters["mlm_loss"].avg, round=3)))
        metrics.log_derived("loss", lambda meters: meters["_mlm_weighted"].avg + meters["_mrc_weighted"].avg)

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Sums and counts only."""
        return True
