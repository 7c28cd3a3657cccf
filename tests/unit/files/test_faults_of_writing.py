"""What the system says when a file or folder cannot be written: one line each; what is no fault of it passes."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from stores import fault
from vtlm_fairseq import files
from vtlm_fairseq.errors import VTLMError


def test_no_right_to_write(tmp_path, monkeypatch):
    """To a file that is there, and to a folder; on a disk that is read only it is that."""
    path = tmp_path / "file"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "Permission denied" in fault(files.check_writable, path)
    path.unlink()
    assert f"no right to write in {tmp_path}" in fault(files.check_writable, path)
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert "Read-only file system" in fault(files.check_writable, path)


def test_where_nobody_may_make_a_file():
    """Rights say nothing of it: root may do all in /proc."""
    for check in (files.check_writable, files.check_new_folder):
        assert "/proc/x: cannot be written" in fault(check, "/proc/x")


@pytest.mark.parametrize(
    "error", [NotImplementedError(), OSError(errno.ENOLCK, "no locks"), OSError(errno.EIO, "damage")]
)
def test_disks_without_locks(tmp_path, monkeypatch, error):
    """A file is written all the same; another error is the line."""

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(FileLock, "acquire", refuse)
    if getattr(error, "errno", None) == errno.EIO:
        assert "damage" in fault(files.write_text, tmp_path / "file", "text")
        assert list(tmp_path.iterdir()) == []
    else:
        files.write_text(tmp_path / "file", "text")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        with files.locked(tmp_path / "file") as is_locked:
            assert not is_locked


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_disks_that_cannot_be_told_to_write(tmp_path, monkeypatch, number):
    """Some have no fsync for a file; an error of one that has is the line, and the file is not there."""

    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EINVAL:
        files.write_text(tmp_path / "file", "text")
        assert (tmp_path / "file").read_text() == "text"
    else:
        assert os.strerror(number) in fault(files.write_text, tmp_path / "file", "text")
        assert list(tmp_path.iterdir()) == []


def test_errors_that_are_of_something_else(tmp_path):
    """Of a file that is read meanwhile, of a closed pipe, of the work."""
    for error in (FileNotFoundError(errno.ENOENT, "none", "other"), BrokenPipeError(), RuntimeError("of the work")):
        with pytest.raises(type(error)), files.faults_of_writing("label", "path"):
            raise error
    with pytest.raises(VTLMError, match="label: cannot be written .*full.*make room"):
        with files.faults_of_writing("label", "path"):
            try:
                raise OSError(errno.ENOSPC, "full")
            except OSError:
                raise RuntimeError("5 of 9 bytes") from None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system without /dev/full")
def test_a_full_disk_while_a_folder_is_filled(tmp_path):
    """The error of a write names no file; the line names the folder that is asked for."""

    def fill() -> None:
        with files.new_folder(tmp_path / "new"), open("/dev/full", "w") as file:
            print("text", file=file)

    message = fault(fill)
    assert f"{tmp_path}/new: cannot be written" in message and "make room" in message
    assert list(tmp_path.iterdir()) == []

    def fill_whole(name: str) -> None:
        with files.new_folder(tmp_path / "new") as folder, files.whole_file(folder / name) as file:
            raise OSError(errno.ENOSPC, "full", file.name)

    assert f"{tmp_path}/new/part: cannot be written" in fault(fill_whole, "part")
    assert list(tmp_path.iterdir()) == []


def test_folders(tmp_path, monkeypatch):
    """One that is empty is taken; one that cannot be made is the line."""
    (tmp_path / "empty").mkdir()
    files.mark_folder(tmp_path / "empty")
    assert os.listdir(tmp_path / "empty") == [files.MARKER]

    def mkdir(*_, **__):
        raise OSError(errno.EDQUOT, "quota")

    monkeypatch.setattr(os, "mkdir", mkdir)

    def make() -> None:
        with files.new_folder(Path(tmp_path / "new")):
            raise AssertionError

    assert "quota" in fault(make) and not (tmp_path / "new").exists()
