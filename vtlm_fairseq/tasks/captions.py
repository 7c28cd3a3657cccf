"""What both tasks do alike: dictionary with ``<mask>``, languages, regions, checkpoints that describe themselves."""

import os
import time

import torch
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.distributed import utils as distributed_utils
from omegaconf import open_dict

from vtlm_fairseq import ranges
from vtlm_fairseq.checkpoint_guard import check_part
from vtlm_fairseq.checkpoints import check_model_name, check_room, complete_best, load_checkpoint
from vtlm_fairseq.compatibility import check_criterion, check_model, check_whole_command
from vtlm_fairseq.data.corpora import Corpus
from vtlm_fairseq.data.dictionary import check_symbols, first_difference, read_dictionary, refuse_marks
from vtlm_fairseq.data.split_files import CHECKPOINT_PAIR, NO_LANGUAGE, PAIR_OPTIONS, check_valid_subsets, language_pair
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.files.names import check_distinct, check_languages
from vtlm_fairseq.health import LoaderWatch, LossWatch
from vtlm_fairseq.loading import check_beside, check_files, check_path_option
from vtlm_fairseq.models.description import Description
from vtlm_fairseq.regions.suspicions import feature_figures
from vtlm_fairseq.tasks.acceleration import compile_model, say_speed, set_up_device
from vtlm_fairseq.tasks.beside import check_targets, place_beside, sharding, text_files
from vtlm_fairseq.tasks.described import DescribedTask
from vtlm_fairseq.tasks.preemption import pass_on_to_ranks
from vtlm_fairseq.tasks.runs import TrainingRun, keep_log, whole_config
from vtlm_fairseq.tasks.splits import Splits
from vtlm_fairseq.tasks.steps import WatchedSteps
from vtlm_fairseq.terminal import get_logger
from vtlm_fairseq.text.subwords import MASK

logger = get_logger(__name__)


