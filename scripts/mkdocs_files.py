"""Hook of mkdocs: the pages of the site are the Markdown files of the repository, with what they link to."""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "docs/**/*.md", "examples/*/*.md", "tests/qa/*.md")
LINK = re.compile(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)")


def on_files(files, config):
    """The files of the site; those of the theme stay."""
    pages = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    linked = {
        (page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    others = sorted(path for path in linked if path.is_file() and path not in pages and ROOT in path.parents)
    ours = [
        File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, config.use_directory_urls)
        for path in [*pages, *others]
    ]
    return Files([*ours, *(file for file in files if not file.src_uri.endswith((".md", ".png", ".jpg", ".yaml")))])
