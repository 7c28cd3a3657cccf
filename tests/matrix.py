"""Run the tests on every supported stack, each in an environment of its own; writes docs/dev/compatibility.md.

A row that cannot be made here (no such Python, no such wheel) is reported as not built. Rows that are finished are
kept as long as neither the code nor their requirements change. Started by ``tests/matrix.sh``; needs no environment.
"""

import argparse
import configparser
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs/dev/compatibility.md"
CODE = ("vtlm_fairseq", "tests", "preprocess", "examples", "benchmarks", "scripts")
SHOWN = ("torch", "numpy", "h5py", "ve-fairseq", "omegaconf", "sacrebleu", "sentencepiece")
EXTRAS = "test,plots,extract"


BOUNDS = [
    "Why not older: with numpy 1.26, original checkpoints that were written with numpy 2 are not read; h5py before",
    "3.12.1 (HDF5 1.14.2) does not open the shards of a merged store twice; fairseq 0.12.2 cannot be imported by",
    "Python 3.11.",
]


@dataclass(frozen=True)
class Row:
    """One stack.

    Attributes:
        python: version of CPython.
        libraries: ``pins`` (constraints.txt), ``oldest`` (lower bounds of setup.cfg) or ``newest`` (what pip finds).
    """

    python: str
    libraries: str

    @property
    def name(self) -> str:
        """As ``--rows`` has it."""
        return f"py{self.python}-{self.libraries}"


ROWS = {
    row.name: row
    for row in (
        Row("3.11", "pins"), Row("3.12", "pins"), Row("3.11", "oldest"), Row("3.12", "oldest"), Row("3.11", "newest"),
        Row("3.12", "newest"),
    )
}  # fmt: skip


class NotBuilt(Exception):
    """Why a row cannot be made on this machine."""


# ---- environments


def find_python(version: str) -> str:
    """The interpreter of a version: python3.X, if it runs (a shim may not), else one that pyenv has.

    Raises:
        NotBuilt: neither is there.
    """
    candidates = [f"python{version}"]
    if shutil.which("pyenv"):
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        for found in sorted((name for name in listed if name.startswith(f"{version}.")), key=_numbers, reverse=True):
            prefix = subprocess.run(["pyenv", "prefix", found], capture_output=True, text=True).stdout.strip()
            candidates.append(f"{prefix}/bin/python")
    for candidate in candidates:
        if version_of(candidate) == version:
            return candidate
    raise NotBuilt(f"no CPython {version} with its venv module on this machine")


def version_of(python: str | Path) -> str | None:
    """``3.X`` of an interpreter; None: it does not run, or has no venv module."""
    probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", probe], capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def oldest() -> list[str]:
    """The lower bounds that setup.cfg declares, as ``name==version``."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    found = re.findall(r"^([\w-]+)>=([\d.]+)", setup["options"]["install_requires"], re.MULTILINE)
    return [f"{name}=={version}" for name, version in found]


def requirements(row: Row) -> list[str]:
    """What pip is told besides the package."""
    if row.libraries == "pins":
        return ["-c", "constraints.txt"]
    return oldest() if row.libraries == "oldest" else ["--upgrade", "--upgrade-strategy", "eager"]


def install(row: Row, folder: Path) -> Path:
    """The python of a row's environment, which is made or, where its requirements are others now, made anew.

    Raises:
        NotBuilt: there is no such Python, or pip found no versions that fit.
    """
    venv, stamp = folder / "venv", folder / "stamp"
    declared = [(ROOT / name).read_text(encoding="utf-8") for name in ("setup.cfg", "constraints.txt")]
    wanted = "\n".join([str(venv), *requirements(row), *declared])
    complete = stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted
    complete = complete and version_of(venv / "bin/python") == row.python
    if complete and row.libraries != "newest":
        return venv / "bin/python"
    if not complete:
        stamp.unlink(missing_ok=True)
        subprocess.run([find_python(row.python), "-m", "venv", "--clear", venv], check=True)
    say(f"{row.name}: installing, see {folder / 'install.log'}")
    pip = [venv / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--progress-bar", "off"]
    with open(folder / "install.log", "w", encoding="utf-8") as log:
        for command in ([*pip, "--upgrade", "pip"], [*pip, "-e", f".[{EXTRAS}]", *requirements(row)]):
            if subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode:
                raise NotBuilt(pip_reason((folder / "install.log").read_text(encoding="utf-8")))
    write(stamp, wanted)
    return venv / "bin/python"


def pip_reason(log: str) -> str:
    """pip's own words: its first line with ERROR, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip failed without a word"])[0 if errors else -1][:200]


