"""The quickstart: its whole run at a tiny size, its stages with commands of no weight, its scorer by hand."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
QUICKSTART = CHECKOUT / "examples" / "quickstart"
EXAMPLES = QUICKSTART.parent
sys.path[:0] = [str(QUICKSTART), str(EXAMPLES)]

import commands  # noqa: E402
import scoring  # noqa: E402
import stages  # noqa: E402

from vtlm_fairseq.errors import VTLMError  # noqa: E402

BAT = {"right": ["fledermaus"], "wrong": ["schläger"]}


# -- scorer ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hypothesis", "expected"),
    [
        ("ein mann sieht eine fledermaus", True),
        ("ein mann sieht einen schläger", False),
        ("eine fledermaus sieht einen schläger", False),
        ("ein mann sieht einen hund", False),
        ("ein mann sieht fledermausflügel", False),
        ("", False),
    ],
)
def test_sense_is_right_only_with_the_right_noun_alone(hypothesis, expected):
    assert scoring.sense_is_right(hypothesis.split(), **BAT) is expected


def test_score_by_hand():
    small = ["klein", "kleine", "kleiner", "kleines", "kleinen", "kleinem"]
    records = [
        {"ambiguous": "bat", "last": True, **BAT, "content": [["mann"], small]},
        {"ambiguous": "bat", "last": False, "right": ["schläger"], "wrong": ["fledermaus"], "content": [["frau"]]},
        {"ambiguous": None, "last": False, "right": [], "wrong": [], "content": [["hund"], small]},
    ]
    hypotheses = ["ein mann sieht eine kleine fledermaus", "ein kind sieht eine fledermaus", "ein kleiner hund"]
    assert scoring.score(hypotheses, records) == {
        "ambiguous": {"right": 1, "total": 2, "accuracy": 0.5},
        "ambiguous_last": {"right": 1, "total": 1, "accuracy": 1.0},
        "other_content": {"right": 4, "total": 5, "accuracy": 0.8},
    }


def test_hypotheses_come_in_the_order_of_the_ids_and_all_of_them(tmp_path):
    log = tmp_path / "log"
    log.write_text("S-1\tx\nH-1\t-0.5\tzwei drei\nD-1\t-0.5\tzwei drei\nH-0\t-0.1\teins\nH-2\t-1\t\n", encoding="utf-8")
    assert scoring.extract_hypotheses(log, count=3) == ["eins", "zwei drei", ""]
    with pytest.raises(VTLMError, match="3 hypotheses for 4 sentences; missing: .3."):
        scoring.extract_hypotheses(log, count=4)


def test_bars_and_what_lies_outside():
    good = {"mmt": 0.97, "mmt_swapped": 0.05, "mmt_shuffled": 0.31, "nmt": 0.5}
    scores = {
        system: {"ambiguous": {"accuracy": value}, "other_content": {"accuracy": 0.95}}
        for system, value in good.items()
    }
    assert scoring.outside_expected(scores) == []
    assert "(!)" not in scoring.table(scores, expected=True)
    scores["nmt"]["ambiguous"]["accuracy"] = 0.51
    scores["mmt_swapped"]["other_content"]["accuracy"] = 0.94
    assert len(scoring.outside_expected(scores)) == 2
    assert scoring.table(scores, expected=True).count("(!)") == 2


# -- stages ----------------------------------------------------------------------------------------------------------


def runner(out: Path, *stages_: stages.Stage) -> tuple[stages.Runner, io.StringIO]:
    screen = io.StringIO()
    made = stages.Runner(out, stages_, root=CHECKOUT, environment=dict(os.environ), screen=stages.Screen(screen))
    return made, screen


def stage(name: str, code: str, **options) -> stages.Stage:
    return stages.Stage(name=name, title=name, command=("-c", code), outputs=(name,), **options)


def touch(name: str, text: str = "") -> str:
    return f"open({name!r}, 'a').write({text!r})"


def test_a_finished_stage_is_not_run_again_a_changed_one_and_what_needs_it_is(tmp_path):
    first, other = stage("a", touch("a", "1")), stage("c", touch("c", "3"))
    second = stage("b", "open('b', 'w').write(open('a').read() + '2')", needs=("a",))
    for _ in range(2):
        run, screen = runner(tmp_path, first, second, other)
        assert set(run.run()) == {"a", "b", "c"}
    assert screen.getvalue().count("done before") == 3
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("1", "12")

    run, screen = runner(tmp_path, stage("a", touch("a", "one")), second, other)
    run.run()
    assert screen.getvalue().count("done before") == 1
    assert [(tmp_path / name).read_text() for name in "abc"] == ["one", "one2", "3"]

    (tmp_path / "b").unlink()
    run, screen = runner(tmp_path, stage("a", touch("a", "one")), second, other)
    run.run()
    assert screen.getvalue().count("done before") == 2
    assert (tmp_path / "b").exists()


def test_failure_shows_the_last_lines_of_the_log_and_the_next_call_goes_on_there(tmp_path):
    failing = "for i in range(1, 31): print('line', i)\n" + touch("b", "half") + "\nraise SystemExit(7)"
    run, screen = runner(tmp_path, stage("a", touch("a")), stage("b", failing), stage("c", touch("c")))
    with pytest.raises(VTLMError, match=r"stage 'b' ended with exit status 7.*logs/b\.log"):
        run.run()
    shown = [line.strip() for line in screen.getvalue().splitlines() if line.startswith("    ")]
    assert shown == [f"line {i}" for i in range(11, 31)]
    assert not (tmp_path / "c").exists()
    run, screen = runner(tmp_path, stage("a", touch("a")), stage("b", touch("b", "whole")), stage("c", touch("c")))
    run.run()
    assert screen.getvalue().count("done before") == 1
    assert (tmp_path / "b").read_text() == "whole"


def test_a_stage_that_can_goes_on_from_what_an_interrupted_run_left(tmp_path):
    """SIGTERM ends the command too; only a stage with the same command goes on."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(EXAMPLES)!r}, {str(CHECKOUT)!r}]\n"
        "import os, pathlib, stages\n"
        "code = sys.argv[1]\n"
        "one = stages.Stage(name='a', title='a', command=('-c', code, 'same'), outputs=('a',), recover=lambda: None)\n"
        "screen = stages.Screen(sys.stdout)\n"
        "out = pathlib.Path(sys.argv[2])\n"
        "stages.Runner(out, [one], root=out, environment=dict(os.environ), screen=screen).run()\n"
    )
    out = tmp_path / "out"
    code = (
        "import os, time; going_on = os.path.exists('a'); open('a', 'a').write(str(os.getpid()) + ' ')\n"
        "time.sleep(0 if going_on else 60)"
    )
    process = subprocess.Popen([sys.executable, script, code, out], stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not ((out / "a").exists() and (out / "a").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = subprocess.run([sys.executable, script, code, out], capture_output=True, text=True)
        assert "another run is at work there" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert "Interrupted" in process.communicate(timeout=60)[1]
    finally:
        process.kill()
    (child,) = map(int, (out / "a").read_text().split())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    subprocess.run([sys.executable, script, code, out], check=True, capture_output=True)
    assert len((out / "a").read_text().split()) == 2


def test_seconds_of_a_stage_are_those_of_all_its_runs(tmp_path):
    """The second run goes on after 0.7 seconds of the first; ``record`` gets the sum before the stage is finished."""
    code = (
        "import os, time; second = os.path.exists('a'); open('a', 'w'); time.sleep(0 if second else 0.7)\n"
        "print('last', flush=True); raise SystemExit(0 if second else 1)"
    )
    one = stage("a", code, recover=lambda: None)
    with pytest.raises(VTLMError, match="exit status 1"):
        runner(tmp_path, one)[0].run()
    recorded = []
    run, _ = runner(tmp_path, one)
    run._record = lambda stage_, seconds: recorded.append((stage_.name, seconds, run.finished()))
    assert run.run() == {"a": recorded[0][1]}
    assert recorded == [("a", recorded[0][1], set())]
    assert 0.7 <= recorded[0][1] < 5
    assert run.finished() == {"a"}


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    run, _ = runner(tmp_path, stage("a", touch("a")))
    with pytest.raises(VTLMError, match="holds files of something else"):
        run.run()
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    file = tmp_path / "a" / "file"
    file.touch()
    run, _ = runner(file, stage("a", touch("a")))
    with pytest.raises(VTLMError, match="cannot be used"):
        run.run()


def test_progress_is_one_line_with_time_left(tmp_path):
    code = "import time\nfor i in range(1, 9): print(i, flush=True); time.sleep(0.15)\n" + touch("a")
    run, screen = runner(tmp_path, stage("a", code, progress=lambda line: int(line) / 8))
    run.run()
    assert re.fullmatch(
        r"1/1  a +(25% \(\d:\d\d left in all\) )?50% \(\d:\d\d left in all\) (75% .*left in all\) )?done in 0:0\d\n",
        screen.getvalue(),
    )


def test_progress_of_the_commands():
    update = commands.update_progress(200)
    assert update('2025-01-01 | INFO | train_inner | {"epoch": 1, "num_updates": "50", "lr": "1"}') == 0.25
    assert update("2025-01-01 | INFO | train | begin") is None
    hypotheses = commands.hypothesis_progress(4)
    assert [hypotheses(line) for line in ("S-3\ta", "H-3\t-1\ta", "H-0\t-1\ta")] == [None, 0.25, 0.5]


def test_cut_off_last_checkpoint_is_replaced_by_the_newest_whole_one(tmp_path):
    import torch

    def save(name: str, updates: int) -> bytes:
        torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}]}, tmp_path / name)
        return (tmp_path / name).read_bytes()

    save("checkpoint_1_10.pt", 10)
    newest = save("checkpoint_2_20.pt", 20)
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes(newest[:100])
    commands.mend_last_checkpoint(tmp_path)
    assert last.read_bytes() == newest
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"cut")
    commands.mend_last_checkpoint(tmp_path)
    assert not last.exists()


