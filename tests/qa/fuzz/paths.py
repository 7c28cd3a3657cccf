"""Lets the fuzz scripts run from anywhere: imports of the checkout and of tests/."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
for _folder in (ROOT / "preprocess", ROOT / "tests", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))
