"""`vtlm-regions convert` in parts: images left out, shards, processes, and what was made when it goes on."""

import os
import shutil

import numpy as np
import pytest
from extraction import contents
from region_sources import convert, fails

from vtlm_fairseq.cli.regions import main
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions import conversion
from vtlm_fairseq.regions.formats.arrays import NpyImages, NpzImages
from vtlm_fairseq.regions.formats.input_image import ImageSource, InputImage
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.store import RegionStore


def save(folder, count, **changes):
    """Files `i000.npz`; feature 0 of region r of image i is 10 i + r. Changes are arrays by name of an image."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        arrays = {
            "features": 10.0 * i + np.arange(6).reshape(2, 3),
            "boxes": np.array([[0, 0, 0.5, 0.5], [0.25, 0, 1, 1]]),
            "labels": np.array([i % 3, 2]),
        }
        np.savez(folder / f"i{i:03}.npz", **{**arrays, **changes.get(f"i{i:03}", {})})
    return folder


def command(folder, out, *argv):
    return [str(a) for a in ("convert", "--npz", folder, "--num-classes", 3, "--out", out, *argv)]


def values(path):
    """All of a store but the attributes."""
    return {name: value for name, value in contents(path).items() if name != "attributes"}


def listed(out):
    return [line.rstrip("\n").split("\t") for line in open(f"{out}.errors.tsv", encoding="utf-8")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_left_out(tmp_path, capsys, workers):
    """Damaged files and wrong values are listed; the others are those of a conversion without them."""
    bad = {
        "i003": {"features": np.full((2, 3), np.nan)},
        "i005": {"boxes": np.array([[0, 0, 3.0, 1], [0, 0, 1, 1]])},
        "i008": {"labels": np.array([0, 3])},
        "i011": {"features": np.ones((2, 4))},
    }
    folder, out = save(tmp_path / "in", 13, **bad), tmp_path / "s.h5"
    (folder / "i001.npz").write_bytes(b"PK nonsense")
    assert main(command(folder, out, "--skip-bad", "--part-size", 3, "--workers", workers)) == 3
    out_text = capsys.readouterr().out
    assert "8 images" in out_text and "5 images left out" in out_text
    found = listed(out)
    assert [line[0] for line in found] == ["i001", "i003", "i005", "i008", "i011"]
    assert [line[1] for line in found] == [str(folder / f"{line[0]}.npz") for line in found]
    words = ("i001.npz", "not finite", "0 to 3", "0 to 3", "[R, 3]")
    assert all(word in line[2] for word, line in zip(words, found, strict=True))
    for name in ("i001", "i003", "i005", "i008", "i011"):
        (folder / f"{name}.npz").unlink()
    convert(tmp_path / "t.h5", *command(folder, "x")[1:5])
    assert values(out) == values(tmp_path / "t.h5")


@pytest.mark.slow
def test_without_skip_bad_what_was_made_stays(tmp_path):
    folder, out = save(tmp_path / "in", 9, i007={"features": np.full((2, 3), np.inf)}), tmp_path / "s.h5"
    assert "'i007'" in fails(*command(folder, out, "--part-size", 2))
    assert sorted(path.name for path in (tmp_path / "s.h5.parts").glob("*.h5")) == ["00000.h5", "00001.h5", "00002.h5"]
    assert "part_size was 2 and is 500" in fails(*command(folder, out, "--skip-bad"))
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "s.h5.parts", kept)
    assert main(command(folder, out, "--skip-bad", "--part-size", 2)) == 3  # goes on
    assert len(RegionStore([str(out)])) == 8 and not (tmp_path / "s.h5.parts").exists()
    assert main(command(folder, out, "--skip-bad", "--part-size", 2)) == 3  # complete
    out.unlink()
    kept.rename(tmp_path / "s.h5.parts")
    save(folder, 9)  # all written anew, the one that failed mended
    assert main(command(folder, out, "--part-size", 2)) == 0
    assert len(RegionStore([str(out)])) == 9


def test_nothing_is_stored_where_every_image_is_bad(tmp_path):
    folder = save(tmp_path / "in", 4)
    argv = command(folder, tmp_path / "s.h5", "--skip-bad")
    argv[argv.index("--num-classes") + 1] = "1"
    message = fails(*argv)
    assert "--num-classes" in message and "each of the first 4 images" in message
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_shards_and_processes(tmp_path, workers):
    """Of a folder, and of a source that does not know how many images it has."""
    folder = save(tmp_path / "in", 11)
    assert main(command(folder, tmp_path / "whole.h5")) == 0
    more = ("--workers", workers, "--part-size", 2)
    assert main(command(folder, tmp_path / "a.h5", *more)) == 0
    assert values(tmp_path / "a.h5") == values(tmp_path / "whole.h5")
    shards = []
    for i in range(3):
        shards.append(str(tmp_path / f"s.{i}.h5"))
        assert main(command(folder, shards[-1], *more, "--shard", f"{i}/3")) == 0
    merge_stores(shards, str(tmp_path / "merged.h5"), copy=True)
    assert values(tmp_path / "merged.h5") == values(tmp_path / "whole.h5")
    with pytest.raises(SystemExit, match="2"):
        main(command(folder, tmp_path / "b.h5", "--shard", "3/3"))


@pytest.mark.slow
def test_images_that_are_checked_together(tmp_path):
    """Each has its own regions in the order of its own scores, whatever the others have, and none at all is some."""
    rng = np.random.default_rng(3)
    counts = [3, 0, 1, 4, 2] * 12
    folder, expected = tmp_path / "in", {}
    folder.mkdir()
    for i, count in enumerate(counts):
        corners = np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4)
        scores = rng.choice([0.25, 0.5, 0.75], count)
        image = {"features": rng.random((count, 3)), "boxes": corners, "labels": rng.integers(0, 3, count)}
        np.savez(folder / f"i{i:03}.npz", **image, scores=scores)
        order = sorted(range(count), key=lambda k: (-scores[k], k))
        expected[f"i{i:03}"] = {name: values[order] for name, values in {**image, "scores": scores}.items()}
    store = convert(tmp_path / "s.h5", *command(folder, "x", "--part-size", 40)[1:5], "--part-size", 40)
    assert store.ids() == list(expected)
    for row, image in enumerate(expected.values()):
        found = store[row]
        assert found.labels.tolist() == image["labels"].tolist() and found.scores.tolist() == image["scores"].tolist()
        np.testing.assert_allclose(found.features, image["features"], atol=1e-3)
        np.testing.assert_allclose(found.boxes, image["boxes"], atol=1e-6)


class Lines(ImageSource):
    """Images without end numbers; those in `bad` end the iterator."""

    feature_dim, class_names = 2, ["thing"]

    def __init__(self, count, bad=(), always=False):
        self._count, self._bad, self._always = count, bad, always
        self.begun = []

    def count(self):
        return self._count

    def images(self, start=0, stop=None):
        self.begun.append((start, stop))
        for k in range(start, self._count if stop is None else min(stop, self._count)):
            if k in self._bad or (self._always and k >= 5):
                raise VTLMError(f"line {5 if self._always else k}: damaged")
            one = np.zeros(1, np.int64)
            yield InputImage(f"n{k}", f"line {k}", np.full((1, 2), k + 1), np.array([[0, 0, 1, 1]]), one, None)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_source_that_ends_at_a_fault(tmp_path, monkeypatch, workers):
    """It is begun again behind the image, unless that does not help."""
    source = Lines(20, bad=(0, 7, 8, 19))
    monkeypatch.setattr(conversion, "open_source", lambda args: source)
    argv = command("in", tmp_path / "s.h5", "--part-size", 6, "--workers", workers, "--skip-bad")
    assert main(argv) == 3
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == [f"n{k}" for k in range(20) if k not in (0, 7, 8, 19)]
    assert [line[0] for line in listed(tmp_path / "s.h5")] == ["#1", "#8", "#9", "#20"]
    if not workers:
        assert source.begun == [(0, None), (1, None), (8, None), (9, None), (20, None)]
    source = Lines(20, always=True)
    assert "line 5: damaged" in fails(*command("in", tmp_path / "t.h5", "--workers", workers, "--skip-bad"))


@pytest.mark.slow
def test_a_process_that_is_killed(tmp_path, monkeypatch):
    """As by a system without memory: one line, and what was made stays."""
    monkeypatch.setattr(conversion, "open_source", lambda args: Killed(20))
    message = fails(*command("in", tmp_path / "s.h5", "--part-size", 4, "--workers", 2))
    assert "--workers" in message and "-9" in message
    assert sorted(os.listdir(tmp_path / "s.h5.parts"))[-1] == "plan.json"
    monkeypatch.setattr(conversion, "open_source", lambda args: Lines(20))
    assert main(command("in", tmp_path / "s.h5", "--part-size", 4, "--workers", 2)) == 0
    assert len(RegionStore([str(tmp_path / "s.h5")])) == 20


class Killed(Lines):
    """Its reader ends at image 17."""

    def images(self, start=0, stop=None):
        for k, image in enumerate(super().images(start, stop), start):
            if k == 17:
                os.kill(os.getpid(), 9)
            yield image


def parts_of(out):
    return {path.name: path.read_bytes() for path in out.with_name(f"{out.name}.parts").glob("*.h5")}


@pytest.mark.slow
@pytest.mark.parametrize(("source", "workers"), [("--npz", 0), ("--layout npz", 2), ("--layout npy", 0)])
def test_files_that_come_go_change_and_are_mended_between_calls(tmp_path, capsys, source, workers):
    """Finished parts stay, and the end is that of one run over the files as they are."""
    folder, out = save(tmp_path / "in", 12), tmp_path / "s.h5"
    settings = ["features=features", "boxes=boxes", "labels=labels", "label_offset=0", "shape=regions"]
    settings += ["box_units=relative", "box_format=xyxy"]
    if source == "--layout npy":
        settings += [f"files.{name}={name}/{{id}}.npy" for name in ("features", "boxes", "labels")]
    (tmp_path / "own.yaml").write_text(f"container: {source.split()[-1]}\n")

    def write(name, feature=None):
        """One image; of the .npy only the labels change, whose file lies beside the features."""
        arrays = {"features": np.full((2, 3), 5.0), "boxes": np.array([[0, 0, 0.5, 0.5], [0.25, 0, 1, 1]])}
        arrays["labels"] = np.array([feature or 0, 2])
        if source != "--layout npy":
            np.savez(folder / f"{name}.npz", **arrays)
            return
        for kind, values in arrays.items():
            (folder / kind).mkdir(exist_ok=True)
            if kind == "labels" or not (folder / kind / f"{name}.npy").exists():
                np.save(folder / kind / f"{name}.npy", values)

    def file(name):
        return folder / "features" / f"{name}.npy" if source == "--layout npy" else folder / f"{name}.npz"

    for i in range(12):
        write(f"i{i:03}")
    file("i007").write_bytes(b"")
    argv = command(folder, out, "--part-size", 3, "--workers", workers)
    if source != "--npz":
        argv[1:3] = ["--layout", tmp_path / "own.yaml", "--input", folder]
        argv += [part for setting in settings for part in ("--layout-set", setting)]
    assert "i007" in fails(*argv)
    file("i007").unlink()
    file("i004").unlink()
    write("i001", 1)
    write("a-new", 1)
    assert main([str(a) for a in argv]) == 0
    store = RegionStore([str(out)])
    assert store.ids() == ["a-new", *(f"i{i:03}" for i in range(12) if i not in (4, 7))]
    assert [int(store[row].labels[0]) for row in range(4)] == [1, 0, 1, 0]
    whole = tmp_path / "whole.h5"
    assert main([str(whole) if a == str(out) else str(a) for a in argv]) == 0
    assert values(out) == values(whole)
    capsys.readouterr()
    assert main([str(a) for a in argv]) == 0 and "complete already" in capsys.readouterr().out
    write("i005", 1)
    line = fails(*argv)
    assert f"{folder} has changed" in line and "--overwrite" in line
    assert main([str(a) for a in (*argv, "--overwrite")]) == 0
    assert RegionStore([str(out)])[5].labels.tolist()[0] == 1


def test_finished_parts_stay_as_they_are(tmp_path):
    folder, out = save(tmp_path / "in", 8, i007={"features": np.full((2, 3), np.inf)}), tmp_path / "s.h5"
    argv = command(folder, out, "--part-size", 2)
    assert "'i007'" in fails(*argv)
    before = parts_of(out)
    assert len(before) == 3
    (folder / "i000.npz").unlink()
    save(tmp_path / "other", 1)
    (tmp_path / "other/i000.npz").rename(folder / "a.npz")
    assert "'i007'" in fails(*argv)
    assert before.items() < parts_of(out).items()  # of i001 too, whose part held i000


@pytest.mark.slow
def test_a_file_of_all_images_that_has_changed(tmp_path):
    """Parts and a finished store are not used for another; the line names the file and the option."""
    features = np.arange(1.0, 13).reshape(6, 1, 2)
    np.save(tmp_path / "f.npy", features)
    (tmp_path / "ids").write_text("a\nb\nc\nd\ne\nf\n")
    argv = ["convert", "--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--out", tmp_path / "s.h5"]
    features[5] = np.inf
    np.save(tmp_path / "f.npy", features)
    assert "'f'" in fails(*argv, "--part-size", 2)
    features[5] = 1
    np.save(tmp_path / "f.npy", features)
    line = fails(*argv, "--part-size", 2)
    assert f"{tmp_path / 'f.npy'} has changed" in line and "--overwrite" in line
    assert main([str(a) for a in (*argv, "--part-size", 2, "--overwrite")]) == 0
    features[0] = 9
    np.save(tmp_path / "f.npy", features)
    assert f"{tmp_path / 'f.npy'} has changed" in fails(*argv, "--part-size", 2)
    assert "has changed" not in fails(*argv, "--part-size", 3)


@pytest.mark.slow
def test_a_file_of_all_images_that_is_written_to_while_it_is_read(tmp_path, monkeypatch):
    """Images of before and of after are not joined to a store."""
    old, file = np.arange(1.0, 13).reshape(6, 1, 2), tmp_path / "f.npy"
    (tmp_path / "ids").write_text("a\nb\nc\nd\ne\nf\n")
    argv = ["convert", "--npy", file, "--ids", tmp_path / "ids", "--out", tmp_path / "s.h5", "--part-size", 2]

    read = NpyImages.read

    def replacing(self, record):
        if record == 4:
            np.save(file, old + 100)
        return read(self, record)

    np.save(file, old)
    monkeypatch.setattr(NpyImages, "read", replacing)
    line = fails(*argv)
    assert str(file) in line and "--overwrite" in line and not (tmp_path / "s.h5").exists()
    monkeypatch.undo()
    assert str(file) in fails(*argv)
    assert main([str(a) for a in (*argv, "--overwrite")]) == 0
    store = RegionStore([str(tmp_path / "s.h5")])
    assert [store[row].features[0, 0] for row in range(6)] == (old[:, 0, 0] + 100).tolist()


def test_files_that_change_while_others_are_read(tmp_path, monkeypatch):
    """The next call makes them anew, and them alone."""
    folder, out = save(tmp_path / "in", 6), tmp_path / "s.h5"
    argv = command(folder, out, "--part-size", 2)

    read, made = NpzImages.read, []

    def changing(self, record):
        if record.name == "i005.npz":
            save(folder, 1, i000={"features": np.full((2, 3), 70.0)})
            (folder / "new.npz").write_bytes((folder / "i001.npz").read_bytes())
        return read(self, record)

    monkeypatch.setattr(NpzImages, "read", changing)
    assert "i000.npz" in fails(*argv) and not out.exists()
    before = parts_of(out)
    monkeypatch.setattr(NpzImages, "read", lambda self, record: made.append(record.name) or read(self, record))
    assert len(before) == 3 and main(argv) == 0
    assert set(made[1:]) == {"i000.npz", "new.npz"}  # the first is read for its width, too
    store = RegionStore([str(out)])
    assert store.ids() == [*(f"i{i:03}" for i in range(6)), "new"] and store[0].features.tolist() == [[70.0] * 3] * 2


def test_ids_given_twice(tmp_path):
    """Found before the work where they are known; both places are named, and the rule that made them so."""
    features = np.arange(1.0, 13).reshape(6, 1, 2)
    np.save(tmp_path / "f.npy", features)
    (tmp_path / "ids").write_text("a\nb\nc\na\nd\n007\n")
    argv = ["convert", "--npy", tmp_path / "f.npy", "--ids", tmp_path / "ids", "--part-size", 2]
    argv += ["--out", tmp_path / "s.h5"]
    line = fails(*argv)
    assert f"{tmp_path / 'ids'}, line 4: image 'a'" in line and f"{tmp_path / 'ids'}, line 1" in line
    assert "--skip-bad" in line and not (tmp_path / "s.h5.parts").exists()
    assert main([str(a) for a in (*argv, "--skip-bad")]) == 3
    store = RegionStore([str(tmp_path / "s.h5")])
    assert store.ids() == ["a", "b", "c", "d", "007"] and store[0].features.tolist() == [[1, 2]]
    assert [line[0] for line in listed(tmp_path / "s.h5")] == ["a"]
    folder = save(tmp_path / "in", 1)
    for name in ("7", "007"):
        (folder / f"{name}.npz").write_bytes((folder / "i000.npz").read_bytes())
    line = fails(*command(folder, tmp_path / "t.h5", "--id-rule", "zeros"))
    assert all(part in line for part in (str(folder / "7.npz"), str(folder / "007.npz"), "--id-rule zeros"))


@pytest.mark.slow
def test_ids_given_twice_that_are_known_when_they_are_read(tmp_path, monkeypatch):
    class Twice(Lines):
        def images(self, start=0, stop=None):
            names = {3: "n0", 5: "n4"}
            for k, image in enumerate(super().images(start, stop), start):
                yield image._replace(image_id=names.get(k, image.image_id))

    monkeypatch.setattr(conversion, "open_source", lambda args: Twice(6))
    argv = command("in", tmp_path / "s.h5", "--part-size", 2)
    assert "line 5: image 'n4'" in fails(*argv) and "--skip-bad" in fails(*argv)
    assert main([*argv, "--skip-bad"]) == 3
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["n0", "n1", "n2", "n4"]
    found = {line[0]: line[2] for line in listed(tmp_path / "s.h5")}
    assert set(found) == {"n0", "n4"} and "1 and 4" in found["n0"]


@pytest.mark.parametrize("source", ["--npz", "--vtlm-pickles", "--layout"])
def test_pipes_in_a_folder_are_refused(tmp_path, source):
    folder = save(tmp_path / "in", 1)
    ending = "pkl" if source == "--vtlm-pickles" else "npz"
    os.mkfifo(folder / f"a.{ending}")
    argv = [source, folder]
    if source == "--layout":
        argv = ["--layout", "milvlg", "--layout-set", "label_offset=0", "--input", folder]
    line = fails("convert", *argv, "--num-classes", 3, "--out", tmp_path / "s.h5")
    assert f"{folder / 'a'}.{ending}" in line and "pipe" in line


@pytest.mark.slow
def test_shards_of_a_virtual_store_are_looked_at(tmp_path):
    shards, virtual, out = [tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "v.h5", tmp_path / "s.h5"
    for number, shard in enumerate(shards):
        folder = save(tmp_path / f"in{number}", 1)
        (folder / "i000.npz").rename(folder / f"{number}.npz")
        assert main(command(folder, shard)) == 0
    merge_stores([str(shard) for shard in shards], str(virtual))
    argv = ["convert", "--store", str(virtual), "--out", str(out)]
    assert main(argv) == 0 and main(argv) == 0
    os.utime(shards[1], (1, 1))
    assert "b.h5 has changed" in fails(*argv)


def test_the_source_is_not_replaced(tmp_path):
    folder, out = save(tmp_path / "in", 2), tmp_path / "s.h5"
    assert main(command(folder, out)) == 0
    before = out.read_bytes()
    assert "--store" in fails("convert", "--store", out, "--out", out, "--overwrite")
    assert "--store" in fails("convert", "--store", tmp_path, "--out", out, "--overwrite")
    assert out.read_bytes() == before
