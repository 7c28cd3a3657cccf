"""Put each known trap back into a copy of the code, one line at a time, and demand that its test fails.

    python tests/qa/pitfalls/check.py                            # all of them
    python tests/qa/pitfalls/check.py --only 16,20               # some
    python tests/qa/pitfalls/check.py --write docs/dev/pitfalls.md  # all, and the page if all failed as they should
    python tests/qa/pitfalls/check.py --list                     # print the page, run nothing

Which tests belong to a trap is read from the tests' docstrings ("PITFALLS 16"), the faults from ``faults.toml``.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests/support"))

from forks import Forks  # noqa: E402

FAULTS = Path(__file__).with_name("faults.toml")
RUN_TESTS = Path(__file__).with_name("run_tests.py")
PRELOADED = ("torch", "torch._dynamo", "h5py", "sacrebleu", "fairseq.tasks", "fairseq.models", "fairseq.trainer")
NUMBERS = range(1, 33)
IMPORT_FAULTS = ("ImportError", "ModuleNotFoundError", "SyntaxError", "IndentationError")
TIMEOUT = 900  # seconds for one test
INTRODUCTION = """# Known traps

Traps that others fell into, in fairseq and in code for multimodal translation, and the tests that show that this
package does not have them. The page is made from the tests' docstrings and `tests/qa/pitfalls/faults.toml` by

    python tests/qa/pitfalls/check.py --write docs/dev/pitfalls.md

which puts each fault below into a copy of the code, one at a time, and demands that the test beside it fails while it
runs, not at an import. `tests/unit/test_pitfalls.py` keeps the page, the faults and the tests together.

## Faults and the tests that fail
"""


@dataclass(frozen=True)
class Fault:
    """A fault of one line.

    Attributes:
        number, title: of the trap.
        what: what the fault does.
        test: pytest's id of the test that fails.
        file: path from the root of the checkout.
        before, after: the whole line, as it is and with the fault.
    """

    number: int
    title: str
    what: str
    test: str
    file: str
    before: str
    after: str

    def put_into(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
            ValueError: the line is not there exactly once, or what results is no Python.
        """
        lines = text.split("\n")
        if (count := lines.count(self.before)) != 1:
            raise ValueError(f"trap {self.number}: {self.file} has the line {self.before.strip()!r} {count} times")
        faulty = "\n".join(self.after if line == self.before else line for line in lines)
        try:
            compile(faulty, self.file, "exec")
        except SyntaxError as error:
            raise ValueError(f"trap {self.number}: {self.file} with the fault is no Python ({error})") from None
        return faulty

    @property
    def module(self) -> str:
        """Name of the module that the fault is in."""
        return self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @property
    def test_function(self) -> str:
        """``test`` without the case in brackets."""
        return self.test.partition("[")[0]


def read_faults(path: Path = FAULTS) -> list[Fault]:
    """The faults in the order of their traps."""
    traps = tomllib.loads(path.read_text(encoding="utf-8"))["trap"]
    return [Fault(trap["number"], trap["title"], **fault) for trap in traps for fault in trap["fault"]]