class CaptionsTask(WatchedSteps, Splits, DescribedTask):
    """Mixin in front of a fairseq task. Faults of input and options end a command with one line."""

    model_class: type
    criteria: tuple[type, ...]
    uses_classes: bool = False  # of regions, in training
    region_positions: int = 0
    parameter_bytes: int = 0
    started: float = float("inf")

    @classmethod
    def load_dictionary(cls, filename: str) -> Dictionary:
        """Load ``dict.*.txt``; ``<mask>`` is appended if the dictionary was made by another task."""
        with exit_on_error():
            return read_dictionary(filename)

    @classmethod
    def build_dictionary(cls, filenames, workers=1, threshold=-1, nwords=-1, padding_factor=8) -> Dictionary:
        """Build a dictionary for ``fairseq-preprocess``: words, then ``<mask>``, then padding to a multiple of 8.

        ``<mask>`` is an ordinary line of the file, so stock tasks read the same ids from it.
        """
        with exit_on_error():
            refuse_marks(filenames)
        dictionary = super().build_dictionary(filenames, workers, threshold, nwords, padding_factor=1)
        dictionary.add_symbol(MASK, n=0)
        dictionary.pad_to_multiple_(padding_factor)
        return dictionary

    @classmethod
    def add_args(cls, parser) -> None:
        """As fairseq's; the parser then checks ``--path`` and what is written to. Signals will reach spawned ranks."""
        super().add_args(parser)
        check_path_option(parser)
        check_targets(parser)
        pass_on_to_ranks()

    @classmethod
    def setup_task(cls, cfg, **kwargs):
        """Infer the language pair, load and compare the dictionaries.

        ``fairseq-generate`` and ``fairseq-interactive`` call this before they read ``--path``, so files that are cut
        off are refused here.
        """
        with exit_on_error():
            # a Namespace of fairseq-train has no such option: the interpolation is then left as it is
            for path in utils.split_paths(cfg.path) if cfg.path and not cfg.path.startswith("${") else ():
                if kwargs.get("from_checkpoint"):
                    check_beside(path)
                else:
                    check_files(path, **sharding(cfg))
            if not kwargs.get("from_checkpoint"):
                ranges.check_ranges(cfg, ranges.TASK)
                check_distinct(cfg.source_lang, cfg.target_lang)
                if (whole := whole_config(cfg)) is not None:
                    check_whole_command(whole)
                    ranges.check_command(whole)
            paths = utils.split_paths(cfg.data) if cfg.data else []
            if not paths or not os.path.isdir(paths[0]):
                raise VTLMError(f"data folder {cfg.data!r} does not exist; prepare it with fairseq-preprocess")
            check_languages((cfg.source_lang, cfg.target_lang), paths[0])
            corpora = cls.read_corpora(cfg, from_checkpoint=bool(kwargs.get("from_checkpoint")))
            check_languages((cfg.source_lang, cfg.target_lang, *(cfg.langs.split(",") if cfg.langs else ())), paths[0])
            files = list(dict.fromkeys(path for corpus in corpora for path in corpus.dictionaries()))
            source, *others = map(cls.load_dictionary, files)
            for file, other in zip(files[1:], others, strict=True):
                if difference := first_difference(source.symbols, other.symbols):
                    folder, name = os.path.split(files[0])
                    one = os.path.basename(file) if os.path.dirname(file) == folder else file
                    more = "" if len(corpora) == 1 else ", or for each corpus with the same --srcdict"
                    raise VTLMError(
                        f"{folder}: {name} and {one} differ {difference}; run fairseq-preprocess with "
                        f"--joined-dictionary{more}"
                    )
            target = others[0] if others else source
            set_up_device(cfg)
            task = cls(cfg, source, target)
            task.rebuilt = bool(kwargs.get("from_checkpoint"))
            return task

    @classmethod
    def read_corpora(cls, cfg, *, from_checkpoint: bool) -> list[Corpus]:
        """The corpora of a configuration, whose languages are completed: here one, of one pair.

        Raises:
            VTLMError: a folder does not hold it.
        """
        folder = utils.split_paths(cfg.data)[0]
        if cfg.source_lang is None or cfg.target_lang is None:
            cfg.source_lang, cfg.target_lang = language_pair(folder, cfg.source_lang, cfg.target_lang)
        if NO_LANGUAGE in (cfg.source_lang, cfg.target_lang):
            lang = cfg.source_lang if cfg.target_lang == NO_LANGUAGE else cfg.target_lang
            raise VTLMError(
                f"{folder} holds captions of one language; pre-training reads them with --lang-pairs {lang}"
            )
        corpus = Corpus(f"{cfg.source_lang}-{cfg.target_lang}", cfg.source_lang, cfg.target_lang, folder, cfg.regions)
        corpus.check_held(CHECKPOINT_PAIR if from_checkpoint else PAIR_OPTIONS)
        return [corpus]

    def views(self) -> list["CaptionsTask"]:
        """This task as that of each corpus by itself: here of the only one."""
        return [self]

    # -- checkpoints -------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """Saved in every checkpoint: the symbols, so that a foreign dictionary is noticed wherever it comes from, and
        what the model was trained with.

        fairseq asks for them when it is about to write; where the disk is full it ends with a stack and, for what it
        copies in place, a part of a file. So a run for whose next checkpoint there is no room ends here.
        """
        with exit_on_error():
            check_room(self.cfg.save_dir, self.parameter_bytes, self.started)
        train = self.datasets.get(self.cfg.train_subset)
        examples = {} if train is None else {"examples": len(train)}
        symbols = {"symbols": list(self.source_dictionary.symbols)}
        return {**symbols, **examples, "description": self.describe(), **self.doubts.norms.state()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Compare the checkpoint's symbols with the data's, and keep what it says of its model."""
        with exit_on_error():
            check_symbols(state_dict.get("symbols"), self.source_dictionary, "the checkpoint")
            self.doubts.norms.adopt(state_dict)
            self.source = Description.of_task_state(state_dict.get("description"), "the checkpoint")

    def build_model(self, cfg, from_checkpoint=False):
        """Fill in what the model has to know (see :class:`vtlm_fairseq.models.config.EncoderConfig`), then build it.

        A checkpoint describes itself: on loading, languages and region sizes are read back from it, and options
        that contradict it are errors.
        """
        with exit_on_error():
            if from_checkpoint:
                check_model_name(cfg, "the checkpoint")
            check_model(self, cfg, from_checkpoint=from_checkpoint)
            with open_dict(cfg):
                if from_checkpoint:
                    self._adopt(cfg)
                else:
                    ranges.check_model(cfg)
                    for view in self.views():
                        check_valid_subsets(view.cfg)
                    self.training = TrainingRun.start(self.cfg)
                    self._describe(cfg)
            if self.cfg.autocast == "fp16" and not from_checkpoint and not self.cfg.amp:
                raise VTLMError(
                    "--autocast fp16 without gradient scaling loses small gradients; add --amp, or use bf16"
                )
            self.region_positions = cfg.get("region_positions") or 0
            model = super().build_model(cfg, from_checkpoint)
            if not from_checkpoint and self.has_regions and cfg.region_standardise:
                mean, deviation = feature_figures(self.open_store(self.cfg.train_subset))
                model.encoder.embed_regions.standardise_by(torch.from_numpy(mean), torch.from_numpy(deviation))
            if self.training is not None and not from_checkpoint:
                self.training.lock(self)
                if self.cfg.compile:
                    compile_model(model, self.cfg)
            return model

    def build_criterion(self, cfg, from_checkpoint=False):
        """Build the criterion; a field that a checkpoint has and the class has lost is dropped.

        ``fairseq-validate`` calls this without ``from_checkpoint``, so unknown fields would end in an error. It takes
        the configuration from the checkpoint, and ``ctc``, a criterion for speech, evaluates strings in it as Python.
        """
        with exit_on_error():
            check_criterion(self, cfg)
            check_part("criterion", cfg, "--criterion", built=True)
            ranges.check_ranges(cfg, ranges.CRITERION)
            criterion = super().build_criterion(cfg, from_checkpoint=True)
            if self.training is not None:
                self.training.check(self, criterion)
            return criterion

    def begin_epoch(self, epoch: int, model) -> None:
        """Complete the checkpoint folder: copy dictionaries, BPE model and ``text.json`` beside the checkpoints."""
        super().begin_epoch(epoch, model)
        keep_log(self.cfg)
        with exit_on_error():
            self.files.check()
            self.region_tables.load(next(model.parameters()).device)
        first = self.loss_watch is None
        if first:
            self.check_clipping(model)
            self.loss_watch, self.loader_watch = LossWatch(), LoaderWatch()
            self.loader_watch.start()
            self.begin_best()
            if (whole := whole_config(self.cfg)) is not None:
                say_speed(whole, self.cfg, model)
        if self.cfg.no_save or distributed_utils.get_global_rank() != 0:
            return
        save_dir = self.cfg.save_dir
        with exit_on_error():
            if first:
                self.parameter_bytes = sum(values.nbytes for values in model.parameters())
                self.started = time.time()
                self.complete_best()
            files = [file for view in self.views() for file in text_files(view.cfg)]
            for file in {os.path.basename(file): file for file in reversed(files)}.values():
                place_beside(file, save_dir)

    def complete_best(self) -> None:
        """Make ``checkpoint_best.pt`` again where a kill came before it was whole."""
        restored, save_dir = self.restored_checkpoint(), self.cfg.save_dir
        if self.cfg.no_save or distributed_utils.get_global_rank() != 0 or not restored:
            return
        if os.path.dirname(os.path.abspath(restored)) == os.path.abspath(save_dir):
            complete_best(save_dir, restored, suffix=self.checkpoint_suffix())

    def begin_best(self) -> None:
        """Begin to keep the best checkpoints, once the trainer has read its checkpoint."""
        if self.training is not None:
            restored = self.restored_checkpoint()
            keeps = type(self).post_save is CaptionsTask.post_save  # a derived task's may not call ours
            self.training.best.begin(load_checkpoint(restored, mmap=True) if restored else None, keeps=keeps)

    def begin_valid_epoch(self, epoch: int, model) -> None:
        """Expect the figures of the first validation set."""
        super().begin_valid_epoch(epoch, model)
        if self.training is not None:
            self.training.best.begin_validation()

    def post_validate(self, model, stats: dict, agg) -> None:
        """Called by fairseq with the figures of a validation set: one line where the metric is not among them."""
        if self.training is not None:
            with exit_on_error():
                self.training.best.validated(stats)

    def post_save(self, path: str, num_updates: int) -> None:
        """Called by fairseq, on the first rank, when a checkpoint is saved: keep the best; end after a signal."""
        if self.training is not None:
            with exit_on_error():
                self.training.best.keep(path)
            self.training.stop.saved()

    def check_clipping(self, model) -> None:
        """Refuse ``--cpu`` with ``--clip-norm`` beside a GPU, before the first update fails."""
        # fairseq 0.12.3 takes the norm on the GPU where PyTorch sees one, and cannot scale gradients of the CPU by it
        if torch.cuda.is_available() and self.cfg.clip_norm > 0 and not any(p.is_cuda for p in model.parameters()):
            with exit_on_error():
                raise VTLMError(
                    "--cpu with --clip-norm does not work where fairseq sees a GPU; hide it with CUDA_VISIBLE_DEVICES="
                )

    # -- data --------------------------------------------------------------------------------------------------

    def eval_lm_dataloader(self, *args, **kwargs):
        """What fairseq-eval-lm asks for; no model of this package is a language model."""
        with exit_on_error():
            raise VTLMError("fairseq-eval-lm is for language models; use fairseq-validate, or vtlm-probe mrc")
