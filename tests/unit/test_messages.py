"""Every message that a user can get is produced by a test: one that is written without a test is found here.

A message is a text of its own in a ``raise``, in an error that is handed back, in ``parser.error``, in a warning or
error of the log, or an ``error:`` line of a bash script. It counts as tested where a test's string holds three of its
words in a row that no other message holds (what is filled in counts as a word), or where a row ``"module.function",
"words"`` of a test names its place; :func:`messages.message` checks such a place when the test runs. That the tests
reach every message is shown by ``tests/produced_messages.py``, which runs them on a marked copy.
"""

import ast
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("vtlm_fairseq", "preprocess", "examples", "benchmarks", "scripts")
TELLS = re.compile("^(error|warning|warn)$|Error$")
PLACE = re.compile(r"\w+\.\w+")
HOLE = "*"
LETTERS = 10  # fewer tell nothing: "is not a"
EXCEPTIONS = {
    # module.function: (why its message has no words to look for, the test that produces it)
    "batching.raise_fault": (
        "passes on what it is given",
        "test_messages_models.py::test_checkpoints_of_something_else",
    ),
    "errors.exit_on_error": (
        "passes on what it is given",
        "test_region_faults.py::test_exit_on_error_is_one_line_without_the_cause",
    ),
    "transfer.load": ("passes on what it is given", "test_messages_models.py::test_transfer"),
    "files.cannot_be_written": ("the reason is filled in", "test_files.py::test_a_full_disk"),
    "region_schema.unreadable": ("names are filled in", "test_messages_regions.py::test_damage_behind_the_header"),
    "text_pipeline.load": ("names are filled in", "test_messages_text.py::test_text_json_that_cannot_be_read"),
    "run.parse": ("options are filled in", "test_messages_examples.py::test_options_of_benchmarks"),
    "table1.parse_arguments": ("words are filled in", "test_messages_examples.py::test_options_of_table1"),
    "stack.check_stack": ("versions are filled in", "test_stack.py::test_python"),
    "setups.decode": ("much is filled in", "test_benchmarks.py::test_outputs_of_another_length_are_noticed"),
    "extract_regions.run": ("the option is filled in", "test_messages_extraction.py::test_numbers"),
}


class Message(NamedTuple):
    """A message: file, line, ``module.function``, its text with holes, and what is called with it (Python only)."""

    file: str
    line: int
    place: str
    text: str
    called: ast.expr | None


def text_of(node: ast.AST) -> str:
    """The text of an expression, with a hole for what is filled in; of other expressions than strings, nothing."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[.\d]*[dsfgr]", HOLE, node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else f"{HOLE}" for part in node.values)
    return ""


def messages_of(file: str, source: str) -> Iterator[Message]:
    """The messages of a Python file."""
    todo: list[tuple[ast.AST, str]] = [(ast.parse(source), "")]
    while todo:
        parent, function = todo.pop()
        for node in ast.iter_child_nodes(parent):
            inside = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
            todo.append((node, inside))
            call = node.exc if isinstance(node, ast.Raise) else node
            named = isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1]
            raised = isinstance(node, ast.Raise)
            if named and (raised or not isinstance(parent, ast.Raise) and TELLS.search(named)):
                text = " ".join(map(text_of, call.args))
                if re.search("[a-z]{3}", text):
                    yield Message(file, call.lineno, f"{Path(file).stem}.{function}", text, call.func)


def words_of(text: str) -> list[str]:
    """Words without the marks around them; a word with a hole is a hole."""
    words = [word.strip(";:,.()'\"`[]{}?!\\") for word in text.split()]
    return [HOLE if not word or HOLE in word.replace("*rcnn", "") else word for word in words]


def runs_of(text: str) -> set[tuple[str, ...]]:
    """Three words in a row, at most one of them a hole; all words of a shorter text."""
    words = words_of(text)
    if len(words) < 3:
        return {tuple(words)} if set(words) != {HOLE} else set()
    runs = zip(words, words[1:], words[2:], strict=False)
    return {run for run in runs if run.count(HOLE) <= 1}


class Said:
    """What the strings of tests say."""

    def __init__(self, sources: Iterable[str]) -> None:
        self._runs: set[tuple[str, ...]] = set()
        self._rows: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for source in sources:
            tree = ast.parse(source)
            skipped = {id(part) for node in ast.walk(tree) for part in self._not_said(node)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in skipped:
                    self._runs |= self._with_holes(text_of(node))
                elif isinstance(node, ast.Tuple | ast.Call):
                    self._add_row(node.elts if isinstance(node, ast.Tuple) else node.args)

    @staticmethod
    def _not_said(node: ast.AST) -> list[ast.AST]:
        """Docstrings, and parts of strings that are looked at as a whole."""
        if isinstance(node, ast.JoinedStr):
            return node.values
        return [node.value] if isinstance(node, ast.Expr) else []

    def _add_row(self, nodes: list[ast.expr]) -> None:
        texts = [text_of(node) for node in nodes]
        for place in filter(PLACE.fullmatch, texts[:1]):
            self._rows[place] |= {run for text in texts[1:] for run in self._with_holes(text)}

    @staticmethod
    def _with_holes(text: str) -> set[tuple[str, ...]]:
        """Runs of one to three words, and those of three with a hole in place of one."""
        words = [word if word != HOLE else "?" for word in words_of(text)]
        found: set[tuple[str, ...]] = set()
        for start in range(len(words)):
            run = tuple(words[start : start + 3])
            found |= {run[:1], run[:2], run}
            found |= {tuple(HOLE if i == hole else word for i, word in enumerate(run)) for hole in range(len(run))}
        return found

    def produce(self, message: Message, distinctive: set[tuple[str, ...]]) -> bool:
        """Whether a test's string holds a run that only this message has, or a row of a test names its place."""
        return bool(distinctive & self._runs or self._rows[message.place] & runs_of(message.text))


