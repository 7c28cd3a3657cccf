"""Task ``visual_translation_lm``: pre-training on caption pairs and regions (paper, sections 2.1 to 2.3)."""

from dataclasses import dataclass
from typing import Optional

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import FairseqTask, register_task

from vtlm_fairseq.compatibility import FINE_TUNE
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.share_schedule import ShareSchedule
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.models.vtlm import VTLMModel
from vtlm_fairseq.objectives import RegionObjective, needs_of, read_objectives
from vtlm_fairseq.options import setting
from vtlm_fairseq.ranges import SHARE, Range, check_ranges, option
from vtlm_fairseq.tasks.acceleration import length_multiple
from vtlm_fairseq.tasks.captions import CaptionsTask
from vtlm_fairseq.tasks.lang_pairs import LangPairs, LangPairsConfig
from vtlm_fairseq.tasks.masks import Strategies, tell_masks
from vtlm_fairseq.tasks.warm_start import WarmStart
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

WORD_SHARES = ("mask_prob", "leave_unmasked_prob", "random_token_prob")
REGION_SHARES = ("region_mask_prob", "region_leave_unmasked_prob", "region_random_prob")


@dataclass
class VisualTranslationLMConfig(LangPairsConfig):
    """Options of pre-training. None: not given, then the checkpoint's, else the paper's (models/description.py)."""

    mask_prob: Optional[float] = setting(None, "share of words that are predicted")
    leave_unmasked_prob: Optional[float] = setting(None, "share of predicted words that stay as they are")
    random_token_prob: Optional[float] = setting(
        None, "share of predicted words that become a random word (the rest: <mask>)"
    )
    word_masking: Optional[str] = setting(
        None,
        "which words are predicted: random (the paper's), whole-word (all sub-words of a word), named (first words "
        "that name a region that can be seen), aligned-nouns (a noun and its translation, see vtlm-prepare nouns), or "
        "a strategy that --user-dir registers; several in shares: aligned-nouns:0.8,random:0.2",
    )
    aligned_share: Optional[float] = setting(
        None,
        "aligned-nouns: in this share of the pairs that have aligned nouns one of them is all that is masked, in both "
        "languages; the other pairs are masked at random (1 in a mixture, whose shares stand in its place)",
    )
    region_mask_prob: Optional[float] = setting(None, "share of regions whose label is predicted")
    region_leave_unmasked_prob: Optional[float] = setting(
        None,
        "share of predicted regions that stay as they are (1, with --region-random-prob 0: the paper's "
        "alternative without visual masking)",
    )
    region_random_prob: Optional[float] = setting(
        None, "share of predicted regions that get the features of a random region of the batch"
    )
    region_masking: Optional[str] = setting(
        None,
        "which regions are predicted: random (the paper's), overlap (what overlaps them is hidden too), siblings (all "
        "of a label together), salient (by score x area), named (first those that a caption names), or a strategy that "
        "--user-dir registers",
    )
    region_mask_overlap: Optional[float] = setting(
        None, "overlap: the least intersection over union with which a region is hidden beside a predicted one"
    )
    region_mask_schedule: Optional[str] = setting(
        None,
        "SHAPE:FROM:TO:EPOCHS, such as linear:0.05:0.3:20 or cosine:...: the share of regions whose label is "
        "predicted in training goes from one to the other over so many epochs; validation has --region-mask-prob",
    )
    class_lexicon: Optional[str] = setting(
        None,
        "named: file of words that name a region class beside the class names themselves: word, tab, class name; of "
        "either language",
    )
    region_mask_fill: Optional[ChoiceEnum(["mask", "zero"])] = setting(
        None, "masked regions: the <mask> embedding in place of the projected features, or features 0"
    )
    region_objectives: Optional[str] = setting(
        None,
        "what is learnt of regions, comma-separated, each with :WEIGHT in the loss (default: 1): mrc (their class, the "
        "paper's), mrc-kl (scores of all classes), mrfr (their features), itm (whether the image is the captions'), or "
        "what --user-dir registers",
    )