# -- the whole -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, Path, subprocess.CompletedProcess]:
    """A checkout and an output folder with spaces in their paths, and the first run."""
    folder = tmp_path_factory.mktemp("quick start")
    checkout = folder / "check out"
    for name in ("vtlm_fairseq", "examples/quickstart", "scripts"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "constraints.txt", "examples/commands.py", "examples/stages.py"):
        shutil.copy(CHECKOUT / name, checkout / name)
    return checkout, folder / "out put", quickstart(checkout, folder / "out put", script="run.sh")


def quickstart(checkout: Path, out: Path, *options: str, script: str = "run.py") -> subprocess.CompletedProcess:
    """The quickstart with this environment's Python, from a folder that is not the checkout.

    ``run.sh`` looks for an environment first; ``run.py`` is what it then runs.
    """
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(checkout)}
    if script == "run.sh":
        del environment["PYTHONPATH"]
    return subprocess.run(
        [
            "bash" if script == "run.sh" else sys.executable,
            checkout / "examples" / "quickstart" / script,
            *("--size", "tiny", "--cpu", "--out", out, *options),
        ],
        capture_output=True,
        text=True,
        cwd=checkout.parent,
        env=environment,
    )


@pytest.mark.slow
def test_tiny_run_and_the_arithmetic_of_its_results(tiny):
    checkout, out, done = tiny
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert re.findall(r"^(\d)/9 ", done.stdout, flags=re.M) == list("123456789")
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (out / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(records) == 36
    for system in ("mmt", "mmt_swapped", "mmt_shuffled", "nmt"):
        hypotheses = (out / results["systems"][system]["hypotheses"]).read_text(encoding="utf-8").split("\n")[:-1]
        assert len(hypotheses) == len(records)
        counts = Counter()
        for hypothesis, record in zip(hypotheses, records, strict=True):
            words = hypothesis.split()
            if record["ambiguous"]:
                right = any(word in words for word in record["right"])
                counts["ambiguous"] += right and not any(word in words for word in record["wrong"])
            counts["other_content"] += sum(any(form in words for form in forms) for forms in record["content"])
        totals = {
            "ambiguous": sum(bool(record["ambiguous"]) for record in records),
            "other_content": sum(len(record["content"]) for record in records),
        }
        for what, total in totals.items():
            figures = results["systems"][system][what]
            assert figures == {"right": counts[what], "total": total, "accuracy": counts[what] / total}
    assert totals["ambiguous"] == 24
    assert done.stdout.count("\n  NMT  ") == 3
    assert not (checkout / "quickstart-out").exists()


@pytest.mark.slow
def test_second_call_does_nothing_and_a_failed_stage_is_tried_again(tiny):
    checkout, out, first = tiny

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}

    before = state()
    again = quickstart(checkout, out)
    assert again.stdout.count("done before") == 9
    assert again.stdout.split("\n\n", 1)[1] == first.stdout.split("\n\n", 1)[1]
    assert state() == before

    checkpoint = out / "nmt" / "checkpoint_last.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    (out / "hyp" / "nmt.de").unlink()
    failed = quickstart(checkout, out)
    log = out / "logs" / "decode_nmt.log"
    assert failed.returncode == 1
    assert failed.stdout.count("done before") == 8
    tail = log.read_text(encoding="utf-8").splitlines()[-20:]
    assert failed.stdout.endswith("failed\n" + "".join(f"    {line}\n" for line in tail))
    assert failed.stderr.count("\n") == 1
    assert failed.stderr.startswith("error: stage 'decode NMT' ended with exit status")

    checkpoint.write_bytes(whole)
    mended = quickstart(checkout, out)
    assert mended.returncode == 0
    assert mended.stdout.count("done before") == 8
    assert (out / "hyp" / "nmt.de").exists()


@pytest.mark.slow
def test_probes_go_on_from_the_plain_run(tiny):
    """``--probes`` adds a TLM and four probes to what is there; NMT gets half of the twins whatever it has learned."""
    checkout, out, _ = tiny
    done = quickstart(checkout, out, "--probes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done before") == 9 and "14/14  probe: attention" in done.stdout
    figures = json.loads((out / "results.json").read_text(encoding="utf-8"))["probes"]
    assert (figures["NMT, contrastive"], figures["NMT, drop"]) == (50, 0)
    assert {"TLM", "VTLM", "gain of VTLM", "MMT, scenes shuffled, p", "MMT, layer 1", "equal weights"} <= figures.keys()
    assert figures["gain of VTLM"] == pytest.approx(figures["VTLM"] - figures["TLM"])
