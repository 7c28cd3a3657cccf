"""Patches of vision transformers: tiny models with random weights, against the sums of a convolution in numpy."""

import importlib
import json
import socket
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from extraction import FRAMEWORKS, contents, detectors, extract_regions, without, write_images
from PIL import Image
from vision import DEVIATION, HIDDEN, MEAN, make_model

from stores import Call, ends_with, make_store
from vtlm_fairseq.regions.cells import grid_boxes
from vtlm_fairseq.regions.store import RegionStore


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder with three photos; nothing is asked of a network."""

    def refuse(*args, **kwargs):
        raise AssertionError("a network is asked")

    monkeypatch.chdir(tmp_path)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_images(tmp_path / "photos", 3)
    return tmp_path


@pytest.fixture(scope="module")
def transformers():
    """The package, from where it is."""
    if without("transformers"):
        pytest.skip("transformers is neither installed nor in VTLM_TEST_FRAMEWORKS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, FRAMEWORKS])
        for other in HIDDEN:
            patch.setitem(sys.modules, other, None)
        yield importlib.import_module("transformers")


def extract(detector: str, *argv) -> int:
    """Extract from the photos to `s.h5`."""
    fixed = ("--images", "photos", "--detector", detector, "--out", "s.h5", "--workers", 0, "--dtype", "float32")
    return extract_regions.main([str(a) for a in (*fixed, *argv)])


def fails(*argv) -> str:
    """The one line with which an extraction ends."""
    return ends_with(extract, *argv)


def stored(*argv) -> RegionStore:
    """What an extraction makes."""
    assert extract(*argv, "--overwrite") == 0
    return RegionStore(["s.h5"], max_regions=None)


def photo(name: str, height: int, width: int) -> np.ndarray:
    """Normalised pixels [height, width, 3] of a photo that is resized."""
    image = Image.open(f"photos/{name}.png").resize((width, height), resample=3)
    return (np.asarray(image) / 255 - np.array(MEAN)) / np.array(DEVIATION)


def norm(states: np.ndarray, weights: dict, name: str) -> np.ndarray:
    """A LayerNorm."""
    states = (states - states.mean(axis=-1, keepdims=True)) / states.std(axis=-1, keepdims=True)
    return states * weights[f"{name}.weight"] + weights[f"{name}.bias"]


NAMES = {  # of the convolution, the positions and the LayerNorm; rows of positions before those of patches
    "clip": ("embeddings.patch_embedding", "embeddings.position_embedding.weight", "pre_layrnorm", 1),
    "siglip": ("embeddings.patch_embedding", "embeddings.position_embedding.weight", "post_layernorm", 0),
    "dinov2": ("embeddings.patch_embeddings.projection", "embeddings.position_embeddings", "layernorm", 1),
    "dinov3": ("embeddings.patch_embeddings", None, "norm", 0),
}


def plainly(folder: Path, kind: str, pixels: np.ndarray, patch: int, *, positions: bool = True) -> np.ndarray:
    """[rows, columns, D] of a model without layers: a product for each patch, its position, a LayerNorm."""
    from safetensors.numpy import load_file

    weights = {
        name.removeprefix("vision_model."): values for name, values in load_file(folder / "model.safetensors").items()
    }
    convolution, position, layer_norm, before = NAMES[kind]
    kernel, bias = weights[f"{convolution}.weight"], weights.get(f"{convolution}.bias", 0.0)
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    table = weights[position].reshape(-1, len(kernel))[before:] if positions and position else None
    grid = np.empty((rows, columns, len(kernel)))
    for row in range(rows):
        for column in range(columns):
            cell = pixels[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            grid[row, column] = np.einsum("dcyx,yxc->d", kernel, cell) + bias
            grid[row, column] += 0 if table is None else table[row * columns + column]
    return norm(grid, weights, layer_norm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind"),
    [("clip", "clip"), ("clip-vision", "clip"), ("siglip", "siglip"), ("siglip-vision", "siglip"), ("dinov2", "dinov2"),
     ("registers", "dinov2"), ("vit", "dinov2"), ("dinov3", "dinov3")],
)  # fmt: skip
def test_a_region_is_a_patch(transformers, here, model, kind):
    """Class token and registers are dropped; cells are in reading order; an edge without patches belongs to no box."""
    image, patch = 20, 6  # 3 x 3 patches, and 2 pixels that none of them sees
    make_model(here / "tiny", model, layers=0, image=image, patch=patch, crop_size={"height": 20, "width": 20})
    store = stored("patches", "--model", "tiny", "--batch-size", 2)
    assert store.class_names == ["cell"] and store.detector == "patches tiny 3x3"
    for row, name in enumerate(store.ids()):
        found = store[row]
        expected = plainly(here / "tiny", kind, photo(name, image, image), patch)
        np.testing.assert_allclose(found.features, expected.reshape(9, -1), atol=2e-4)
        np.testing.assert_allclose(found.boxes, grid_boxes(3, 3, height=0.9, width=0.9), atol=1e-6)
        assert found.labels.tolist() == [0] * 9 and found.scores.tolist() == [1] * 9


@pytest.mark.slow
def test_grids_of_other_sizes(transformers, here):
    """DINOv2 is given a larger image for a larger grid; `--pool` takes means of the model's own."""
    make_model(here / "clip", "clip", layers=0, image=24, patch=4)
    store = stored("patches", "--model", "clip", "--grid", "2x3", "--pool")
    expected = plainly(here / "clip", "clip", photo("img0001", 24, 24), 4).reshape(2, 3, 3, 2, -1).mean(axis=(1, 3))
    np.testing.assert_allclose(store[1].features, expected.reshape(6, -1), atol=2e-4)
    np.testing.assert_allclose(store[1].boxes[4], [1 / 3, 0.5, 2 / 3, 1], atol=1e-6)
    assert stored("patches", "--model", "clip", "--grid", "6x6").counts(np.arange(3)).tolist() == [36] * 3
    assert "6x6; add --pool" in fails("patches", "--model", "clip", "--grid", "3x3")
    assert "--grid" in fails("patches", "--model", "clip", "--pool")
    assert "6x6" in fails("patches", "--model", "clip", "--grid", "7x2", "--pool")
    assert "--max-regions 36" in fails("patches", "--model", "clip", "--max-regions", 35)

    make_model(here / "dino", "dinov2", layers=0, image=24, patch=4, size={"shortest_edge": 12}, do_center_crop=False)
    import torch

    weights = transformers.AutoModel.from_pretrained(here / "dino")
    with torch.no_grad():
        weights.embeddings.position_embeddings.zero_()
    weights.save_pretrained(here / "dino")
    for argv, (rows, columns) in (((), (3, 3)), (("--grid", "2x5"), (2, 5))):
        expected = plainly(here / "dino", "dinov2", photo("img0002", rows * 4, columns * 4), 4, positions=False)
        found = stored("patches", "--model", "dino", *argv)[2]
        np.testing.assert_allclose(found.features, expected.reshape(rows * columns, -1), atol=2e-4)


