"""Classes by name, which an option gives: ours, and those that a user's own file registers."""

from collections.abc import Callable
from typing import TypeVar

from vtlm_fairseq.errors import VTLMError

Class = TypeVar("Class", bound=type)


class Registry:
    """Classes of one kind.

    Args:
        option: that names one of them.
        kind: what they are, in the plural.
        others: where a user's own come from, for the message on an unknown name.
    """

    def __init__(self, option: str, kind: str, others: str) -> None:
        self._option, self._kind, self._others = option, kind, others
        self._classes: dict[str, type] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """Class decorator.

        Raises:
            VTLMError: there is one of that name already.
        """

        def add(cls: Class) -> Class:
            if name in self._classes:
                raise VTLMError(f"{self._option} {name}: two {self._kind} of that name; rename yours")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._classes)

    def get(self, name: str) -> type:
        """The class of a name.

        Raises:
            VTLMError: there is none (lists those that there are).
        """
        if name not in self._classes:
            raise VTLMError(
                f"{self._option} {name}: not known; there are {', '.join(self.names())}, and {self._others}"
            )
        return self._classes[name]
