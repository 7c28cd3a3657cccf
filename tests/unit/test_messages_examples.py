"""Messages of the examples, the benchmarks and the bash scripts: from where they come, and what they name."""

import argparse
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from recipes import EXAMPLES, ROOT

from messages import message, says
from tiny import folder
from vtlm_fairseq.data.text_pipeline import TextPipeline

BENCHMARKS = ROOT / "benchmarks"
sys.path[:0] = [str(EXAMPLES / "quickstart"), str(BENCHMARKS)]


def module(path: Path):
    """A script as a module; two of them are called `run`."""
    specification = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    return made


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, call) -> str:
    """What argparse prints before it ends the command."""
    with pytest.raises(SystemExit) as caught:
        call()
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


# ---- Table 1


def options(**given) -> argparse.Namespace:
    """Options of `table1.py` that name data."""
    names = ("data", "regions", "raw", "image_splits", "entities", "cc_data", "cc_regions")
    paths = {name: Path(given[name]) if name in given else None for name in names}
    return argparse.Namespace(**paths, out=Path("out"), test_sets=["test"], any_counts=False)


DATA = [
    ("give either --data and --regions, or --raw, --image-splits and --entities; see --help", ""),
    ("--image-splits is missing: raw data need all of --raw, --image-splits, --entities", "raw"),
    ("--data needs --regions, the region store of its images", "data"),
    (
        "--regions belongs to --data; with --raw the regions are made from --entities",
        "raw image_splits entities regions",
    ),
    ("--cc-regions belongs to --cc-data", "data regions cc_regions"),
]


@pytest.mark.parametrize(("words", "given"), DATA, ids=[words for words, _ in DATA])
def test_data_of_table1(here, words, given):
    import table1_data

    folder(here / "bin", {"train": 2})
    find, sums = table1_data.find_data, {"vocab": 9, "checksums": None}
    says("table1_data._check_options", words, find, options(**dict.fromkeys(given.split(), "bin")), **sums)
    none = options(data="bin", regions="none")
    says("table1_data._check_options", "--regions none: no such file or folder", find, none, **sums)


def test_links_and_vocabularies_of_table1(here):
    import table1_data

    made = folder(here / "bin", {"train": 2})
    Path("out/data-bin").mkdir(parents=True)
    says(
        "table1_data._link",
        "out/data-bin was made by a call with other data options; give those again, or another --out",
        table1_data._link,
        Path("out/data-bin"),
        made.path,
    )
    says(
        "table1_data._prepare",
        "bin holds no text.json, so raw Multi30k cannot be prepared as it was; give --data",
        table1_data._prepare,
        options(cc_data="bin"),
        9,
    )
    TextPipeline("en", "de").save(made.path)
    says(
        "table1_data._prepare",
        "bin has no BPE model; give --data, prepared with its dictionary",
        table1_data._prepare,
        options(cc_data="bin"),
        9,
    )


def test_options_of_table1(here, capsys):
    import table1
    from table1_plan import Planner

    words = "--rows: 'x' is none of "
    assert words in refused(capsys, lambda: table1.parse_arguments(["--out", "o", "--rows", "x"]))
    says("table1._seeds", "'2,2': give distinct numbers from 1, separated by commas", table1._seeds, "2,2")
    Path("file").touch()
    training = SimpleNamespace(folder="a", stage="b")
    planner = SimpleNamespace(keep=Path("file"), out=Path("out"))
    says(
        "table1_plan.inference_copy",
        "--keep file: cannot be used (Not a directory); name another folder",
        Planner.inference_copy,
        planner,
        training,
    )


# ---- the runner of stages


def runner(*stages):
    """A runner in the folder `out`."""
    from stages import Runner, Screen

    return Runner(Path("out"), stages, root=ROOT, environment=dict(os.environ), screen=Screen(io.StringIO()))