@register_task("visual_translation_lm", dataclass=VisualTranslationLMConfig)
class VisualTranslationLMTask(WarmStart, LangPairs, CaptionsTask, FairseqTask):
    """TLM (``--regions none``) and VTLM."""

    uses_classes = True
    cfg: VisualTranslationLMConfig
    model_class = VTLMModel
    criteria = (VTLMCriterion,)

    def __init__(self, cfg: VisualTranslationLMConfig, src_dict, tgt_dict):
        super().__init__(cfg)
        self.src_dict = src_dict
        self.tgt_dict = tgt_dict
        _ = self.word_rates, self.region_rates, self.region_schedule  # refused where they do not fit together
        ranges = {"aligned_share": SHARE, "region_mask_overlap": Range(0, 1, above=True)}
        check_ranges({name: self.option(name) for name in ranges}, ranges)
        read_objectives(self.option("region_objectives"))  # refuses unknown ones

    @property
    def word_rates(self) -> MaskingRates:
        """Shares of words."""
        return self._rates(WORD_SHARES)

    @property
    def region_rates(self) -> MaskingRates:
        """Shares of regions."""
        return self._rates(REGION_SHARES)

    @property
    def region_schedule(self) -> ShareSchedule | None:
        """How the share of predicted regions goes over the epochs."""
        return ShareSchedule.parse(self.option("region_mask_schedule"))

    @property
    def objectives(self) -> list[RegionObjective]:
        """Parts of the loss that are about regions."""
        return read_objectives(self.option("region_objectives"))

    def _rates(self, names: tuple[str, ...]) -> MaskingRates:
        return masking_rates({option(name): self.option(name) for name in names})

    def _adopt(self, cfg) -> None:
        super()._adopt(cfg)
        if missing := set(self.languages()).difference(cfg.langs.split(",")):
            raise VTLMError(
                f"the checkpoint has the languages {cfg.langs}, this command asks for {min(missing)!r}; "
                f"{self.pair_hint()}"
            )

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs) -> None:
        """Load a split; ``train`` is shuffled and masked anew each epoch, any other has fixed masks."""
        with exit_on_error():
            self.complete(kwargs.get("task_cfg"))
            make = self.load_corpora if self.corpora else self.make_dataset
            self.datasets[split] = make(split, epoch=epoch, combine=combine)
            if split != self.cfg.train_subset:
                self.warn_of_figures()

    def make_dataset(self, split: str, *, epoch: int, combine: bool) -> TranslationLMDataset:
        """A split of the pair, or captions, that this task is of.

        Raises:
            VTLMError: something is missing, or does not fit the options.
        """
        train, languages = split == self.cfg.train_subset, self.languages()
        pair, regions = self.load_pair(split, epoch=epoch, combine=combine)
        target = pair.tgt if len(languages) == 2 else None
        if target is None and len(languages) == 2:
            raise VTLMError(f"split {split}: {self.cfg.target_lang} is missing; pre-training needs both sides")
        needs = needs_of(self.objectives)
        if train and needs.mismatches and regions is not None and regions.order != "given":
            raise VTLMError(
                f"--region-objectives {self.option('region_objectives')} needs the pairs' own images, and "
                f"--region-order is {regions.order}; leave one of them out"
            )
        if "soft_labels" in needs.reads and regions is not None and not regions.store.num_soft:
            raise VTLMError(
                f"--regions {self.cfg.regions} ({split}): has no class scores, and --region-objectives "
                f"{self.option('region_objectives')} learns these; make them with vtlm-regions convert "
                "--soft-labels"
            )
        if regions is None:
            regions = self.hidden_regions(len(pair.src))
        strategies = Strategies.load(self, split, self.split_folder(split, epoch), pair, regions)
        reads_nouns = strategies.words.reads("reads_nouns") and target is not None
        nouns = self.load_nouns(split, pair, epoch=epoch, combine=combine) if reads_nouns else None
        rows = (self.langs or self.cfg.langs or self.default_langs()).split(",")
        dataset = TranslationLMDataset(
            pair.src,
            target,
            self.src_dict,
            languages=tuple(rows.index(lang) for lang in languages),
            word_rates=self.word_rates,
            region_rates=self.region_rates,
            words=word_mask(self.src_dict),
            word_masking=strategies.make_words,
            region_masking=strategies.make_regions(),
            region_schedule=self.region_schedule,
            nouns=nouns,
            regions=regions,
            zero_masked_regions=self.option("region_mask_fill") == "zero",
            needs=needs,
            seed=self.cfg.seed if train else self.validation_seed(),
            train=train,
            pad_to_multiple=length_multiple(self.cfg),
        )
        tell_masks(dataset, split)
        return dataset

    def begin_epoch(self, epoch: int, model) -> None:
        """Say which share of the regions is predicted, where that changes."""
        super().begin_epoch(epoch, model)
        if self.region_schedule is not None and self.has_regions:
            logger.info("epoch %d: %.4g of the regions are predicted", epoch, self.region_schedule.share(epoch))

    def build_generator(self, models, args, *rest, **kwargs):
        """Refuse: a pre-trained model has no decoder."""
        with exit_on_error():
            raise VTLMError(f"a model of --task visual_translation_lm has no decoder{FINE_TUNE}")

    def build_dataset_for_inference(self, *args, **kwargs):
        """Refuse, as `build_generator` does: fairseq-interactive has no other use."""
        self.build_generator(None, None)

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target sentence in tokens."""
        return (self.option("max_source_positions"), self.option("max_target_positions"))

    @property
    def source_dictionary(self):
        """The joint dictionary."""
        return self.src_dict

    @property
    def target_dictionary(self):
        """The joint dictionary."""
        return self.tgt_dict


def masking_rates(options: dict[str, float]) -> MaskingRates:
    """Rates from (share selected, share kept, share random) by option name.

    Raises:
        VTLMError: a share outside 0..1, or kept and random together above 1.
    """
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise VTLMError(f"{name} is {value}, must be within 0..1")
    (_, select), (keep_name, keep), (random_name, random) = options.items()
    if keep + random > 1 + 1e-9:
        raise VTLMError(f"{keep_name} {keep} and {random_name} {random} add up to more than 1")
    return MaskingRates(select=select, keep=keep, random=random)
