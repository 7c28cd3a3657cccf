"""The README's commands run as they stand."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from harness import ROOT, shell, write_lines

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """A folder with a user's captions and one ``.npz`` an image."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "my captions"
    (folder / "features").mkdir(parents=True)
    for split, count in (("train", 12), ("valid", 5), ("test", 3)):
        sentences = [" ".join(rng.choice(list("abcdefgh"), size=rng.integers(2, 6))) for _ in range(count)]
        write_lines(folder / f"captions/{split}.en", sentences)
        write_lines(folder / f"captions/{split}.de", [s.upper() for s in sentences])
        write_lines(folder / f"captions/{split}.images", [f"{split}{i // 2}" for i in range(count)])
        for i in range((count + 1) // 2):
            regions = int(rng.integers(0, 4))
            corners = rng.random((regions, 2, 2)).astype(np.float32)
            np.savez(
                folder / f"features/{split}{i}.npz",
                features=rng.normal(size=(regions, 24)).astype(np.float32),
                boxes=np.concatenate([corners.min(1), corners.max(1)], axis=1),
                labels=rng.integers(0, 601, regions),
            )
    return folder


def test_own_captions_in_five_commands(captions: Path):
    """The block of README.md under "Your own captions and regions", run by bash as it stands (PITFALLS 26)."""
    block = re.search(r"<!-- tested: .*? -->\n```bash\n(.*?)```", README, re.S).group(1)
    assert len([line for line in block.splitlines() if re.match(r"vtlm-|fairseq-", line)]) == 5
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if not (Path(sys.executable).parent / "vtlm-regions").exists():  # an environment without the package installed
        block = block.replace("vtlm-regions", "python -m vtlm_fairseq.cli.regions")
    done = shell("env", "UPDATES=1", f"PATH={path}", "bash", "-euc", block, cwd=captions, timeout=600)
    assert done.status == 0, done.output[-3000:]
    translations = (captions / "translations.txt").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^H-(\d+)", translations, re.M)) == ["0", "1", "2"]
