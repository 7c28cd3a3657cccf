"""A training run set up by its task."""

import errno
import os
import re
import socket
import sys
from types import SimpleNamespace

import pytest
from fairseq import tasks
from filelock import FileLock

from tiny import folder, pretraining_config
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.tasks.folder_lock import NAME, FolderLock


def test_without_assertions(tmp_path, monkeypatch):
    """python -O leaves out fairseq's assert statements, one of which writes checkpoint_last.pt."""
    data = folder(tmp_path / "data", {"train": 4}).path
    cfg, unsaved = pretraining_config(data), pretraining_config(data, "--no-save")
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if not name.startswith("_")}
    monkeypatch.setattr(sys, "flags", SimpleNamespace(**{**flags, "optimize": 1}))
    with pytest.raises(SystemExit, match=r"error: python -O .* --no-save"):
        tasks.setup_task(cfg.task).build_model(cfg.model)
    assert tasks.setup_task(unsaved.task).build_model(unsaved.model) is not None


def test_lock_that_a_dead_process_left(tmp_path, caplog):
    """Loader workers of a killed training may keep its lock: the next one waits for them, but not for ever."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    held = FileLock(tmp_path / NAME)
    with held:
        (tmp_path / NAME).write_text(f"process {child} on {socket.gethostname()}, since then", encoding="utf-8")
        FolderLock(str(tmp_path)).acquire(wait=0)
    assert str(tmp_path / NAME) in caplog.text and f"process {child} " in caplog.text


def test_no_locks_on_this_disk(tmp_path, monkeypatch, caplog):
    """A file system without locks: training goes on, and says that nothing keeps a second one out."""

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    FolderLock(str(tmp_path)).acquire(wait=0)
    assert f"{tmp_path / NAME}: " in caplog.text and "No locks available" in caplog.text


@pytest.mark.parametrize(
    "owner", ["", "process 1 on elsewhere, since then", f"process {10**30} on {socket.gethostname()}, s"]
)
def test_lock_of_who_may_live(tmp_path, owner):
    """Of nobody known, on another machine, by a number that cannot be: it is another training."""
    with FileLock(tmp_path / NAME):
        (tmp_path / NAME).write_text(owner, encoding="utf-8")
        with pytest.raises(
            VTLMError, match=re.escape(f"--save-dir {tmp_path}: another training is in it ({owner or 'unknown'})")
        ):
            FolderLock(str(tmp_path)).acquire(wait=9)
