"""Formats of other projects that `vtlm-regions convert` reads."""

from pathlib import Path

FOLDER = Path(__file__).parent / "layouts"
"""Mappings of other projects' files, a YAML file each."""


def presets() -> list[str]:
    """Names of the layouts that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
