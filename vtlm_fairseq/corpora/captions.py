"""Parallel captions for fairseq: words, BPE, binarised data, image ids.

Captions come as TSV (by default image, URL, English, German) or CSV, as JSON lines (keys image, en, de), as parquet, as
tar shards in webdataset's layout, or as line files PREFIX.en, PREFIX.de and PREFIX.images. Pairs that are too long, or
whose image was not fetched or has no regions, are left out of train and valid; `dropped.tsv` lists them. For
fine-tuning, reuse the pre-training's vocabulary: `--bpe-model PRE/bpe.model --dict PRE/dict.en.txt`. The folder is made
whole or not at all, in constant memory.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.files.names import name_fault
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.schema import decode, read_header
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.caption_files import SHARDS, CaptionFile, parse_columns
from vtlm_fairseq.text.caption_tables import DELIMITERS
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing
from vtlm_fairseq.text.image_ids import HeldOut, ImageMap, KnownIds, region_counts
from vtlm_fairseq.text.options import make_pipeline, vocabulary
from vtlm_fairseq.text.pairs import Pair
from vtlm_fairseq.text.prepare import FILTERED, DroppedPairs, LengthFilter, prepare_folder

_SAMPLE = 200


class Captions:
    """The captions that the options name, as pairs of each split.

    Raises:
        VTLMError: a file or option that does not fit.
    """

    def __init__(self, arguments: argparse.Namespace, dropped: DroppedPairs) -> None:
        self._arguments, self._dropped = arguments, dropped
        self._rule = arguments.id_rule.and_extension(arguments.strip_extension)
        # by split, some of the ids that are in no store, and of the names that are not in the map
        self._missing: dict[str, dict[str, None]] = {}
        self._unmapped: dict[str, dict[str, None]] = {}
        # ids by which they are there with --id-prefix, or without it
        self._prefixed: dict[str, dict[str, None]] = {}
        if arguments.image_map is not None and arguments.id_prefix is not None:
            raise VTLMError("--id-prefix goes with keys of shards, --image-map gives the ids themselves: leave out one")
        self._map = ImageMap(arguments.image_map) if arguments.image_map is not None else None
        self._known: dict[tuple[str, ...], KnownIds] = {}
        files = {"train": self._open(arguments.train, "--train")}
        if arguments.valid is not None:
            files["valid"] = self._open(arguments.valid, "--valid")
        for test in arguments.test:
            name, equals, path = test.partition("=")
            if not equals or not name.isidentifier() or name_fault(name) or name in (*FILTERED, *files):
                raise VTLMError(f"--test {test}: must be NAME=FILE, with a name of its own such as test_2016")
            files[name] = self._open(path, "--test")
        layouts = {file.layout for file in files.values()}
        if arguments.quoting is not None and not layouts & set(DELIMITERS):
            raise VTLMError("--quoting goes with TSV and CSV files, and there is none")
        if arguments.id_prefix is not None and not layouts & set(SHARDS):
            raise VTLMError("--id-prefix tar goes with tar files and the parquet files beside them, and there is none")
        if arguments.valid_size is not None and arguments.regions and os.path.isdir(arguments.regions):
            raise VTLMError(
                "--valid-size takes its images from those of train: give --regions one file, also in training "
                "(vtlm-regions merge joins shards)"
            )
        self._regions = {split: self._find_regions(split) for split in files}
        self.splits: dict[str, Iterator[Pair]] = {}
        if arguments.valid_size is not None:
            held_out = HeldOut(
                (pair.image for pair in self._usable("train", files["train"], None)), arguments.valid_size
            )
            self.splits["train"] = self._side(files["train"], held_out, valid=False)
            self.splits["valid"] = self._side(files["train"], held_out, valid=True)
        for split, file in files.items():
            self.splits.setdefault(split, self._usable(split, file, dropped))

    def _open(self, path: str, option: str) -> CaptionFile:
        arguments = self._arguments
        return CaptionFile(
            path,
            source_lang=arguments.source_lang,
            target_lang=arguments.target_lang,
            columns=None if arguments.columns is None else parse_columns(arguments.columns),
            layout=arguments.format,
            quoting=arguments.quoting,
            prefix=arguments.id_prefix == "tar",
            option=option,
        )

    def _find_regions(self, split: str) -> KnownIds | None:
        if self._arguments.regions is None:
            return None
        paths = tuple(store_files(self._arguments.regions, split))
        if paths not in self._known:
            self._known[paths] = region_counts(paths)
        return self._known[paths]

    def _usable(self, split: str, pairs: CaptionFile, dropped: DroppedPairs | None) -> Iterator[Pair]:
        """Pairs under their final image ids; those without an image are dropped, or in a test set refused."""
        known = self._regions[split]
        kept, first = 0, None
        for pair in pairs:
            image = pair.image if self._map is None else self._map.get(pair.image)
            reason = pair.reason or None
            if reason is None and image is None:
                reason = "image is not in --image-map"
                _note(self._unmapped, split, pair.image)
            elif reason is None:
                try:
                    image = pair.prefix + self._rule(image)
                except VTLMError as error:
                    raise VTLMError(f"{pair.place}: {error}") from None
                pair = pair._replace(image=image)
                count = -1 if known is None else known.get(image)
                if not count:
                    reason = "image is not in the region store" if count is None else "image has no regions"
                if count is None:
                    _note(self._missing, split, image)
                    if pair.shard and self._map is None:
                        there = image.removeprefix(pair.prefix) if pair.prefix else pair.shard + image
                        if known.get(there) is not None:
                            _note(self._prefixed, split, there)
            if reason is None:
                kept += 1
                yield pair
            elif split not in FILTERED:
                raise VTLMError(
                    f"{pair.place}: {reason} ({pair.image!r}); a test set must be whole: mend "
                    f"the line, or see --regions and --image-map{self._hint(split)}"
                )
            else:
                first = first or (f"{pair.place}: {reason} ({pair.image!r})", not pair.reason)
                if dropped is not None:
                    dropped.add(split, pair, reason)
        if first is not None and not kept:
            options = "; check --regions, --image-map, --id-rule and --strip-extension" if first[1] else ""
            raise VTLMError(f"{first[0]}, and no pair of {split} can be used{options}{self._hint(split)}")

    def _hint(self, split: str) -> str:
        """Rules or a prefix by which images would be in the stores, and in the map."""
        hint = ""
        if split in self._unmapped:
            hint = explain_missing(self._unmapped[split], self._map.names(), f"in --image-map: {BY_HAND}")
        if split in self._prefixed:
            first, found = next(iter(self._prefixed[split])), len(self._prefixed[split])
            remedy = "add --id-prefix tar" if self._arguments.id_prefix is None else "leave --id-prefix tar out"
            hint += f"; {first[:99]!r} is there: {remedy}, which finds {found} of {len(self._missing[split])}"
        elif split in self._missing:
            paths = store_files(self._arguments.regions, split)
            known = (decode(image_id) for path in paths for image_id in read_header(path).ids)
            hint += explain_missing(self._missing[split], known)
        return hint

    def hints(self) -> list[str]:
        """A line for each split of which ids were not found that a rule would find."""
        found = {split: self._hint(split) for split in {**self._unmapped, **self._missing}}
        return [f"{split}: of the images that were not found{hint}" for split, hint in found.items() if hint]

    def _side(self, pairs: CaptionFile, held_out: HeldOut, *, valid: bool) -> Iterator[Pair]:
        """Pairs of --train that are held out (``valid``), or those that are not."""
        usable = self._usable("train", pairs, None if valid else self._dropped)
        return (pair for pair in usable if (pair.image in held_out) == valid)


def _note(found: dict[str, dict[str, None]], split: str, name: str) -> None:
    """Keep some of the names of a split."""
    if len(names := found.setdefault(split, {})) < _SAMPLE:
        names[name] = None


def run(arguments: argparse.Namespace) -> None:
    """Make the folder that the options of ``vtlm-prepare captions`` ask for.

    Raises:
        VTLMError: a fault of input or options.
    """
    pipeline, length_filter = make_pipeline(arguments), LengthFilter(arguments.min_tokens, arguments.max_tokens)
    if length_filter.minimum > length_filter.maximum:
        raise VTLMError(
            f"--min-tokens {length_filter.minimum} is above --max-tokens {length_filter.maximum}, so that no pair is "
            "left; change one of them"
        )
    with new_folder(arguments.out) as folder:
        with open(folder / "dropped.tsv", "w", encoding="utf-8", newline="\n") as file:
            dropped = DroppedPairs(file)
            captions = Captions(arguments, dropped)
            report = prepare_folder(
                folder,
                captions.splits,
                pipeline,
                **vocabulary(arguments),
                bpe_sample=arguments.bpe_sample,
                length_filter=length_filter,
                dropped=dropped,
            )
    report += [*dropped.report(), *captions.hints()]
    if dropped.counts:
        report.append(f"{arguments.out / 'dropped.tsv'}: the {sum(dropped.counts.values()):,} pairs dropped")
    say("\n".join([*report, f"{arguments.out}: done"]))
