"""Which task and model go together, decided by class, so that classes derived from ours count.

fairseq joins any task with any model. What does not fit ends in a stack, or runs and computes something else: its task
``translation``, the default of fairseq-generate, gives our models no leading ``</s>`` and no regions.

A task of this package names the model whose kind it feeds in ``model_class``.
"""

from fairseq.tasks import TASK_REGISTRY, FairseqTask

from vtlm_fairseq.errors import VTLMError, exit_on_error


def check_task(task, model: type) -> None:
    """Refuse to build a model of this package for another's task, in one line that ends the command.

    Args:
        task: what the model is built for; only fairseq's tasks are judged, not objects that stand for one.
        model: class of the model.
    """
    fitting = tuple(kind for kind in TASK_REGISTRY.values() if issubclass(model, model_of(kind) or ()))
    if isinstance(task, FairseqTask) and not isinstance(task, fitting):
        with exit_on_error():
            raise VTLMError(
                f"--task {name_of(type(task), TASK_REGISTRY)} gives {model.__name__} input that it was not made for; "
                f"give --task {names_of(fitting, TASK_REGISTRY)}"
            )


def model_of(task: type) -> type | None:
    """The class that models of a task's class derive from; None for tasks of others."""
    return getattr(task, "model_class", None)


def name_of(kind: type, registry: dict[str, type]) -> str:
    """The name that a class is registered under, else that of the class."""
    return next((name for name, registered in registry.items() if registered is kind), kind.__name__)


def names_of(kinds: tuple[type, ...], registry: dict[str, type]) -> str:
    """The names of all classes of a registry that derive from one of ``kinds``, as ``a, b or c``."""
    names = [name for name, registered in registry.items() if issubclass(registered, kinds)]
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
