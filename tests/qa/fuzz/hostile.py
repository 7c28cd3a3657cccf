"""Pickles that would run code, and the demand that none did."""

import os
import pickle
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mutations import damage


@contextmanager
def never_executed(mark: Path) -> Iterator[None]:
    """Demand that code in a file, which would make ``mark``, was not executed."""
    try:
        yield
    finally:
        if mark.exists():
            mark.rmdir() if mark.is_dir() else mark.unlink()
            raise AssertionError("code in the file was executed")


def hostile_pickle(rng: random.Random, mark: Path) -> bytes:
    """A pickle that would make the file ``mark``, by one of the ways to call something."""
    command = f"touch {mark}"
    calls = (
        (os.system, (command,)),
        (eval, (f"open({str(mark)!r}, 'w')",)),
        (exec, (f"open({str(mark)!r}, 'w')",)),
        (open, (str(mark), "w")),
        (os.mkdir, (str(mark),)),
        ("torch\nload", str(mark)),
        (getattr, (os, "system")),
        ("torch.serialization\nadd_safe_globals", str(mark)),
    )
    function, arguments = rng.choice(calls)

    class Call:
        def __reduce__(self):
            return function, arguments

    try:
        plain = {"cfg": {"model": {"langs": "de,en"}}, "model": {}}
        value = rng.choice((Call(), {"model": Call()}, {**plain, "extra_state": [Call()]}))
        if isinstance(function, str):  # of a package that is not imported here
            data = _call(function, arguments)
        else:
            data = pickle.dumps(value, protocol=rng.randrange(6))
    except (TypeError, pickle.PicklingError, AttributeError):
        data = _call("os\nsystem", command)
    return damage(rng, data, most=1) if rng.random() < 0.2 else data


def _call(name: str, argument: str) -> bytes:
    """A pickle that calls MODULE\\nNAME with a text."""
    data = argument.encode()
    return f"c{name}\n(X".encode() + struct.pack("<I", len(data)) + data + b"tR."