def untested(messages: list[Message], tests: Said) -> list[Message]:
    """Messages that no test is seen to produce."""
    counts = Counter(run for message in messages for run in runs_of(message.text))
    telling = {run for run, count in counts.items() if count == 1 and sum(map(len, run)) >= LETTERS}
    return [message for message in messages if not tests.produce(message, runs_of(message.text) & telling)]


@pytest.fixture(scope="module")
def tests() -> Said:
    """Of all test files but this one."""
    files = sorted(path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__).resolve())
    return Said(path.read_text(encoding="utf-8") for path in files)


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    """Of all Python files of the project."""
    files = sorted(path.relative_to(ROOT) for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    return [m for file in files for m in messages_of(str(file), (ROOT / file).read_text(encoding="utf-8"))]


def test_every_message_is_produced_by_a_test(messages, tests):
    found = [m for m in untested(messages, tests) if m.place not in EXCEPTIONS]
    assert not found, "no test produces\n" + "\n".join(f"{m.file}:{m.line} {m.place}: {m.text}" for m in found)
    assert len(messages) > 400


def test_exceptions_are_needed_and_their_tests_are_there(messages, tests):
    places = {message.place for message in untested(messages, tests)}
    assert set(EXCEPTIONS) <= places
    for _, test in EXCEPTIONS.values():
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests/unit" / file).read_text(encoding="utf-8")


def test_errors_of_bash_scripts_are_produced_by_a_test():
    tests = (ROOT / "tests/unit/test_messages_examples.py").read_text(encoding="utf-8")
    for path in sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.sh")):
        for line in re.findall(r'echo "(error: .*?)"', path.read_text(encoding="utf-8")):
            fixed = [part.strip() for part in re.split(r"\$\{?\w+\}?", line)]
            assert any(len(part) >= 12 and part[:40] in tests for part in fixed), f"{path.name}: {line}"


NEW = 'def f(path):\n    raise VTLMError(f"{path}: holds no zebra at all; give --zebra")\n'


@pytest.mark.parametrize(
    ("test", "seen"),
    [
        ('assert "x: holds no zebra at all" in fault(f)', True),
        ('match=r"holds no\\s"', False),
        ('assert "give --zebra" in fault(f)', False),
        ('rows = [("new.f", "x: holds no zebra")]', True),
        ('rows = [("new.f", "another thing entirely")]', False),
        ('rows = [("other.f", "no zebra")]', False),
        ('assert f"{x}: holds no zebra" in text', True),
        ("", False),
    ],
)
def test_a_new_message_needs_a_test(test, seen):
    """The scan itself, on one message and what a test may say."""
    found = list(messages_of("new.py", NEW))
    assert [(m.line, m.place) for m in found] == [(2, "new.f")] and words_of(found[0].text)[:2] == [HOLE, "holds"]
    assert (untested(found, Said([test])) == []) == seen


def test_what_counts_as_a_message():
    source = (
        "def f():\n    parser.error('must be one')\n    logger.warning('%d pairs are long', 3)\n"
        "    raise\n    raise ValueError(text)\n    raise SystemExit(main())\n    print('no message')\n"
        "    return my.IdError('has no name')\n    raise KeyError('no zebra')\n"
    )
    texts = sorted(message.text for message in messages_of("a.py", source))
    assert texts == ["* pairs are long ", "has no name", "must be one", "no zebra"]


def test_runs_that_two_messages_share_tell_neither():
    """Both say the same: only a row that names the place will do."""
    same = [m for name in ("a.py", "b.py") for m in messages_of(name, NEW)]
    assert len(untested(same, Said(['"holds no zebra at all; give --zebra"']))) == 2
    assert untested(same, Said(['message("a.f", "holds no zebra")'])) == [same[1]]


def test_marks_of_messages_that_are_reached(tmp_path):
    """The proof's copy: only what is reached leaves a mark, and the code does what it did."""
    produced = import_module("produced_messages")
    source = (
        "def f(text):\n    'é'; warn('zebras are rare')\n    if text:\n"
        "        raise ValueError(\n            f'{text} zebra')\n    raise KeyError('no zebra')\n"
    )
    marked, found = produced.mark_python("a/b.py", source, tmp_path)
    scope = {"warn": lambda text: None}
    exec(marked, scope)
    with pytest.raises(ValueError, match="^one zebra$"):
        scope["f"]("one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.b.py.2", "a.b.py.4"]
    assert [produced.mark_of(m, tmp_path).exists() for m in sorted(found, key=lambda m: m.line)] == [True, True, False]
    script, (error,) = produced.mark_bash("a/c.sh", 'true\n  echo "error: no $x" >&2\n', tmp_path)
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stderr == "error: no \n"
    assert (error.line, produced.mark_of(error, tmp_path).exists()) == (2, True)
