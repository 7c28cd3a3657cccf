"""Sessions of nox: the tests on each supported stack, and the style.

    nox -s "tests-3.12(oldest)"       # one stack; what follows -- goes to pytest
    nox -s matrix                     # every stack
    nox -s matrix -- tests/unit -m "not slow"
    nox -s lint

All tests, or the unit tests as above, write their row of docs/dev/compatibility.md.
"""

import configparser
import datetime
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import nox

ROOT = Path(__file__).resolve().parent
PAGE = ROOT / "docs/dev/compatibility.md"
PYTHONS = ("3.11", "3.12")
SHOWN = ("torch", "numpy", "h5py", "ve-fairseq", "omegaconf", "sacrebleu", "sentencepiece")
RECORDED = {(): "all", ("tests/unit", "-m", "not slow"): "unit"}

nox.options.sessions = ["lint"]
nox.options.reuse_venv = "yes"


def oldest() -> list[str]:
    """The lower bounds of setup.cfg, as ``name==version``."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    found = re.findall(r"^([\w-]+)>=([\d.]+)", setup["options"]["install_requires"], re.MULTILINE)
    return [f"{name}=={version}" for name, version in found]


STACKS = {
    "locked": ["-c", "constraints.txt"],
    "oldest": oldest(),
    "newest": ["--upgrade", "--upgrade-strategy", "eager"],
}


@nox.session(python=PYTHONS)
@nox.parametrize("stack", [nox.param(name, id=name) for name in STACKS])
def tests(session: nox.Session, stack: str) -> None:
    """The tests with one Python and one choice of libraries."""
    what = RECORDED.get(tuple(session.posargs))
    row = (session.python, stack)
    if what:
        record(*row, *["no result"] * (len(SHOWN) + 1), what, "", "", "", f"{datetime.date.today()}")
    session.install("-e", ".[test,ci,plots,extract]", *STACKS[stack])
    report = Path(session.create_tmp()) / "tests.xml"
    # packages of another environment, TensorFlow and torchvision of another Python
    foreign = ["PYTHONPATH", "PYTHONHOME", "VTLM_TEST_FRAMEWORKS", *(["VTLM_TEST_DATA"] if what == "unit" else [])]
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-q",
                "-p", "no:cacheprovider", f"--junitxml={report}", *session.posargs, success_codes=[0, 1],
                env={"OMP_NUM_THREADS": "1", **dict.fromkeys(foreign)})  # fmt: skip
    failed, passed, skipped = counts(report)
    if what:
        program = "import sys, platform; from importlib.metadata import version as of\n"
        program += "print(platform.python_version(), *map(of, sys.argv[1:]))"
        versions = session.run("python", "-c", program, *SHOWN, silent=True, env={"PYTHONPATH": None}).split()
        record(*row, *versions, what, *map(str, (passed, failed, skipped, datetime.date.today())))
    if failed:
        session.error(f"{failed} tests failed")


@nox.session(python=False)
def matrix(session: nox.Session) -> None:
    """The tests on every stack."""
    for python in PYTHONS:
        for stack in STACKS:
            session.notify(f"tests-{python}({stack})", session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """The style of the code."""
    session.install("-c", "constraints.txt", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


def counts(report: Path) -> tuple[int, int, int]:
    """How many tests of a JUnit report failed (errors of fixtures too), passed and were skipped."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    tests, failures, errors, skipped = (int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped"))
    return failures + errors, tests - failures - errors - skipped, skipped


def record(python: str, stack: str, *cells: str) -> None:
    """Replace a stack's row in the table of the page."""
    text = PAGE.read_text(encoding="utf-8")
    row = f"| {' | '.join((python, stack, *cells))} |"
    partial = PAGE.with_name(f".{PAGE.name}.partial")
    partial.write_text(re.sub(rf"^\| {re.escape(python)} \| {stack} \|.*$", row, text, flags=re.MULTILINE), "utf-8")
    os.replace(partial, PAGE)
