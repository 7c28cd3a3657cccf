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


def test_ten_minutes_in_two(tmp_path):
    """The script of phases, at a toy size: all but the compiler's run to their ends, with waits and memory."""
    out = tmp_path / "gpu.json"
    phases = "machine,attention,eager,others,loader,translation,decoding"
    line = ["--size", "tiny", "--minutes", "2", "--out", out, "--phases", phases]
    ran = shell(sys.executable, ROOT / "benchmarks" / "gpu.py", *line, cwd=tmp_path, timeout=300)
    assert ran.status == 0, ran.output[-4000:]
    report = json.loads(out.read_text(encoding="utf-8"))
    assert list(report["phases"]) == phases.split(",")
    for name, found in report["phases"].items():
        for group in found.get("groups", {}).values():
            assert name == "attention" or group["errors"] == {}
            assert all(cell["memory_gb"] > 0 and cell["waits"] is not None for cell in group["cells"].values())
