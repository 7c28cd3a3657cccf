"""Criterion ``vtlm``: masked language modelling plus objectives over regions (paper, section 2.2)."""

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
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.objectives import RegionObjective, read_objectives
from vtlm_fairseq.objectives.base import full, highest
from vtlm_fairseq.options import setting

MRC, ALWAYS, WEIGHTED = "mrc", ("mlm", "mrc"), "_weighted_sum"


@dataclass
class VTLMCriterionConfig(FairseqDataclass):
    """Options of the criterion."""

    mrc_weight: float = setting(1.0, "weight of mrc in the loss, where --region-objectives says none")


@register_criterion("vtlm", dataclass=VTLMCriterionConfig)
class VTLMCriterion(FairseqCriterion):
    """Mean cross-entropy over masked words + the weighted means of the objectives over regions, the paper's by default.

    TLM is the same criterion on a batch without regions. ``sample_size`` is 1 for each micro-batch, so that an
    update is the mean over its micro-batches and ranks of the loss above.
    """

    def __init__(self, task, mrc_weight: float = 1.0):
        check_criterion_task(task, VTLMCriterion)
        super().__init__(task)
        self.mrc_weight = mrc_weight
        self.objectives: list[RegionObjective] = getattr(task, "objectives", None) or read_objectives(MRC)
        for one in self.objectives:
            if one.name == MRC and one.weight is not None and mrc_weight not in (1, one.weight):
                raise VTLMError(
                    f"--mrc-weight {mrc_weight}: --region-objectives has mrc:{one.weight}; give one of them"
                )

    def weight(self, objective: RegionObjective) -> float:
        """Of an objective in the loss."""
        if objective.weight is not None:
            return objective.weight
        return self.mrc_weight if objective.name == MRC else 1.0

    def forward(self, model, sample, reduce=True):
        """Loss (scalar, float32), sample size (1), and sums and counts for logging."""
        words, predicted = sample["target"], sample.get("predicted")
        own = [one.name for one in self.objectives if one.own_head]
        if predicted is not None:
            more = {"objectives": True} if own else {}
            outputs = model(**sample["net_input"], places=predicted["places"], **more)
            words = predicted["words"]
        else:
            needed = own + [one.name for one in self.objectives if one.reads]
            if needed:
                with exit_on_error():
                    raise VTLMError(
                        f"--region-objectives {needed[0]}: batches of a dataset of your own lack 'predicted', which "
                        "TranslationLMDataset.collater makes; leave it out, or derive the dataset from that one"
                    )
            masked_tokens, regions = words.ne(self.padding_idx), sample.get("region_target")
            selected = None if regions is None else regions.ne(IGNORE)
            outputs = model(**sample["net_input"], masked_tokens=masked_tokens, selected_regions=selected)
            words, predicted = words[masked_tokens], {} if regions is None else {"regions": regions[selected]}
        word_logits, region_logits, *rest = outputs
        logging_output = {
            "ntokens": sample["ntokens"],
            "nsentences": sample["nsentences"],
            "sample_size": 1,
        }
        total, correct = F.cross_entropy(full(word_logits), words, reduction="sum"), _equal(word_logits, words)
        loss = self._add_part(logging_output, "mlm", total, words.numel(), correct, weight=1.0)
        for one in self.objectives:
            output = rest[0].get(one.name) if one.own_head else region_logits
            if output is None:  # a batch without regions
                continue
            target = one.target(predicted, model)
            part, correct = one.loss(output, target), one.correct(output, target) if one.has_accuracy else None
            loss = loss + self._add_part(logging_output, one.key, part, len(target), correct, weight=self.weight(one))
            if one.name == MRC:  # of a single class: always right
                logging_output["mrc_trivial"] = len(target) if output.size(-1) == 1 else 0
        return loss, 1, logging_output

    @staticmethod
    def _add_part(log: dict, key: str, total: Tensor, count: int, correct: Tensor | None, *, weight: float) -> Tensor:
        """Weighted mean of ``count`` losses that add up to ``total``; 0, still attached, for none."""
        log[f"{key}_loss_sum"] = total.detach()
        log[f"{key}_weighted_sum"] = total.detach() if weight == 1 else weight * total.detach()
        log[f"{key}_count"] = count
        if correct is not None:
            log[f"{key}_correct"] = correct
        return total * (weight / max(count, 1))

    def logged(self) -> set[str]:
        """Names of what `reduce_metrics` logs in a training of these objectives."""
        names = {"loss", "mlm_ppl", "accuracy", *(f"{key}_{what}" for key in ALWAYS for what in ("loss", "accuracy"))}
        for one in self.objectives:
            names |= {f"{one.key}_loss"} | ({f"{one.key}_accuracy"} if one.has_accuracy else set())
        return names

    @classmethod
    def reduce_metrics(cls, logging_outputs, prefix: str = "") -> None:
        """Log ``loss mlm_loss mlm_ppl mlm_accuracy mrc_loss mrc_accuracy accuracy``, and losses of other objectives.

        ``accuracy`` is of words and labels of regions; regions of a store with one class, which are always right, are
        left out. Losses are in base 2 as all of fairseq's (nats, or squared differences, divided by ln 2), so that
        ``loss`` is their weighted sum; accuracies in per cent; with nothing predicted they are 0 (ppl 1). A prefix
        stands before the names.
        """

        def total(key: str) -> float:
            return float(utils.item(sum(log.get(key, 0) for log in logging_outputs)))

        def ratio(numerator: float, denominator: float) -> float:
            return numerator / denominator if denominator else 0.0

        said = dict.fromkeys(name for log in logging_outputs for name in log)
        keys = [name.removesuffix(WEIGHTED) for name in said if name.endswith(WEIGHTED)]
        counts = {key: total(f"{key}_count") for key in dict.fromkeys([*ALWAYS, *keys])}
        for key, count in counts.items():
            loss = ratio(total(f"{key}_loss_sum"), count) / math.log(2)
            weighted = ratio(total(f"{key}{WEIGHTED}"), count) / math.log(2)
            metrics.log_scalar(f"{prefix}{key}_loss", loss, count, round=3)
            metrics.log_scalar(f"_{prefix}{key}_weighted", weighted, count)
            if key in ALWAYS or f"{key}_correct" in said:
                accuracy = 100 * ratio(total(f"{key}_correct"), count)
                metrics.log_scalar(f"{prefix}{key}_accuracy", accuracy, count, round=2)
        trivial = total("mrc_trivial")
        correct = total("mlm_correct") + total("mrc_correct") - trivial
        both = counts["mlm"] + counts["mrc"] - trivial
        metrics.log_scalar(f"{prefix}accuracy", 100 * ratio(correct, both), both, round=2)
        metrics.log_derived(
            f"{prefix}mlm_ppl", lambda meters: float(utils.get_perplexity(meters[f"{prefix}mlm_loss"].avg, round=3))
        )
        metrics.log_derived(
            f"{prefix}loss", lambda meters: sum(meters[f"_{prefix}{key}_weighted"].avg for key in counts)
        )

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Sums and counts only."""
        return True


def _equal(logits: Tensor, target: Tensor) -> Tensor:
    """How many of n x K logits are highest at their target."""
    return (highest(logits) == target).sum()
