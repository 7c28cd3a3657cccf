"""Every writing command: links, devices, pipes, rights, leftovers, folders of others, two runs at once, signals."""

import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from extraction import extract_regions, write_grids
from forks import fork
from preparation import prepare_cli

from harness import write_lines
from stores import make_store
from vtlm_fairseq import files, interrupts
from vtlm_fairseq.cli import convert, probe, regions, score
from vtlm_fairseq.corpora import translate_captions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text.pipeline import TextPipeline

SECRET = "another's"


def average(out: Path, folder: Path) -> None:
    """vtlm-convert average."""
    torch.save({"model": {"a": torch.ones(2)}, "cfg": {"model": {"_name": "vtlm"}}}, folder / "1.pt")
    convert.main(["average", str(folder / "1.pt"), "--out", str(out)])


def sentences(out: Path, folder: Path) -> None:
    """vtlm-score --sentences."""
    paths = [str(write_lines(folder / name, ["a b c d", "e f g h"])) for name in ("hyp", "ref")]
    score.main([paths[0], "--ref", paths[1], "--sentences", str(out)])


def contrasts(out: Path, folder: Path) -> None:
    """What vtlm-probe contrastive --sentences writes."""
    files.check_writable(out)
    files.write_lines(out, ["a", "b"], label=f"--sentences {out}")


def store(out: Path, folder: Path) -> None:
    """vtlm-regions convert."""
    np.save(folder / "f.npy", np.ones((2, 3, 4), np.float32))
    argv = ["convert", "--npy", folder / "f.npy", "--ids", write_lines(folder / "ids", ["a", "b"]), "--num-classes", 3]
    regions.main([str(part) for part in (*argv, "--out", out, "--overwrite")])


def merged(out: Path, folder: Path, *more: str) -> None:
    """vtlm-regions merge; without --copy the shards lie beside or below."""
    source = Path(os.path.realpath(out)).parent / "shards/s.h5" if not more and out.parent.is_dir() else folder / "s.h5"
    if not out.is_dir() and out.parent.is_dir():
        make_store(source, 2)
    regions.main(["merge", str(source), "--out", str(out), "--overwrite", *more])


def copied(out: Path, folder: Path) -> None:
    """vtlm-regions merge --copy."""
    merged(out, folder, "--copy")


def drawing(out: Path, folder: Path) -> None:
    """vtlm-regions show; its drawing must end in .png."""
    from PIL import Image

    make_store(folder / "s.h5", 1)
    Image.new("RGB", (8, 8)).save(folder / "i.png")
    argv = ["show", folder / "s.h5", "img0.jpg", "--image", folder / "i.png", "--out", out, "--overwrite"]
    regions.main([str(part) for part in argv])


def extracted(out: Path, folder: Path) -> None:
    """extract_regions.py."""
    if not (folder / "in").exists():
        write_grids(folder / "in", 2)
    argv = ["--images", folder / "in", "--detector", "grid", "--workers", 0, "--out", out, "--overwrite"]
    extract_regions.main([str(part) for part in argv])


FILES = {
    "average.pt": average,
    "sentences.tsv": sentences,
    "contrasts.tsv": contrasts,
    "store.h5": store,
    "merged.h5": merged,
    "copied.h5": copied,
    "drawing.png": drawing,
    "extracted.h5": extracted,
}
STREAMS = ("average.pt", "sentences.tsv", "contrasts.tsv", "drawing.png")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Folders: of the inputs, of the outputs."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for name in ("in", "out", "elsewhere"):
        (tmp_path / name).mkdir()
    return SimpleNamespace(inputs=tmp_path / "in", out=tmp_path / "out", elsewhere=tmp_path / "elsewhere")


def listed(folder: Path) -> list[str]:
    """Names in a folder, but for the shards of a virtual store."""
    return sorted(path.name for path in folder.iterdir() if path.name != "shards")


