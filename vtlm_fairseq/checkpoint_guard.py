"""What the configuration in a checkpoint may hold and name, before fairseq or this package builds anything from it.

fairseq builds what a checkpoint names, from whatever form its configuration has: a dictionary or an
``argparse.Namespace`` for each part, the name under ``_name``, ``arch`` or the part's own name, the older ``args`` in
place of all. Some of its classes evaluate strings of their options as Python, start a shell, open files for writing or
fetch some from the network. So all spellings are looked at, and names are known good ones, of this package, derived
from its classes, or registered by a user-dir.
"""

import ast
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from vtlm_fairseq.errors import VTLMError

USER_DIR = ", nor derived from one in a folder given by --user-dir"
PLAIN = (bool, int, float, str, bytes, type(None))
KNOWN = {
    "criterion": {
        "adaptive_loss", "cross_entropy", "label_smoothed_cross_entropy",
        "label_smoothed_cross_entropy_with_alignment", "label_smoothed_cross_entropy_with_rdrop",
        "legacy_masked_lm_loss", "masked_lm", "nat_loss",
    },
    "optimizer": {"adadelta", "adafactor", "adagrad", "adam", "adamax", "cpu_adam", "lamb", "nag", "sgd"},
    "lr_scheduler": {
        "cosine", "fixed", "inverse_sqrt", "manual", "pass_through", "polynomial_decay", "reduce_lr_on_plateau",
        "step", "tri_stage", "triangular",
    },
    "tokenizer": {"moses", "nltk", "space"},
    "bpe": {"byte_bpe", "bytes", "characters", "sentencepiece", "subword_nmt"},
    "scoring": {"bleu", "chrf", "meteor", "sacrebleu", "wer"},
}  # fmt: skip
"""Classes of fairseq's that do no more with their options than to read them (see `EVALUATED`)."""

EVALUATED = {
    "adam_betas", "adamax_betas", "adafactor_eps", "lamb_betas", "adaptive_softmax_cutoff", "adaptive_input_cutoff",
    "character_filters", "xformers_att_config",
}  # fmt: skip
"""Options that known classes, and fairseq's Transformer, evaluate as Python: here they must be plain values."""


def check_plain(state: Mapping, path: str) -> None:
    """Refuse a configuration of anything but plain values, or with something in it that is evaluated.

    Args:
        state: a checkpoint that was read in torch's restricted mode.
        path: of the checkpoint, for messages.

    Raises:
        VTLMError: other classes, interpolations of omegaconf, or strings that fairseq would evaluate.
    """
    for part in ("cfg", "args"):
        for name, value in _leaves(state.get(part), path):
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            if not isinstance(text, str):
                continue
            if "${" in text and part == "cfg":
                raise VTLMError(f"{path}: its configuration holds an interpolation ({name}: {text[:60]!r}), not values")
            if name in EVALUATED and not _is_literal(text):
                raise VTLMError(f"{path}: {name} in its configuration is code ({text[:60]!r}), not a value")


