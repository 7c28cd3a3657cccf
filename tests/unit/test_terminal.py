"""Commands with standard streams that are closed, full or have no reader, few open files, and names with escapes."""

import importlib
import io
import json
import logging
import os
import resource
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np
import preparation  # noqa: F401  (the scripts can be imported)
import pytest

from harness import environment, write_lines
from stores import fault, make_store
from vtlm_fairseq.cli import probe, score
from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.files.lines import standard_input_lines
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter
from vtlm_fairseq.stack import plug_closed_streams
from vtlm_fairseq.terminal import BROKEN_PIPE, command_line, get_logger, progress_bar, say, write_out

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.exe\u2066\u2028b\x7f"
SHOWN = "a\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egpj.exe\\u2066\\u2028b\\x7f"
NAMES = ("regions", "translate", "convert", "score", "probe", "report", "extract", "prepare", "oracle")
COMMANDS = [f"vtlm_fairseq.cli.{name}" for name in NAMES]


def stream(kind: str, number: int, log: Path) -> None:
    """Make a standard stream of this process what the shell would make of it."""
    if kind == "closed":
        os.close(number)
        return
    if kind == "broken":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        flags = {"readonly": os.O_RDONLY, "log": os.O_WRONLY | os.O_CREAT | os.O_APPEND}
        writer = os.open(
            log if kind == "log" else {"full": "/dev/full"}.get(kind, os.devnull), flags.get(kind, os.O_RDWR)
        )
    os.dup2(writer, number)
    os.close(writer)


def forked(tmp_path: Path, module: str, argv, *, limit: int | None = None, **kinds: str) -> tuple[int, str]:
    """Exit status and errors of a command in a child process with other standard streams, as Python would end it."""
    log = tmp_path / "log"
    log.write_text("")
    main = importlib.import_module(module).main
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), log.read_text()
    status, last = 99, os.open(log, os.O_WRONLY | os.O_APPEND)
    try:
        chosen = {"stdin": "null", "stdout": "null", "stderr": "log", **kinds}
        for number, (name, kind) in enumerate(chosen.items()):
            stream(kind, number, log)
            opened = None if kind == "closed" else open(number, "rw"[number > 0], closefd=False)
            setattr(sys, name, opened)
        plug_closed_streams()
        if limit is not None:
            for number in open_all()[:limit]:
                os.close(number)
        try:
            status = main([str(part) for part in argv]) or 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str) and sys.stderr is not None:
                sys.stderr.write(f"{end.code}\n")
        for left in filter(None, (sys.stdout, sys.stderr)):
            left.flush()
    except BaseException:
        os.write(last, traceback.format_exc().encode())
    finally:
        os._exit(status)


