"""Scripts with `python -P` (`-I`, PYTHONSAFEPATH=1), which leaves out their folder, and from a folder with modules."""

import os
import sys
from pathlib import Path

import pytest
from forks import forked

import vtlm_fairseq.cli.convert  # noqa: F401  (once, for all forks)

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT / "preprocess", *(path for path in (ROOT / "examples").rglob("*") if path.is_dir()), ROOT / "examples"]
SCRIPTS = [path for folder in FOLDERS for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()]


def test_there_are_scripts():
    names = {path.name for path in SCRIPTS}
    assert names >= {"prepare_captions.py", "extract_regions.py", "table1.py", "score.py", "make_data.py"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_find_their_modules(tmp_path, script):
    """In a forked child that forgets what other tests imported: a start of Python would take seconds for each."""
    (tmp_path / "text_options.py").write_text("raise SystemExit('code of the current folder ran')\n")

    def forget() -> None:
        inside = [str(folder) for folder in FOLDERS]
        sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") not in (*inside, str(tmp_path))]
        for name, module in list(sys.modules.items()):
            if os.path.dirname(getattr(module, "__file__", None) or "").startswith(tuple(inside)):
                del sys.modules[name]

    status, said = forked(str(script), ["--help"], cwd=str(tmp_path), first=forget)
    assert status == 0 and "usage: " in said, said
