"""The pages as a site: mkdocs builds them, with every link and anchor, without a warning."""

import importlib.util
import re
import shutil
import subprocess
import sys

import pytest

from harness import ROOT, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("material") is None, reason="mkdocs-material is not installed (extra `docs`)"
    ),
]


def build(checkout, site) -> subprocess.CompletedProcess:
    """What mkdocs says."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", checkout / "mkdocs.yml", "-d", site]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300,
                          env={**environment(), "NO_MKDOCS_2_WARNING": "1"})  # fmt: skip


def test_site(tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    front = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    for page in ("docs/first-run", "docs/data", "examples/quickstart", "docs/dev/design"):
        assert (tmp_path / "site" / page / "index.html").is_file()
    assert re.search(r'href="docs/first-run/', front)
    for picture in re.findall(r'<img [^>]*src="([^"]+)"', front):
        assert (tmp_path / "site" / picture).is_file(), picture
    assert not re.search(r'<(?:script|link)[^>]+(?:src|href)="https?:', front)  # nothing is fetched from elsewhere


@pytest.mark.parametrize("link", ["[x](docs/no-such-page.md)", "[x](docs/data.md#no-such-part)"])
def test_a_broken_link_is_noticed(tmp_path, link):
    for name in ("docs", "examples", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results*", "__pycache__"))
    for path in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml", ROOT / "CITATION.cff"]:
        shutil.copy(path, tmp_path)
    with (tmp_path / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(f"\n{link}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and "no-such-pa" in done.stderr
