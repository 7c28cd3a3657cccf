"""Two photographs, the Open Images SSD, a region store, its check and drawing, and a training run on it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from extraction import SCRIPT, contents
from PIL import Image

from harness import write_lines
from vtlm_fairseq.regions.store import RegionStore

PHOTOS = ("china", "flower")


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """china.jpg and flower.jpg of scikit-learn."""
    sklearn = pytest.importorskip("sklearn", reason="scikit-learn, in whose wheel the photos are, is not installed")
    folder = tmp_path_factory.mktemp("photos")
    for name in PHOTOS:
        shutil.copy(Path(sklearn.__file__).parent / "datasets" / "images" / f"{name}.jpg", folder)
    return folder


def test_photos_to_training(run, ssd, photos, tmp_path):
    """jpg -> litert-ssd -> store -> validate -> two updates of VTLM; nothing in the photos is of a class it knows."""
    store = tmp_path / "regions.h5"
    result = run(SCRIPT, "--images", photos, "--detector", "litert-ssd", "--model", ssd, "--out", store, "--workers", 1)
    assert "2 images, 72 regions" in result.output
    result = run("vtlm_fairseq.cli.regions", "validate", store)
    assert result.last_line.endswith("regions.h5: ok")

    regions = RegionStore([str(store)])
    assert regions.ids() == list(PHOTOS) and regions.num_classes == 23 and regions.class_names[3] == "Person"
    china, flower = regions[0], regions[1]
    assert china.features.shape == (36, 1536) and china.features.max() <= 6 and china.features.std() > 0.1  # ReLU6
    assert china.scores[0] == pytest.approx(0.078, abs=0.02) and flower.scores[0] == pytest.approx(0.208, abs=0.02)

    drawing = tmp_path / "china.png"
    run("vtlm_fairseq.cli.regions", "show", store, "china", "--image", photos / "china.jpg", "--out", drawing)
    drawn, plain = (np.asarray(Image.open(p)).astype(int) for p in (drawing, photos / "china.jpg"))
    assert drawn.shape == plain.shape == (427, 640, 3) and 0.01 < (drawn != plain).any(axis=2).mean() < 0.5

    captions = {"en": ["a tower by a lake", "an orange flower"], "de": ["ein turm am see", "eine orange blume"]}
    for lang, lines in captions.items():
        write_lines(tmp_path / f"train.{lang}", lines)
        write_lines(tmp_path / f"valid.{lang}", lines)
    run.preprocess("-s", "en", "-t", "de", "--trainpref", tmp_path / "train", "--validpref", tmp_path / "valid",
                   "--destdir", tmp_path / "bin")  # fmt: skip
    for split in ("train", "valid"):
        write_lines(tmp_path / "bin" / f"{split}.images", PHOTOS)
    result = run.pretrain(tmp_path / "bin", tmp_path / "vtlm", "--max-update", 2, regions=store)
    assert [update["num_updates"] for update in result.updates()] == [1, 2]
    assert all(0 < float(update["mrc_loss"]) < 20 for update in result.updates())


def test_the_ssd_sees_a_person(run, ssd, tmp_path):
    """A portrait, to show that boxes and labels are decoded right; shards merged equal one run of the detector."""
    matplotlib = pytest.importorskip(
        "matplotlib", reason="matplotlib, in whose wheel the portrait is, is not installed"
    )
    portrait = Path(matplotlib.__file__).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
    if not portrait.is_file():
        pytest.skip("this matplotlib has no sample portrait")
    image = Image.open(portrait)
    canvas = Image.new("RGB", (image.width * 3, image.height), "grey")
    canvas.paste(image, (image.width * 2, 0))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "alone.png")
    canvas.save(tmp_path / "in" / "right.png")
    base = [SCRIPT, "--images", tmp_path / "in", "--detector", "litert-ssd", "--model", ssd]
    run(*base, "--out", tmp_path / "whole.h5", "--min-score", 0.2, "--workers", 0)
    store = RegionStore([str(tmp_path / "whole.h5")])
    for row, box in enumerate([[0.0, 0.05, 1.0, 1.0], [0.66, 0.05, 1.0, 1.0]]):
        found = store[row]
        assert store.class_names[found.labels[0]] == "Person" and found.scores[0] > 0.35
        np.testing.assert_allclose(found.boxes[0], box, atol=0.12)
        assert 1 <= len(found.scores) < 10 and found.scores.min() >= 0.2
    for i in range(2):
        run(*base, "--out", tmp_path / f"s.{i}.h5", "--min-score", 0.2, "--num-shards", 2, "--shard-id", i)
    run("vtlm_fairseq.cli.regions", "merge", tmp_path / "s.0.h5", tmp_path / "s.1.h5", "--out", tmp_path / "merged.h5")
    merged, whole = contents(tmp_path / "merged.h5"), contents(tmp_path / "whole.h5")
    assert all(merged[name] == whole[name] for name in merged if name != "attributes")
