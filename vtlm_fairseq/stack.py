"""Checks Python and the libraries before anything is imported that an unsupported one would break with a traceback.

Written so that old versions of Python can read it, and tell their user what is needed.
"""

import os
import re
import sys

PYTHON = ((3, 11), (3, 13))
"""Oldest version that is supported, first one that is not; as in setup.cfg."""
LIBRARIES = {
    "torch": ("torch", "2.6", ""),
    "fairseq": ("ve-fairseq", "0.12.3", "0.13"),
    "numpy": ("numpy", "2.0", ""),
    "h5py": ("h5py", "3.12.1", ""),
    "omegaconf": ("omegaconf", "2.3", ""),
    "sacrebleu": ("sacrebleu", "2.3", ""),
}
"""Module -> distribution, oldest version, first one that is not supported; as in setup.cfg."""


def plug_closed_streams():
    """Open /dev/null in place of standard streams that are closed: the next file to be opened would become one.

    What a library prints would then land in a checkpoint or a store.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def check_stack():
    """Compare Python and the libraries with what is supported. Standard streams that are closed are plugged first.

    Raises:
        SystemExit: with one line, for the first one that is missing or does not fit.
    """
    plug_closed_streams()
    oldest, beyond = PYTHON
    if not oldest <= sys.version_info[:2] < beyond:
        raise SystemExit(
            f"error: vtlm-fairseq needs Python {oldest[0]}.{oldest[1]} or {beyond[0]}.{beyond[1] - 1}, this is "
            f"{sys.version_info[0]}.{sys.version_info[1]} ({sys.executable}); make an environment with one of them"
        )
    for module, (distribution, oldest, beyond) in LIBRARIES.items():
        found = _fairseq_version() if module == "fairseq" else _version(module, distribution)
        if found and _number(oldest) <= _number(found) and not (beyond and _number(found) >= _number(beyond)):
            continue
        wanted = f"{distribution}>={oldest}" + (f",<{beyond}" if beyond else "")
        state = f"{module} {found} is installed" if found else "it is not installed"
        uninstall = "pip uninstall fairseq ve-fairseq && " if found and module == "fairseq" else ""
        raise SystemExit(
            f"error: vtlm-fairseq needs {wanted}, but {state}; run: {uninstall}pip install '{wanted}' (versions that "
            "were tested: docs/dev/compatibility.md)"
        )


def _version(module, distribution):
    """The version of an installed library; None: there is none."""
    from importlib import import_module, metadata, util

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        if util.find_spec(module) is None:
            return None
        return str(getattr(import_module(module), "__version__", "of unknown version"))


def _fairseq_version():
    """As `_version`, read from its files: upstream's cannot be imported, and both distributions may be installed."""
    from importlib import util

    spec = util.find_spec("fairseq")
    if spec is None:
        return None
    for folder in spec.submodule_search_locations or ():
        for name in ("version.py", "version.txt"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, encoding="utf-8") as file:
                    found = re.search(r"\d[\w.+-]*", file.read())
                if found:
                    return found.group()
    return "of unknown version"


def _number(version):
    """``2.13.0+cpu`` -> ``(2, 13, 0)``; an unknown version counts as the oldest."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
