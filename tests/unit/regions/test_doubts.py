"""What is valid and probably useless is said at start-up, and nothing of the kind about sound data."""

import numpy as np
import pytest

from stores import make_store
from tiny import folder, pretraining_task, sentences, translation_task
from toy import spoil
from vtlm_fairseq.cli.regions import main


def warned(caplog, load) -> list[str]:
    """Messages at level WARNING of what is called."""
    caplog.clear()
    with caplog.at_level("WARNING"):
        load()
    return [record.getMessage() for record in caplog.records if record.name.startswith("vtlm_fairseq")]


def zero_two(values):
    values[[3, 4]] = 0
    return values


def without_area(values):
    values[5, 2] = values[5, 0]
    return values


SAME = "features are the same within an image, or everywhere, in 24 of 24"
FAULTS = [
    ("features", zero_two, "features are all 0 in 2 of 24 regions in a sample of 4 images, the first of image"),
    ("features", lambda v: np.tile(v[:1], (len(v), 1)), SAME),
    ("features", lambda v: np.repeat(v[::6], 6, axis=0), SAME),
    ("boxes", without_area, "boxes have no area in 1 of 24 regions in a sample of 4 images, the first of image"),
    ("boxes", lambda v: np.tile([0, 0, 1, 1], (len(v), 1)), "boxes are the whole image in all of 24 regions"),
    ("labels", lambda v: v * 0 + 3, "class is 'class3' in all of 24 regions"),
]  # fmt: skip


def test_features_by_class_are_none_of_these(tmp_path, caplog):
    """Oracle regions: one vector a class, some images with two regions of one class."""
    path = tmp_path / "r.h5"
    stored = make_store(path, 40, regions=3, num_classes=9)
    labels = np.concatenate([image["labels"] for image in stored.values()])
    spoil(path, "features", lambda values: np.eye(9, 8)[labels] + 1)
    made = folder(tmp_path / "bin", {"train": 40}, images=40)
    assert warned(caplog, lambda: pretraining_task(made.path, "--regions", path).load_dataset("train")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "change", "words"), FAULTS, ids=[words for _, _, words in FAULTS])
