"""Write the quickstart's data: captions in English and German, scenes, and what is known about each line."""

# ruff: noqa: E402

import argparse
import json
import os
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -P leaves the folder of the script out

from grammar import Sentence, draw_sentences
from lexicon import CLASS_NAMES
from scenes import FEATURE_DIM, Scene, ScenePainter

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.regions.writer import RegionStoreWriter
from vtlm_fairseq.terminal import command_line

SPLITS = ("test", "valid", "train")
"""In the order in which they are drawn, so that the test split does not depend on the size of the others."""


@dataclass
class Line:
    """One line of a split: a sentence with one of its two scenes.

    ``partner`` is the line that has the same sentence and the other scene; ``region`` is the number of the
    region by which the two scenes differ.
    """

    sentence: Sentence
    pair: int
    sense: int
    scene: Scene
    region: int
    image: str = ""
    partner: int = -1

    @property
    def german(self) -> str:
        """The reference: for an ambiguous noun the one in the scene's sense."""
        return self.sentence.german[self.sense if self.sentence.ambiguous else 0]

    def record(self, number: int) -> dict[str, object]:
        """The line of ``{split}.jsonl``: what the evaluation needs to know."""
        focus = self.sentence.focus
        ambiguous = self.sentence.ambiguous
        right, wrong = (focus.german[self.sense], focus.german[1 - self.sense]) if ambiguous else (None, None)
        german_words = self.german.split()
        return {
            "line": number,
            "pair": self.pair,
            "partner": self.partner,
            "image": self.image,
            "english": self.sentence.english,
            "german": self.german,
            "ambiguous": focus.english if ambiguous else None,
            "sense": focus.senses[self.sense] if ambiguous else None,
            "right": list(right.forms) if right else [],
            "wrong": list(wrong.forms) if wrong else [],
            "last": ambiguous and self.sentence.last,
            "position_en": self.sentence.english.split().index(focus.english) if ambiguous else None,
            "position_de": (next(i for i, word in enumerate(german_words) if word in right.forms) if right else None),
            "content": [list(forms) for forms in self.sentence.content],
            "scene": self.scene.words,
            "differing_region": self.region,
        }


def draw_split(split: str, *, size: int, seed: int, taken: set[str]) -> list[Line]:
    """The lines of one split in their order: ``size`` sentences, each twice.

    Args:
        split: its name, part of the image ids.
        size: number of English sentences, a multiple of 9.
        seed: seed of the data set.
        taken: English sentences of the splits drawn before; grows by those of this one.
    """
    rng = random.Random(f"{seed}/sentences/{split}")
    painter = ScenePainter(seed, stream=SPLITS.index(split))
    lines = []
    for pair, sentence in enumerate(draw_sentences(rng, size, test=split == "test", taken=taken)):
        scenes, region = painter.pair(sentence)
        lines += [
            Line(sentence=sentence, pair=pair, sense=sense, scene=scene, region=region)
            for sense, scene in enumerate(scenes)
        ]
    rng.shuffle(lines)
    numbers = rng.sample(range(len(lines)), len(lines))
    where = {(line.pair, line.sense): number for number, line in enumerate(lines)}
    for line, number in zip(lines, numbers, strict=True):
        line.image = f"{split}-{number:06d}"
        line.partner = where[line.pair, 1 - line.sense]
    return lines


def _check_known_words(splits: dict[str, list[Line]]) -> None:
    """Raise `VTLMError` unless every word of the test split occurs in the training split."""
    for side in ("english", "german"):
        words = {
            split: {
                word for line in lines for word in (line.german if side == "german" else line.sentence.english).split()
            }
            for split, lines in splits.items()
        }
        if unknown := sorted(words["test"] - words["train"]):
            raise VTLMError(f"--train-size is too small: {unknown[0]!r} occurs in the test split only")


