"""What both tasks do at a step: autocast, watches over loss and loader, the agreement to stop."""

import re
from contextlib import nullcontext

import torch
from fairseq.search import DiverseBeamSearch

from vtlm_fairseq.data.batching import raise_fault
from vtlm_fairseq.data.device_regions import TABLE
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.health import LoaderWatch, LossWatch, is_nan_rerun, name_examples
from vtlm_fairseq.models.encoder import match_source_length, share_states
from vtlm_fairseq.precision import warn_if_slow
from vtlm_fairseq.tasks.acceleration import mark_lengths
from vtlm_fairseq.tasks.readings import Readings, as_numbers, reads_numbers
from vtlm_fairseq.tasks.runs import TrainingRun


class WatchedSteps:
    """Mixin in front of a fairseq task."""

    training: TrainingRun | None = None
    loss_watch: LossWatch | None = None
    loader_watch: LoaderWatch | None = None
    readings: Readings | None = None

    def complete_batch(self, sample):
        """A batch as the model takes it: with its features, where it holds their places. A fault ends the command."""
        raise_fault(sample)
        if not sample or TABLE not in sample:
            return sample
        with exit_on_error():
            return self.region_tables.gather(sample)

    def autocast(self, sample):
        """The context that ``--autocast`` asks for."""
        if self.cfg.autocast == "none":
            return nullcontext()
        device = sample["net_input"]["src_tokens"].device.type
        warn_if_slow(self.cfg.autocast, device)
        return torch.autocast(device, torch.bfloat16 if self.cfg.autocast == "bf16" else torch.float16)

    def train_step(self, sample, model, criterion, optimizer, update_num, ignore_grad=False):
        """As FairseqTask's. It switches CUDA autocast off around the criterion, so ours is opened inside."""
        self.batch_arrived()
        sample = self.complete_batch(sample)

        if self.cfg.compile:
            mark_lengths(sample)

        def autocast_criterion(model, sample):
            with self.autocast(sample):
                return criterion(model, sample)

        step = super().train_step
        if self.loss_watch is not None and is_nan_rerun():
            self.loss_watch.report_nan(sample, update_num)
            try:
                return step(sample, model, autocast_criterion, optimizer, update_num, ignore_grad)
            except StopIteration:  # the trainer's NanDetector finds no tensor in what the encoder returns
                return None
        loss, sample_size, logging_output = step(sample, model, autocast_criterion, optimizer, update_num, ignore_grad)
        if self.readings is None:
            self.readings = Readings()
        read = self.readings.add(loss, logging_output if reads_numbers(criterion) else {})
        if self.loss_watch is not None and not ignore_grad:
            self.loss_watch.add(sample, read, sample_size)
        if self.training is not None:
            self.training.stop.tell(logging_output, update_num)
            self.training.time_left.trained(update_num)
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs, criterion) -> None:
        """As the parent task's; all ranks learn here that one of them was asked to stop."""
        super().reduce_metrics(self.agreed_logs(logging_outputs, criterion), criterion)

    def agreed_logs(self, logging_outputs: list[dict], criterion) -> list[dict]:
        """Logging outputs as plain numbers where the criterion takes them, without what is said about the end."""
        if self.training is not None:
            self.training.stop.agree(self, logging_outputs)
        return as_numbers(logging_outputs) if reads_numbers(criterion) else logging_outputs

    def optimizer_step(self, optimizer, model, update_num):
        """As FairseqTask's; names batches whose loss has jumped."""
        if self.readings is not None:
            self.readings.settle()
        if self.loss_watch is not None:
            self.loss_watch.check(update_num)
        super().optimizer_step(optimizer, model, update_num)

    def batch_arrived(self) -> None:
        """Tell the watch over the data loader that it delivers."""
        if self.loader_watch is not None:
            self.loader_watch.arrived()

    def valid_step(self, sample, model, criterion):
        """As the parent task's, under autocast."""
        self.batch_arrived()
        if self.training is not None:
            self.training.time_left.validated()
        sample = self.complete_batch(sample)
        if self.cfg.compile:
            mark_lengths(sample)
        with self.autocast(sample):
            return super().valid_step(sample, model, criterion)

    def inference_step(self, generator, models, sample, prefix_tokens=None, constraints=None):
        """As FairseqTask's, under autocast; the hypotheses of a sentence share their cross-attention keys.

        Scores of which none is a number end the command.
        """
        sample = self.complete_batch(sample)
        ids = sample.get("id")
        sample = match_source_length(share_states(sample, generator), generator)
        if isinstance(getattr(generator, "search", None), DiverseBeamSearch):
            # it takes the ids of sentences for their places in the batch
            sample = {**sample, "id": torch.arange(len(sample["id"]), device=sample["id"].device)}
        try:
            with self.autocast(sample):
                return super().inference_step(generator, models, sample, prefix_tokens, constraints)
        except AssertionError as error:
            # fairseq's generator ends a hypothesis at the last step, whatever its score, unless that is NaN
            if not re.fullmatch(r"(\d+) < \1", str(error)):
                raise
        with exit_on_error():
            raise VTLMError(
                f"the model's scores are not finite (NaN); {name_examples(ids)}; see whether --regions holds features "
                "of another scale (vtlm-regions info), or take an earlier checkpoint"
            )
