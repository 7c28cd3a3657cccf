"""docs/features.md, "From tar shards to translations": photos and captions in tar shards, to decoding."""

import io
import json
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from extraction import FRAMEWORKS, ROOT, encoded, without
from PIL import Image, ImageDraw

from harness import environment
from vtlm_fairseq.regions.store import RegionStore

SECTION = (
    (ROOT / "docs" / "features.md").read_text(encoding="utf-8").partition("## From tar shards to translations\n")[2]
)
PATCHES, SSD, TRAINING = re.findall(r"^```bash\n(.*?)^```", SECTION.partition("\n## ")[0], re.M | re.S)
NAMES = {"vtlm-extract": "vtlm_fairseq.cli.extract", "vtlm-prepare": "vtlm_fairseq.cli.prepare",
         "vtlm-regions": "vtlm_fairseq.cli.regions", "fairseq-train": "fairseq_cli.train",
         "fairseq-generate": "fairseq_cli.generate"}  # fmt: skip
SMALL = {"--valid-size": "12", "--vocab-size": "80", "--max-update": "2", "--beam": "2"}
COLOURS = {"red": "rot", "green": "grün", "blue": "blau", "white": "weiß", "black": "schwarz"}
PLACES = {"left": "links", "right": "rechts"}


def photo(rng: np.random.Generator, colour: str, place: str) -> Image.Image:
    """A ball of a colour on one side of a sky and a meadow, with the grain of a photo; of one of several sizes."""
    width, height = ((120, 90), (90, 120), (160, 100))[rng.integers(3)]
    horizon = int(height * rng.uniform(0.4, 0.7))
    image = Image.new("RGB", (width, height), (150, 180, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, horizon, width, height), fill=(90, 120, 60))
    radius, x = height // 6, width // 4 if place == "left" else 3 * width // 4
    draw.ellipse((x - radius, horizon - radius, x + radius, horizon + radius), fill=colour)
    grain = np.asarray(image) + rng.normal(0, 8, (height, width, 1))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


def write_shards(folder: Path) -> None:
    """Two tar files of 30 photos each in webdataset's layout."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05}.tar", "w") as tar:
            for number in range(30):
                colour, place = str(rng.choice(list(COLOURS))), str(rng.choice(list(PLACES)))
                texts = {
                    "en": f"A {colour} ball on the {place}.",
                    "de": f"Ein Ball in {COLOURS[colour]}, {PLACES[place]}.",
                }
                members = {"jpg": encoded(photo(rng, colour, place), "JPEG"), "json": json.dumps(texts).encode()}
                for ending, data in members.items():
                    member = tarfile.TarInfo(f"{shard:05}{number:04}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def commands(block: str, **changes: str) -> list[list[str]]:
    """The commands of a block as bash expands them; those of this package and of fairseq are shown, not run."""
    show = "".join(f"{name}() {{ printf '%q ' {name} \"$@\"; echo; }}\n" for name in (*NAMES, "bash"))
    for name, value in changes.items():
        block, count = re.subn(rf"^{name}=\d+", f"{name}={value}", block, flags=re.M)
        assert count == 1
    done = subprocess.run(
        ["bash", "-euc", show + block], env=environment(), capture_output=True, text=True, check=True, cwd=ROOT
    )
    return [shlex.split(line) for line in done.stdout.splitlines()]


def small(line: list[str]) -> list[str]:
    """The words of a command, with small sizes."""
    pairs = zip(["", *line[:-1]], line, strict=True)
    return [SMALL.get(before, f"{word}_tiny" if before == "--arch" else word) for before, word in pairs]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A folder with the folder `shards`."""
    folder = tmp_path_factory.mktemp("path")
    write_shards(folder / "shards")
    return folder


def follow(run, folder: Path, lines: list[list[str]], **options) -> None:
    for line in lines:
        run(NAMES[line[0]], *small(line[1:]), cwd=folder, **options)


def learn(run, folder: Path, cells: int) -> None:
    """The last block, and what must come of it."""
    store = RegionStore([str(folder / "regions.h5")], max_regions=None)
    assert store.ids() == [f"{shard:05}{number:04}" for shard in range(2) for number in range(30)]
    assert store.counts(np.arange(60)).tolist() == [cells] * 60
    follow(run, folder, commands(TRAINING, most=str(cells)))
    images = (folder / "bin/valid.images").read_text().split()
    assert len(images) == 12 and set(images) < set(store.ids())
    assert (folder / "bin/train.images").read_text().split() == [i for i in store.ids() if i not in set(images)]
    decoded = (folder / "translations/generate-valid.txt").read_text(encoding="utf-8")
    assert sorted(map(int, re.findall(r"^H-(\d+)", decoded, re.M))) == list(range(12))


@pytest.mark.slow
def test_patches(run, shards):
    if without("transformers"):
        pytest.skip("transformers is neither installed nor in VTLM_TEST_FRAMEWORKS")
    run(ROOT / "tests/support/vision.py", shards / "clip-vit-base-patch32", env={"PYTHONPATH": FRAMEWORKS})
    follow(run, shards, commands(PATCHES), env={"PYTHONPATH": FRAMEWORKS})
    learn(run, shards, 49)


@pytest.mark.slow
def test_litert(run, ssd, shards):
    fetch, *lines = commands(SSD)
    assert fetch == ["bash", "preprocess/fetch_ssd.sh", "ssd"]
    (shards / "ssd").symlink_to(ssd)
    for folder in ("bin", "vtlm", "mmt", "translations"):
        shutil.rmtree(shards / folder, ignore_errors=True)
    follow(run, shards, [[*line, "--overwrite"] for line in lines])
    learn(run, shards, 36)
