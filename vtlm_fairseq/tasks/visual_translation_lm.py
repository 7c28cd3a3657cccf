"""Task ``visual_translation_lm``: pre-training on caption pairs and regions (paper, sections 2.1 to 2.3)."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum
from fairseq.tasks import FairseqTask, register_task

from vtlm_fairseq.compatibility import FINE_TUNE
from vtlm_fairseq.criterions.vtlm import VTLMCriterion
from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.translation_lm_dataset import TranslationLMDataset
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.models.vtlm import VTLMModel
from vtlm_fairseq.tasks.captions import CaptionsConfig, CaptionsTask
from vtlm_fairseq.tasks.warm_start import WarmStart


@dataclass
class VisualTranslationLMConfig(CaptionsConfig):
    """Options of pre-training; the defaults are the paper's VTLM."""

    mask_prob: float = field(default=0.15, metadata={"help": "share of words that are predicted"})
    leave_unmasked_prob: float = field(default=0.1, metadata={"help": "share of predicted words that stay as they are"})
    random_token_prob: float = field(
        default=0.1,
        metadata={"help": "share of predicted words that become a random word (the rest: <mask>)"},
    )
    region_mask_prob: float = field(default=0.15, metadata={"help": "share of regions whose label is predicted"})
    region_leave_unmasked_prob: float = field(
        default=0.1,
        metadata={
            "help": "share of predicted regions that stay as they are (1, with --region-random-prob 0: the paper's "
            "alternative without visual masking)"
        },
    )
    region_random_prob: float = field(
        default=0.1,
        metadata={"help": "share of predicted regions that get the features of a random region of the batch"},
    )
    region_mask_fill: ChoiceEnum(["mask", "zero"]) = field(
        default="mask",
        metadata={"help": "masked regions: the <mask> embedding in place of the projected features, or features 0"},
    )


@register_task("visual_translation_lm", dataclass=VisualTranslationLMConfig)
class VisualTranslationLMTask(WarmStart, CaptionsTask, FairseqTask):
    """TLM (``--regions none``) and VTLM."""

    uses_classes = True
    cfg: VisualTranslationLMConfig
    model_class = VTLMModel
    criteria = (VTLMCriterion,)

    def __init__(self, cfg: VisualTranslationLMConfig, src_dict, tgt_dict):
        super().__init__(cfg)
        self.src_dict = src_dict
        self.tgt_dict = tgt_dict
        self.word_rates = masking_rates(
            {
                "--mask-prob": cfg.mask_prob,
                "--leave-unmasked-prob": cfg.leave_unmasked_prob,
                "--random-token-prob": cfg.random_token_prob,
            }
        )
        self.region_rates = masking_rates(
            {
                "--region-mask-prob": cfg.region_mask_prob,
                "--region-leave-unmasked-prob": cfg.region_leave_unmasked_prob,
                "--region-random-prob": cfg.region_random_prob,
            }
        )

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs) -> None:
        """Load a split; ``train`` is shuffled and masked anew each epoch, any other has fixed masks."""
        with exit_on_error():
            pair, regions = self.load_pair(split, epoch=epoch, combine=combine)
            if pair.tgt is None:
                raise VTLMError(f"split {split}: {self.cfg.target_lang} is missing; pre-training needs both sides")
            languages = (self.langs or self.cfg.langs or self.default_langs()).split(",")
            self.datasets[split] = TranslationLMDataset(
                pair.src,
                pair.tgt,
                self.src_dict,
                languages=(languages.index(self.cfg.source_lang), languages.index(self.cfg.target_lang)),
                word_rates=self.word_rates,
                region_rates=self.region_rates,
                words=word_mask(self.src_dict),
                regions=regions,
                zero_masked_regions=str(self.cfg.region_mask_fill) == "zero",
                seed=self.cfg.seed,
                train=split == self.cfg.train_subset,
                pad_to_multiple=self.cfg.required_seq_len_multiple,
            )

    def build_generator(self, models, args, *rest, **kwargs):
        """Refuse: a pre-trained model has no decoder."""
        with exit_on_error():
            raise VTLMError(f"a model of --task visual_translation_lm has no decoder{FINE_TUNE}")

    def build_dataset_for_inference(self, *args, **kwargs):
        """Refuse, as `build_generator` does: fairseq-interactive has no other use."""
        self.build_generator(None, None)

    def max_positions(self) -> tuple[int, int]:
        """Longest source and target sentence in tokens."""
        return (self.cfg.max_source_positions, self.cfg.max_target_positions)

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
