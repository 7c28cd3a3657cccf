"""What an objective over regions is, and the option that chooses and weighs them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.ranges import NOT_NEGATIVE
from vtlm_fairseq.registry import Class, Registry

OPTION = "--region-objectives"
READABLE = ("boxes", "features", "soft_labels")
"""What the loader adds of the predicted regions where an objective reads it; their labels are always there."""


class RegionObjective:
    """A part of the loss that is about the regions of a batch.

    The encoder's states where it predicts go through its head; what comes out is compared with a target that is made of
    what the loader has put into the batch. All of it is computed on the device: an objective has to do without what the
    host would wait for (indexing by a mask, ``.item()``). The loss is the mean over its predictions, 0 for none.

    Args:
        name: that it is registered under.
        weight: in the loss; None: not given.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    """What its target is made of beside labels, of `READABLE`."""
    place: ClassVar[Literal["regions", "first"]] = "regions"
    """Where it predicts: at the selected regions, or at the first token of each pair whose image has regions."""
    mismatches: ClassVar[bool] = False
    """Whether half of the pairs get the image of another pair; these have no other loss."""
    own_head: ClassVar[bool] = True
    """Whether it has a head of its own; otherwise its outputs are the logits of the region classes."""

    def __init__(self, name: str, weight: float | None = None) -> None:
        self.name = name
        self.weight = weight

    @property
    def key(self) -> str:
        """What its figures in the log begin with."""
        return self.name.replace("-", "_")

    @property
    def has_accuracy(self) -> bool:
        """Whether its predictions are right or wrong."""
        return type(self).correct is not RegionObjective.correct

    def head(self, cfg: Any) -> nn.Module:
        """Its parameters: n x d states to what `loss` takes.

        Args:
            cfg: of the model: ``encoder_embed_dim`` d, ``region_dim`` D, ``region_classes`` C.
        """
        raise NotImplementedError

    def target(self, predicted: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """What is to be predicted, n x anything.

        Args:
            predicted: ``regions`` [n] labels of the selected regions, row-major, and what it `reads` of them:
                ``features`` n x D as stored, ``boxes`` n x 4, ``soft_labels`` n x K with ``soft_classes`` n x K where
                K is not C; with `mismatches` ``matched`` [k], True where the image is the pair's own.
            model: the :class:`VTLMModel`.
        """
        raise NotImplementedError

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum of the losses of n predictions, a scalar; it stays attached for n = 0.

        Args:
            output: of the head, n x anything.
            target: as `target` gives it.
        """
        raise NotImplementedError

    def correct(self, output: Tensor, target: Tensor) -> Tensor:
        """How many predictions are right, a scalar. Without this method nothing is logged of it."""
        raise NotImplementedError


class Needs(NamedTuple):
    """What objectives need of a batch.

    Attributes:
        reads: see :attr:`RegionObjective.reads`.
        first: something is predicted at the first token.
        mismatches: half of the pairs get another pair's image.
    """

    reads: frozenset[str] = frozenset()
    first: bool = False
    mismatches: bool = False


def needs_of(objectives: Sequence[RegionObjective]) -> Needs:
    """What some objectives need together."""
    reads = frozenset(part for one in objectives for part in one.reads)
    return Needs(reads, any(one.place == "first" for one in objectives), any(one.mismatches for one in objectives))


_OBJECTIVES = Registry(OPTION, "objectives", "--user-dir can register your own")
_RESERVED = {"mlm", *dir(nn.ModuleDict())}  # of the log, and what a head cannot be called


def register_region_objective(name: str) -> Callable[[Class], Class]:
    """Class decorator: makes an objective known as ``--region-objectives NAME``.

    Raises:
        VTLMError: the name is taken, or is no word of lower-case letters, digits and hyphens; or it reads what no
            loader gives.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in _RESERVED:
        raise VTLMError(f"{OPTION} {name}: a name is a word of a-z, 0-9 and -, and no reserved one; rename yours")

    def register(objective: Class) -> Class:
        if not set(objective.reads) <= set(READABLE):
            raise VTLMError(f"{OPTION} {name}: reads {objective.reads!r}; what can be read is {', '.join(READABLE)}")
        return _OBJECTIVES.register(name)(objective)

    return register


def named(text: str) -> list[str]:
    """Names in a value of the option, without weights."""
    return [part.partition(":")[0].strip() for part in text.split(",")]


def read_objectives(text: Any) -> list[RegionObjective]:
    """The objectives of a value of ``--region-objectives``, such as ``mrc,mrfr:0.5``.

    Raises:
        VTLMError: an unknown name, one that is given twice, or a weight that is no number from 0 on.
    """
    if not isinstance(text, str):
        raise VTLMError(f"{OPTION} is {text!r}; give names with weights, such as mrc,mrfr:0.5")
    found: list[RegionObjective] = []
    for part in text.split(","):
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        if not name:
            raise VTLMError(f"{OPTION} {text!r}: a name is missing; give names with weights, such as mrc,mrfr:0.5")
        kind = _OBJECTIVES.get(name)
        if name in [one.name for one in found]:
            raise VTLMError(f"{OPTION} {text}: {name} is there twice; name it once")
        found.append(kind(name, _weight(name, number) if colon else None))
    return found


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = float("nan")
    if weight not in NOT_NEGATIVE:
        raise VTLMError(f"{OPTION} {name}:{text}: a weight is a number, {NOT_NEGATIVE}, such as {name}:0.5")
    return weight


def highest(logits: Tensor) -> Tensor:
    """[n]: the first of the highest of n x K. On a CPU ``argmax`` takes four times as long."""
    return logits.max(-1).indices


def full(values: Tensor) -> Tensor:
    """Values in float32, unless they are float64."""
    return values.double() if values.dtype.itemsize == 8 and values.is_floating_point() else values.float()