def documented_tests(root: Path = ROOT) -> dict[int, list[str]]:
    """Pytest's ids of the tests whose docstrings name a trap, by number, in the order of files and lines."""
    found: dict[int, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.parse(text).body if "PITFALLS" in text else []:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for number in trap_numbers(ast.get_docstring(node) or ""):
                    found.setdefault(number, []).append(f"{path.relative_to(root).as_posix()}::{node.name}")
    return dict(sorted(found.items()))


def trap_numbers(docstring: str) -> list[int]:
    """Numbers behind the word: ``PITFALLS 2, 18 and 19: ...``."""
    lists = re.findall(r"PITFALLS (\d+(?:(?:, | and )\d+)*)", docstring)
    return sorted({int(number) for one in lists for number in re.findall(r"\d+", one)})


def problems(faults: list[Fault], tests: dict[int, list[str]], root: Path = ROOT) -> list[str]:
    """What does not fit together: one line each."""
    found = [f"trap {number} has no test" for number in NUMBERS if number not in tests]
    found += [f"trap {number} has no fault" for number in NUMBERS if number not in {f.number for f in faults}]
    found += [f"{', '.join(tests[number])}: there is no trap {number}" for number in tests if number not in NUMBERS]
    for fault in faults:
        if fault.test_function not in tests.get(fault.number, []):
            found.append(f"trap {fault.number}: {fault.test} is no test whose docstring names it")
        try:
            fault.put_into((root / fault.file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.append(str(error))
    return found


# ---- the page


def page(faults: list[Fault], tests: dict[int, list[str]]) -> str:
    """``docs/dev/pitfalls.md``."""
    lines = [INTRODUCTION, "| number | trap | test | fault |", "| --- | --- | --- | --- |"]
    last = 0
    for fault in faults:
        trap = f"{fault.number} | {cell_text(fault.title)}" if fault.number != last else " | "
        last = fault.number
        before, after = (cell(part) for part in difference(fault.before, fault.after))
        change = f"`{fault.file}`: {before} becomes {after}"
        lines.append(f"| {trap} | {link(fault.test)} | {cell_text(fault.what)}; {change} |")
    lines += ["\n## All tests\n", "| number | tests |", "| --- | --- |"]
    lines += [f"| {number} | {', '.join(map(link, ids))} |" for number, ids in tests.items()]
    return "\n".join(lines) + "\n"


def difference(before: str, after: str, beside: int = 2, longest: int = 110) -> tuple[str, str]:
    """The words of two lines that differ, with a few words beside them; "" for a line that is dropped."""
    ours, theirs = before.split(), after.split()
    if not theirs:
        return " ".join(ours), ""
    start = len(os.path.commonprefix([ours, theirs]))
    end = len(os.path.commonprefix([ours[start:][::-1], theirs[start:][::-1]]))
    start, end = max(start - beside, 0), max(end - beside, 0)
    shown = []
    for words in (ours, theirs):
        text = " ".join(words[start : len(words) - end])
        text = text if len(text) <= longest else f"{text[: longest - 4]} ..."
        shown.append(f"{'... ' if start else ''}{text}{' ...' if end else ''}")
    return shown[0], shown[1]


def cell(code: str) -> str:
    """Code in a cell of a table."""
    return f"`{cell_text(code)}`" if code else "nothing"


def cell_text(text: str) -> str:
    """Text in a cell of a table."""
    return text.replace("|", "\\|").replace("<mask>", "`<mask>`")


def link(test: str) -> str:
    """A test's name with a link to its file."""
    path, _, name = test.partition("::")
    return f"[`{name}`](../../{path})"


# ---- running


def copy_checkout(target: Path) -> None:
    """Copy all files but those that git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@dataclass
class Outcome:
    """What became of a run of tests.

    Attributes:
        status: that of ``run_tests.py``: pytest's, 90, or minus the number of a signal.
        passed: number of tests that passed.
        failed: first lines of what made tests fail while they ran.
        broken: first lines of faults outside of a test's run (collection, fixtures), and skips.
        log: pytest's summary, or the last line of the output.
    """

    status: int
    passed: int
    failed: list[str]
    broken: list[str]
    log: str

    def seen(self) -> str | None:
        """Why a test failed, if it failed as it should: while it ran, for another reason than an import."""
        good = self.status == 1 and self.failed and not self.broken
        return self.failed[0] if good and not any(map(is_import_fault, self.failed)) else None

    def __str__(self) -> str:
        parts = [f"exit status {self.status}, {self.passed} passed", *self.failed, *self.broken]
        return "; ".join([*parts, self.log])


def is_import_fault(message: str) -> bool:
    """Whether what made a test fail was an import in the test itself."""
    return message.startswith(IMPORT_FAULTS)


class Runner:
    """Runs tests in a copy of the checkout, through one :class:`forks.Forks`; to be closed.

    Args:
        copy: the copy, whose package comes before an installed one.
        modules: imported once, before all tests.
    """

    def __init__(self, copy: Path, modules: Sequence[str] = PRELOADED):
        self.copy = copy
        # no bytecode: a fault may leave a file's size as it is and come within the second; plugins take a second
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1",
                       "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # fmt: skip
        self.forks = Forks(modules, cwd=copy, env=environment)

    def close(self) -> None:
        """End the process that forks."""
        self.forks.close()

    def __call__(self, tests: list[str], module: str = "vtlm_fairseq", timeout: int = TIMEOUT) -> Outcome:
        """Run tests in a process of their own, which first imports ``module``."""
        report, log, temporary = (self.copy / name for name in ("report.xml", "log.txt", "tmp"))
        report.unlink(missing_ok=True)
        argv = [str(self.copy), module, *tests, "-q", "-p", "no:cacheprovider", "--basetemp", str(temporary),
                "--junitxml", str(report)]  # fmt: skip
        self.forks.start([{"module": str(RUN_TESTS), "argv": argv, "cwd": str(self.copy), "env": {}, "stdin": None,
                           "log": str(log), "timeout": timeout}])  # fmt: skip
        (status,) = self.forks.statuses()
        shutil.rmtree(temporary, ignore_errors=True)
        passed, failed, broken = read_report(report) if report.exists() else (0, [], [])
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        summary = [line for line in lines if line.startswith(("FAILED ", "ERROR "))] or lines[-1:]
        return Outcome(status, passed, failed, broken, "\n".join(summary))


def read_report(path: Path) -> tuple[int, list[str], list[str]]:
    """Number of tests that passed, messages of failures, messages of errors and skips, from pytest's XML."""
    passed, failed, broken = 0, [], []
    for case in ElementTree.parse(path).iter("testcase"):
        kinds = {child.tag: child for child in case if child.tag in ("failure", "error", "skipped")}
        for tag, child in kinds.items():
            first = (child.get("message") or "").splitlines()[:1] or [""]
            (failed if tag == "failure" else broken).append(first[0][:160])
        passed += not kinds
    return passed, failed, broken


def check(faults: list[Fault]) -> bool:
    """Run the tests as they are, then each with its fault; prints a line each."""
    with tempfile.TemporaryDirectory(prefix="pitfalls-") as folder:
        copy = Path(folder).resolve() / "checkout"
        copy_checkout(copy)
        tests = list(dict.fromkeys(fault.test for fault in faults))
        with closing(Runner(copy)) as run:
            outcome = run(tests, timeout=TIMEOUT * 4)
            if outcome.status != 0 or outcome.broken or not outcome.passed:
                print(f"error: the tests do not pass without a fault: {outcome}")
                return False
            print(f"without a fault: {outcome.passed} tests pass ({len(tests)} by name)", flush=True)
            unseen = sum(not check_fault(run, fault) for fault in faults)
    print(f"{len(faults) - unseen} of {len(faults)} faults were seen by their tests")
    return not unseen


def check_fault(run: Runner, fault: Fault) -> bool:
    """Put a fault into the copy, run its test, take the fault out; whether the test saw it."""
    path, start = run.copy / fault.file, time.monotonic()
    whole = path.read_text(encoding="utf-8")
    path.write_text(fault.put_into(whole), encoding="utf-8")
    try:
        outcome = run([fault.test], fault.module)
    finally:
        path.write_text(whole, encoding="utf-8")
    reason = outcome.seen()
    verdict = f"fails: {reason}" if reason else f"NOT SEEN: {outcome}"
    seconds = time.monotonic() - start
    print(f"{fault.number:2} {fault.test.partition('::')[2]} [{fault.what}] {verdict} ({seconds:.0f} s)", flush=True)
    return reason is not None


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where every fault was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="N,N,...", help="numbers of traps")
    parser.add_argument("--write", metavar="FILE", type=Path, help="write the page there if every fault was seen")
    parser.add_argument("--list", action="store_true", help="run nothing; print the page, or write it with --write")
    args = parser.parse_args(argv)
    faults, tests = read_faults(), documented_tests()
    if found := problems(faults, tests):
        print("\n".join(f"error: {problem}" for problem in found))
        return 1
    text = page(faults, tests)
    if args.list and not args.write:
        print(text, end="")
        return 0
    if args.only:
        if args.write:
            parser.error("--write needs all traps; omit --only")
        chosen = {int(number) for number in args.only.split(",")}
        faults = [fault for fault in faults if fault.number in chosen]
    if not args.list and not check(faults):
        return 1
    if args.write:
        args.write.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
