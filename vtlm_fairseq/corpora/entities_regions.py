"""Oracle regions of Multi30k's images from Flickr30k Entities, as region stores.

No detector is run: boxes were drawn by people, and labels and colours come from the captions that Multi30k does
*not* translate (see `oracle_labels.py`). A region's feature is made up: class prototype + prototypes of its
colours + noise of the box. The noise hides labels as a detector's errors would: a nearest-prototype classifier
reads 70 % of the validation labels right. Say "oracle regions" wherever a number from them appears.

With `--every-caption` each caption of a training image has regions of its own, `image#0` to `image#4`: the same boxes
with the same noise, named by the four other captions.

`OUT/translated_captions.tsv` lists which caption of each image was put aside.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtlm_fairseq.corpora.flickr30k_entities import Caption, ImageEntities, find_translated, read_entities
from vtlm_fairseq.corpora.multi30k import fairseq_name, read_image_ids, read_lines
from vtlm_fairseq.corpora.oracle_features import OracleFeatures, accuracy, calibrate
from vtlm_fairseq.corpora.oracle_labels import LabelledBox, collect_classes, label_boxes, other_captions
from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.files import check_writable, write_lines
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.regions.writer import RegionStoreWriter
from vtlm_fairseq.terminal import progress_bar, say
from vtlm_fairseq.text.id_rules import BY_HAND, explain_missing

TRANSLATED = "translated_captions.tsv"


@dataclass(frozen=True)
class LabelledImage:
    """An image and its boxes that all captions but one name.

    Attributes:
        image: what the collection holds about it.
        boxes: those that are named.
        caption: number of the caption that is left out, from 0; None: the one that Multi30k translates.
    """

    image: ImageEntities
    boxes: list[LabelledBox]
    caption: int | None = None

    @property
    def region_id(self) -> str:
        """Names its regions in a store: the image, with `#caption` where that is said."""
        return self.image.image_id if self.caption is None else caption_id(self.image.image_id, self.caption)


def caption_id(image_id: str, caption: int) -> str:
    """Names a caption of an image, and the regions that go with it."""
    return f"{image_id}#{caption}"


def read_translated(path: Path) -> dict[str, int]:
    """Read `image id<TAB>number of the translated caption, from 0`.

    Raises:
        VTLMError: a line of another form, or an image twice.
    """
    numbers: dict[str, int] = {}
    for row, line in enumerate(read_lines(path, option="--translated-captions"), 1):
        image_id, _, number = line.partition("\t")
        if not number.isdecimal() or len(number) > 20 or image_id in numbers:
            raise VTLMError(f"{path} line {row}: not `image id<TAB>number`, or an image given twice")
        numbers[image_id] = int(number)
    return numbers


def write_translated(path: Path, numbers: dict[str, int]) -> None:
    """Write the file that `read_translated` reads; lines of other images that it holds are kept."""
    if path.exists():
        numbers = {**read_translated(path), **numbers}
    write_lines(path, (f"{image_id}\t{number}" for image_id, number in numbers.items()))


class Corpus:
    """The images of the splits with what may be read of them.

    Args:
        entities: Flickr30k Entities, folder or `.tgz`.
        image_splits: folder of `{split}.txt`.
        splits: Multi30k's names; `train`, which gives the classes, must be one of them.
        raw: folder of `{split}.en`, read only to find the translated captions.
        given: number of the translated caption of each image, from 0; then `raw` is not read.

    Attributes:
        classes: names, by label.
        translated: number of the caption of each image that is put aside.

    Raises:
        VTLMError: a file that is missing or does not fit the others.
    """

    def __init__(
        self,
        *,
        entities: Path,
        image_splits: Path,
        splits: list[str],
        raw: Path | None = None,
        given: dict[str, int] | None = None,
    ) -> None:
        ids = {split: read_image_ids(image_splits, split) for split in splits}
        wanted = [image_id for split in splits for image_id in ids[split]]
        if len(set(wanted)) != len(wanted):
            raise VTLMError(f"{image_splits}: an image stands twice in the splits {', '.join(splits)}")
        bar = {"total": len(wanted), "desc": "reading entities", "unit": "image"}
        images = {image.image_id: image for image in progress_bar(read_entities(entities, wanted), **bar)}
        self._images = {split: [images[image_id] for image_id in ids[split]] for split in splits}
        self.translated: dict[str, int] = {}
        for split in splits:
            if given is None:
                self._find_translated(split, raw / f"{split}.en")
            else:
                self._take_translated(split, given)
        train = (caption for image in self._images["train"] for caption in self._others(image))
        self.classes = collect_classes(train)
        self._class_ids = {name: i for i, name in enumerate(self.classes)}

    def _take_translated(self, split: str, given: dict[str, int]) -> None:
        for image in self._images[split]:
            if image.image_id not in given:
                hint = explain_missing([image.image_id], given, BY_HAND)
                raise VTLMError(f"--translated-captions: no line for image {image.image_id} of {split}{hint}")
            self.translated[image.image_id] = given[image.image_id]

    def _find_translated(self, split: str, path: Path) -> None:
        images = self._images[split]
        lines = read_lines(path, option="--raw")
        if len(lines) != len(images):
            raise VTLMError(f"{path}: {len(lines)} lines for {len(images)} images; see --raw and --image-splits")
        for number, (image, line) in enumerate(zip(images, lines, strict=True), 1):
            found = find_translated(image.captions, line)
            if found is None:
                raise VTLMError(
                    f"{path} line {number}: none of the captions of image {image.image_id}; check that --raw and "
                    "--image-splits belong together, or name the captions with --translated-captions"
                )
            self.translated[image.image_id] = found

    def _others(self, image: ImageEntities) -> list[Caption]:
        return other_captions(image, self.translated[image.image_id])

    def images(self, split: str) -> list[ImageEntities]:
        """Images of a split, in its order."""
        return self._images[split]

    def labelled(self, split: str) -> Iterator[LabelledImage]:
        """Images of a split, in its order, with their labelled boxes."""
        for image in self._images[split]:
            boxes = label_boxes(image, self._others(image), self._class_ids)
            yield LabelledImage(image, boxes)

    def labelled_captions(self, split: str) -> Iterator[LabelledImage]:
        """Captions of a split, image by image, each with the boxes that the other captions of its image name."""
        for image in self._images[split]:
            for number in range(len(image.captions)):
                boxes = label_boxes(image, other_captions(image, number), self._class_ids)
                yield LabelledImage(image, boxes, number)


def write_store(
    path: Path, images: list[LabelledImage], features: OracleFeatures, *, boxes: bool, attributes: dict
) -> None:
    """Write one split's store.

    Args:
        path: of the file.
        images: in the order of the split.
        features: makes the feature of each box.
        boxes: False stores 0, 0, 1, 1 for every box.
        attributes: further root attributes.
    """
    with RegionStoreWriter(
        path,
        feature_dim=features.feature_dim,
        class_names=features.class_names,
        detector="none: Flickr30k Entities boxes, oracle labels from untranslated captions",
        created_by="vtlm-oracle",
        dtype="float16",
        attributes=attributes,
    ) as writer:
        for item in progress_bar(images, desc=printable(path.name), unit="image"):
            corners = np.array([box.xyxy for box in item.boxes], dtype=np.float32).reshape(-1, 4)
            corners /= np.array([item.image.width, item.image.height] * 2, dtype=np.float32)
            if not boxes:
                corners[:] = (0.0, 0.0, 1.0, 1.0)
            writer.add(
                item.region_id,
                features=features(item.image.image_id, item.boxes),
                boxes=corners,
                labels=np.array([box.label for box in item.boxes], dtype=np.int16),
            )


def run(arguments: argparse.Namespace) -> None:
    """Write the stores that the options of ``vtlm-oracle`` ask for.

    Raises:
        VTLMError: a fault of input or options.
    """
    splits = [split for split in arguments.splits.split(",") if split]
    if not splits or len(set(splits)) != len(splits):
        raise VTLMError(f"--splits {arguments.splits!r}: give each split once, separated by commas")
    for split in splits:
        check_name(split, "--splits: split")
    if (arguments.subspace or 0) > arguments.feature_dim:
        raise VTLMError(f"--subspace {arguments.subspace} is above --feature-dim {arguments.feature_dim}; lower it")
    paths = {split: arguments.out / f"{fairseq_name(split)}.h5" for split in splits}
    for path in paths.values():
        if path.exists() and not arguments.calibrate:
            raise VTLMError(f"{path}: exists already; remove it or choose another --out")
    if not arguments.calibrate:
        for path in (*paths.values(), arguments.out / TRANSLATED):
            check_writable(path, parents=True)
    corpus = Corpus(
        entities=arguments.entities,
        image_splits=arguments.image_splits,
        splits=["train", "val", *(split for split in splits if split not in ("train", "val"))],
        raw=arguments.raw,
        given=read_translated(arguments.translated_captions) if arguments.translated_captions else None,
    )
    valid = [(item.image.image_id, item.boxes) for item in corpus.labelled("val")]
    features = OracleFeatures(
        corpus.classes,
        feature_dim=arguments.feature_dim,
        seed=arguments.seed,
        noise=arguments.noise,
        signal=arguments.signal,
        subspace=arguments.subspace,
    )
    if arguments.calibrate:
        say(f"--noise {calibrate(features, valid):.3f}")
        return
    read_right = accuracy(features, valid)
    attributes = {
        "oracle": 1,
        "source": "Flickr30k Entities boxes; labels and colours from the four captions Multi30k does not translate",
        "nearest_prototype_accuracy_valid": read_right,
        "seed": arguments.seed,
        "noise": arguments.noise,
        "signal": arguments.signal,
        "no_boxes": int(arguments.no_boxes),
        **({} if arguments.subspace is None else {"subspace": arguments.subspace}),
    }
    say(f"{len(corpus.classes)} classes; nearest prototype reads {read_right:.1%} of the val labels right")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split, path in paths.items():
        every = arguments.every_caption and split == "train"
        images = list(corpus.labelled_captions(split) if every else corpus.labelled(split))
        write_store(path, images, features, boxes=not arguments.no_boxes, attributes=attributes)
        boxes = sum(len(item.boxes) for item in images)
        say(
            f"{path}: {len(images)} {'captions' if every else 'images'}, {boxes} boxes, "
            f"{sum(not item.boxes for item in images)} without"
        )
    write_translated(arguments.out / TRANSLATED, corpus.translated)
