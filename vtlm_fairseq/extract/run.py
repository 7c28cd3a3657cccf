"""Extraction: a detector over all images, in batches that do not reach over the parts that are saved."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.careful import CarefulDetector, Input, read_input
from vtlm_fairseq.extract.detectors import Detector, DetectorOptions, get_detector
from vtlm_fairseq.extract.images import ImageFile, list_images, without_excluded
from vtlm_fairseq.regions.class_names import read_class_names
from vtlm_fairseq.regions.image_reading import UnreadableImageError
from vtlm_fairseq.regions.parts import SOME_FAILED, Failure, Part, Parts
from vtlm_fairseq.regions.schema import read_header
from vtlm_fairseq.terminal import progress_bar, say
from vtlm_fairseq.version import __version__

_PLANNED = ("detector", "model", "weights", "class_names", "min_score", "max_regions", "dtype", "part_size", "images")
_PLANNED_IF_GIVEN = ("grid", "pool", "boxes", "letterbox", "fp16")
_DETECTOR_OPTIONS = ("model", "weights", "class_names", "min_score", "device", "threads", *_PLANNED_IF_GIVEN)


def run(args: argparse.Namespace) -> int:
    """Extract what the options of ``vtlm-extract`` ask for; 0, or 3 where some images failed.

    Raises:
        VTLMError: a fault of input or options.
    """
    if args.shard is not None:
        if (args.num_shards, args.shard_id) != (1, 0):
            raise VTLMError("--shard I/N and --num-shards N --shard-id I are the same; give one of them")
        args.shard_id, args.num_shards = args.shard
    detector = make_detector(args)
    files, notes = list_images(
        args.images,
        detector.suffixes,
        num_shards=args.num_shards,
        shard_id=args.shard_id,
        rule=args.id_rule,
        tar_prefix=args.id_prefix == "tar",
    )
    for note in notes:
        say(f"not read: {note}")
    if args.exclude is not None:
        files = without_excluded(files, args.exclude)
    plan = {name: getattr(args, name) for name in _PLANNED}
    plan |= {name: getattr(args, name) for name in _PLANNED_IF_GIVEN if getattr(args, name) is not None}
    plan |= {"id_rule": str(args.id_rule), "id_prefix": args.id_prefix}
    plan["shard"] = [args.shard_id, args.num_shards]
    with Parts(args.out, plan, kind="extraction", overwrite=args.overwrite) as parts:
        progress = Progress(files, parts.whole())
        if work := progress.missing(args.part_size):
            extract(parts, progress, work, detector, args)
        failures = progress.failures()
        if parts.made and progress.is_part(-1):
            parts.leave(failures)
        else:
            with progress_bar(total=len(files), desc="joining", unit=" images") as bar:
                joined = parts.join(*progress.rows(), failures, lambda done: bar.update(done - bar.n))
            say(f"{args.out}: {joined[0]:,} images, {joined[1]:,} regions")
            if failures:
                say(f"{len(failures):,} images failed, see {parts.errors}")
    return SOME_FAILED if failures else 0


def make_detector(args: argparse.Namespace) -> Detector:
    """The detector that the options name, not yet opened.

    Raises:
        VTLMError: not known, a file that fails, or an option that it has no use for.
    """
    if args.detector_file is not None:
        _import_file(args.detector_file)
    cls = get_detector(args.detector)
    given = {name: getattr(args, name) for name in _DETECTOR_OPTIONS if getattr(args, name) is not None}
    for name in given:
        if name not in cls.uses:
            raise VTLMError(f"--{name.replace('_', '-')} has no effect on --detector {args.detector}; leave it out")
    if "class_names" in given:
        given["class_names"] = tuple(read_class_names(given["class_names"]))
    return cls(DetectorOptions(**given, max_regions=args.max_regions))


def _import_file(path: str) -> None:
    """Run a file that registers detectors; its folder is where it imports from.

    It may import `detectors` and `images` by these short names, too.
    """
    if not os.path.isfile(path):
        raise VTLMError(f"--detector-file {path}: no such file")
    for name, module in list(sys.modules.items()):
        if name.startswith(("vtlm_fairseq.extract.detectors", "vtlm_fairseq.extract.images")):
            sys.modules.setdefault(name.removeprefix("vtlm_fairseq.extract."), module)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


class Progress:
    """Which images of a run are in which part, whatever the images of earlier calls were.

    Args:
        files: all images of the run, in the order of the store.
        parts: those that are whole, by number.
    """

    def __init__(self, files: Sequence[ImageFile], parts: dict[int, Part]) -> None:
        self.files = files
        self.parts: dict[int, Part] = {}
        self._done: dict[str, tuple[int, int]] = {}  # part and row
        self._failed: dict[str, Failure] = {}
        for number, part in parts.items():
            self.add(number, part)
        self._failed_before = set(self._failed)
        self._numbers = (number for number in count() if number not in self.parts)

    def add(self, number: int, part: Part) -> None:
        """Take note of a part."""
        self.parts[number] = part
        for row, image_id in enumerate(part.image_ids):
            self._done.setdefault(image_id, (number, row))
        for failure in part.failures:
            self._failed[failure.image_id] = failure

    def sound(self) -> list[ImageFile]:
        """Images that are in a part."""
        return [file for file in self.files if file.image_id in self._done]

    def missing(self, part_size: int) -> list[tuple[int, list[ImageFile]]]:
        """Number and images of each part to be made; last come the images that failed in earlier calls."""
        left, again = [], []
        for start in range(0, len(self.files), part_size):
            rest = [file for file in self.files[start : start + part_size] if file.image_id not in self._done]
            left.append([file for file in rest if file.image_id not in self._failed_before])
            again += [file for file in rest if file.image_id in self._failed_before]
        left += [again[start : start + part_size] for start in range(0, len(again), part_size)]
        return [(next(self._numbers), files) for files in left if files]

    def failures(self) -> list[Failure]:
        """Of images that are in no part, in the order of the images."""
        ids = (file.image_id for file in self.files if file.image_id not in self._done)
        return [self._failed[image_id] for image_id in ids if image_id in self._failed]

    def is_part(self, number: int) -> bool:
        """Whether the images of a part are all that could be made, in their order."""
        part = self.parts.get(number)
        return part is not None and part.image_ids == [file.image_id for file in self.sound()]

    def check_maker(self, detector: Detector) -> None:
        """Find out before the work that parts of earlier calls do not fit.

        Raises:
            VTLMError: they are of another detector.
        """
        for part in self.parts.values():
            header = read_header(part.store)
            found = (header.attributes["detector"], header.feature_dim, list(header.class_names))
            given = (detector.description, detector.feature_dim, list(detector.class_names))
            if found != given:
                what = [f"{name!r}, {width} wide, {len(names)} classes" for name, width, names in (found, given)]
                raise VTLMError(
                    f"{part.store}: its regions are by {what[0]}, those to come by {what[1]}; add --overwrite to begin "
                    "anew"
                )

    def rows(self) -> tuple[list[str], np.ndarray]:
        """Store files of the parts that are needed, and rows of the images in these."""
        places = [self._done[file.image_id] for file in self.sound()]
        used = sorted({number for number, _ in places}) or sorted(self.parts)[:1]
        starts = dict(zip(used, np.cumsum([0, *(len(self.parts[n].image_ids) for n in used)]), strict=False))
        rows = np.array([starts[number] + row for number, row in places], dtype=np.int64)
        return [self.parts[number].store for number in used], rows


class _Inputs:
    """Inputs of the detector; what is asked for is a file, not its number."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __getitem__(self, file: ImageFile) -> Input | UnreadableImageError | VTLMError:
        return read_input(self._detector, file)


