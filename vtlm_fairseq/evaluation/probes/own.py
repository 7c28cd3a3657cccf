"""Probes of a user's own: sub-commands of ``vtlm-probe`` that a folder given by ``--user-dir`` registers."""

import argparse
from abc import ABC, abstractmethod

from vtlm_fairseq.registry import Registry


class Probe(ABC):
    """A sub-command; the first line of its docstring says what it measures."""

    def options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027  (a probe may have none)
        """Add options; ``--user-dir`` is there already."""

    @abstractmethod
    def run(self, args: argparse.Namespace) -> None:
        """Measure, and publish a table.

        Raises:
            VTLMError: a fault that the user can mend, in one line.
        """


_PROBES = Registry("vtlm-probe", "probes", "--user-dir can register your own")
register_probe = _PROBES.register
"""Class decorator: makes a probe known as ``vtlm-probe NAME``."""
get_probe = _PROBES.get
"""The class of a probe."""
own_probes = _PROBES.names
"""Names of those that are registered."""
