"""An unsupported Python, or a library that is missing or does not fit, ends in one line that says what is supported."""

import ast
import configparser
import os
import re
import subprocess
import sys

import pytest

from harness import ROOT
from vtlm_fairseq import stack

PROBE = """
import runpy, sys
sys.version_info = tuple(map(int, sys.argv[1].split("."))) + ("final", 0)
runpy.run_path(sys.argv[2])["check_stack"]()
"""


def install(folder, distribution, version):
    """The metadata of a distribution."""
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")


def stand_in(folder, module, version, distribution=None, text="raise RuntimeError('imported')"):
    """A module that must not be imported, with the metadata of a distribution."""
    distribution = distribution or module
    (folder / module).mkdir(parents=True)
    (folder / module / "__init__.py").write_text(text, encoding="utf-8")
    (folder / module / "version.txt").write_text(f"{version}\n", encoding="utf-8")
    install(folder, distribution, version)


def python_with(*path, command) -> subprocess.CompletedProcess:
    """Python where folders come first on the path."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=600)


def check(folder, *, python="3.11.7") -> subprocess.CompletedProcess:
    """What `check_stack` says."""
    return python_with(folder, command=["-c", PROBE, python, str(ROOT / "vtlm_fairseq/stack.py")])


def said(result: subprocess.CompletedProcess) -> str:
    """The one line."""
    assert result.returncode == 1 and not result.stdout
    assert result.stderr.startswith("error: vtlm-fairseq needs ") and result.stderr.count("\n") == 1
    return result.stderr


def test_this_environment_fits(tmp_path):
    """Silence, and nothing was imported that takes time."""
    result = check(tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("python", ["3.8.18", "3.10.13", "3.13.0"])
def test_python(tmp_path, python):
    line = said(check(tmp_path, python=python))
    assert "Python 3.11 or 3.12" in line and f"this is {python.rpartition('.')[0]} " in line and sys.executable in line


def test_old_pythons_can_read_the_check():
    """They must, to say so: no syntax newer than f-strings, and nothing else runs before it."""
    ast.parse((ROOT / "vtlm_fairseq/stack.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    package = ast.parse((ROOT / "vtlm_fairseq/__init__.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    docstring, first, second, *_ = package.body
    assert [ast.unparse(node) for node in (first, second)] == [
        "from vtlm_fairseq.stack import check_stack", "check_stack()",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "version", "distribution", "wanted"),
    [
        ("torch", "2.5.1+cu124", None, "torch>=2.6"),
        ("torch", "1.13.0", None, "torch>=2.6"),
        ("numpy", "1.26.4", None, "numpy>=2.0"),
        ("h5py", "3.12.0", None, "h5py>=3.12.1"),
        ("fairseq", "0.12.2", None, "ve-fairseq>=0.12.3,<0.13"),
        ("fairseq", "0.13.0", "ve-fairseq", "ve-fairseq>=0.12.3,<0.13"),
        ("fairseq", "1.0.0a0+0ab0fcb", None, "ve-fairseq>=0.12.3,<0.13"),
    ],
)
def test_versions_that_do_not_fit(tmp_path, module, version, distribution, wanted):
    """What is wanted, what is there, what mends it."""
    stand_in(tmp_path, module, version, distribution)
    line = said(check(tmp_path))
    assert f"needs {wanted}, but {module} {version} is installed; run: " in line
    assert f"pip install '{wanted}'" in line
    assert ("pip uninstall fairseq ve-fairseq && " in line) == (module == "fairseq")


def test_upstream_fairseq_over_ours(tmp_path):
    """Both distributions are installed, the files are upstream's: they decide."""
    stand_in(tmp_path, "fairseq", "0.12.2")
    install(tmp_path, "ve-fairseq", "0.12.3")
    assert "fairseq 0.12.2 is installed" in said(check(tmp_path))


@pytest.mark.parametrize("version", ["2.6.0", "2.6.0a0+df5bbc09d1.nv24.12", "2.13.0+cpu", "10.0"])
def test_versions_that_fit(tmp_path, version):
    """Local and vendors' builds too; by number, not by letter. They are not imported by the check."""
    stand_in(tmp_path, "torch", version)
    assert check(tmp_path).stderr == ""


@pytest.mark.parametrize(("module", "wanted"), [("torch", "torch>=2.6"), ("fairseq", "ve-fairseq>=0.12.3,<0.13")])
def test_missing_library(monkeypatch, module, wanted):
    """Neither metadata nor module."""
    from importlib import metadata, util

    def no_metadata(name):
        if name == stack.LIBRARIES[module][0]:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    version, find = metadata.version, util.find_spec
    monkeypatch.setattr(metadata, "version", no_metadata)
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(SystemExit) as caught:
        stack.check_stack()
    assert str(caught.value).startswith(
        f"error: vtlm-fairseq needs {wanted}, but it is not installed; run: pip install '"
    )


def test_a_library_without_metadata_is_asked_itself(tmp_path, monkeypatch):
    """A build on PYTHONPATH, say."""
    (tmp_path / "tensor_library.py").write_text("__version__ = '1.4'", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(stack, "LIBRARIES", {"tensor_library": ("tensor-library", "1.5", "")})
    with pytest.raises(SystemExit, match=re.escape("tensor_library 1.4 is installed")):
        stack.check_stack()


@pytest.mark.parametrize(
    "command",
    [["-c", "import vtlm_fairseq"], ["-m", "vtlm_fairseq"], ["-m", "vtlm_fairseq.cli.translate", "--help"]],
    ids=["import", "user-dir", "command"],
)
def test_commands_end_with_the_line(tmp_path, command):
    """Before fairseq, which would end in a traceback."""
    stand_in(tmp_path, "fairseq", "0.12.2")
    assert "fairseq 0.12.2 is installed" in said(python_with(tmp_path, ROOT, command=command))


def test_bounds_are_those_of_the_package():
    """setup.cfg, what is checked here, and the environments that scripts make agree."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    (oldest, beyond) = stack.PYTHON
    assert setup["options"]["python_requires"] == ">={}.{},<{}.{}".format(*oldest, *beyond)
    declared = dict(
        re.fullmatch(r"([\w-]+)(.*)", line).groups() for line in setup["options"]["install_requires"].split()
    )
    for distribution, lowest, highest in stack.LIBRARIES.values():
        assert declared[distribution] == f">={lowest}" + (f",<{highest}" if highest else "")
    script = (ROOT / "scripts/venv.sh").read_text(encoding="utf-8")
    assert f"{oldest} <= sys.version_info[:2] < {beyond}" in script


@pytest.mark.slow
def test_environments_of_scripts_fit(tmp_path):
    """An active environment with a library that is too old is not used."""
    stand_in(tmp_path, "torch", "2.5.1")
    script = f"source '{ROOT}/scripts/venv.sh'; _vtlm_ready '{sys.executable}' ''"
    found = [
        subprocess.run(["bash", "-c", script], env={**os.environ, "PYTHONPATH": path}, timeout=600).returncode
        for path in (str(ROOT), str(tmp_path))
    ]
    assert found[0] == 0 and found[1] != 0
