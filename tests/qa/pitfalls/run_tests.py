"""Runs pytest on a copy of the code, sure that it is the copy: ``run_tests.py FOLDER MODULE [ARGUMENT...]``.

The module is imported before the tests. The exit status is pytest's, or 90 if the package is not the folder's or the
module cannot be imported.
"""

import importlib
import sys
from pathlib import Path

import pytest

WRONG_IMPORT = 90


def main() -> int:
    """Import the module from the folder, then run the tests."""
    folder, module, *argv = sys.argv[1:]
    try:
        found = Path(importlib.import_module("vtlm_fairseq").__file__ or "")
        assert found.is_relative_to(folder), f"vtlm_fairseq is {found}, not the copy in {folder}"
        importlib.import_module(module)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
        return WRONG_IMPORT
    return pytest.main(argv)


if __name__ == "__main__":
    sys.exit(main())