# ---- tests


def code_fingerprint() -> str:
    """Of all that a run of the tests depends on."""
    digest = hashlib.sha256()
    files = [path for folder in CODE for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    for path in (*files, ROOT / "setup.cfg", ROOT / "pyproject.toml", ROOT / "constraints.txt"):
        if "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_tests(row: Row, python: Path, folder: Path, *, fast: bool) -> dict:
    """Run them; counts, versions and machine.

    Raises:
        NotBuilt: the tests could not be started.
    """
    report = folder / "tests.xml"
    report.unlink(missing_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VIRTUAL_ENV": str(python.parent.parent)}
    environment["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    # TensorFlow and torchvision of another Python, and packages of another environment
    for name in ("VTLM_TEST_FRAMEWORKS", "PYTHONPATH", "PYTHONHOME", *(["VTLM_TEST_DATA"] if fast else [])):
        environment.pop(name, None)
    chosen = ["tests/unit", "-m", "not slow"] if fast else []
    command = [python, "-m", "pytest", "-n", "2", "--dist", "loadfile", "-q", "-p", "no:cacheprovider",
               f"--junitxml={report}", *chosen]  # fmt: skip
    say(f"{row.name}: {'unit tests' if fast else 'all tests'}, see {folder / 'tests.log'}")
    with open(folder / "tests.log", "w", encoding="utf-8") as log:
        status = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    if status not in (0, 1):  # 1: some failed
        raise RuntimeError(f"{row.name}: pytest ended with status {status}, see {folder / 'tests.log'}")
    return {**counts(report), **describe(python, environment)}


def counts(report: Path) -> dict:
    """What a JUnit report says: passed, failed (errors too), skipped, why, seconds."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    number = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    failed = number["failures"] + number["errors"]
    reasons = Counter(case.get("message", "") for case in suite.iter("skipped"))
    return {
        "passed": number["tests"] - failed - number["skipped"],
        "failed": failed,
        "skipped": number["skipped"],
        "reasons": dict(reasons.most_common()),
        "seconds": round(float(suite.get("time"))),
    }


def describe(python: Path, environment: dict[str, str]) -> dict:
    """Versions as installed, and the machine as ``benchmarks/machine.py`` sees it."""
    program = (
        "import json, platform, sys\n"
        "from importlib.metadata import version\n"
        "sys.path.insert(0, 'benchmarks')\n"
        "import machine\n"
        "found = machine.describe('cpu', 1)\n"
        "words = f\"{found['cpu']}, {found['cores']} cores, {found['memory_gb']:.0f} GB, {platform.system()}\"\n"
        "versions = {'python': platform.python_version(), **{name: version(name) for name in sys.argv[1:]}}\n"
        "print(json.dumps({'versions': versions, 'machine': words}))\n"
    )
    command = [python, "-c", program, *SHOWN]
    return json.loads(subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True).stdout)


def run_row(row: Row, out: Path, *, fast: bool) -> dict:
    """The result of a row, kept in its folder. One without failures of the same code is used again."""
    folder = out / row.name
    folder.mkdir(parents=True, exist_ok=True)
    code = code_fingerprint()
    kept = read_result(folder)
    if kept and kept["code"] == code and kept.get("failed") == 0 and (kept["tests"] == "all" or fast):
        say(f"{row.name}: kept, {in_words(kept)}")
        return kept
    result = {"row": row.name, "code": code, "date": f"{datetime.date.today()}", "tests": "unit" if fast else "all"}
    try:
        result.update(run_tests(row, install(row, folder), folder, fast=fast))
    except NotBuilt as reason:
        result["not built"] = str(reason)
    write(folder / "result.json", json.dumps(result, indent=1))
    say(f"{row.name}: {in_words(result)}")
    return result


def read_result(folder: Path) -> dict | None:
    """What an earlier call found; None: nothing."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def in_words(result: dict) -> str:
    """Counts, or why there are none."""
    if "not built" in result:
        return f"not built: {result['not built']}"
    return f"{result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped"


# ---- the document


def document(results: list[dict]) -> str:
    """``docs/dev/compatibility.md``."""
    lines = [
        "# Compatibility",
        "",
        "Written by `bash tests/matrix.sh`: versions as installed, tests as run. Libraries: `pins` are those of",
        "`constraints.txt`, `oldest` the lower bounds of `setup.cfg`, `newest` what pip found. Tests: `all` is",
        "the whole suite, `unit` is `tests/unit` without what is slow or needs real data. A row that the machine could",
        "not make is `not built`: it was not tested.",
        "",
        "| row | Python | " + " | ".join(SHOWN) + " | tests | passed | failed | skipped | date |",
        "| --- |" + " --- |" * (len(SHOWN) + 6),
    ]
    for result in results:
        if "not built" in result:
            reason = result["not built"].replace("|", "\\|")
            lines.append(
                f"| {result['row']} | not built: {reason} |" + " |" * (len(SHOWN) + 4) + f" {result['date']} |"
            )
            continue
        versions = (result["versions"][name] for name in ("python", *SHOWN))
        numbers = (str(result[name]) for name in ("tests", "passed", "failed", "skipped", "date"))
        lines.append(f"| {result['row']} | " + " | ".join((*versions, *numbers)) + " |")
    names = {result["row"] for result in results}
    lines += [f"| {name} | not run |" + " |" * (len(SHOWN) + 5) for name in ROWS if name not in names]
    built = [result for result in results if "passed" in result]
    for machine in sorted({result["machine"] for result in built}):
        names = ", ".join(result["row"] for result in built if result["machine"] == machine)
        lines += ["", f"Machine of {names}: {machine}."]
    reasons = Counter()
    for result in built:
        reasons.update({reason: 1 for reason in result["reasons"]})
    lines += ["", *BOUNDS]
    if reasons:
        lines += ["", "Why tests were skipped (in how many rows):", ""]
        lines += [f"* {reason.splitlines()[0]} ({number})" for reason, number in sorted(reasons.items())]
    return "\n".join(lines) + "\n"


# ---- the command


def write(path: Path, text: str) -> None:
    """The file appears when it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="\n")
    partial.replace(path)


def say(text: str) -> None:
    """One line on the screen."""
    print(text, flush=True)


def main() -> int:
    """Run the command; its status is 1 where a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="matrix.sh")
    parser.add_argument(
        "--rows",
        type=lambda text: text.split(","),
        default=list(ROWS),
        help=f"comma-separated, of {', '.join(ROWS)} (default: all)",
    )
    parser.add_argument("--fast", action="store_true", help="unit tests only, without those that are slow")
    parser.add_argument(
        "--out", type=Path, default=ROOT / ".venv-matrix", help="folder of environments, logs and results (%(default)s)"
    )
    args = parser.parse_args()
    for name in args.rows:
        if name not in ROWS:
            parser.error(f"--rows: {name!r} is none of {', '.join(ROWS)}")
    out = args.out.absolute()
    found = []
    try:
        for row in (row for name, row in ROWS.items() if name in args.rows):
            found.append(run_row(row, out, fast=args.fast))
            known = (read_result(out / name) for name in ROWS)
            write(DOCUMENT, document([result for result in known if result]))
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("Stopped; the same command goes on with this row.")
        return 130
    return int(any(result.get("failed") for result in found))


if __name__ == "__main__":
    sys.exit(main())
