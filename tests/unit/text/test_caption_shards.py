"""Captions in tar shards and parquet, as webdataset and img2dataset write them: text, ids, what was not fetched."""

import io
import json
import tarfile

import pytest

from stores import fault
from vtlm_fairseq.extract.images import list_images
from vtlm_fairseq.text.caption_files import CaptionFile


def write_tar(path, members):
    """A tar file of names and contents."""
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sample(key, *, status="success", image=b"jpg", **record):
    """Members of a key as img2dataset writes them; its caption is in KEY.txt too."""
    record = {"caption": f"one {key}", "de": f"eins {key}", "url": f"http://{key}", "key": key, **record}
    meta = json.dumps({**record, "status": status}, indent=4).encode()
    return [(f"{key}.jpg", image), (f"{key}.txt", f"text {key}\n".encode()), (f"{key}.json", meta)]


def read(path, columns, **more):
    """All pairs of the shards."""
    file = CaptionFile(str(path), source_lang="en", target_lang="de", columns=columns, **more)
    pairs = list(file)
    assert list(file) == pairs
    return pairs


def ids(pairs):
    """Image ids of the pairs that can be used."""
    return [pair.prefix + pair.image for pair in pairs if not pair.reason]


def test_tar_files(tmp_path):
    """Ids are those of extraction; text of KEY.json or KEY.txt, each on its side; dead ones have a reason."""
    write_tar(tmp_path / "00001.tar", [*sample("000010002"), *sample("000010005", status="failed_to_resize")])
    write_tar(tmp_path / "00000.tar", [*sample("sub/000000007"), ("x.jpg", b""), *sample("000000008", de=None)])
    shards = tmp_path / "*.tar"
    pairs = read(shards, {"en": "caption", "de": "de"})
    assert [pair[:3] for pair in pairs if not pair.reason] == [
        ("sub/000000007", "one sub/000000007", "eins sub/000000007"),
        ("000000008", "one 000000008", ""),
        ("000010002", "one 000010002", "eins 000010002"),
    ]
    assert [(pair.image, pair.reason) for pair in pairs if pair.reason] == [
        ("x", "no .json member follows or precedes the others of its key"),
        ("000010005", "image was not fetched, status 'failed_to_resize'"),
    ]
    pairs = read(shards, {"en": "de", "de": ".txt"}, prefix=True)
    assert pairs[0][1:5] == (
        "eins sub/000000007",
        "text sub/000000007",
        f"{tmp_path}/00000.tar/sub/000000007",
        "00000/",
    )
    for prefix in (False, True):
        images, _ = list_images(str(shards), (".jpg",), tar_prefix=prefix)
        left_out = {("00000/" if prefix else "") + "x", ("00001/" if prefix else "") + "000010005"}
        found = ids(read(shards, {"en": "caption", "de": "de"}, prefix=prefix))
        assert found == [image.image_id for image in images if image.image_id not in left_out]
    assert read(shards, {"en": "caption", "de": "de", "image": "url"})[0].image == "http://sub/000000007"


def test_two_texts_of_a_key(tmp_path):
    """KEY.en.txt and KEY.de.txt, without JSON."""
    names = ("1.jpg", "1.de.txt", "1.en.txt", "2.en.txt", "2.de.txt", "3.en.txt")
    write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    pairs = read(tmp_path / "a.tar", {"en": ".en.txt", "de": ".de.txt"})
    assert [pair[:3] for pair in pairs] == [("1", "1.en.txt", "1.de.txt"), ("2", "2.en.txt", "2.de.txt"), ("3", "", "")]
    assert pairs[2].reason.startswith("no .de.txt member")


def test_keys_with_dots(tmp_path):
    """As in extraction, a key ends at the first dot; the reason says so where a member may have been meant."""
    write_tar(tmp_path / "a.tar", [("k.v1.0.jpg", b""), ("k.v1.0.txt", b"x"), ("l.jpg", b"")])
    dotted, plain = read(tmp_path / "a.tar", {"en": ".txt", "de": ".txt"})
    assert (dotted.image, plain.image) == ("k", "l")
    assert "first dot" in dotted.reason and plain.reason and "dot" not in plain.reason