def _write_text(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def _write_split(folder: Path, split: str, lines: list[Line], *, seed: int) -> None:
    """Write the text, image ids, facts and regions of one split."""
    _write_text(folder / f"{split}.en", [line.sentence.english for line in lines])
    _write_text(folder / f"{split}.de", [line.german for line in lines])
    _write_text(folder / f"{split}.images", [line.image for line in lines])
    _write_text(
        folder / f"{split}.jsonl",
        [json.dumps(line.record(number), ensure_ascii=False) for number, line in enumerate(lines)],
    )
    with RegionStoreWriter(
        folder / "regions" / f"{split}.h5",
        feature_dim=FEATURE_DIM,
        class_names=CLASS_NAMES,
        detector="none: synthetic regions, class prototypes with noise",
        created_by=f"examples/quickstart/make_data.py --seed {seed}",
        attributes={"synthetic": True, "seed": seed},
    ) as store:
        for line in sorted(lines, key=lambda line: line.image):
            store.add(
                line.image,
                features=line.scene.features,
                boxes=line.scene.boxes,
                labels=line.scene.labels,
                scores=line.scene.scores,
            )


def _write_probes(folder: Path, lines: list[Line]) -> None:
    """Write what the probes of the test split read: a contrastive set, and the lines that end in an ambiguous noun.

    The wrong translation of a line is that of its partner, which has the other sense.
    """
    ambiguous = [line for line in lines if line.sentence.ambiguous]
    contrastive = folder / "contrastive"
    contrastive.mkdir()
    _write_text(contrastive / "src.en", [line.sentence.english for line in ambiguous])
    _write_text(contrastive / "correct.de", [line.german for line in ambiguous])
    _write_text(contrastive / "incorrect.de", [lines[line.partner].german for line in ambiguous])
    _write_text(contrastive / "img.order", [line.image for line in ambiguous])
    last = [number for number, line in enumerate(lines, start=1) if line.sentence.ambiguous and line.sentence.last]
    _write_text(folder / "test_last.lines", [str(number) for number in last])


def _write_swapped(folder: Path, lines: list[Line]) -> None:
    """Write ``test_swapped``: the test split, each line with the scene of its partner."""
    for language in ("en", "de"):
        shutil.copyfile(folder / f"test.{language}", folder / f"test_swapped.{language}")
    _write_text(folder / "test_swapped.images", [lines[line.partner].image for line in lines])
    regions = folder / "regions"
    try:
        os.link(regions / "test.h5", regions / "test_swapped.h5")
    except OSError:  # a file system without hard links
        shutil.copyfile(regions / "test.h5", regions / "test_swapped.h5")


def make_data(out: Path, *, seed: int, sizes: dict[str, int]) -> None:
    """Write the data set into the new folder ``out``; it appears only when it is complete.

    Args:
        out: folder to make.
        seed: everything follows from it and the sizes.
        sizes: number of English sentences of ``train``, ``valid`` and ``test``, multiples of 9. Each
            stands in the split twice, so the split has twice as many lines.

    Raises:
        VTLMError: ``out`` exists, a size is not a positive multiple of 9, or the training split lacks a word.
    """
    if out.exists():
        raise VTLMError(f"{out} exists: remove it or choose another --out")
    for split in SPLITS:
        if sizes[split] < 9 or sizes[split] % 9:
            raise VTLMError(f"--{split}-size {sizes[split]}: give a positive multiple of 9")
    taken: set[str] = set()
    splits = {split: draw_split(split, size=sizes[split], seed=seed, taken=taken) for split in SPLITS}
    _check_known_words(splits)
    with new_folder(out) as partial:
        (partial / "regions").mkdir()
        for split, lines in splits.items():
            _write_split(partial, split, lines, seed=seed)
        _write_swapped(partial, splits["test"])
        _write_probes(partial, splits["test"])


@command_line()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=1, help="seed of the data (default: %(default)s)")
    for split, size in (("train", 4500), ("valid", 90), ("test", 603)):
        parser.add_argument(
            f"--{split}-size",
            type=int,
            default=size,
            metavar="N",
            help=f"English sentences in {split}, a multiple of 9; each makes 2 lines (default: %(default)s)",
        )
    args = parser.parse_args(argv)
    make_data(args.out, seed=args.seed, sizes={split: getattr(args, f"{split}_size") for split in SPLITS})


if __name__ == "__main__":
    main()
