"""Extraction: a detector over all images, in batches that do not reach over the parts that are saved."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.extract.detectors import Detection, Detector, DetectorOptions, get_detector
from vtlm_fairseq.extract.images import ImageFile, list_images
from vtlm_fairseq.extract.parts import Extraction, Failure
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.regions.image_reading import UnreadableImageError
from vtlm_fairseq.regions.store import RegionStoreWriter
from vtlm_fairseq.terminal import say
from vtlm_fairseq.version import __version__

_DETECTOR_OPTIONS = ("model", "weights", "class_names", "min_score", "device", "threads")
_SOME_UNREADABLE = 3
_LOG_SECONDS = 60  # between lines of progress in a log file

Input = np.ndarray | UnreadableImageError


def run(args: argparse.Namespace) -> int:
    """Extract what the options of ``vtlm-extract`` ask for; 0, or 3 where some images could not be read.

    Raises:
        VTLMError: a fault of input or options.
    """
    detector = make_detector(args)
    files, notes = list_images(args.images, detector.suffixes, num_shards=args.num_shards, shard_id=args.shard_id)
    for note in notes:
        say(f"not read: {note}")
    plan = {
        "detector": args.detector,
        **{name: getattr(args, name) for name in ("model", "weights", "class_names", "min_score")},
        "max_regions": args.max_regions,
        "dtype": args.dtype,
    }
    with Extraction(args.out, files, plan, part_size=args.part_size, overwrite=args.overwrite) as extraction:
        if extraction.complete:
            failed = extraction.errors.exists()
            say(f"{args.out}: complete already" + (f", errors in {extraction.errors}" if failed else ""))
            return _SOME_UNREADABLE if failed else 0
        extract(extraction, detector, batch_size=args.batch_size, workers=args.workers, dtype=args.dtype)
        with tqdm(total=len(files), desc="joining", unit=" images", disable=None) as bar:
            images, regions, failed = extraction.join(lambda done: bar.update(done - bar.n))
    say(f"{args.out}: {images:,} images, {regions:,} regions")
    if failed:
        say(f"{failed:,} images could not be read, see {extraction.errors}")
    return _SOME_UNREADABLE if failed else 0


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
        path = given["class_names"]
        given["class_names"] = tuple(read_lines(path, label=f"--class-names {path}", filled=True))
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


class _Inputs:
    """Inputs of the detector; what is asked for is a file, not its number."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def __getitem__(self, file: ImageFile) -> Input:
        try:
            return self._detector.read(file.read())
        except UnreadableImageError as error:
            return error
        except OSError as error:
            return UnreadableImageError(error.strerror or str(error))


def extract(extraction: Extraction, detector: Detector, *, batch_size: int, workers: int, dtype: str) -> None:
    """Make all parts of an extraction that are missing.

    Batches do not reach over parts, so that a part is the same whatever was done before it.
    """
    from torch.utils.data import DataLoader

    missing = extraction.missing()
    batches = [
        files[start : start + batch_size]
        for files in map(extraction.part_files, missing)
        for start in range(0, len(files), batch_size)
    ]
    loader = DataLoader(
        _Inputs(detector),
        batch_sampler=batches,
        collate_fn=list,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    inputs = iter(loader)  # starts the workers, before the model comes into this process
    detector.open(extraction.files)
    total = len(extraction.files)
    done = total - sum(len(extraction.part_files(part)) for part in missing)
    with tqdm(total=total, initial=done, unit=" images", **_pace()) as bar:
        for part in missing:
            writer = extraction.writer(
                part,
                feature_dim=detector.feature_dim,
                class_names=detector.class_names,
                detector=detector.description,
                created_by=f"vtlm-fairseq {__version__} vtlm-extract",
                dtype=dtype,
            )
            failures: list[Failure] = []
            with writer:
                files = extraction.part_files(part)
                for start in range(0, len(files), batch_size):
                    batch = files[start : start + batch_size]
                    failures += _add(writer, batch, _next(inputs), detector, dtype=dtype)
                    bar.update(len(batch))
                extraction.write_failures(part, failures)


def _pace() -> dict[str, float]:
    """How often the bar is drawn: at each look on a terminal, now and then in a log file."""
    return {} if sys.stderr.isatty() else {"mininterval": _LOG_SECONDS}


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


def _add(
    writer: RegionStoreWriter, files: Sequence[ImageFile], inputs: list[Input], detector: Detector, *, dtype: str
) -> list[Failure]:
    """Detect the regions of a batch and add them to a part; returns what could not be read."""
    readable = [value for value in inputs if not isinstance(value, UnreadableImageError)]
    detected = iter(detector.detect(readable) if readable else [])
    failures = []
    for file, value in zip(files, inputs, strict=True):
        found = value if isinstance(value, UnreadableImageError) else next(detected)
        reason = str(found) if isinstance(found, UnreadableImageError) else _fault(found, dtype)
        if reason:
            failures.append((file.image_id, file.path, reason))
        else:
            best = np.argsort(-np.asarray(found.scores), kind="stable")[: detector.options.max_regions]
            writer.add(file.image_id, **{name: values[best] for name, values in found._asdict().items()})
    return failures


def _fault(found: Detection, dtype: str) -> str:
    """Why features of an image cannot be stored; empty if they can."""
    features = np.asarray(found.features)
    if not np.isfinite(features).all():
        return "the detector gave features that are not finite"
    if features.size and np.abs(features).max() > np.finfo(dtype).max:
        return f"the detector gave features too large for {dtype}; use --dtype float32"
    return ""