def open_all() -> list[int]:
    """All files that this process may open, under a limit that is just above those it has."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 9, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = []
    while True:
        try:
            held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return held


@pytest.fixture
def store(tmp_path) -> Path:
    make_store(tmp_path / "s.h5")
    return tmp_path / "s.h5"


# ---- streams


@pytest.mark.parametrize("module", COMMANDS)
def test_help_of_every_command_without_a_reader(tmp_path, module):
    assert forked(tmp_path, module, ["--help"], stdout="broken") == (BROKEN_PIPE, "")
    status, said = forked(tmp_path, module, ["--help"], stdout="closed")
    assert status == 1 and said.startswith("error: standard output ") and said.count("\n") == 1 and "/dev/null" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "status", "said"),
    [
        ({}, 0, ""),
        ({"stdout": "broken"}, BROKEN_PIPE, ""),
        ({"stdout": "closed"}, 1, "error: standard output "),
        ({"stdout": "full"}, 1, "error: cannot be written (No space left on device)"),
        ({"stdout": "readonly"}, 1, "error: standard output: cannot be written (Bad file descriptor)"),
        ({"stderr": "closed"}, 0, ""),
        ({"stderr": "broken"}, 0, ""),
        ({"stdin": "closed"}, 0, ""),
        ({"stdin": "closed", "stdout": "closed", "stderr": "closed"}, 1, ""),
        ({"stdout": "broken", "stderr": "broken"}, BROKEN_PIPE, ""),
    ],
)
@pytest.mark.parametrize("command", ["info", "validate"])
def test_streams(tmp_path, store, command, kinds, status, said):
    found, errors = forked(tmp_path, "vtlm_fairseq.cli.regions", [command, store], **kinds)
    assert found == status, errors
    lines = [line for line in errors.splitlines() if "regions/s]" not in line]
    assert len(lines) == bool(said) and all(line.startswith(said) for line in lines)


def test_streams_of_a_command_that_fails(tmp_path):
    for kinds, status, said in (
        ({"stdout": "broken"}, 1, "error: "),  # the fault is what matters
        ({"stderr": "closed"}, 1, ""),
        ({"stdout": "broken", "stderr": "broken"}, BROKEN_PIPE, ""),
        ({"stderr": "broken"}, BROKEN_PIPE, ""),
    ):
        found, errors = forked(tmp_path, "vtlm_fairseq.cli.regions", ["info", tmp_path / "none.h5"], **kinds)
        assert (found, errors.count("\n")) == (status, bool(said)) and errors.startswith(said), kinds


def test_a_table_is_not_lost(tmp_path, capsys):
    """`--out` is looked at before the work; where a target fails at its end, the table goes to the other stream."""
    ref = write_lines(tmp_path / "ref", ["a b c d e"] * 3)
    argv = [str(part) for part in (ref, "--ref", ref, "--steps", "none", "--lang", "en", "--format", "json")]
    assert forked(tmp_path, "vtlm_fairseq.cli.score", argv) == (0, "")
    assert forked(tmp_path, "vtlm_fairseq.cli.score", argv, stdout="broken") == (BROKEN_PIPE, "")
    status, said = forked(tmp_path, "vtlm_fairseq.cli.score", argv, stdout="full")
    assert status == 1 and '"score": 100.0' in said and "No space left on device" in said.splitlines()[-1]
    score.main([*argv, "--out", str(tmp_path / "table")])
    assert json.loads((tmp_path / "table").read_text())["rows"] and capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="--out /dev/full: cannot be written"):
        score.main([*argv, "--out", "/dev/full", "--sentences", str(tmp_path / "sentences")])
    assert json.loads(capsys.readouterr().out)["rows"] and (tmp_path / "sentences").is_file()
    probes = ["contrastive", "--system", "a=no.pt", "--src", "no", "--correct", "no", "--incorrect", "no"]
    for main, words in ((score.main, ["no", "--ref", "no"]), (probe.main, probes)):
        with pytest.raises(SystemExit, match=f"--out {tmp_path}: is a folder"):
            main([*words, "--out", str(tmp_path)])


@pytest.mark.parametrize("kind", ["closed", "broken"])
def test_standard_input_that_cannot_be_read(kind, monkeypatch):
    """vtlm-translate reads it where no file is given."""
    file = None
    if kind == "broken":
        file = io.TextIOWrapper(io.BufferedReader(io.FileIO(os.open(os.devnull, os.O_WRONLY))))
    monkeypatch.setattr(sys, "stdin", file)
    said = fault(lambda: list(standard_input_lines()))
    assert said.startswith("standard input") and ("closed" in said) == (kind != "broken")


def test_an_encoding_that_lacks_a_character(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    with pytest.raises(
        SystemExit, match="error: standard output is latin-1, which lacks a character; set PYTHONUTF8=1"
    ):
        with command_line():
            print("写真")


@pytest.mark.slow
def test_in_a_shell(store):
    """What a user types; 0 or 141 by who is faster."""
    command = f"{sys.executable} -m vtlm_fairseq.cli.regions info {store}"
    lines = f'{command} | head -1; echo "${{PIPESTATUS[0]}}"; {command} >&-; echo "$?"'
    env = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, env=env, timeout=60)
    first, status, closed = done.stdout.splitlines()
    assert first.startswith("store ") and status in ("0", "141") and closed == "1"
    assert done.stderr.startswith("error: standard output ") and done.stderr.count("\n") == 1


# ---- open files


@pytest.mark.slow
@pytest.mark.parametrize("limit", range(8))
def test_too_many_open_files(tmp_path, limit):
    for number in range(3):
        make_store(tmp_path / "stores" / f"train.{number}.h5", [f"{number}-{i}" for i in range(3)])
    status, errors = forked(tmp_path, "vtlm_fairseq.cli.regions", ["info", tmp_path / "stores"], limit=limit)
    assert "Traceback" not in errors and status in (0, 1)
    if status:
        (line,) = errors.splitlines()
        assert "too many open files" in line and "ulimit -n" in line and "write it again" not in line
    assert status == 1 or limit > 0
    assert status == 0 or limit < 7


def test_too_many_open_files_in_a_worker(tmp_path):
    """What a worker carries to the main process; `Too many open files` was said to be a damaged store."""
    paths = [str(tmp_path / f"train.{number}.h5") for number in range(3)]
    for number, path in enumerate(paths):
        make_store(path, [f"{number}-{i}" for i in range(3)])
    store = RegionStore(paths)
    store.close()
    before, held = resource.getrlimit(resource.RLIMIT_NOFILE), []
    try:
        held = open_all()
        with pytest.raises(VTLMError, match=r"train.0.h5: too many open files.* \d+.*ulimit -n"):
            store[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for number in held:
            os.close(number)
    assert len(store[0].labels) == 6
    # PyTorch says it where a loader's workers send more than the main process may have open; others stay
    with pytest.raises(SystemExit, match="error: .*too many open files.*ulimit -n"):
        with command_line():
            raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")
    with pytest.raises(RuntimeError, match="another"):
        with command_line():
            raise RuntimeError("another")


# ---- text of strangers


def test_printable():
    plain = "é 写真 👩\u200d💻 عربي\u200f \\x1b"
    assert printable(EVIL) == SHOWN and printable(plain) == plain
    assert printable("\udcff\n\t") == "\\udcff\\n\\t"
    assert str(VTLMError(f"x: image {EVIL}\nis not there")) == f"x: image {SHOWN} is not there".replace("\\u2028", " ")
    assert len(str(VTLMError("x: image " + "y" * 10**6 + " is not there"))) < 2100
    assert str(VTLMError("x: image " + "y" * 10**6 + " is not there")).endswith("is not there")


def test_escapes_in_a_store(tmp_path, capsys):
    """Names of classes and detectors, ids and attributes, in what `info` and `validate` print."""
    regions = importlib.import_module("vtlm_fairseq.cli.regions")
    path = tmp_path / "s.h5"
    attributes = {"note": EVIL}
    with RegionStoreWriter(path, feature_dim=2, class_names=[EVIL], detector=EVIL, attributes=attributes) as writer:
        one = {"features": np.ones((1, 2)), "boxes": np.array([[0, 0, 1, 1]]), "labels": np.zeros(1, np.int64)}
        writer.add(EVIL, **one)
    assert regions.main(["info", str(path)]) == 0
    assert (
        regions.main(["validate", str(path), "--images", str(write_lines(tmp_path / "x.images", ["no" + EVIL]))]) == 1
    )
    said = capsys.readouterr().out
    assert said.count(SHOWN) >= 4 and not set(said) & set(EVIL) - set(SHOWN)


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "json", "csv"])
def test_escapes_in_tables(form):
    made = Table(["system", "score"], [[EVIL, 1.0]], title=EVIL, notes=[EVIL]).render(form)
    if form == "csv":  # for machines: as it is
        assert EVIL in made
        return
    assert not set(made) & set(EVIL) - set(SHOWN)
    if form == "json":
        assert json.loads(made)["rows"] == [{"system": EVIL, "score": 1.0}] and json.loads(made)["title"] == EVIL
    elif form != "latex":
        assert made.count(SHOWN) == 3


def test_escapes_in_logs(caplog):
    logger = get_logger("vtlm_fairseq.test")
    with caplog.at_level(logging.INFO):
        logger.info("%s: %d", EVIL, 3)
        logger.info("two\nlines %s", "x")
    assert [record.getMessage() for record in caplog.records] == [f"{SHOWN}: 3", "two\nlines x"]
    package = Path(importlib.import_module("vtlm_fairseq").__file__).parent
    plain = [path.name for path in package.rglob("*.py") if "logging.getLogger(__name__)" in path.read_text("utf-8")]
    assert not plain, "loggers without get_logger, which shows control characters"


def test_data_for_programs_are_escaped_on_a_terminal_only(capsys, monkeypatch):
    write_out(EVIL)
    assert capsys.readouterr().out == f"{EVIL}\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    write_out(EVIL)
    say(f"{EVIL}\nb\tc")
    assert capsys.readouterr().out == f"{SHOWN}\n{SHOWN}\nb\tc\n"


def test_progress_where_there_is_no_terminal(capsys):
    """Lines of their own: what else is written to the same file does not stand behind one of them."""
    for number in progress_bar(range(2), unit=" images", mininterval=0, delay=0):
        print(f"message {number}", file=sys.stderr)
    text = capsys.readouterr().err
    assert "\r" not in text and text.endswith("\n")
    assert [line for line in text.splitlines() if "message" in line] == ["message 0", "message 1"]
    assert "2/2" in text.splitlines()[-1]
