"""The quickstart: its whole run at a tiny size, a second call, Ctrl-C, and that its README says what it runs."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from programs import write_programs

from harness import ROOT, CommandLines

QUICKSTART = ROOT / "examples" / "quickstart"
STEPS_OF_PROBES = 17  # of a run with --probes


def quickstart(checkout: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    """run.sh with this environment's Python, its commands forked, from a folder that is not the checkout."""
    programs = checkout.parent / "programs"
    environment = {**os.environ, "VIRTUAL_ENV": str(programs)}
    environment.pop("PYTHONPATH", None)
    if not (checkout / "scripts").exists():  # what finds the environment, in some seconds
        environment |= {"PATH": f"{programs}/bin:{os.environ['PATH']}", "PYTHONPATH": str(checkout)}
    argv = ["bash", checkout / "examples/quickstart/run.sh", "--size", "tiny", "--cpu", "--out", out, *options]
    return subprocess.run(argv, capture_output=True, text=True, cwd=checkout.parent, env=environment)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Iterator[tuple[Path, Path, subprocess.CompletedProcess]]:
    """A checkout and an output folder with spaces in their paths, and the first run, with probes."""
    folder = tmp_path_factory.mktemp("quick start")
    checkout = folder / "check out"
    for name in ("vtlm_fairseq", "examples/quickstart", "scripts"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "constraints.txt"):
        shutil.copy(ROOT / name, checkout / name)
    commands = CommandLines(folder, root=checkout)
    write_programs(commands, folder / "programs")
    yield checkout, folder / "out put", quickstart(checkout, folder / "out put", "--probes")
    commands.close()


@pytest.mark.slow
def test_tiny_run_and_the_arithmetic_of_its_results(tiny):
    """Each command is shown; accuracies by another program; NMT gets half of the twins whatever it has learned."""
    _, out, done = tiny
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    steps = [f"{number}/{STEPS_OF_PROBES}" for number in range(1, STEPS_OF_PROBES + 1)]
    assert re.findall(r"^\[(\d+/\d+)\] ", done.stdout, flags=re.M) == steps
    assert len(re.findall(r"^\$ (?:python|fairseq-\w+|vtlm-\w+) ", done.stdout, flags=re.M)) == STEPS_OF_PROBES
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    records = [json.loads(line) for line in (out / "data" / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    totals = {"ambiguous": 24, "other_content": sum(len(record["content"]) for record in records)}
    for system in ("mmt", "mmt_swapped", "mmt_shuffled", "nmt"):
        text = (out / "hyp" / f"{system}.txt").read_text(encoding="utf-8")
        hypotheses = dict(re.findall(r"^H-(\d+)\t\S+\t(.*)$", text, re.M))
        assert len(hypotheses) == len(records) == 36
        counts = Counter()
        for number, record in enumerate(records):
            words = hypotheses[str(number)].split()
            if record["ambiguous"]:
                right = any(word in words for word in record["right"])
                counts["ambiguous"] += right and not any(word in words for word in record["wrong"])
            counts["other_content"] += sum(any(form in words for form in forms) for forms in record["content"])
        for what, total in totals.items():
            figures = results["systems"][system][what]
            assert figures == {"right": counts[what], "total": total, "accuracy": counts[what] / total}
    assert done.stdout.count("\n  NMT  ") == 3
    assert re.search(r"^NMT +perplexity +50\.0", (out / "probes/contrastive.txt").read_text(encoding="utf-8"), re.M)


@pytest.mark.slow
def test_second_call_runs_nothing_and_a_failed_step_is_tried_again(tiny):
    checkout, out, first = tiny
    shutil.rmtree(checkout / "scripts")

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name not in (".lock", "results.json")}

    before = state()
    again = quickstart(checkout, out, "--probes")
    assert "\n$ " not in again.stdout and again.stdout.count(" is there\n") == STEPS_OF_PROBES
    assert again.stdout.split("share translated right")[1] == first.stdout.split("share translated right")[1]
    assert state() == before

    checkpoint = out / "nmt" / "checkpoint_1_6.pt"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:1000])
    (out / "hyp" / "nmt.txt").unlink()
    failed = quickstart(checkout, out)
    assert failed.returncode == 1 and len(re.findall(r"^\$ ", failed.stdout, re.M)) == 1
    assert "checkpoint_1_6.pt" in failed.stdout.splitlines()[-1]  # the end of the command's output
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1

    checkpoint.write_bytes(whole)
    assert quickstart(checkout, out).returncode == 0 and (out / "hyp" / "nmt.txt").exists()

    other = quickstart(checkout, out, "--seed", "2")
    assert other.returncode == 1 and "--seed 1 --size tiny" in other.stderr
    (out.parent / "mine").mkdir()
    (out.parent / "mine" / "file").touch()
    assert "files of something else" in quickstart(checkout, out.parent / "mine").stderr