@pytest.mark.slow
def test_half_precision_and_batches(transformers, here):
    """A batch of another size, and 16 bits, give nearly the same."""
    make_model(here / "tiny", "registers", layers=2, image=16, patch=4, size={"height": 16, "width": 16})
    whole = [stored("patches", "--model", "tiny", "--batch-size", size)[1].features for size in (1, 3)]
    np.testing.assert_allclose(*whole, atol=1e-4)
    half = stored("patches", "--model", "tiny", "--fp16")[1].features
    assert 0 < np.abs(half - whole[0]).max() < 0.1 * np.abs(whole[0]).max()


@pytest.mark.slow
def test_boxes_of_another_store(transformers, here, capsys):
    """Every region keeps box, label and score; its feature is the mean of the patches that it covers."""
    images = make_store("boxes.h5", ["img0002", "img0000", "img0001.png"], regions=(4, 3, 2), feature_dim=3)
    make_model(here / "tiny", "siglip", layers=0, image=20, patch=6)
    argv = ("clip-regions", "--model", "tiny", "--boxes", "boxes.h5")
    assert extract(*argv, "--max-regions", 3) == 3  # the second photo is not there
    told = capsys.readouterr().out
    assert "1 images are not in it" in told and "'img0001' is there as 'img0001.png': --id-rule extension" in told
    assert "1 of 7 regions (14 %) lie beyond --max-regions 3" in told
    store, given = RegionStore(["s.h5"]), RegionStore(["boxes.h5"])
    assert store.ids() == ["img0000", "img0002"] and store.class_names == given.class_names
    assert store.detector == "clip-regions tiny, boxes of random" and store.feature_dim == 16
    assert [line.split("\t")[0] for line in Path("s.h5.errors.tsv").read_text().splitlines()] == ["img0001"]
    for row, name in enumerate(store.ids()):
        found, before = store[row], images[name]
        assert len(found.labels) == 3 and found.labels.tolist() == before["labels"][:3].tolist()
        np.testing.assert_array_equal(found.scores, before["scores"][:3])
        np.testing.assert_array_equal(found.boxes, before["boxes"][:3])
        grid = plainly(here / "tiny", "siglip", photo(name, 20, 20), 6)
        fine = np.kron(grid, np.ones((120, 120, 1)))  # 360 dots of the 400 that the image would have
        for box, feature in zip(found.boxes, found.features, strict=True):
            x1, y1, x2, y2 = np.round(box * 400).astype(int)
            np.testing.assert_allclose(feature, fine[y1:y2, x1:x2].mean(axis=(0, 1)), atol=0.05)

    assert "--boxes" in fails("clip-regions", "--model", "tiny")
    assert "--boxes none.h5" in fails("clip-regions", "--model", "tiny", "--boxes", "none.h5")
    make_store("other.h5", ["img0000.png"])
    message = fails("clip-regions", "--model", "tiny", "--boxes", "other.h5", "--overwrite")
    assert "other.h5" in message and "extension" in message
    with h5py.File("boxes.h5", "r+") as file:
        file["boxes"][4] = [0, 0, 1e20, 1e20]
    message = fails(*argv, "--overwrite")
    assert "boxes.h5" in message and "'img0000'" in message and "validate" in message


