"""The notebook of the quickstart runs from its first cell to its last, with few updates."""

import importlib.util
import os
import shutil

import pytest
from programs import write_programs

from harness import ROOT, environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("nbclient", "ipykernel", "matplotlib")),
        reason="nbclient, ipykernel or matplotlib are not installed (extra `notebook`)",
    ),
]


def test_tour(run, tmp_path, monkeypatch):
    """Scenes drawn, words and translations of a sentence with both of them, shares, pictures, a page."""
    import nbformat
    from nbclient import NotebookClient

    for name in ("tour.ipynb", "make_data.py"):
        shutil.copy(ROOT / "examples/quickstart" / name, tmp_path)
    path = f"{write_programs(run, tmp_path)}{os.pathsep}{os.environ['PATH']}"
    for name, value in {**environment(), "PATH": path, "TOUR_UPDATES": "4", "CUDA_VISIBLE_DEVICES": ""}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(tmp_path / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the notebook is kept without outputs"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(
        output["text"] for output in outputs if output.output_type == "stream" and output["name"] == "stdout"
    )
    lines = printed.splitlines()
    assert [line[:16].strip() for line in lines] == ["its scene", "the other scene", "no scene"]
    assert all(line.count("%") == 3 for line in lines)
    results = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in results) == 2
    plain = [data.get("text/plain", "") for data in results]
    (translations,) = [eval(text) for text in plain if text.startswith("[")]
    (shares,) = [eval(text) for text in plain if text.startswith("{")]
    assert len(translations) == 2 and set(shares) == {"its scene", "the other scene"}
    assert all(0 <= share <= 1 for share in shares.values())
    assert (tmp_path / "tour/report.html").is_file()
