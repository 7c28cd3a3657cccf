"""Ranges of numbers in options, named as fairseq names them: outside, fairseq ends in a stack or computes nonsense."""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from vtlm_fairseq.errors import VTLMError


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``.

    Attributes:
        above: ``low`` itself is outside.
        below: ``high`` itself is outside.
        whole: integers only, where an option is read by our parsers.
        endless: infinity is inside.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    endless: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return self.endless and not math.isnan(value)
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        parts = [] if self.low == -math.inf else [f"{'above' if self.above else 'at least'} {_number(self.low)}"]
        parts += [] if self.high == math.inf else [f"{'below' if self.below else 'at most'} {_number(self.high)}"]
        return " and ".join(parts) or ("a number" if self.endless else "a finite number")


def _number(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:g}"


FINITE, COUNT, FROM_ZERO = Range(), Range(1, whole=True), Range(0, whole=True)
NOT_NEGATIVE, POSITIVE = Range(0), Range(0, above=True)
SHARE = Range(0, 1)
RATE = Range(0, 1, below=True)  # of dropout

SEED = Range(0, 2**32 - 1, whole=True)
RESAMPLING_SEED = Range(1, SEED.high, whole=True)  # sacreBLEU takes 0 for none

COMMON = {"seed": SEED}
"""Of all commands; fairseq seeds numpy with it."""

GENERATION = {
    "beam": COUNT, "nbest": COUNT, "lenpen": FINITE, "unkpen": FINITE, "max_len_a": NOT_NEGATIVE,
    "max_len_b": FROM_ZERO, "temperature": POSITIVE, "prefix_size": FROM_ZERO, "lm_weight": FINITE,
    "diverse_beam_strength": FINITE, "diversity_rate": FINITE, "sampling_topp": Range(high=1),
}  # fmt: skip
"""Of fairseq-generate and fairseq-interactive."""

DATASET = {
    "batch_size": COUNT, "batch_size_valid": COUNT, "max_tokens": COUNT, "max_tokens_valid": COUNT,
    "num_workers": FROM_ZERO, "required_batch_size_multiple": COUNT, "fixed_validation_seed": SEED,
}  # fmt: skip
"""Of all commands that read data."""

OPTIMIZATION = {"update_freq": COUNT, "lr": NOT_NEGATIVE, "clip_norm": Range(endless=True)}
"""Of training; a norm of 0 or less, or infinity, clips nothing."""

TASK = {"max_source_positions": Range(3), "max_target_positions": Range(2), "upsample_primary": COUNT}
"""Of both tasks; the shortest source sentence has two ``</s>`` and a word."""

MODEL = {
    "encoder_embed_dim": COUNT, "encoder_ffn_embed_dim": COUNT, "encoder_layers": FROM_ZERO,
    "encoder_attention_heads": COUNT, "decoder_ffn_embed_dim": COUNT, "decoder_layers": FROM_ZERO,
    "decoder_attention_heads": COUNT, "dropout": RATE, "attention_dropout": RATE, "activation_dropout": RATE,
    "max_positions": Range(3), "layernorm_eps": NOT_NEGATIVE, "region_positions": FROM_ZERO,
}  # fmt: skip
"""Of both models."""

CRITERION = {"label_smoothing": SHARE, "mrc_weight": NOT_NEGATIVE, "rdrop_alpha": NOT_NEGATIVE}


def check_ranges(values: Any, ranges: Mapping[str, Range]) -> None:
    """Compare numbers with their ranges; those that are missing or None are not looked at.

    Args:
        values: a dictionary, a configuration of omegaconf's, a dataclass or a Namespace.
        ranges: by name.

    Raises:
        VTLMError: the first that is outside, with its option and what is inside.
    """
    values = _mapping(values)
    for name, allowed in ranges.items():
        found = values.get(name)
        for value in found if isinstance(found, Iterable) and not isinstance(found, str) else [found]:
            if isinstance(value, Real) and value not in allowed:
                raise VTLMError(f"{option(name)} is {value}: a number out of range, it must be {allowed}")


def check_numbers(values: Mapping[str, Any], ranges: Mapping[str, Range]) -> None:
    """As `check_ranges`, of arguments in Python: each must be a number, and a whole one where an option's is.

    Raises:
        VTLMError: the first that is not.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral if ranges[name].whole else Real):
            raise VTLMError(f"{name}={value!r}: must be a {'whole ' if ranges[name].whole else ''}number")
    check_ranges(values, ranges)


def check_command(whole: Mapping) -> None:
    """Check the options of a command of fairseq's that are not the task's, the model's or the criterion's.

    Raises:
        VTLMError: one is out of its range.
    """
    for group, ranges in (("common", COMMON), ("dataset", DATASET), ("optimization", OPTIMIZATION)):
        check_ranges(whole.get(group) or {}, ranges)


def check_model(cfg: Any) -> None:
    """Check the sizes of a model that is about to be built for training.

    Raises:
        VTLMError: one is out of its range, or the heads do not divide the width.
    """
    check_ranges(cfg, MODEL)
    for name in ("encoder_attention_heads", "decoder_attention_heads"):
        if cfg.get(name) and cfg.encoder_embed_dim % cfg[name]:
            raise VTLMError(
                f"{option(name)} {cfg[name]} does not divide the width, --encoder-embed-dim {cfg.encoder_embed_dim}"
            )


def check_generation(args: Any) -> None:
    """Check the options of decoding.

    Args:
        args: the group ``generation`` of fairseq's configuration, or a Namespace with some of its options.

    Raises:
        VTLMError: one is out of its range, or two contradict each other.
    """
    values = _mapping(args)
    check_ranges(values, GENERATION)
    beam, groups = values.get("beam", 1), values.get("diverse_beam_groups", -1)
    if groups > 0 and beam % groups:
        raise VTLMError(f"--beam {beam} is not divisible by --diverse-beam-groups {groups}; change one of them")
    for name in ("sampling_topk", "sampling_topp"):
        if values.get(name, -1) >= 0 and not values.get("sampling", False):
            raise VTLMError(f"{option(name)} chooses words to draw from; give --sampling too")
    least, longest = values.get("min_len", 1), values.get("max_len_b", 200)
    if not values.get("max_len_a", 0) and least > longest:
        raise VTLMError(f"--max-len-b {longest} is shorter than --min-len {least} words; raise it, or give --max-len-a")


def reader(allowed: Range) -> Callable[[str], float]:
    """A reader of an option's number, for argparse."""

    def number(text: str) -> float:
        value = (int if allowed.whole else float)(text)
        if value not in allowed:
            raise argparse.ArgumentTypeError(f"out of its range, must be {allowed}")
        return value

    return number


def option(name: str) -> str:
    """The option of a field: ``--max-len-b`` of ``max_len_b``."""
    return f"--{name.replace('_', '-')}"


def _mapping(values: Any) -> Mapping:
    return values if isinstance(values, Mapping) else vars(values)
