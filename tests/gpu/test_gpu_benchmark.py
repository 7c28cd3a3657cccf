"""The benchmark command on a GPU."""

import json
import sys

from harness import ROOT, shell


def test_cuda(tmp_path):
    """Sections that compute run on the device; the profile says how busy it was."""
    out = tmp_path / "out.json"
    line = ["--device", "cuda", "--size", "tiny", "--only", "pretrain,finetune,decode", "--repeats", "2"]
    line += ["--at-least", "0.01", "--json", out, "--profile"]
    ran = shell(sys.executable, ROOT / "benchmarks" / "run.py", *line, cwd=tmp_path, timeout=600)
    assert ran.status == 0, ran.output[-4000:]
    assert "GPU busy" in ran.output
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["machine"]["gpu"] and report["machine"]["device"] == "cuda"
    assert list(report["sections"]) == ["pretrain", "finetune", "decode"]
