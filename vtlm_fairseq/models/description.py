"""What a checkpoint says of its model: every option that changes what is computed or seen, kept, adopted and compared.

Options of a model stand in its own configuration. Those of the task, the detector and the validation masks stand in
the ``description`` of the task's state: fairseq overrides options by name on loading, and does not reach them there.
"""

import enum
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vtlm_fairseq.checkpoints import model_config
from vtlm_fairseq.data.masking import MASKS_VERSION
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.objectives import named
from vtlm_fairseq.options import ORDERS
from vtlm_fairseq.ranges import option
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.regions.detector import Detector
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

VERSION = 1
"""Of the description, and of what the datasets make of a line of binarised data."""


class Kind(enum.Enum):
    """What becomes of an option."""

    SAVED = "kept with the model and adopted; another value is refused"
    EXPERIMENT = "kept with the model and adopted; another value is warned of"
    IRRELEVANT = "changes neither what a model computes nor what it sees"


class Relation(enum.Enum):
    """What a command does with the checkpoint that it compares itself with."""

    LOAD = "decode, validate, probe"
    RESUME = "go on with a run"
    FINETUNE = "--finetune-from-model"
    PRETRAINED = "--pretrained"


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _share(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def _flag(value: Any) -> bool:
    return type(value) is bool


def _heads(value: Any) -> Any:
    """Names of objectives, in any order and with any weight."""
    return sorted(named(value)) if isinstance(value, str) else value


def _one_of(*names: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in names


def plain(value: Any) -> Any:
    """A value of a configuration as a checkpoint holds it: choices as strings, an unresolved ``${...}`` as None."""
    if isinstance(value, enum.Enum):
        return value.value
    return None if isinstance(value, str) and value.startswith("${") else value


@dataclass(frozen=True)
class Decision:
    """What becomes of an option, and why.

    Attributes:
        kind: see :class:`Kind`.
        reason: what it changes, or why it does not matter.
        default: its value where neither the command nor a checkpoint says one; None: its own default stands.
        valid: of an option that the description holds: whether a value read from a file can be one.
        regions: it matters only to models with regions.
        adopted: relations to a checkpoint in which a command that does not give the option takes it from there.
        compared: what of a value two commands have to agree in.
    """

    kind: Kind
    reason: str
    default: Any = None
    valid: Callable[[Any], bool] | None = None
    regions: bool = False
    adopted: Collection[Relation] = frozenset({Relation.LOAD, Relation.RESUME, Relation.FINETUNE})
    compared: Callable[[Any], Any] = plain

    def differ(self, saved: Any, ours: Any) -> bool:
        """Whether two values of the option are not the same."""
        return self.compared(saved) != self.compared(ours)


_ALWAYS = frozenset(Relation)
_SAME_RUN = frozenset({Relation.LOAD, Relation.RESUME})


def _saved(reason: str, default: Any = None, valid=None, **more) -> Decision:
    return Decision(Kind.SAVED, reason, default, valid, **more)


def _experiment(reason: str, default: Any = None, valid=None, **more) -> Decision:
    return Decision(Kind.EXPERIMENT, reason, default, valid, **more)


def _not(reason: str) -> Decision:
    return Decision(Kind.IRRELEVANT, reason)


_SIZE = _saved("size of the model; part of its configuration")
_SHARE_REASON = "what is masked in training and validation"
_PLACE = _not("a place, which may move")
_TRAINING = _not("how a run trains or is stored; a trained model knows nothing of it")
_BLEU = _not("how BLEU is logged during validation")

DECISIONS: dict[str, Decision] = {
    # of both tasks
    "source_lang": _saved("languages of the pair; part of the model's configuration"),
    "target_lang": _saved("languages of the pair; part of the model's configuration"),
    "langs": _saved("rows of the language table; part of the model's configuration"),
    "regions": _saved("whether there are regions (region_dim) and which detector made them; the place may move"),
    "any_detector": _not("says that another detector is meant; each command says it for itself"),
    "regions_on_device": _not("where features lie; a batch has the same"),
    "max_regions": _saved("how many regions of an image are seen", MAX_REGIONS, _count, regions=True, adopted=_ALWAYS),
    "region_order": _experiment("whose regions are seen", "given", _one_of(*ORDERS), regions=True, adopted=_SAME_RUN),
    "max_source_positions": _experiment("which sentences are seen, or how much of them", 512, _count),
    "max_target_positions": _experiment("which sentences are seen", 512, _count),
    "truncate_source": _experiment("whether long sources are cut or left out", False, _flag),
    "fixed_validation_seed": _experiment("masks and shuffles of validation; kept as validation_seed"),
    "autocast": _not("precision of the arithmetic of one run, as fairseq's --fp16"),
    "no_tf32": _not("precision of the arithmetic of one run, as autocast"),
    "compile": _not("how the same forward pass is computed"),
    "compile_mode": _not("how the same forward pass is computed"),
    "seed": _not("training masks and order; validation has a seed of its own"),
    "required_seq_len_multiple": _not("padding, which is masked everywhere"),
    "upsample_primary": _not("how often training examples are seen"),
    "dataset_impl": _not("format of the files"),
    "lang_pairs": _not("which corpora a run is trained on, as data"), "sampling_temperature": _TRAINING,
    "data": _PLACE, "save_dir": _PLACE, "restore_file": _PLACE, "finetune_from_model": _PLACE, "path": _PLACE,
    "pretrained": _PLACE, "class_lexicon": _PLACE, "fresh_regions": _not("how a model begins"),
    "valid_subset": _TRAINING, "combine_valid_subsets": _TRAINING, "ignore_unused_valid_subsets": _TRAINING,
    "disable_validation": _TRAINING,
    "train_subset": _TRAINING, "reuse_dataloader": _TRAINING, "persistent_workers": _TRAINING, "amp": _TRAINING,
    "clip_norm": _TRAINING, "no_save": _TRAINING,
    # of visual_translation_lm
    "mask_prob": _experiment(_SHARE_REASON, 0.15, _share),
    "leave_unmasked_prob": _experiment(_SHARE_REASON, 0.1, _share),
    "random_token_prob": _experiment(_SHARE_REASON, 0.1, _share),
    "word_masking": _experiment(_SHARE_REASON, "random", lambda value: isinstance(value, str)),
    "aligned_share": _experiment(_SHARE_REASON, 0.5, _share),
    "region_masking": _experiment(_SHARE_REASON, "random", lambda value: isinstance(value, str), regions=True),
    "region_mask_overlap": _experiment(_SHARE_REASON, 0.4, _share, regions=True),
    "region_mask_schedule": _experiment(_SHARE_REASON, "none", lambda value: isinstance(value, str), regions=True),
    "region_mask_prob": _experiment(_SHARE_REASON, 0.15, _share, regions=True),
    "region_leave_unmasked_prob": _experiment(_SHARE_REASON, 0.1, _share, regions=True),
    "region_random_prob": _experiment(_SHARE_REASON, 0.1, _share, regions=True),
    "region_objectives": _saved("heads of the model; weights may change, as mrc_weight", "mrc",
                                lambda value: isinstance(value, str), regions=True, compared=_heads),
    "region_mask_fill": _saved("what a masked region becomes", "mask", _one_of("mask", "zero"), regions=True),
    # of multimodal_translation
    "zero_shot": _not("says that another pair is meant; each command says it for itself"),
    "eval_bleu": _BLEU, "eval_bleu_args": _BLEU, "eval_bleu_detok": _BLEU, "eval_bleu_detok_args": _BLEU,
    "eval_tokenized_bleu": _BLEU, "eval_bleu_remove_bpe": _BLEU, "eval_bleu_print_samples": _BLEU,
    # of the archs; what has a default here is adopted by a new training that does not say it
    "encoder_embed_dim": _SIZE, "encoder_ffn_embed_dim": _SIZE, "encoder_layers": _SIZE,
    "encoder_attention_heads": _SIZE, "decoder_ffn_embed_dim": _SIZE, "decoder_layers": _SIZE,
    "decoder_attention_heads": _SIZE, "max_positions": _SIZE, "region_dim": _SIZE, "region_classes": _SIZE,
    "activation_fn": _saved("activation of feed-forward layers; part of the model's configuration"),
    "layernorm_eps": _experiment("epsilon of every LayerNorm; a new training may have another", 1e-12, adopted=_ALWAYS),
    "region_activation": _saved("activation of the region projections", "relu", regions=True, adopted=_ALWAYS),
    "region_no_bias": _saved("bias of the region projections", False, regions=True, adopted=_ALWAYS),
    "region_layernorm": _saved("LayerNorm on region embeddings", False, regions=True, adopted=_ALWAYS),
    "region_standardise": _saved("standardised features; their figures are tensors of the model", False, regions=True,
                                 adopted=_ALWAYS),
    "region_positions": _saved("positions of regions", 0, regions=True, adopted=_ALWAYS),
    "dropout": _TRAINING, "attention_dropout": _TRAINING, "activation_dropout": _TRAINING,
    "init_cross_attention": _not("how a model begins"),
    # of the criterion
    "mrc_weight": _not("weight in the loss; fairseq keeps the criterion's configuration"),
}  # fmt: skip

TASK_OPTIONS = tuple(name for name, decision in DECISIONS.items() if decision.valid is not None)
"""Options that the description holds."""
MODEL_OPTIONS = ("source_lang", "target_lang", "langs", "region_dim", "region_classes", "encoder_embed_dim",
                 "encoder_ffn_embed_dim", "encoder_layers", "encoder_attention_heads", "decoder_ffn_embed_dim",
                 "decoder_layers", "decoder_attention_heads", "max_positions", "activation_fn", "layernorm_eps",
                 "region_activation", "region_no_bias", "region_layernorm", "region_standardise",
                 "region_positions", "region_objectives")  # fmt: skip
"""Options that the configuration of a model holds and that are compared."""


def given(cfg, name: str) -> Any:
    """Value of an option, None where it is not given."""
    return plain(getattr(cfg, name, None))


def effective(cfg, name: str) -> Any:
    """Value of an option: the given one, else its default."""
    value = given(cfg, name)
    return DECISIONS[name].default if value is None else value


def differ(saved: Any, ours: Any) -> bool:
    """Whether a value of a checkpoint and one of a configuration differ."""
    return plain(saved) != plain(ours)


def fill_defaults(cfg) -> None:
    """Give the options of a model that are not given their defaults, in place."""
    for name in MODEL_OPTIONS:
        if DECISIONS[name].default is not None and hasattr(cfg, name) and given(cfg, name) is None:
            setattr(cfg, name, DECISIONS[name].default)


def _is_sound(saved: dict) -> bool:
    """Whether all that a description says can be true."""
    options, detector = saved.get("options"), saved.get("detector")
    if not isinstance(options, dict) or not (detector is None or Detector.is_one(detector)):
        return False
    sound = type(saved.get("validation_seed")) is int and _count(saved.get("masks"))
    return sound and all(DECISIONS[name].valid(options[name]) for name in TASK_OPTIONS if name in options)


@dataclass
class Description:
    """What a checkpoint says of its model.

    Attributes:
        owner: its name in messages.
        options: task options by name, those that it says.
        model: its model configuration.
        detector: what made its regions; None: it does not say, or has none.
        validation_seed: of the masks and shuffles of validation; None: it does not say.
        masks: version of the masking scheme; None: it does not say.
        whole: whether it was written with a description.
    """

    owner: str
    options: dict[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    detector: Detector | None = None
    validation_seed: int | None = None
    masks: int | None = None
    whole: bool = False

    @classmethod
    def of_task_state(cls, saved: Any, owner: str) -> "Description":
        """Read the ``description`` of a task's state; None for a checkpoint that has none.

        Raises:
            VTLMError: it is damaged, or a newer version wrote it.
        """
        if saved is None:
            return cls(owner)
        version = saved.get("version") if isinstance(saved, dict) else None
        if _count(version) and version > VERSION:
            raise VTLMError(
                f"{owner}: its description of the model is of version {version}, this vtlm-fairseq knows {VERSION}; "
                "install the one that wrote it"
            )
        if version != VERSION or not _is_sound(saved):
            raise VTLMError(f"{owner}: its description of the model is damaged; use another checkpoint")
        options = {name: saved["options"][name] for name in TASK_OPTIONS if name in saved["options"]}
        detector = saved.get("detector") and Detector(**saved["detector"])
        return cls(owner, options, {}, detector, saved["validation_seed"], saved["masks"], whole=True)

    @classmethod
    def of_checkpoint(cls, state: dict, owner: str) -> "Description":
        """Of a loaded checkpoint; what an older one does not describe is read off its task's options.

        Raises:
            VTLMError: as :meth:`of_task_state`.
        """
        task_state = state.get("task_state")
        found = cls.of_task_state(task_state.get("description") if isinstance(task_state, dict) else None, owner)
        found.model = model_config(state)
        task = (state.get("cfg") or {}).get("task")
        if not found.whole and isinstance(task, dict):
            found.add_options(task)
            found.validation_seed = task["seed"] if type(task.get("seed")) is int else None
        return found

    def add_options(self, task: Mapping) -> None:
        """Take over what a saved task configuration says and the description does not."""
        for name in TASK_OPTIONS:
            value = plain(task.get(name))
            if value is not None and DECISIONS[name].valid(value):
                self.options.setdefault(name, value)

    @property
    def has_regions(self) -> bool:
        """Whether the model has regions."""
        return bool(self.model.get("region_dim"))

    def without_regions(self) -> "Description":
        """As of a model without regions: with ``--fresh-regions`` nothing of them is taken over."""
        return replace(self, model={**self.model, "region_dim": 0}, detector=None)

    def unsaid(self, names: Collection[str]) -> list[str]:
        """What it does not hold, in words."""
        lacking = [option(name) for name in names if name not in self.options]
        lacking += ["the detector"] if self.has_regions and self.detector is None else []
        return lacking


def to_save(cfg, *, has_regions: bool, detector: Detector | None, validation_seed: int) -> dict[str, Any]:
    """The ``description`` of a task's state: plain containers, numbers and strings."""
    names = [n for n in TASK_OPTIONS if hasattr(cfg, n) and (has_regions or not DECISIONS[n].regions)]
    return {
        "version": VERSION,
        "options": {name: effective(cfg, name) for name in names},
        "detector": detector and detector._asdict(),
        "masks": MASKS_VERSION,
        "validation_seed": validation_seed,
    }


def adopt_options(cfg, source: Description, relation: Relation, *, has_regions: bool) -> None:
    """Fill task options that are not given from a checkpoint, else with their defaults; compare those that are.

    ``region_order`` is compared where regions are read, see :func:`warn_of_order`.

    Raises:
        VTLMError: a given option contradicts the checkpoint.
    """
    for name in TASK_OPTIONS:
        decision = DECISIONS[name]
        if not hasattr(cfg, name) or (decision.regions and not (has_regions and source.has_regions)):
            continue
        theirs, ours = source.options.get(name), given(cfg, name)
        if ours is None and theirs is not None and relation in decision.adopted:
            setattr(cfg, name, theirs)
            if theirs != decision.default:
                logger.info("%s %s, as %s has it", option(name), theirs, source.owner)
        elif relation is Relation.PRETRAINED and relation not in decision.adopted:
            continue  # another kind of training
        elif ours is not None and theirs is not None and decision.differ(theirs, ours) and name != "region_order":
            _contradict(name, theirs, ours, source, relation)


def _contradict(name: str, theirs: Any, ours: Any, source: Description, relation: Relation) -> None:
    shown = option(name)
    new_training = relation in (Relation.FINETUNE, Relation.PRETRAINED)
    fewer = name == "max_regions" and (new_training or (relation is Relation.LOAD and ours < theirs))
    if DECISIONS[name].kind is Kind.EXPERIMENT or fewer:
        logger.warning("%s was trained with %s %s, this command gives %s", source.owner, shown, theirs, ours)
        return
    raise VTLMError(f"{source.owner} has {shown} {theirs}, this command {ours}; {_advice(shown, relation)}")


def _advice(option: str, relation: Relation) -> str:
    if relation is Relation.RESUME:
        return "go on with the options of the first call, or choose another --save-dir"
    if relation is Relation.LOAD and option == "--max-regions":
        return "omit it, or give fewer"
    return f"omit {option}" if option != "--langs" else "give the same, or omit it"


def adopt_model_options(cfg, source: Description, relation: Relation) -> None:
    """Fill options of a new model that are not given from the one that it begins with; warn of experiments."""
    for name in MODEL_OPTIONS:
        decision = DECISIONS[name]
        if not hasattr(cfg, name) or decision.default is None:
            continue
        if decision.regions and not (cfg.region_dim and source.has_regions):
            continue
        theirs, ours = plain(source.model.get(name)), given(cfg, name)
        if ours is not None:
            if decision.kind is Kind.EXPERIMENT and relation is not Relation.RESUME and theirs not in (None, ours):
                _contradict(name, theirs, ours, source, relation)
        elif theirs is not None and relation in decision.adopted:
            setattr(cfg, name, theirs)
            if theirs != decision.default:
                logger.info("%s %s, as %s has it", option(name), theirs, source.owner)


def check_same_model(source: Description, cfg, relation: Relation) -> None:
    """Compare a model that a trainer is about to load with the one that this command describes.

    Raises:
        VTLMError: names the first option that differs.
    """
    for name in MODEL_OPTIONS:
        theirs, ours = (model_value(config, name) for config in (source.model, cfg))
        known = name in source.model or name == "region_objectives"  # older ones have the default
        if name in MODEL_OPTIONS[:5] or (known and name in cfg):
            if DECISIONS[name].regions and not cfg["region_dim"]:
                continue
            if DECISIONS[name].kind is Kind.EXPERIMENT and relation is not Relation.RESUME:
                continue  # warned of
            if DECISIONS[name].differ(theirs, ours):
                advice = _advice(option(name), Relation.RESUME)
                raise VTLMError(f"{source.owner} has {option(name)} {theirs}, this command {ours}; {advice}")


def model_value(config: Mapping, name: str) -> Any:
    """Value of an option in the configuration of a model; a size of the decoder may stand for that of the encoder."""
    value = plain(config.get(name))
    if value is None and name.startswith("decoder_"):
        return plain(config.get(name.replace("decoder_", "encoder_")))
    return DECISIONS[name].default if value is None else value


def first_other(one: Description, other: Description) -> str | None:
    """The first option, or the detector, in which two checkpoints are not of one model; None: nothing."""
    for name in MODEL_OPTIONS:
        if DECISIONS[name].differ(model_value(one.model, name), model_value(other.model, name)):
            return option(name)
    saved = [name for name in TASK_OPTIONS if DECISIONS[name].kind is Kind.SAVED]
    for name in saved:
        both = name in one.options and name in other.options
        if both and DECISIONS[name].differ(one.options[name], other.options[name]):
            return option(name)
    return "detector" if None not in (one.detector, other.detector) and one.detector != other.detector else None
