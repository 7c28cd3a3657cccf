"""The README's commands run as they stand."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from programs import write_programs

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


def run_block(block: str, programs: Path, folder: Path, **variables: str) -> str:
    """Run a block of the README by bash, as it stands; gives what it printed."""
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    values = [f"{name}={value}" for name, value in {"PATH": path, **variables}.items()]
    done = shell("env", *values, "bash", "-euc", block, cwd=folder, timeout=600)
    assert done.status == 0, done.output[-3000:]
    return done.output


def checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder."""
    return sorted(path.name for path in folder.glob("*.pt"))


def test_own_captions_in_five_commands(run, captions: Path, tmp_path: Path):
    """The blocks of README.md under "Your own captions and regions", run by bash as they stand (PITFALLS 26).

    An epoch of these captions is one update: trainings validate and save by updates, so once, at their end.
    """
    small, large = re.findall(r"<!-- tested: .*? -->\n```bash\n(.*?)```", README, re.S)
    assert len([line for line in small.splitlines() if re.match(r"vtlm-|fairseq-", line)]) == 5
    programs = write_programs(run, tmp_path)
    output = run_block(small, programs, captions, UPDATES="3")
    assert len(re.findall(r"begin validation on", output)) == 2
    translations = (captions / "translations.txt").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^H-(\d+)", translations, re.M)) == ["0", "1", "2"]
    for name in ("vtlm", "mmt"):
        assert checkpoints(captions / name) == ["checkpoint_best.pt", "checkpoint_last.pt"]
        (captions / name).rename(captions / f"{name}-small")
    output = run_block(large, programs, captions, UPDATES="2")
    assert len(re.findall(r"begin validation on", output)) == 2
    for name, width in (("vtlm", 512), ("mmt", 512), ("vtlm-small", 128), ("mmt-small", 128)):
        assert checkpoints(captions / name) == ["checkpoint_best.pt", "checkpoint_last.pt"]
        assert torch.load(captions / name / "checkpoint_best.pt")["cfg"]["model"]["encoder_embed_dim"] == width
