"""Write captions in English and French with detector-like regions, as a user may have them: raw text and numpy files.

FOLDER/train.en, train.fr and train.images (the image of each line), the same for valid and test; FOLDER/classes.txt,
the names of the detector's classes; FOLDER/features/ID.npz for each image: 10 to 100 regions, features 2048 wide.
The images are made up: a region is its class's prototype vector with noise. Some English nouns have two French ones,
and only the class of a region tells which is meant.
"""

import argparse
from pathlib import Path

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.terminal import command_line

WIDTH = 2048
REGIONS = (10, 100)
SPLITS = {"train": 8, "valid": 1, "test": 1}
"""Of ten images."""

NOUNS = {  # class: English noun, French noun with its article
    "lamp": ("lamp", "une lampe"), "table": ("table", "une table"), "car": ("car", "une voiture"),
    "dog": ("dog", "un chien"), "cat": ("cat", "un chat"), "hat": ("hat", "un chapeau"),
    "book": ("book", "un livre"), "tree": ("tree", "un arbre"), "ball": ("ball", "un ballon"),
    "chair": ("chair", "une chaise"), "door": ("door", "une porte"), "boat": ("boat", "un bateau"),
    "bat, animal": ("bat", "une chauve-souris"), "bat, club": ("bat", "une batte"),
    "seal, animal": ("seal", "un phoque"), "seal, stamp": ("seal", "un sceau"),
    "nail, finger": ("nail", "un ongle"), "nail, iron": ("nail", "un clou"),
    "trunk, elephant": ("trunk", "une trompe"), "trunk, luggage": ("trunk", "une malle"),
}  # fmt: skip
COLOURS = {"red": ("rouge", "rouge"), "blue": ("bleu", "bleue"), "green": ("vert", "verte"), "black": ("noir", "noire"),
           "white": ("blanc", "blanche"), "grey": ("gris", "grise")}  # fmt: skip
PLACES = {"near": "près d'", "beside": "à côté d'", "in front of": "devant "}
CLASSES = list(NOUNS)


def caption(numbers: np.random.Generator, first: str, second: str) -> tuple[str, str]:
    """A sentence about two things, in both languages."""
    (noun, nom), (other, autre) = NOUNS[first], NOUNS[second]
    colour, place = (str(numbers.choice(list(words))) for words in (COLOURS, PLACES))
    couleur = COLOURS[colour][nom.startswith("une ")]
    return f"A {colour} {noun} {place} a {other}.", f"{nom.capitalize()} {couleur} {PLACES[place]}{autre}."


def two_classes(numbers: np.random.Generator) -> list[int]:
    """What an image shows: two classes with different English nouns."""
    while True:
        shown = [int(label) for label in numbers.choice(len(CLASSES), 2, replace=False)]
        if len({NOUNS[CLASSES[label]][0] for label in shown}) == 2:
            return shown


def regions(numbers: np.random.Generator, prototypes: np.ndarray, shown: list[int]) -> dict[str, np.ndarray]:
    """The regions of an image: several of each class that it shows, and of no other noun with a second meaning.

    Returns:
        features [R, 2048], boxes [R, 4] (x1, y1, x2, y2 as shares of width and height), labels [R], scores [R].
    """
    count = int(numbers.integers(REGIONS[0], REGIONS[1] + 1))
    plain = [number for number, name in enumerate(CLASSES) if "," not in name]
    labels = np.concatenate([np.repeat(shown, 3), numbers.choice(plain, count - 3 * len(shown))])
    corners = np.sort(numbers.random((count, 2, 2)), axis=1)
    return {
        "features": (prototypes[labels] + numbers.standard_normal((count, WIDTH))).astype(np.float16),
        "boxes": corners.reshape(count, 4).astype(np.float32),
        "labels": labels,
        "scores": np.sort(numbers.uniform(0.2, 1, count))[::-1].astype(np.float32),
    }


def make_data(out: Path, *, images: int, captions: int, seed: int) -> None:
    """Write the folder; it appears when it is complete.

    Raises:
        VTLMError: it exists.
    """
    if out.exists():
        raise VTLMError(f"{out} exists: remove it or choose another --out")
    numbers = np.random.default_rng(seed)
    prototypes = numbers.standard_normal((len(CLASSES), WIDTH))
    trained: set[tuple[str, str]] = set()
    with new_folder(out) as folder:
        (folder / "features").mkdir()
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
        for split, share in SPLITS.items():
            lines: dict[str, list[str]] = {"en": [], "fr": [], "images": []}
            for image in range(max(1, images * share // 10)):
                shown = two_classes(numbers)
                np.savez(folder / "features" / f"{split}-{image}.npz", **regions(numbers, prototypes, shown))
                for _ in range(captions):
                    for _ in range(100):  # none of train, as long as there are others
                        pair = caption(numbers, *(CLASSES[label] for label in shown))
                        if split == "train" or pair not in trained:
                            break
                    trained |= {pair} if split == "train" else set()
                    for name, line in zip(lines, (*pair, f"{split}-{image}"), strict=True):
                        lines[name].append(line)
            for name, column in lines.items():
                (folder / f"{split}.{name}").write_text("".join(f"{line}\n" for line in column), encoding="utf-8")


@command_line()
def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--images", type=int, default=400, help="of all splits (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=5, help="of an image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything (default: %(default)s)")
    args = parser.parse_args()
    if min(args.images, args.captions, args.seed + 1) < 1:
        raise VTLMError("--images and --captions are numbers from 1, --seed from 0")
    make_data(args.out, images=args.images, captions=args.captions, seed=args.seed)


if __name__ == "__main__":
    main()
