"""Checkpoints and region stores that are cut off: one line names the file; tests/qa/faults/cuts.py has more cuts."""

import shutil
from pathlib import Path

from qa.faults.cuts import STDIN, unclear, with_checkpoint, with_store


def answers(run, commands, path: Path, size: int):
    """Cut a file, give it to all commands side by side, and hand out their results by name."""
    path.write_bytes(path.read_bytes()[:size])
    results = run.together(list(commands.values()), ok=None, stdin=STDIN)
    found = dict(zip(commands, results, strict=True))
    faults = {name: fault for name, result in found.items() if (fault := unclear(name, result, path))}
    assert not faults, faults
    return found


def files(folder: Path) -> list[str]:
    """Names of all files in a folder and below."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_checkpoint(run, corpus, mmt, tmp_path):
    """Near its end, where only the table of contents is short; commands that go on say how to find a whole one."""
    shutil.copytree(mmt.parent, tmp_path / "cut", ignore=shutil.ignore_patterns("checkpoint*"))
    cut = tmp_path / "cut/checkpoint_last.pt"
    shutil.copy(mmt, cut)
    (tmp_path / "out").mkdir()
    found = answers(run, with_checkpoint(corpus, cut, tmp_path / "out"), cut, cut.stat().st_size - 1)
    for name in ("resume", "--restore-file", "--finetune-from-model", "fairseq-generate", "fairseq-interactive"):
        assert f"vtlm-convert latest {cut.parent}" in found[name].last_line
    assert "no whole checkpoint" in found["vtlm-convert latest"].last_line
    assert files(tmp_path / "out") == []  # fairseq itself makes the folder of the checkpoints
    # fairseq-validate reads the checkpoint before it asks the task: fairseq's stack, and no result
    assert run.validate(corpus.data, cut, ok=False).validations() == []
    shutil.copy(mmt, cut.parent / "checkpoint_1_1.pt")
    latest = run.convert("latest", cut.parent)
    assert latest.last_line.endswith("checkpoint_1_1.pt") and f"skipped: {cut}" in latest.output


def test_checkpoint_that_is_not_there(run, corpus, tmp_path):
    """fairseq's own answer would be a stack."""
    run.generate(corpus.data, tmp_path / "none.pt", regions=corpus.regions, ok=False).fault("none.pt: no such file")


def test_region_store(run, corpus, mmt, tmp_path):
    """In the middle of the features."""
    store = tmp_path / "cut.h5"
    shutil.copy(corpus.store("train"), store)
    answers(run, with_store(corpus, store, mmt, tmp_path / "out"), store, store.stat().st_size // 2)
    assert files(tmp_path) == ["cut.h5"]