def test_runner(here):
    import stages

    Path("file").touch()
    Path("other").mkdir()
    Path("other/x").touch()
    says(
        "stages.prepare_folder",
        "--out file/x: cannot be used (Not a directory); name another folder",
        stages.prepare_folder,
        Path("file/x"),
    )
    says(
        "stages.prepare_folder",
        "--out other holds files of something else; name a new or an empty folder",
        stages.prepare_folder,
        Path("other"),
    )

    def unfinished():
        raise OSError(28, "No space left on device")

    fails = stages.Stage(name="a", title="count", command=("-c", "raise SystemExit(7)"), outputs=())
    says(
        "stages._run_stage",
        "stage 'count' ended with exit status 7; above are the last lines of out/logs/a.log; the same command tries",
        runner(fails).run,
    )
    fails = stages.Stage(name="a", title="count", command=("-c", ""), outputs=(), finish=unfinished)
    says("stages._run_stage", "count: [Errno 28] No space left on device", runner(fails).run)
    first = runner()
    with first._locked():
        says("stages._locked", "out: another run is at work there; wait for it or choose another --out", runner().run)


def test_forks_that_do_not_end(here):
    import forks

    child = forks.Fork.__new__(forks.Fork)
    child.poll, child.pid = (lambda: None), 7
    says("forks.wait", "Command '7' timed out after 0.01 seconds", child.wait, 0.01)


# ---- quickstart and Conceptual Captions


def test_quickstart(here, capsys):
    import make_data
    import probes

    Path("made").mkdir()
    sizes = {"train": 9, "valid": 9, "test": 9}
    run = module(EXAMPLES / "quickstart" / "run.py")
    rows = [
        (
            "make_data.make_data",
            "made exists: remove it or choose another --out",
            lambda: make_data.make_data(Path("made"), seed=1, sizes=sizes),
        ),
        (
            "make_data.make_data",
            "--valid-size 8: give a positive multiple of 9",
            lambda: make_data.make_data(Path("new"), seed=1, sizes=sizes | {"valid": 8}),
        ),
        (
            "make_data._check_known_words",
            "--train-size is too small: 'a' occurs in the test split only",
            lambda: make_data._check_known_words(
                {"train": [], "test": [SimpleNamespace(german="b", sentence=SimpleNamespace(english="a"))]}
            ),
        ),
        ("probes.extract_json", "the probe printed no table; see its log", lambda: probes.extract_json("")),
    ]
    for site, words, call in rows:
        says(site, words, call)
    assert "error: --seed -1: give a number from 0" in refused(capsys, lambda: run.parse_arguments(["--seed", "-1"]))


def test_joining_corpora(here):
    from join_corpora import join

    first, second = folder(here / "a", {"train": 2}), folder(here / "b", {"train": 2}, words=9)
    says(
        "join_corpora.join",
        "none: no binarised training data with dictionaries; see fairseq-preprocess",
        join,
        Path("none"),
        second.path,
        Path("out"),
    )
    words = "differs from a/dict.de.txt: at symbol 13 ("
    text = message("join_corpora.join", join, Path("a"), Path("b"), Path("out"))
    assert words in text and "(--bpe-model and --dict, or --srcdict)" in text
    (first.path / "dict.de.txt").unlink()
    says(
        "join_corpora.join",
        "a/dict.de.txt: no such file; both folders must hold the same languages",
        join,
        Path("a"),
        Path("b"),
        Path("out"),
    )


# ---- benchmarks


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--only", "x"), "--only x: not one of pretrain, "),
        (("--precisions", "x"), "--precisions x: float32, or float32,bf16"),
        (("--device", "cuda"), "--device cuda: PyTorch finds no CUDA device"),
        (("--updates", "3"), "--updates 3: at least 4"),
    ],
)
def test_options_of_benchmarks(argv, words, capsys, monkeypatch):
    command = module(BENCHMARKS / "run.py")
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command, "is_fast", lambda name, device: False)
    assert f"error: {words}" in refused(capsys, lambda: command.parse(list(argv)))


