"""The data of the runner: what is given is linked into the output folder, what is raw is prepared there.

Commands then name the same relative paths wherever the data lie, so that moving them does not make a finished
training look unfinished; what is in the files counts.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from stages import Stage, write_atomically

from vtlm_fairseq.data.split_files import check_held, language_pair
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.text.binarise import PACKAGE
from vtlm_fairseq.text.pipeline import BPE_FILES, TextPipeline
from vtlm_fairseq.text.unspaced import SEGMENTATIONS

ROOT = PACKAGE.parent
REGION_SPLITS = ("train", "val", "test_2016_flickr")
"""The splits of Multi30k whose images Flickr30k Entities describes."""


@dataclass(frozen=True)
class Data:
    """What trainings and decodings have to know of the data.

    Attributes:
        pair: source and target language.
        bpe: kind of BPE, of `BPE_KINDS`.
        test_sets: to be decoded.
        region_sets: those of them that have regions.
        stages: that make data in the output folder.
        has_cc: Conceptual Captions are given; without them pre-training is on Multi30k.
        has_cc_regions: and regions of their images.
        checksums: of given text and regions, by folder.
    """

    pair: tuple[str, str]
    bpe: str
    test_sets: tuple[str, ...]
    region_sets: frozenset[str]
    stages: tuple[Stage, ...]
    has_cc: bool
    has_cc_regions: bool
    checksums: dict[str, str]

    def needs(self, corpus: str, *, regions: bool) -> tuple[str, ...]:
        """Names of the stages that make a corpus."""
        wanted = {"joined": {"joined"}, "cc": set()}.get(corpus, {"prepare", FOLDERS[corpus][1] if regions else ""})
        return tuple(stage.name for stage in self.stages if stage.name in wanted)

    def has_stage(self, name: str) -> bool:
        """Whether a stage of this name makes data."""
        return any(stage.name == name for stage in self.stages)

    def facts(self, corpus: str, *, regions: bool) -> tuple[str, ...]:
        """Checksums of the given data that a corpus is made of."""
        text, store = FOLDERS[corpus]
        return tuple(self.checksums[name] for name in (text, *([store] if regions else [])) if name in self.checksums)


CONTROLS = {"m30k_signal0": ("--signal", "0"), "m30k_noboxes": ("--signal", "0", "--no-boxes")}
"""Multi30k with oracle regions that say nothing: options of `entities_regions.py`."""

FOLDERS = {
    "m30k": ("data-bin", "regions"),
    "cc": ("cc-bin", "cc-regions"),
    "joined": ("joined-bin", "regions"),
    "m30k_signal0": ("data-bin", "regions-signal0"),
    "m30k_noboxes": ("data-bin", "regions-noboxes"),
}
"""Folder of the text and the region store of each corpus, in the output folder."""


class Checksums:
    """sha256 of files, kept in ``checksums.json`` as long as size and time of a file stay the same."""

    def __init__(self, out: Path) -> None:
        self._path = out / "checksums.json"
        try:
            self._known = json.loads(self._path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self._known = {}

    def file(self, path: Path) -> str:
        """sha256 of a file."""
        state = path.stat()
        key, mark = str(path.resolve()), [state.st_size, state.st_mtime_ns]
        if self._known.get(key, [])[:2] != mark:
            with path.open("rb") as file:
                self._known[key] = [*mark, hashlib.file_digest(file, "sha256").hexdigest()]
        return self._known[key][2]

    def folder(self, path: Path) -> dict[str, str]:
        """sha256 of each file of a folder but logs, by name; of the file alone where ``path`` is one."""
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
        files = [file for file in files if file.suffix != ".log"]
        return {file.name: self.file(file) for file in files}

    def digest(self, path: Path) -> str:
        """One checksum of all files of a folder and their names."""
        return hashlib.sha256(json.dumps(self.folder(path), sort_keys=True).encode()).hexdigest()

    def save(self) -> None:
        """Write what is known."""
        write_atomically(self._path, json.dumps(self._known, indent=1) + "\n")


def find_data(args: argparse.Namespace, *, vocab: int, checksums: Checksums) -> Data:
    """Link the data that the options name into ``args.out`` and plan the stages that prepare the rest.

    Raises:
        VTLMError: options that do not go together, or data that are not there.
    """
    _check_options(args)
    links = {"cc-bin": args.cc_data, "cc-regions": args.cc_regions}
    if args.data:
        links |= {"data-bin": args.data, "regions": args.regions}
    else:
        links |= {"input/raw": args.raw, "input/image_splits": args.image_splits}
        links[_entities_link(args)] = args.entities
    for name, target in links.items():
        _link(args.out / name, target)
    pair, bpe = _text(args)
    given = [name for name in ("data-bin", "regions") if args.data]
    given += [name for name in ("cc-bin", "cc-regions") if links[name]]
    sums = {name: checksums.digest(args.out / name) for name in given}
    checksums.save()
    stages = ()
    if not args.data:
        controls = (_entities(args, FOLDERS[corpus][1], options) for corpus, options in CONTROLS.items())
        stages = (_prepare(args, pair, vocab), _entities(args, "regions"), *controls)
    if args.cc_data:
        facts = tuple(sums[name] for name in ("data-bin", "cc-bin") if name in sums)
        stages += (_joined(needs=() if args.data else ("prepare",), facts=facts),)
    return Data(
        pair=pair,
        bpe=bpe,
        test_sets=tuple(args.test_sets),
        region_sets=frozenset(name for name in args.test_sets if _has_regions(args, name)),
        stages=stages,
        has_cc=bool(args.cc_data),
        has_cc_regions=bool(args.cc_regions),
        checksums=sums,
    )


def _check_options(args: argparse.Namespace) -> None:
    raw = {"--raw": args.raw, "--image-splits": args.image_splits, "--entities": args.entities}
    if bool(args.data) == any(raw.values()):
        raise VTLMError("give either --data and --regions, or --raw, --image-splits and --entities; see --help")
    missing = [name for name, value in raw.items() if not value]
    if not args.data and missing:
        raise VTLMError(f"{missing[0]} is missing: raw data need all of {', '.join(raw)}")
    if args.data and not args.regions:
        raise VTLMError("--data needs --regions, the region store of its images")
    if args.regions and not args.data:
        raise VTLMError("--regions belongs to --data; with --raw the regions are made from --entities")
    if args.cc_regions and not args.cc_data:
        raise VTLMError("--cc-regions belongs to --cc-data")
    given = {**raw, "--data": args.data, "--regions": args.regions, "--cc-data": args.cc_data}
    for option, path in (given | {"--cc-regions": args.cc_regions}).items():
        if path and not path.exists():
            raise VTLMError(f"{option} {path}: no such file or folder")


def _link(link: Path, target: Path | None) -> None:
    """Make ``link`` point to what is given; a folder that a stage has made there is left alone."""
    if target is None:
        return
    if link.exists() and not link.is_symlink():
        if link.samefile(target):
            return
        raise VTLMError(f"{link} was made by a call with other data options; give those again, or another --out")
    if not link.is_symlink() or link.readlink() != target.resolve():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())


def _entities_link(args: argparse.Namespace) -> str:
    """The reader knows an archive by its suffix."""
    return "input/entities" if args.entities.is_dir() else f"input/entities{args.entities.suffix}"


def _text(args: argparse.Namespace) -> tuple[tuple[str, str], str]:
    """Languages and kind of BPE of a folder; of what `prepare_multi30k.py` makes, if there is none yet."""
    folder, chosen = args.data or args.cc_data, (args.source_lang, args.target_lang)
    if folder is None:
        return (chosen[0] or "en", chosen[1] or "de"), "sentencepiece"
    pair = chosen if all(chosen) else language_pair(str(folder), *chosen)
    check_held(str(folder), *pair, "; see -s and -t")
    has_pipeline = (folder / "text.json").is_file()
    return pair, TextPipeline.load(folder).bpe if has_pipeline else "none"


def _has_regions(args: argparse.Namespace, test_set: str) -> bool:
    if not args.data:
        return test_set in REGION_SPLITS
    try:
        return bool(store_files(str(args.regions), test_set))
    except VTLMError:
        return False


def _prepare(args: argparse.Namespace, pair: tuple[str, str], vocab: int) -> Stage:
    """Multi30k's text; with Conceptual Captions it takes their vocabulary and their steps."""
    vocabulary = ["--vocab-size", str(vocab)]
    facts: tuple[str, ...] = ()
    if args.cc_data:
        if not (args.cc_data / "text.json").is_file():
            raise VTLMError(
                f"{args.cc_data} holds no text.json, so raw Multi30k cannot be prepared as it was; give --data, "
                "prepared with its dictionary"
            )
        pipeline = TextPipeline.load(args.cc_data)
        if not BPE_FILES[pipeline.bpe]:
            raise VTLMError(f"{args.cc_data} has no BPE model; give --data, prepared with its dictionary")
        vocabulary = ["--bpe-model", f"cc-bin/{BPE_FILES[pipeline.bpe]}"]
        vocabulary += ["--dict", f"cc-bin/dict.{pipeline.source_lang}.txt"]
        vocabulary += [] if "lowercase" in pipeline.steps else ["--keep-case"]
        vocabulary += [] if "escape" in pipeline.steps else ["--no-escape"]
        vocabulary += ["--strip-accents"] if "strip_accents" in pipeline.steps else []
        facts = tuple(sorted(pipeline.checksums.values()))
        if segments := [step for step in pipeline.steps if step in SEGMENTATIONS]:
            vocabulary += ["--segment", segments[-1]]
    raw = [args.raw / f"{split}.{lang}" for split in REGION_SPLITS for lang in pair]
    languages = [] if pair == ("en", "de") else ["--source-lang", pair[0], "--target-lang", pair[1]]
    return Stage(
        name="prepare",
        title="prepare Multi30k",
        command=(
            str(ROOT / "preprocess" / "prepare_multi30k.py"),
            *("--raw", "input/raw", "--image-splits", "input/image_splits", "--out", "data-bin"),
            *vocabulary,
            *languages,
            *(["--any-counts"] if args.any_counts else []),
        ),
        outputs=("data-bin",),
        inputs=tuple(path for path in raw if path.is_file()),
        facts=facts,
    )


def _entities(args: argparse.Namespace, store: str, options: tuple[str, ...] = ()) -> Stage:
    return Stage(
        name=store,
        title=f"make oracle {store}",
        command=(
            str(ROOT / "preprocess" / "entities_regions.py"),
            *("--entities", _entities_link(args), "--raw", "input/raw", "--image-splits", "input/image_splits"),
            *("--splits", ",".join(REGION_SPLITS), "--out", store, *options),
        ),
        outputs=(store,),
    )


def _joined(*, needs: tuple[str, ...], facts: tuple[str, ...]) -> Stage:
    return Stage(
        name="joined",
        title="join CC and Multi30k",
        command=(
            str(ROOT / "examples" / "conceptual_captions" / "join_corpora.py"),
            *("cc-bin", "data-bin", "--out", "joined-bin"),
        ),
        outputs=("joined-bin",),
        needs=needs,
        facts=facts,
    )
