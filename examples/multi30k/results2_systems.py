"""Names of the runs of PROTOCOL-2.md, and the regions that each of them reads.

``SYSTEM.SEED``, where SYSTEM is a key of `PRETRAINED`, with ``_145k`` if it is trained on more captions, with ``_mmt``
or ``_nmt`` if it is fine-tuned, and with ``_1k`` or ``_5k`` if that is on so many pairs; or ``nmt`` or ``mmt``, trained
from scratch, with or without the last.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from vtlm_fairseq.errors import VTLMError

SPLITS = {"valid": "valid", "test": "test_2016_flickr"}
"""What options and pages call them, and their names."""
BEST = "checkpoint_best.pt"
PRETRAINED = {
    "vtlm": "VTLM",
    "tlm": "TLM",
    "noise": "VTLM, features are noise",
    "noboxes": "VTLM, features are noise, no boxes",
    "nouns": "VTLM, aligned nouns masked",
    "tlmnouns": "TLM, aligned nouns masked",
    "vtlm15": "VTLM, 15 % of the regions masked",
}
_SIZES = {"1k": "1,000 pairs", "5k": "5,000 pairs"}
_NAME = re.compile(rf"(?:(?P<base>{'|'.join(PRETRAINED)})(?P<more>_145k)?_)?(?P<task>nmt|mmt)(?:_(?P<size>1k|5k))?")
_PRETRAINING = re.compile(rf"(?P<base>{'|'.join(PRETRAINED)})(?P<more>_145k)?")


@dataclass(frozen=True)
class System:
    """A system.

    Attributes:
        name: of its runs' folders.
        title: what tables call it.
        translates: NMT or MMT rather than TLM or VTLM.
        regions: which store: ``regions``, ``noise`` or ``noboxes``; None: text only.
    """

    name: str
    title: str
    translates: bool
    regions: str | None


def find_system(name: str) -> System:
    """The system of that name.

    Raises:
        VTLMError: there is none.
    """
    found = _PRETRAINING.fullmatch(name) or _NAME.fullmatch(name)
    if found is None:
        raise VTLMError(f"{name}: no name of a system; see examples/multi30k/results2_systems.py")
    parts = found.groupdict()
    base, task = parts["base"], parts.get("task")
    start = "" if base is None else PRETRAINED[base] + (", 145,000 captions" if parts["more"] else "")
    ends = "" if task is None else f"{task.upper()} from scratch" if base is None else f" -> {task.upper()}"
    size = f", {_SIZES[parts['size']]}" if parts.get("size") else ""
    has_regions = task == "mmt" if task else base not in ("tlm", "tlmnouns")
    regions = (base if base in ("noise", "noboxes") else "regions") if has_regions else None
    return System(name, start + ends + size, translates=task is not None, regions=regions)


@dataclass(frozen=True)
class Run:
    """A training of a system that has ended."""

    system: System
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its records."""
        return f"{self.system.name}.{self.seed}"


def find_runs(folder: Path, chosen: list[str] | None = None) -> list[Run]:
    """The runs in a folder that have ended: with a file ``done`` beside ``checkpoint_best.pt``.

    Args:
        folder: of ``SYSTEM.SEED``.
        chosen: names of runs; None: all.

    Raises:
        VTLMError: one that is chosen is not there or has not ended, or a name is none of a system.
    """
    ended = {path.parent.name for path in folder.glob("*/done") if (path.parent / BEST).is_file()}
    for name in chosen or ():
        if name not in ended:
            raise VTLMError(f"{folder / name}: no run that has ended, with {BEST} and the file done")
    return sorted(map(parse_run, ended if chosen is None else chosen), key=lambda run: (run.system.name, run.seed))


def parse_run(name: str) -> Run:
    """Read ``SYSTEM.SEED``.

    Raises:
        VTLMError: it is not that.
    """
    system, _, seed = name.rpartition(".")
    if not seed.isdecimal():
        raise VTLMError(f"{name}: a run is called SYSTEM.SEED")
    return Run(find_system(system), int(seed))