def test_benchmarks_that_fail(here, monkeypatch):
    import corpora

    failed = SimpleNamespace(status=1, update_time=None)
    monkeypatch.setattr(corpora, "Measured", lambda command, log: failed)
    for name in ("write_store", "write_text", "train_command"):
        monkeypatch.setattr(corpora, name, lambda *args, **kwargs: None)
    size = SimpleNamespace(corpora=[5])
    text = message("corpora.measure", corpora.measure, Path("d"), size, repeats=1, updates=4)
    assert text == "training on 5 pairs failed, see d/corpus-5/train.log"


def test_losses_by_precision(here):
    from precision_loss import last_losses, run

    Path("float32.1.3.log").touch()
    args = argparse.Namespace(out=Path("."), updates=3, cpu=True)
    says(
        "precision_loss.last_losses",
        "holds the losses of 0 updates, not 3; remove it",
        last_losses,
        args,
        1,
        "float32",
        (),
    )

    says(
        "precision_loss.run",
        "error: a command failed, see log.tmp",
        run,
        here,
        ("-c", "raise SystemExit(3)"),
        Path("log"),
    )


# ---- bash


def bash(*command, **variables) -> tuple[int, str]:
    """Exit status and last line of a bash command with other variables."""
    done = subprocess.run(["/bin/bash", *map(str, command)], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", **variables}, timeout=60)  # fmt: skip
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def program(path: Path, *lines: str) -> Path:
    """An executable script."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(("#!/bin/bash", *lines, "")))
    path.chmod(0o755)
    return path


def tools(folder: Path) -> Path:
    """A folder of the usual programs, without Python and npm."""
    folder.mkdir()
    for name in ("sha256sum", "cut", "mkdir", "mktemp", "rm", "tar", "tail", "head", "cat", "cmp", "dirname", "gzip"):
        for place in ("/usr/bin", "/bin"):
            if Path(place, name).exists() and not (folder / name).exists():
                (folder / name).symlink_to(Path(place, name))
    return folder


def test_fetching_the_ssd(here):
    script, path = ROOT / "preprocess" / "fetch_ssd.sh", tools(here / "tools")
    assert bash(script, PATH=path) == (2, f"usage: {script} FOLDER")
    status, line = bash(script, "ssd", PATH=path)
    assert status == 1 and line.startswith("error: npm, with which the model is fetched, is not installed (Debian: apt")
    program(path / "npm", "exit 1")
    status, line = bash(script, "ssd", PATH=path)
    assert status == 1 and line.startswith("error: npm cannot fetch @mediapipe/objectron@")
    program(path / "npm", "mkdir package", "echo text > package/objectron_solution_packed_assets.data",
            "tar -czf x.tgz package")  # fmt: skip
    status, line = bash(script, "ssd", PATH=path)
    assert status == 1 and "has another checksum than expected (" in line and line.endswith("damaged: run again")
    assert os.listdir("ssd") == []


def test_environments_that_cannot_be_made(here):
    path, script = tools(here / "tools"), "source checkout/scripts/venv.sh; vtlm_activate_venv test"
    Path("checkout/scripts").mkdir(parents=True)
    Path("checkout/scripts/venv.sh").write_bytes((ROOT / "scripts/venv.sh").read_bytes())
    for name in ("setup.cfg", "constraints.txt"):
        Path("checkout", name).touch()
    status, line = bash("-c", script, PATH=path)
    assert status == 1 and line.startswith(
        "error: Python 3.11 or 3.12 with its venv module is needed (Debian, Ubuntu: apt"
    )
    program(path / "python3.11", '[ "$1" = -c ]')
    status, line = bash("-c", script, PATH=path)
    assert status == 1 and line.endswith("checkout/.venv failed, see above; run again to go on")
    assert line.startswith("error: the installation into ")
