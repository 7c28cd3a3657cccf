"""Ids by their hashes: region counts, maps from URLs, validation images; and the stream that uses them."""

import io
import random
import tracemalloc

import numpy as np
import pytest

from stores import fault, make_store
from vtlm_fairseq.text import prepare
from vtlm_fairseq.text.caption_files import Pair
from vtlm_fairseq.text.id_rules import strip_extension
from vtlm_fairseq.text.image_ids import HeldOut, ImageMap, hash_id, hash_ids, region_counts
from vtlm_fairseq.text.pipeline import TextPipeline


def test_hashes_do_not_change():
    """Folders made by an earlier version keep their validation images. First 8 bytes of BLAKE2b-64, little-endian."""
    assert hash_id("img0.jpg") == int(np.uint64(hash_ids(["img0.jpg"])[0])) == 10006762407695191788
    ids = [f"ä{i}" for i in range(70_000)]  # more than a block
    hashes = hash_ids(iter(ids))
    assert len(np.unique(hashes)) == 70_000 and hashes[-1] == hash_id(ids[-1])
    assert len(hash_ids([])) == 0


def test_region_counts(tmp_path):
    make_store(tmp_path / "0.h5", ["a", "b", "ü"], regions=[3, 0, 1])
    make_store(tmp_path / "1.h5", ["c"], regions=2)
    known = region_counts([str(tmp_path / "0.h5"), str(tmp_path / "1.h5")])
    assert [known.get(i) for i in ("a", "b", "ü", "c", "d", "")] == [3, 0, 1, 2, None, None]


def test_image_map(tmp_path):
    path = tmp_path / "map"
    path.write_text("http://x/1\tü1\nhttp://x/2\tb\nhttp://x/1\tü1\n")
    found = ImageMap(str(path))
    assert [found.get(f"http://x/{i}") for i in (1, 2, 3)] == ["ü1", "b", None]
    path.write_text("http://x/1\tü1\nhttp://x/2\tb\nhttp://x/1\tagain\n")
    message = fault(ImageMap, str(path))
    assert "lines 1 and 3" in message and all(repr(name) in message for name in ("http://x/1", "ü1", "again"))
    path.write_text("x\ty\nz\n")
    assert "map line 2" in fault(ImageMap, str(path))


def test_held_out_images_do_not_depend_on_order_or_repeats():
    ids = [f"img{i}" for i in range(200)]
    held_out = HeldOut(ids, 20)
    chosen = {i for i in ids if i in held_out}
    assert len(chosen) == 20
    shuffled = ids * 3
    random.Random(1).shuffle(shuffled)
    again = HeldOut(shuffled, 20)
    assert {i for i in ids if i in again} == chosen
    more = HeldOut(ids, 40)
    assert chosen < {i for i in ids if i in more}  # a larger split holds the smaller one
    assert max(map(hash_id, chosen)) < min(hash_id(i) for i in ids if i not in chosen)
    for count in (0, 200, 300):
        assert f"--valid-size {count}: there are 200 images" in fault(HeldOut, ids, count)


def test_strip_extension():
    names = ["a.jpg", "a.b.JPEG", "COCO_1.png", "1.5", ".jpg", "a.jpg.npz", "x"]
    assert [strip_extension(n) for n in names] == ["a", "a.b", "COCO_1", "1.5", ".jpg", "a.jpg.npz", "x"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_is_not_read_ahead_of_its_use(workers):
    """However long the input, few of its items are held."""
    taken = 0

    def items():
        nonlocal taken
        for i in range(10**9):
            taken += 1
            yield i

    stream = prepare.map_stream(abs, items(), workers=workers, label="x")
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    assert taken <= 1 + 500 * 4 * workers
    stream.close()


@pytest.mark.slow
def test_words_and_sample_of_a_split(tmp_path):
    """BPE is learnt from evenly spaced sentences of both sides; memory does not grow with the lines."""
    pipeline = TextPipeline("en", "de", steps=())
    files = prepare.SplitFiles(tmp_path, "train", pipeline)
    tracemalloc.start()
    files.write((Pair(f"i{k}", f"e{k}", f"d {k} ", f"f line {k}") for k in range(20_000)), workers=1)
    found = sum(1 for _ in files.read())
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert (found, files.count) == (20_000, 20_000)
    assert next(files.read()) == Pair("i0", "e0", "d 0", "f line 0")
    sample = list(files.sample(8))
    assert sample == ["e4999", "e9999", "e14999", "e19999", "d 4999", "d 9999", "d 14999", "d 19999"]
    whole = list(files.sample(None))
    assert whole == list(files.sample(50_000)) == [f"e{k}" for k in range(20_000)] + [f"d {k}" for k in range(20_000)]


def test_length_filter_and_list_of_dropped_pairs():
    keep = prepare.LengthFilter(1, 3)
    pairs = [Pair("a", "x y z", "x", "f line 1"), Pair("b", "x", "x y z w", "f line 2"), Pair("c", "", "x", "f line 3")]
    assert [keep.reason(p) for p in pairs] == [None, "target is too long", "source is empty"]
    assert prepare.LengthFilter(2, 3).reason(pairs[0]) == "target is too short"
    file = io.StringIO()
    dropped = prepare.DroppedPairs(file)
    for pair in (pairs[1], pairs[1]):
        dropped.add("train", pair, "target is too long")
    assert file.getvalue() == "train\tf line 2\tb\ttarget is too long\n" * 2
    assert dropped.report() == ["train: 2 pairs dropped, target is too long"]
