"""Fuzz `.images` files: every line is refused or leads to the row of exactly that id."""

import random
from pathlib import Path

from fuzzing import Case
from mutations import ODD_CHARACTERS, encoded, sentence

from stores import make_store
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.regions.validate import find_missing
from vtlm_fairseq.tasks.splits import read_image_names

IDS = ["img0.jpg", "img1.jpg", "a b", "\u00e4\u2028x", "\U0001f469\u200d\U0001f4bb", "img0", " img0.jpg", "1", "01"]


def setup(folder: Path) -> Case:
    """A store of odd ids, and lists of them and others."""
    make_store(folder / "s.h5", IDS, regions=[1, 0, 2, 3, 1, 0, 1, 1, 1])
    path, store = folder / "train.images", RegionStore([str(folder / "s.h5")])

    def case(rng: random.Random) -> None:
        lines = [rng.choice(IDS) for _ in range(rng.randint(0, 6))]
        if rng.random() < 0.8:
            image, odd = rng.choice(IDS), rng.choice(ODD_CHARACTERS)
            long = "x" * rng.choice((300, 70_000))
            other = rng.choice((sentence(rng), image + odd, odd + image, "", "img0.jpg\0", "img0.jpg\0\0b", long))
            lines.insert(rng.randint(0, len(lines)), other)
        end = rng.choice(("\n", "\n", "\r\n", "\r"))
        path.write_bytes(encoded(rng, end.join(lines) + rng.choice(("", end))))
        try:
            names = read_image_names(str(folder), "train")
            rows = store.rows(names)
        except VTLMError:
            if rng.random() < 0.1:
                _check_missing(folder, path)
            raise
        meant = [name if name in IDS else name.strip() for name in names]
        assert [IDS[row] for row in rows] == meant, "an id leads to the row of another"
        if rng.random() < 0.1:
            assert find_missing([str(folder / "s.h5")], str(path)) == [], "validate misses an id that training finds"

    return case


def _check_missing(folder: Path, path: Path) -> None:
    try:
        missing = find_missing([str(folder / "s.h5")], str(path))
    except VTLMError:
        return
    assert len(missing) == 1 and "\n" not in missing[0], "validate finds an id that training misses"