@pytest.mark.slow
def test_picture_of_the_readme(tiny, monkeypatch):
    """Its bars are the shares of the results, its scenes those of one sentence."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra `plots`)")
    monkeypatch.syspath_prepend(QUICKSTART)
    import picture

    _, out, _ = tiny
    first, second, _, bars = picture.draw(out).axes
    systems = json.loads((out / "results.json").read_text(encoding="utf-8"))["systems"]
    shares = [100 * systems[name]["ambiguous"]["accuracy"] for name in ("nmt", "mmt_shuffled", "mmt_swapped", "mmt")]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(shares)
    titles = [panel.get_title(loc="left").splitlines() for panel in (first, second)]
    assert titles[0][0] == titles[1][0] and titles[0][1] != titles[1][1]
    shown = [[text.get_text() for text in panel.texts] for panel in (first, second)]
    assert sum(one != other for one, other in zip(*shown, strict=True)) == 1
    with pytest.raises(ValueError, match=str(QUICKSTART)):
        picture.draw(QUICKSTART)


STEPS = """set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/steps.sh"
step first.txt "the first" echo text
step vtlm/checkpoint_1_6.pt "the second" fairseq-train "$here"
"""
TRAIN = """#!/bin/bash
cmp vtlm/checkpoint_last.pt "$1/whole.pt" || exit 8
trap 'touch "$1/saved"; exit 143' TERM
touch "$1/begun"
for i in $(seq 600); do [ ! -e "$1/go" ] || exit 0; sleep 0.1; done
exit 9
"""


def test_ctrl_c_lets_a_training_save_and_the_next_call_goes_on_there(run, tmp_path):
    """With a checkpoint_last.pt that a kill has cut off: the newest whole one takes its place before the training."""
    shutil.copy(QUICKSTART / "steps.sh", tmp_path)
    (tmp_path / "run.sh").write_text(STEPS)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "fairseq-train").write_text(TRAIN)
    (tmp_path / "bin" / "fairseq-train").chmod(0o755)
    out = tmp_path / "out"
    (out / "vtlm").mkdir(parents=True)
    (out / ".lock").touch()
    for name, updates in (("checkpoint_1_2.pt", 2), ("checkpoint_1_4.pt", 4)):
        torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}]}, out / "vtlm" / name)
    shutil.copy(out / "vtlm/checkpoint_1_4.pt", tmp_path / "whole.pt")
    (out / "vtlm/checkpoint_last.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:100])

    path = os.pathsep.join([str(tmp_path / "bin"), str(write_programs(run, tmp_path / "others")), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    argv = ["bash", str(tmp_path / "run.sh"), "--out", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    process = subprocess.Popen(argv, start_new_session=True, **pipes)
    try:
        end = time.monotonic() + 120
        while not (tmp_path / "begun").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        second = subprocess.run(argv, **pipes)
        assert second.returncode == 1 and "another run is at work there" in second.stderr
        os.killpg(process.pid, signal.SIGINT)
        shown, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1 and (tmp_path / "saved").exists()
    assert "[1/11] the first" in shown and said.splitlines()[-1].startswith("error: stopped; ")
    (tmp_path / "go").touch()
    done = subprocess.run(argv, **pipes)
    assert (done.returncode, done.stderr) == (0, "")
    assert "first.txt is there" in done.stdout and "$ fairseq-train" in done.stdout


def test_readme_runs_what_run_sh_runs():
    """The README's blocks, with functions that print their arguments in place of the commands."""
    text = (QUICKSTART / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- tested -->\n```bash\n(.*?)```", text, re.S)
    names = "python fairseq-preprocess fairseq-train fairseq-generate vtlm-regions vtlm-score vtlm-probe"
    shown = "".join(f'{name}() {{ printf "%q " {name} "$@"; echo; }}\n' for name in names.split())
    script = f"quickstart={QUICKSTART}\n" + shown + "\n".join(blocks).replace("$(python -m vtlm_fairseq)", "DIR")
    script = script.replace("$(python -m vtlm_fairseq --fast)", "")
    no_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    readme = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    argv = ["bash", QUICKSTART / "run.sh", "--show", "--probes"]
    run = subprocess.run(argv, capture_output=True, text=True, check=True, env={**no_gpu, "PYTHONPATH": str(ROOT)})
    expected = [shlex.split(line.replace(str(ROOT / "vtlm_fairseq"), "DIR")) for line in run.stdout.splitlines()]
    assert [line for line in map(shlex.split, readme.splitlines()) if "--text-json" not in line] == expected
    assert len(expected) == STEPS_OF_PROBES
