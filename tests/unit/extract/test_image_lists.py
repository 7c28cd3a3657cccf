"""The images of a run: folders, lists and tar files, their ids, and shares of them."""

import io
import os
import tarfile

import pytest
from extraction import images

from stores import fault

JPG = (".jpg", ".png")


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


def write_tar(path, names):
    with tarfile.open(path, "w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            file.addfile(info, io.BytesIO(name.encode()))
    return path


def listed(source, **options):
    return images.list_images(str(source), JPG, **options)


def test_folder(tmp_path):
    """Recursive, in the order of paths, linked folders too, a loop of links entered once; other files are counted."""
    touch(*(tmp_path / "in" / name for name in ("b.jpg", "a.PNG", "z/c.d.jpg", "notes.txt", ".hidden.jpg", "x.svg")))
    touch(tmp_path / "elsewhere" / "far.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "link")
    os.symlink(tmp_path / "in", tmp_path / "in" / "z" / "loop")
    files, notes = listed(tmp_path / "in")
    assert [file.image_id for file in files] == ["a", "b", "far", "c.d"]
    assert files[3].read() == b"c.d.jpg"
    (note,) = notes
    assert note.startswith("2 files ") and "1 x .txt" in note and "1 x .svg" in note


def test_list(tmp_path):
    listing = tmp_path / "list"
    listing.write_text("x/1.jpg\n\nx/2.jpg\n")
    assert "line 2 is ''" in fault(listed, listing)
    listing.write_text("a\tb\tc\n")
    assert "line 1" in fault(listed, listing)
    assert "none" in fault(listed, tmp_path / "none")
    listing.write_text("a.jpg\nother\ta.jpg\na\tb.jpg\n")
    assert "a.jpg and b.jpg" in fault(listed, listing)


def test_tar_files(tmp_path):
    """webdataset's layout: the key is the name up to its first dot."""
    write_tar(tmp_path / "s-1.tar", ["0003.jpg", "0003.txt", "0003.json"])
    write_tar(tmp_path / "s-0.tar", ["a/0001.jpg", "a/0001.txt", "a/0002.PNG", "v1.5.jpg", "0009.seg.png"])
    files, notes = listed(tmp_path / "s-*.tar")
    assert [file.image_id for file in files] == ["a/0001", "a/0002", "0003"]
    assert [file.read() for file in files] == [b"a/0001.jpg", b"a/0002.PNG", b"0003.jpg"]
    assert files[2].path == str(tmp_path / "s-1.tar" / "0003.jpg")
    assert len(notes) == 1 and "2 members such as 'v1.5.jpg'" in notes[0]


def test_a_damaged_tar_file_does_not_pass_for_a_short_one(tmp_path):
    """tarfile itself ends without a word where a header is damaged."""
    names = [f"{i:04}.jpg" for i in range(6)]
    whole = write_tar(tmp_path / "a.tar", names).read_bytes()
    for fault_, data in {
        "cut between members": whole[:3072],
        "cut in a header": whole[:3172],
        "cut in a member": whole[:2570],
        "damaged header": whole[:3072] + b"\1" * 512 + whole[3584:],
        "text": b"not a tar file" * 100,
        "empty": b"",
    }.items():
        (tmp_path / "a.tar").write_bytes(data)
        assert "a.tar" in fault(listed, tmp_path / "a.tar"), fault_
    (tmp_path / "a.tar").write_bytes(whole)
    files, _ = listed(tmp_path / "a.tar")
    os.truncate(tmp_path / "a.tar", 3000)  # while the command reads
    with pytest.raises(OSError, match="a.tar has been cut"):
        files[5].read()
    assert f"--images {tmp_path / 'b*.tar'}" in fault(listed, tmp_path / "b*.tar")


def test_an_id_given_twice_names_both_files(tmp_path):
    touch(tmp_path / "a" / "1.jpg", tmp_path / "b" / "1.png")
    message = fault(listed, tmp_path)
    assert "a/1.jpg and " in message and "b/1.png" in message and "id '1'" in message
    write_tar(tmp_path / "x.tar", ["1.jpg"])
    write_tar(tmp_path / "y.tar", ["1.jpg"])
    assert "x.tar/1.jpg and " in fault(listed, tmp_path / "*.tar")
    for name, shown in ((b"a\tb.jpg", "'a\\tb'"), (b"\xff.jpg", "'\\udcff'")):  # ids that no list could hold
        os.rename(next((tmp_path / "a").iterdir()), os.fsencode(tmp_path / "a") + b"/" + name)
        assert shown in fault(listed, tmp_path / "a")


def test_shards_are_the_whole_in_order(tmp_path):
    """Of tar files, whole files."""
    touch(*(tmp_path / f"{i:02}.jpg" for i in range(10)))
    for count in (1, 4, 10):
        parts = [listed(tmp_path, num_shards=count, shard_id=i)[0] for i in range(count)]
        assert [file for part in parts for file in part] == listed(tmp_path)[0]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for i in range(5):
        write_tar(tmp_path / f"{i}.tar", [f"{i}.jpg"])
        (tmp_path / f"{i:02}.jpg").unlink(), (tmp_path / f"{i + 5:02}.jpg").unlink()
    parts = [listed(tmp_path / "*.tar", num_shards=2, shard_id=i)[0] for i in range(2)]
    assert [[file.image_id for file in part] for part in parts] == [["0", "1"], ["2", "3", "4"]]
    assert "5 tar files" in fault(listed, tmp_path / "*.tar", num_shards=6)
    message = fault(listed, tmp_path)
    assert ".jpg .png " in message and "5 x .tar" in message
    assert "must be in 0..1" in fault(listed, tmp_path / "*.tar", num_shards=2, shard_id=2)