def _leaves(value, path: str, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    if type(value) in PLAIN:
        yield name, value
        return
    if depth > 20:
        raise VTLMError(f"{path}: its configuration is nested without end")
    if type(value) is Namespace:
        value = vars(value)
    if type(value) in (dict, OrderedDict):
        for key, each in value.items():
            if not isinstance(key, str | int):
                raise VTLMError(f"{path}: its configuration has a name that is {type(key).__name__}, not text")
            yield from _leaves(each, path, str(key), depth + 1)
    elif type(value) in (list, tuple):
        for each in value:
            yield from _leaves(each, path, name, depth + 1)
    else:
        raise VTLMError(f"{path}: its configuration holds a {type(value).__name__} ({name}), not values")


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def check_parts(state: Mapping, path: str) -> None:
    """Refuse a checkpoint that names a part which is not known to be harmless.

    Names that nothing is registered for cannot be built, and pass: what a user-dir registers need not be there where
    it is not used.

    Args:
        state: a checkpoint that :func:`check_plain` has passed.
        path: of the checkpoint, for messages.

    Raises:
        VTLMError: names the part; also older options (``args``), which fairseq would use in place of the configuration.
    """
    if state.get("args") is not None:
        raise VTLMError(f"{path}: task with options of older versions of fairseq (args) is not one of this package")
    config = state.get("cfg") or {}
    for part in ("task", "model", *KNOWN):
        check_part(part, config.get(part), path)


def check_part(part: str, config, path: str, *, built: bool = False) -> None:
    """Refuse one part of a configuration by the names that it gives, whatever its form.

    Args:
        part: ``task``, ``model`` or a key of `KNOWN`.
        config: a name, or a mapping or Namespace of options; None is none.
        path: of the checkpoint, for messages.
        built: it is about to be built, so that it must be registered.

    Raises:
        VTLMError: one of the names is registered for a class that is not known to be harmless.
    """
    found = names(part, config)
    if part == "model" and config and not found:
        raise VTLMError(f"{path}: its configuration gives no name of a model; it is not one of this package")
    registry = _registry(part)
    for name in found:
        kind = registry.get(name) if isinstance(name, str) else None
        if (
            not isinstance(name, str)
            or (kind is None and built)
            or (kind is not None and not _is_harmless(part, name, kind))
        ):
            raise VTLMError(f"{path}: {part} {name!r} is not one of this package{USER_DIR}")
    if part in ("bpe", "tokenizer") and not isinstance(config, str):
        for option, value in _leaves(_options(config), path):
            if isinstance(value, str) and "://" in value:
                raise VTLMError(f"{path}: {part} would fetch {option} from {value[:60]!r}")


def names(part: str, config) -> list:
    """Every name that a part of a configuration gives, in all the places where fairseq looks for one."""
    if config is None:
        return []
    if isinstance(config, str) or not (isinstance(config, Mapping) or hasattr(config, "__dict__")):
        return [config]
    keys = ("_name", part, "arch") if part == "model" else ("_name", part)
    found = [config.get(key) if isinstance(config, Mapping) else getattr(config, key, None) for key in keys]
    return [name for name in found if name is not None]


def _options(config) -> Mapping:
    return config if isinstance(config, Mapping) else getattr(config, "__dict__", {})


def derives(kind: type | None) -> bool:
    """Whether a class is of this package or derived from one of it."""
    return kind is not None and any(base.__module__.startswith("vtlm_fairseq.") for base in kind.__mro__)


def _is_harmless(part: str, name: str, kind: type) -> bool:
    if derives(kind):
        return True
    return part in KNOWN and (name in KNOWN[part] or not kind.__module__.startswith("fairseq."))


def _registry(part: str) -> Mapping[str, type]:
    from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_REGISTRY

    if part == "model":
        return {**MODEL_REGISTRY, **ARCH_MODEL_REGISTRY}
    return TASK_REGISTRY if part == "task" else REGISTRIES[part]["registry"]


def check_stock(state: Mapping, path: str) -> None:
    """Refuse a model of fairseq's own that is no Transformer for translation.

    Raises:
        VTLMError: it is another's, whose options fairseq may evaluate.
    """
    from fairseq.models.transformer import TransformerModel, TransformerModelBase

    args, config = state.get("args"), state.get("cfg") or {}
    tasks, models = (names(part, args if args is not None else config.get(part)) for part in ("task", "model"))
    registry = _registry("model")
    if args is not None and not isinstance(args, Namespace):
        raise VTLMError(f"{path}: its options (args) are a {type(args).__name__}, not those of a model")
    for name in tasks:
        if name != "translation":
            raise VTLMError(f"{path}: task {name!r} is not translation")
    for name in models or [None]:
        kind = registry.get(name) if isinstance(name, str) else None
        if kind not in (TransformerModel, TransformerModelBase) and not derives(kind):
            raise VTLMError(f"{path}: model {name!r} is no Transformer of fairseq's for translation")