def extract(
    parts: Parts,
    progress: Progress,
    work: Sequence[tuple[int, list[ImageFile]]],
    detector: Detector,
    args: argparse.Namespace,
) -> None:
    """Make parts of an extraction.

    Batches do not reach over parts, so that a part is the same whatever was done before it.

    Args:
        parts: where they go.
        progress: is told of them.
        work: number and images of each.
        detector: not yet opened.
        args: `batch_size`, `workers`, `dtype` and `detector` are used.
    """
    from torch.utils.data import DataLoader

    size = args.batch_size
    batches = [files[start : start + size] for _, files in work for start in range(0, len(files), size)]
    loader = DataLoader(
        _Inputs(detector),
        batch_sampler=batches,
        collate_fn=list,
        num_workers=args.workers,
        multiprocessing_context="fork" if args.workers else None,
    )
    inputs = iter(loader)  # starts the workers, before the model comes into this process
    sound = progress.sound()
    known = {file.image_id for file in sound}
    detector.open([*sound, *(file for file in progress.files if file.image_id not in known)])
    progress.check_maker(detector)
    careful = None
    total = len(progress.files)
    with progress_bar(total=total, initial=total - sum(len(f) for _, f in work), unit=" images", delay=0) as bar:
        for number, files in work:
            writer = parts.writer(
                number,
                feature_dim=detector.feature_dim,
                class_names=detector.class_names,
                detector=detector.description,
                created_by=f"vtlm-fairseq {__version__} vtlm-extract",
                dtype=args.dtype,
            )
            careful = careful or CarefulDetector(detector, writer.rules, name=args.detector, sound=sound)
            failures: list[Failure] = []
            with writer:
                for start in range(0, len(files), size):
                    batch = files[start : start + size]
                    for file, found in zip(batch, careful.detect(batch, _next(inputs)), strict=True):
                        if isinstance(found, UnreadableImageError):
                            failures.append(Failure(file.image_id, file.path, str(found)))
                        else:
                            writer.extend([file.image_id], [len(found["labels"])], found)
                    bar.update(len(batch))
                if number == work[-1][0]:
                    careful.finish()
                parts.write_failures(number, failures)
            failed = {failure.image_id for failure in failures}
            done = [file.image_id for file in files if file.image_id not in failed]
            progress.add(number, Part(writer.path, done, failures))


def _next(inputs: Iterator[list[Input]]) -> list[Input]:
    try:
        return next(inputs)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise VTLMError(
            f"a process that reads images has ended ({error}); give the same command again to go on, with fewer "
            "--workers if memory ran out"
        ) from None
