"""The fields of a record that somebody else wrote, by name, as numbers."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError


class Fields:
    """The fields of a record by the names of a layout.

    Args:
        fields: what the container holds.
        where: file and image, for messages.
    """

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields, self.where = fields, where

    def find(self, name: str) -> Any:
        """A field; None where its name is empty, or may be missing (``?``) and is.

        Raises:
            VTLMError: it is missing.
        """
        if not name:
            return None
        value: Any = self._fields
        for part in name.rstrip("?").split("/"):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif name.endswith("?"):
                return None
            else:
                held = ", ".join(sorted(map(str, value))[:20]) if isinstance(value, Mapping) else "no fields"
                raise VTLMError(f"{self.where}: {name!r} is missing, there is {held or 'nothing'}; see the layout")
        return value

    def array(self, name: str) -> np.ndarray | None:
        """A field as an array of numbers; None as in `find`.

        Raises:
            VTLMError: it is no such array.
        """
        value = self.find(name)
        if value is None and (not name or name.endswith("?")):
            return None
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            raise VTLMError(f"{self.where}: {name} is no array of numbers") from None
        if array.size == 0 and array.dtype.kind in "Of":
            return array.astype(np.float32)
        if array.dtype.kind not in "fiu":
            raise VTLMError(f"{self.where}: {name} holds {array.dtype}, not numbers")
        return array

    def number(self, name: str) -> float | None:
        """A field as one number; None as in `find`.

        Raises:
            VTLMError: it is none, or not finite.
        """
        value = self.find(name)
        if value is None and (not name or name.endswith("?")):
            return None
        try:
            number = float(value.reshape(()) if isinstance(value, np.ndarray) else value)
        except (TypeError, ValueError, OverflowError):
            raise VTLMError(f"{self.where}: {name} is no number") from None
        if not math.isfinite(number):
            raise VTLMError(f"{self.where}: {name} is {number}")
        return number
