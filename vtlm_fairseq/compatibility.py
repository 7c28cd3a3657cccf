"""Which task, model and criterion go together, decided by class, so that classes derived from ours count.

fairseq joins any task with any model and criterion. What does not fit ends in a stack, or runs and computes something
else: its task ``translation``, the default of fairseq-generate, gives our models no leading ``</s>`` and no regions;
its criterion ``masked_lm`` trains a VTLM without them.

A task of this package names what goes with it: ``model_class``, from which its models derive, and ``criteria``.
"""

import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import fields

from fairseq.criterions import CRITERION_REGISTRY
from fairseq.models import ARCH_MODEL_REGISTRY, MODEL_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY, FairseqTask
from omegaconf import DictConfig, OmegaConf

from vtlm_fairseq.checkpoint_guard import names
from vtlm_fairseq.errors import VTLMError, exit_on_error
from vtlm_fairseq.ranges import COMMON, check_ranges, option

KNOWN = ("fairseq.", "vtlm_fairseq.")
"""Packages whose criteria are known; those of others are their own business, unless they derive from a known one."""

COMMANDS = ("train", "validate", "generate", "interactive")
"""Of fairseq, whose command lines are looked at as the user-dir is imported."""


def check_task(task, model: type) -> None:
    """Refuse to build a model of this package for another's task, in one line that ends the command.

    Args:
        task: what the model is built for; only fairseq's tasks are judged, not objects that stand for one.
        model: class of the model.
    """
    fitting = tasks_of(model)
    if isinstance(task, FairseqTask) and not isinstance(task, fitting):
        with exit_on_error():
            raise VTLMError(
                f"--task {name_of(type(task), TASK_REGISTRY)} gives {model.__name__} input that it was not made for; "
                f"give --task {names_of(fitting, TASK_REGISTRY)}"
            )


def check_model(task, cfg, *, from_checkpoint: bool = False) -> None:
    """Refuse a model that a task of this package has no input for.

    Args:
        task: the task.
        cfg: configuration of the model, or None.
        from_checkpoint: whether it is a checkpoint's.

    Raises:
        VTLMError: names what to give.
    """
    model, task_name = registered_model(cfg), name_of(type(task), TASK_REGISTRY)
    if model is not None and issubclass(model, task.model_class):
        return
    if from_checkpoint:
        raise VTLMError(
            f"the checkpoint's model {model_name(cfg)} is none of --task {task_name}; give --task "
            f"{names_of(tasks_of(model or object), TASK_REGISTRY)}{'' if is_translation(cfg) else FINE_TUNE}"
        )
    raise VTLMError(
        f"--arch {model_name(cfg)} is no model for --task {task_name}; choose --arch "
        f"{names_of((task.model_class,), ARCH_MODEL_REGISTRY)}"
    )


def check_kind(task, cfg, path: str) -> None:
    """Refuse to train on from a checkpoint of another kind of model.

    Args:
        task: a task of this package.
        cfg: configuration of the checkpoint's model.
        path: of the checkpoint.

    Raises:
        VTLMError: names what to give.
    """
    model = registered_model(cfg)
    if model is not None and not issubclass(model, task.model_class):
        raise VTLMError(
            f"{path} holds a model of another kind, {model_name(cfg)}, which --task "
            f"{name_of(type(task), TASK_REGISTRY)} cannot go on with; choose another --save-dir, or leave out "
            "--restore-file or --finetune-from-model"
            f"{' (to begin from it, name it with --pretrained)' if tasks_of(model) else ''}"
        )


FINE_TUNE = "; a pre-trained model translates when it is fine-tuned (--pretrained)"


def check_criterion(task, cfg) -> None:
    """Refuse a criterion that does not train the models of a task of this package.

    Args:
        task: the task.
        cfg: configuration of the criterion.

    Raises:
        VTLMError: names what to give.
    """
    name = next(iter(names("criterion", cfg)), None)
    kind = CRITERION_REGISTRY.get(name)
    if kind is None:
        return  # fairseq's own refusal
    known = next((base for base in kind.__mro__ if base in CRITERION_REGISTRY.values() and _is_known(base)), None)
    if known is not None and known not in task.criteria:
        raise VTLMError(
            f"--criterion {name} does not train the models of --task {name_of(type(task), TASK_REGISTRY)}; choose "
            f"--criterion {' or '.join(name_of(fitting, CRITERION_REGISTRY) for fitting in task.criteria)}"
        )


def check_criterion_task(task, criterion: type) -> None:
    """Refuse to build a criterion of this package for a task whose batches it cannot read; ends the command."""
    fitting = tuple(kind for kind in TASK_REGISTRY.values() if criterion in getattr(kind, "criteria", ()))
    if fitting and isinstance(task, FairseqTask) and not isinstance(task, fitting):
        with exit_on_error():
            raise VTLMError(
                f"--criterion {name_of(criterion, CRITERION_REGISTRY)} reads no batches of --task "
                f"{name_of(type(task), TASK_REGISTRY)}; it needs --task {names_of(fitting, TASK_REGISTRY)}"
            )