@pytest.mark.slow
def test_parts_of_other_grids_are_not_mixed(transformers, here, monkeypatch):
    """An option that is left out later is another plan, too."""
    make_model(here / "tiny", "clip", layers=0, image=8, patch=2)
    Path("photos/broken.png").write_bytes(b"")
    base = ("patches", "--model", "tiny", "--part-size", 1)
    assert extract(*base, "--grid", "2x2", "--pool") == 3
    before = contents("s.h5")
    assert "--overwrite" in fails(*base)
    assert extract(*base, "--grid", "2x2", "--pool") == 3 and contents("s.h5") == before


# ---- models that are not as they should be


def configure(folder: str, config: dict, **pixels) -> str:
    """A folder with the two files of a model, and no weights."""
    Path(folder).mkdir()
    Path(folder, "config.json").write_text(json.dumps(config))
    Path(folder, "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": DEVIATION, **pixels})
    )
    return folder


def test_folders_that_are_not_there(here, monkeypatch):
    """One clear line, before anything is imported; a name of the hub is no folder."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "--model" in fails("patches")
    for name in ("openai/clip-vit-base-patch32", "photos"):
        message = fails("patches", "--model", name)
        assert f"--model {name}: " in message and "config.json" in message
    Path("photos/config.json").write_text("{}")
    assert "preprocessor_config.json" in fails("patches", "--model", "photos")
    message = fails("patches", "--model", configure("m", {}))
    assert "'vtlm-fairseq[patches]'" in message and "--detector patches" in message


@pytest.mark.slow
def test_nothing_in_a_folder_is_run(transformers, here):
    """Neither Python files that the configuration names nor calls in pickled weights; sound ones are read."""
    import torch
    from safetensors.torch import load_file

    make_model(here / "tiny", "clip-vision", layers=0, image=8, patch=4)
    features = stored("patches", "--model", "tiny")[0].features
    weights = load_file("tiny/model.safetensors")
    Path("tiny/model.safetensors").unlink()
    torch.save(weights, "tiny/pytorch_model.bin")
    config = json.loads(Path("tiny/config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    Path("tiny/config.json").write_text(json.dumps(config))
    Path("tiny/evil.py").write_text("open('run', 'w')\nclass Config: pass\nclass Model: pass\n")
    assert stored("patches", "--model", "tiny")[0].features.tolist() == features.tolist()
    torch.save({**weights, "a": Call(open, "run", "w")}, "tiny/pytorch_model.bin")
    assert "--model tiny: cannot be loaded" in fails("patches", "--model", "tiny", "--overwrite")
    assert not Path("run").exists()


@pytest.mark.slow
def test_models_that_do_not_fit(transformers, here):
    assert "bert" in (message := fails("patches", "--model", configure("bert", {"model_type": "bert"})))
    assert "siglip_vision_model" in message
    assert "--model none: config.json" in fails("patches", "--model", configure("none", {}))
    Path("none/preprocessor_config.json").write_text("[]")
    sizes = {"image_size": 8, "patch_size": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 8}
    vision = {"model_type": "clip_vision_model", "num_hidden_layers": 1, **sizes}
    assert "--model empty: cannot be loaded" in fails("patches", "--model", configure("empty", vision))
    Path("empty/preprocessor_config.json").write_text("[]")
    assert "preprocessor_config.json" in fails("patches", "--model", "empty")
    faults = [{"image_mean": [0.5]}, {"image_std": [1, 1, 0]}, {"image_mean": ["a", 1, 2]}, {"resample": 9}]
    for number, given in enumerate(faults):
        message = fails("patches", "--model", configure(f"pixels{number}", vision, **given))
        assert f"pixels{number}" in message and "preprocessor_config.json" in message and next(iter(given)) in message
    for number, given in enumerate([{"patch_size": 0}, {"patch_size": 9}, {"image_size": 100000}, {"patch_size": "a"}]):
        assert f"sizes{number}" in fails("patches", "--model", configure(f"sizes{number}", {**vision, **given}))
    from safetensors.torch import load_file, save_file

    make_model(here / "half", "clip", layers=1, image=8, patch=2)
    weights = load_file("half/model.safetensors")
    lost = next(name for name in weights if "vision_model" in name and "q_proj.weight" in name)
    del weights[lost]
    save_file(weights, "half/model.safetensors", metadata={"format": "pt"})
    assert "1 weights" in (message := fails("patches", "--model", "half")) and "q_proj" in message
    make_model(here / "whole", "clip", layers=1, image=8, patch=2)
    assert "--device cuda:99" in fails("patches", "--model", "whole", "--device", "cuda:99")
    assert "--boxes has no effect" in fails("patches", "--model", "whole", "--boxes", "s.h5")
    assert detectors.list_detectors() == sorted(detectors.list_detectors())
