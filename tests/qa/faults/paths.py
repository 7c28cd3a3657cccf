"""Lets the scripts of this folder run from anywhere: imports of the checkout, of tests/ and of its support/."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
for _folder in (ROOT / "tests", ROOT / "tests/support", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