def check_command_line(argv: Sequence[str]) -> None:
    """Refuse a command of fairseq's without an option that it cannot do without, before that ends in a stack.

    Args:
        argv: name of the program and its arguments.
    """
    folder, program = os.path.split(argv[0] if argv else "")
    command = program.removeprefix("fairseq-")
    if os.path.basename(folder) == "fairseq_cli":
        command = program.removesuffix(".py")
    if command == program or command not in COMMANDS or {"-h", "--help"} & set(argv):
        return
    with exit_on_error():
        if command == "train" and _given(argv, "--arch", "-a") is None:
            ours = tuple(kind for kind in MODEL_REGISTRY.values() if _is_known(kind, KNOWN[1:]))
            raise VTLMError(
                "--arch is missing on the command line, the model to train; give --arch "
                f"{names_of(ours, ARCH_MODEL_REGISTRY)}"
            )
        if _given(argv, "--task") is None:
            own = next((name for name in _own_options() if _given(argv, name) is not None), None)
            if command == "validate" or own:
                ours = tuple(kind for kind in TASK_REGISTRY.values() if _is_known(kind, KNOWN[1:]))
                what = f"{own} is an option of it" if own else "the task of the checkpoint"
                raise VTLMError(
                    f"--task is missing on the command line, {what}; give --task {names_of(ours, TASK_REGISTRY)}"
                )
        if command == "train" and _given(argv, "--optimizer") is None:
            raise VTLMError(
                "--optimizer is missing on the command line; give --optimizer adam, or another of fairseq's"
            )
        if command in ("train", "validate") and _given(argv, "--batch-size", "--max-sentences", "--max-tokens") is None:
            raise VTLMError(
                "the size of batches is missing on the command line; give --batch-size (examples) or --max-tokens"
            )
        if re.fullmatch(r"[+-]?\d+", seed := _given(argv, "--seed") or ""):
            check_ranges({"seed": int(seed)}, COMMON)  # fairseq seeds numpy before it makes a task


def _given(argv: Sequence[str], *names: str) -> str | None:
    """Value of the last option of these on a command line, also where it is shortened; None where there is none.

    fairseq's parser refuses what could be short for another option too.
    """
    found = None
    for argument, following in zip(argv[1:], [*argv[2:], ""], strict=True):
        head, equals, value = argument.partition("=")
        for name in names:
            long = name.startswith("--")
            if (len(head) > 3 and name.startswith(head)) if long else (argument.startswith(name)):
                found = value if equals else following
    return found


def _own_options() -> list[str]:
    """Options about regions, which no task of fairseq's has."""
    configs = (TASK_DATACLASS_REGISTRY[name] for name, kind in TASK_REGISTRY.items() if _is_known(kind, KNOWN[1:]))
    names = dict.fromkeys(one.name for config in configs for one in fields(config))
    return [option(name) for name in names if "region" in name]


def tasks_of(model: type) -> tuple[type, ...]:
    """Classes of registered tasks that models of a class go with."""
    return tuple(kind for kind in TASK_REGISTRY.values() if issubclass(model, getattr(kind, "model_class", ())))


def model_name(cfg) -> str | None:
    """The name in a configuration of a model: a dictionary, of omegaconf's or a Namespace; None is no model."""
    values = vars(cfg) if isinstance(cfg, Namespace) else cfg or {}
    name = values.get("_name") or values.get("arch")
    return name if isinstance(name, str) else None


def registered_model(cfg) -> type | None:
    """Class of the model that a configuration names; None if it is not registered."""
    name = model_name(cfg)
    return ARCH_MODEL_REGISTRY.get(name) or MODEL_REGISTRY.get(name)


def is_translation(cfg: Mapping) -> bool:
    """Whether a configuration is that of a translation model of this package, not of a pre-trained one."""
    model = registered_model(cfg)
    return model is not None and issubclass(model, MODEL_REGISTRY["multimodal_transformer"])


def check_translates(cfg: Mapping, path: str) -> None:
    """Refuse the configuration of a model that does not translate.

    Raises:
        VTLMError: it is a pre-trained one.
    """
    if not is_translation(cfg):
        raise VTLMError(f"{path}: a pre-trained model (vtlm); translating needs one of multimodal_translation")


def check_pretrained(cfg: Mapping, path: str) -> None:
    """Refuse the configuration of a model that translates.

    Raises:
        VTLMError: it does.
    """
    if is_translation(cfg):
        raise VTLMError(f"{path}: a translation model; this needs a pre-trained one (vtlm)")


def check_whole_command(whole: DictConfig) -> None:
    """Refuse a command of fairseq-hydra-train that names no model.

    Raises:
        VTLMError: names what to give.
    """
    if OmegaConf.is_missing(whole, "model"):
        raise VTLMError("the model to train is missing; give model=NAME, as of --arch")


def name_of(kind: type, registry: Mapping[str, type]) -> str:
    """The name that a class is registered under, else that of the class."""
    return next((name for name, registered in registry.items() if registered is kind), kind.__name__)


def names_of(kinds: tuple[type, ...], registry: Mapping[str, type]) -> str:
    """The names of all classes of a registry that derive from one of ``kinds``, as ``a, b or c``."""
    names = [name for name, registered in registry.items() if issubclass(registered, kinds)]
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _is_known(kind: type, packages: tuple[str, ...] = KNOWN) -> bool:
    return kind.__module__.startswith(packages)