def fails(call: Callable, *args: object) -> str:
    """The one line with which a command ends."""
    with pytest.raises((SystemExit, VTLMError)) as caught:
        call(*args)
    text = str(caught.value.code if isinstance(caught.value, SystemExit) else caught.value)
    assert text and "\n" not in text
    return text


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_links_rights_and_leftovers(work, name):
    """A link stays and its target is replaced, with the target's rights; what a killed run left goes, no more."""
    target = work.elsewhere / f"target{Path(name).suffix}"
    target.write_text("before")
    target.chmod(0o640)
    link = work.out / name
    link.symlink_to(target)
    left = work.elsewhere / f".{target.name}.0123456789ab.vtlm-tmp"
    left.write_text("left")
    others = [work.elsewhere / f"{target.name}.tmp", work.elsewhere / f".{target.name}.tmp", work.out / f"{name}.tmp",
              work.elsewhere / f"{target.name}.partial"]  # fmt: skip
    for path in others:
        path.write_text(SECRET)
    FILES[name](link, work.inputs)
    assert link.is_symlink() and target.read_bytes() != b"before"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert listed(work.elsewhere) == sorted([target.name, *(p.name for p in others if p.parent == work.elsewhere)])
    assert [path.read_text() for path in others] == [SECRET] * 4
    new = work.out / f"new{Path(name).suffix}"
    mask = os.umask(0o027)
    try:
        FILES[name](new, work.inputs)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert listed(work.out) == sorted([name, f"{name}.tmp", new.name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_devices_and_pipes(work, name):
    """Written straight, or refused where it cannot be a stream; the device stays one."""
    null, fifo = work.out / f"null{Path(name).suffix}", work.out / f"fifo{Path(name).suffix}"
    null.symlink_to(os.devnull)
    os.mkfifo(fifo)
    if name not in STREAMS:
        for path in (null, fifo):
            assert "no regular file" in fails(FILES[name], path, work.inputs)
    else:
        FILES[name](null, work.inputs)
        FILES[name](work.out / f"file{Path(name).suffix}", work.inputs)
        read = []
        reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
        reader.start()
        FILES[name](fifo, work.inputs)
        reader.join(10)
        if name != "average.pt":  # a zip file that is streamed has other headers
            assert read == [(work.out / f"file{Path(name).suffix}").read_bytes()]
        assert read[0]
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode) and stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_written_is_found_before_the_work(work, name):
    """A folder in the place of the file, a folder that is missing: before the input is read."""
    folder = work.out / f"folder{Path(name).suffix}"
    folder.mkdir()
    work.inputs.rmdir()  # an input that cannot be read or made
    call = {"average.pt": lambda out, _: convert.main(["average", "no", "--out", str(out)]),
            "sentences.tsv": lambda out, _: score.main(["no", "--ref", "no", "--sentences", str(out)]),
            "contrasts.tsv": lambda out, _: probe.main(["contrastive", "--path", "no", "--src", "no", "--correct", "no",
                                                        "--incorrect", "no", "--sentences", str(out)]),
            "store.h5": lambda out, _: regions.main(["convert", "--npz", "no", "--out", str(out), "--overwrite"]),
            "merged.h5": lambda out, _: regions.main(["merge", "no", "--out", str(out), "--overwrite"]),
            "copied.h5": lambda out, _: regions.main(["merge", "no", "--out", str(out), "--overwrite", "--copy"]),
            "drawing.png": lambda out, _: regions.main(["show", "no", "a", "--image", "b", "--out", str(out),
                                                        "--overwrite"])}.get(name, FILES[name])  # fmt: skip
    if name == "extracted.h5":
        write_grids(work.inputs / "in", 1)
    assert f"{folder}: is a folder" in fails(call, folder, work.inputs)
    missing = work.out / "none" / name
    assert "none does not exist; make it first" in fails(call, missing, work.inputs)
    assert list(work.out.iterdir()) == [folder] and list(folder.iterdir()) == []


def holder(path: Path, ready) -> None:
    """Another process that is writing a file."""
    with files.locked(path):
        ready.send("locked")
        time.sleep(60)


@pytest.fixture
def another():
    """A function that lets another process write a path until the test ends, or until it is killed."""
    context = get_context("fork")
    started = []

    def start(path: Path):
        receiver, sender = context.Pipe()
        process = context.Process(target=holder, args=(path, sender))
        process.start()
        started.append(process)
        assert receiver.poll(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["average.pt", "store.h5", "merged.h5", "copied.h5", "extracted.h5"])
def test_two_runs_into_one_file(work, name, another):
    """The second is told of the first and leaves nothing; the lock of one that was killed holds nobody up."""
    out = work.out / name
    process = another(out)
    line = fails(FILES[name], out, work.inputs)
    assert str(out) in line and str(process.pid) in line
    assert not out.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    FILES[name](out, work.inputs)
    assert listed(work.out) == [name]


def prepared(out: Path, raw: Path, **more: object) -> list[str]:
    """prepare_multi30k.py on a few lines; returns its command."""
    text = [f"a dog and {k} cats." for k in range(20)]
    for split in ("train", "val"):
        for lang in ("en", "de"):
            write_lines(raw / f"raw/{split}.{lang}", text)
        write_lines(raw / f"lists/{split}.txt", [f"{split}{k}.jpg" for k in range(20)])
    argv = ["--raw", raw / "raw", "--image-splits", raw / "lists", "--any-counts", "--vocab-size", 40, "--out", out]
    return [str(part) for part in argv]


@pytest.mark.slow
def test_two_runs_into_one_folder(work, another):
    """The second is refused, a foreign folder beside is left alone, and what a killed run left goes."""
    out = work.out / "bin"
    argv = prepared(out, work.inputs)
    process = another(out)
    line = fails(prepare_cli.main, ["multi30k", *argv])
    assert str(out) in line and str(process.pid) in line and not out.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    foreign = [work.out / "bin.tmp", work.out / ".bin.0123456789ab.vtlm-tmp", work.out / ".bin.partial"]
    ours = work.out / ".bin.ba9876543210.vtlm-tmp"
    for folder in (*foreign, ours):
        folder.mkdir()
        (folder / "x").write_text(SECRET)
    (ours / files.MARKER).touch()
    prepare_cli.main(["multi30k", *argv])
    assert TextPipeline.load(out).bpe == "sentencepiece" and not (out / files.MARKER).exists()
    assert [(folder / "x").read_text() for folder in foreign] == [SECRET] * 3
    assert sorted(work.out.iterdir()) == sorted([out, *foreign])


def test_parts_and_lines_of_something_else(work):
    """A folder STORE.parts without our marker is named and stays, with --overwrite too."""
    parts = work.out / "s.h5.parts"
    parts.mkdir()
    (parts / "00000.h5").write_text(SECRET)
    line = fails(extracted, work.out / "s.h5", work.inputs)
    assert f"{parts}: " in line and files.MARKER in line
    assert (parts / "00000.h5").read_text() == SECRET and [p.name for p in work.out.iterdir()] == ["s.h5.parts"]
    with pytest.raises(FileNotFoundError, match="s.h5.parts"):
        files.remove_folder(parts)
    # FILE.partial of others is not emptied by translate_captions.py
    path = work.out / "cc.tsv"
    (work.out / "cc.tsv.partial").write_text(SECRET)
    line = fails(lambda: translate_captions.BlockWriter(path, block=2, settings={}))
    assert "cc.tsv.partial: " in line and "--out" in line
    assert (work.out / "cc.tsv.partial").read_text() == SECRET
    path.touch()
    arguments = SimpleNamespace(out=path)
    line = fails(translate_captions.run, arguments)
    assert "cc.tsv: exists already" in line and "--out" in line


def in_a_fork(call: Callable, out: Path) -> int:
    """Process id of a fork that makes a call with its output in a file."""

    def command() -> int:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT, 0o644)
        for number in (1, 2):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        try:
            call()
        except SystemExit as end:
            return end.code
        return 0

    return fork(command)


