"""Where METEOR's jar lies, for the tests that need it."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest


def find_jar() -> Path:
    """VTLM_METEOR_JAR, or the jar of an installed pycocoevalcap; skips the test where it or Java is missing."""
    if shutil.which("java") is None:
        pytest.skip("needs Java")
    package = importlib.util.find_spec("pycocoevalcap")
    places = [
        Path(folder) / "meteor/meteor-1.5.jar" for folder in (package.submodule_search_locations if package else ())
    ]
    for path in [Path(os.environ.get("VTLM_METEOR_JAR", "")), *places]:
        if path.is_file():
            return path
    pytest.skip("needs meteor-1.5.jar: VTLM_METEOR_JAR or the package pycocoevalcap")