def test_regions(tmp_path, caplog, capsys, dataset, change, words):
    """By `vtlm-regions validate`, whose exit status stays 0, and when a split is loaded, classes in pre-training."""
    made = folder(tmp_path / "bin", {"train": 9})
    path = tmp_path / "r.h5"
    make_store(path, 4)
    build = [lambda make=make: make(made.path, "--regions", path).load_dataset("train")
             for make in (pretraining_task, translation_task)]  # fmt: skip
    assert [warned(caplog, one) for one in build] == [[], []]
    assert main(["validate", str(path)]) == 0 and "warning" not in capsys.readouterr().out
    spoil(path, dataset, change)
    (line,) = warned(caplog, build[0])
    assert line.startswith(f"train: {path}: {words}") and ("'img0.jpg'" in line or "first" not in words)
    assert len(warned(caplog, build[1])) == (dataset != "labels")
    assert main(["validate", str(path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: {path}: {words}")


def test_held_out_sentences_and_images(tmp_path, caplog):
    """Pairs, not single sides; in both parts of the training split; each once, however often it is there."""
    made = folder(tmp_path / "bin", {"train": 9, "test": 6}, images=40)
    make_store(tmp_path / "r.h5", 40)
    source, target = sentences(5, seed=60), sentences(5, seed=61)

    def images(*numbers):
        return [f"img{i}.jpg" for i in numbers]

    made.write("train1", [source[3], *sentences(3, seed=50)], [target[3], *sentences(3, seed=51)],
               images(34, 35, 30, 36))  # fmt: skip
    made.write("valid", [*source, source[3]], [*target, target[3]], images(*range(20, 26)))
    (first, *_), _ = made.text["train"]
    made.write("test", [first, *sentences(5, seed=70)], sentences(6, seed=71), images(30, 31, 31, 30, 32, 33))
    made.write("test1", sentences(3, seed=72), sentences(3, seed=73), images(8, 7, 39))
    task = translation_task(made.path, "--regions", tmp_path / "r.h5")
    lines = warned(caplog, lambda: task.load_dataset("train", combine=True))
    assert [line.split(":")[0] for line in lines] == [
        "1 of 5 sentence pairs of valid are in train too, the first is line 4 (train1 has it in line 1)",
        "1 of 4 images of test are in train too, such as 'img30.jpg'",
        "2 of 3 images of test1 are in train too, such as 'img7.jpg'",
    ]
    assert warned(caplog, lambda: task.load_dataset("train", combine=True)) == []  # once a run


def test_lists_of_images_given_to_validate(tmp_path, capsys):
    make_store(tmp_path / "r.h5", 6)
    for name, numbers in (("train", (0, 1, 2)), ("train1", (3,)), ("valid", (4, 5)), ("test_2016", (5, 3, 1, 3))):
        (tmp_path / f"{name}.images").write_text("".join(f"img{i}.jpg\n" for i in numbers))
    names = ("train", "train1", "valid", "test_2016")
    lists = [part for name in names for part in ("--images", str(tmp_path / f"{name}.images"))]
    assert main(["validate", str(tmp_path / "r.h5"), *lists]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: 2 of 3 images of test_2016 are in train too, such as 'img1.jpg'")


@pytest.mark.slow
def test_norms_go_with_the_model(tmp_path, caplog):
    """Features 1.5 times as long are another detector's; those of another seed are not."""
    made = folder(tmp_path / "bin", {"train": 20, "valid": 20}, images=20)
    argv = (made.path, "--regions", tmp_path / "regions")
    for seed, split in enumerate(("train", "valid")):
        ids = [f"{split}{i}" for i in range(20)]
        (made.path / f"{split}.images").write_text("".join(f"{name}\n" for name in ids))
        make_store(tmp_path / "regions" / f"{split}.h5", ids, regions=9, seed=seed)
    task = translation_task(*argv)
    for split in ("valid", "train"):
        assert warned(caplog, lambda split=split: task.load_dataset(split)) == []
    state = task.state_dict()
    mean, deviation, count = state["feature_norms"]
    store = task.dataset("train").regions.store
    norms = np.linalg.norm(np.concatenate([store[i].features for i in range(20)]).astype(np.float64), axis=1)
    assert mean == pytest.approx(norms.mean(), rel=1e-3) and deviation == pytest.approx(norms.std(), rel=1e-2)
    assert count == 180
    for split in ("train", "valid"):
        task.dataset(split).regions.store.close()
    spoil(tmp_path / "regions" / "valid.h5", "features", lambda values: values * 1.5)
    for order in (("valid", "train"), ("train", "valid")):  # fairseq loads valid first
        fresh = translation_task(*argv)
        (line,) = [line for split in order for line in warned(caplog, lambda s=split, t=fresh: t.load_dataset(s))]
        assert line.startswith(f"valid: {tmp_path}/regions/valid.h5: features have norm ")
    loaded = translation_task(*argv)
    loaded.load_state_dict(state)
    (line,) = warned(caplog, lambda: loaded.load_dataset("valid"))
    assert "those that the model was trained on" in line
    assert warned(caplog, lambda: loaded.load_dataset("train")) == []
    hidden = translation_task(*argv, "--region-order", "none")
    hidden.load_state_dict(state)
    assert warned(caplog, lambda: hidden.load_dataset("valid")) == []
    for odd in (None, "x", [1, 2], [float("nan"), 1, 2], ["a", 1, 2], {}):  # an older checkpoint, a foreign one
        old = translation_task(*argv)
        old.load_state_dict({"feature_norms": odd})
        assert warned(caplog, lambda old=old: old.load_dataset("valid")) == []