def status_of(pid: int) -> int:
    """Its exit status at its end."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_descriptor_that_is_a_file(work):
    """`--sentences /dev/stdout > FILE`: what is printed before and after is kept, in order."""

    def command():
        print("first")
        sentences(Path("/dev/stdout"), work.inputs)
        print("last", flush=True)

    assert status_of(in_a_fork(command, work.out / "all")) == 0
    lines = (work.out / "all").read_text().splitlines()
    assert lines[0] == "first" and lines[-1] == "last" and lines[-4].startswith("id\thypothesis") and len(lines) > 6
    assert os.listdir(work.out) == ["all"]


def test_a_full_disk(work):
    """The older file stays, nothing lies beside it."""
    out = work.out / "x"
    out.write_text("before")
    with pytest.raises(VTLMError) as caught, files.whole_file(out) as file:
        file.write("half")
        raise OSError(28, "No space left on device")
    assert str(caught.value) == (
        f"{out}: cannot be written (No space left on device); make room and give the same command again"
    )
    assert out.read_text() == "before" and list(work.out.iterdir()) == [out]


def slow() -> None:
    """A command that makes a folder and a file, with a child and a command of its own."""
    with interrupts.exit_on_signal(), files.new_folder(Path("folder")), files.whole_file("file") as file:
        file.write("half")
        child = get_context("fork").Process(target=time.sleep, args=(100,))
        child.start()
        code = "import os, time; open('group', 'w').write(str(os.getpid())); time.sleep(100)"
        Path("child").write_text(str(child.pid))
        interrupts.run_group([sys.executable, "-c", code])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_a_command(work, number, monkeypatch):
    """One line, status 128 + number, no temporary file, no child."""
    monkeypatch.chdir(work.out)
    pid = in_a_fork(slow, work.inputs / "log")
    deadline = time.monotonic() + 60
    while not (Path("group").exists() and Path("group").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = [int(Path(name).read_text()) for name in ("child", "group")]
    os.kill(pid, number)
    assert status_of(pid) == 128 + number
    assert (work.inputs / "log").read_text() == f"error: ended by {number.name}\n"
    assert sorted(os.listdir(work.out)) == ["child", "group"]
    for child in children:
        assert not alive(child)


def alive(pid: int) -> bool:
    """Whether a process works, and is not just unburied."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_signals_that_are_ignored_stay_ignored():
    """nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