def test_faults_of_tar_files(tmp_path):
    columns = {"en": "caption", "de": "de"}
    write_tar(tmp_path / "a.tar", sample("1"))
    write_tar(tmp_path / "b.tar", sample("1", caption="other"))
    message = fault(read, tmp_path / "*.tar", columns)
    assert "a.tar" in message and "b.tar" in message and "--id-prefix tar" in message
    assert ids(read(tmp_path / "*.tar", columns, prefix=True)) == ["a/1", "b/1"]
    assert "'fr', there is caption, de" in fault(read, tmp_path / "a.tar", {"en": "caption", "de": "fr"})
    assert "--columns does not say where de is" in fault(read, tmp_path / "a.tar", {"en": "caption"})
    assert "no such file" in fault(read, tmp_path / "c*.tar", columns)
    for content, expected in ((b"[]", "c.tar/1.json: a JSON list"), (b"\xff", "c.tar/1.json: not UTF-8"),
                              (b'{"caption": [1], "de": ""}', "c.tar/1: 'caption' is '[1]'")):  # fmt: skip
        write_tar(tmp_path / "c.tar", [("1.json", content)])
        assert expected in fault(read, tmp_path / "c.tar", columns)
    (tmp_path / "c.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:700])
    assert "c.tar" in fault(read, tmp_path / "c.tar", columns)


def test_parquet(tmp_path):
    """A row for each URL; the ids are those of the tar file beside it."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    status = ["success", "failed_to_download", "success"]
    keys = ["000000000", "000000001", "000000002"]
    columns = {"caption": ["one", None, "three"], "de": ["eins", "zwei", "drei"], "url": list("abc"), "key": keys,
               "status": status}  # fmt: skip
    parquet.write_table(arrow.table(columns), tmp_path / "00000.parquet")
    write_tar(
        tmp_path / "00000.tar", [m for k, s in zip(keys, status, strict=True) if s == "success" for m in sample(k)]
    )
    names = {"en": "caption", "de": "de"}
    pairs = read(tmp_path / "*.parquet", names)
    assert [pair[:3] for pair in pairs if not pair.reason] == [
        ("000000000", "one", "eins"),
        ("000000002", "three", "drei"),
    ]
    assert pairs[1].reason == "image was not fetched, status 'failed_to_download'"
    assert pairs[1].place == f"{tmp_path}/00000.parquet row 2"
    for prefix in (False, True):
        images, _ = list_images(str(tmp_path / "00000.tar"), (".jpg",), tar_prefix=prefix)
        assert ids(read(tmp_path / "00000.parquet", names, prefix=prefix)) == [image.image_id for image in images]
    assert "no column 'fr', there is caption, de" in fault(read, tmp_path / "00000.parquet", {"en": "fr", "de": "de"})
    parquet.write_table(arrow.table(columns), tmp_path / "00001.parquet")
    message = fault(read, tmp_path / "*.parquet", names)
    assert "00000.parquet" in message and "00001.parquet" in message and "--id-prefix tar" in message
    assert ids(read(tmp_path / "*.parquet", names, prefix=True))[2] == "00001/000000000"
    (tmp_path / "00001.parquet").unlink()

    rows = [{"translation": {"en": f"x{i}", "de": f"y{i}"}, "id": i, "status": "draft"} for i in (7, 8)]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "hub.parquet")
    columns = {"image": "id", "en": "translation.en", "de": "translation.de"}
    assert [pair[:3] for pair in read(tmp_path / "hub.parquet", columns)] == [("7", "x7", "y7"), ("8", "x8", "y8")]
    assert "'translation' is" in fault(read, tmp_path / "hub.parquet", {**columns, "en": "translation"})
    assert "no column 'image'" in fault(read, tmp_path / "hub.parquet", {**columns, "image": "image"})
    assert "row 1: no 'fr'" in fault(read, tmp_path / "hub.parquet", {**columns, "en": "translation.fr"})
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "hub.parquet").read_bytes()[:-9])
    assert "bad.parquet: not a readable parquet file" in fault(read, tmp_path / "bad.parquet", columns)
