"""Names from files and options that become a part of a path: they must not lead out of their folder.

Languages (``dict.LANG.txt``), splits (``SPLIT.h5``), image ids (``ID.jpg``, ``ID.npy``) and file names in ``text.json``
come from checkpoints and data of strangers. Each goes through a function of this module before it becomes a path.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from vtlm_fairseq.errors import VTLMError

MAX_BYTES = 200
"""Of a name; what is put before and behind it must fit into the 255 that file systems take."""


def is_text(text: str) -> bool:
    """Whether files can hold a text: no zero character, and no half of a character (a lone surrogate)."""
    return "\0" not in text and (text.isascii() or not any(0xD800 <= ord(c) < 0xE000 for c in text))


def check_path(name: str, path: object) -> str:
    """A path that an argument in Python gives.

    Raises:
        VTLMError: it is none (names the argument).
    """
    if not isinstance(path, str | os.PathLike):
        raise VTLMError(f"{name}={path!r}: is of type {type(path).__name__}, must be a path")
    return os.fspath(path)


def name_fault(name: object, *, nested: bool = False) -> str | None:
    """Why a name cannot be a part of a path; None: it can.

    Args:
        name: of a file or a folder, or a part of one.
        nested: ``folder/name`` is one too, as long as it stays inside.
    """
    if not isinstance(name, str):
        return "it is no text"
    for part in name.split("/") if nested else [name]:
        if part in ("", ".", "..") or "/" in part:
            return "it leads out of the folder" if name else "it is empty"
        if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in part):
            return "it holds control characters or is not Unicode text"
        if len(part.encode("utf-8")) > MAX_BYTES:
            return f"it is longer than {MAX_BYTES} bytes"
    return None


def check_name(name: object, what: str, *, nested: bool = False, hint: str = "") -> str:
    """A name that can be a part of a path.

    Args:
        name: to be checked.
        what: it is, and where it stands, for the message.
        nested: ``folder/name`` is one too.
        hint: what mends it.

    Raises:
        VTLMError: it cannot (named).
    """
    if fault := name_fault(name, nested=nested):
        shown = repr(name if not isinstance(name, str) or len(name) <= 99 else f"{name[:99]}...")
        raise VTLMError(f"{what} {shown} cannot be part of a file name: {fault}" + (f"; {hint}" if hint else ""))
    return name


def check_language(name: object, where: str) -> str:
    """The name of a language: part of a file name, without commas and blanks, which separate them.

    Raises:
        VTLMError: it is not (names ``where``).
    """
    check_name(name, f"{where}: language", hint="see -s, -t and --langs")
    if "," in name or name.split() != [name]:
        raise VTLMError(f"{where}: language {name!r} holds a comma or a blank; see -s, -t and --langs")
    return name


def check_languages(names: Iterable[object], where: str) -> None:
    """As :func:`check_language`, for all; None, a language not yet known, is left out.

    Raises:
        VTLMError: one of them is no name (names ``where``).
    """
    for name in names:
        if name is not None:
            check_language(name, where)


def check_distinct(source: str | None, target: str | None) -> None:
    """Refuse a pair of one language.

    Raises:
        VTLMError: both are the same.
    """
    if source is not None and source == target:
        raise VTLMError(f"-s {source} -t {target}: source and target language are the same; give both of the pair")


def find_inside(folder: Path, name: str, suffixes: Iterable[str] = ("",)) -> Path | None:
    """The first file ``FOLDER/NAME{SUFFIX}`` that is there; None where none is, or the name leads out of the folder."""
    if name_fault(name, nested=True):
        return None
    return next((path for path in (folder / f"{name}{suffix}" for suffix in suffixes) if path.is_file()), None)
