"""docs/python.md: its code runs as it stands, on small models."""

import re
import shutil

import pytest

from harness import ROOT
from stores import make_store
from toy import CLASSES, DIM
from vtlm_fairseq.text.pipeline import TextPipeline

DOCS = (ROOT / "docs/python.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(vtlm, mmt, tmp_path):
    """``vtlm``, ``mmt`` with a text pipeline, and ``regions.h5``, as the page names them."""
    for name, checkpoint in (("vtlm", vtlm), ("mmt", mmt)):
        shutil.copytree(checkpoint.parent, tmp_path / name)
        TextPipeline(source_lang="en", target_lang="de", bpe="none").save(tmp_path / name)
    make_store(tmp_path / "regions.h5", ["1000092795", "10002456"], regions=[3, 5], feature_dim=DIM,
               num_classes=CLASSES)  # fmt: skip
    return tmp_path


def test_code_of_the_page(folder, monkeypatch, capsys):
    """Every block, one after the other."""
    monkeypatch.chdir(folder)
    names: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS, re.M | re.S)
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    first, second = re.findall(r"^(\d) torch.Size\(\[(\d), \d+\]\)$", printed, re.M)
    assert {first, second} == {("0", "1"), ("1", "2")}
    assert len(re.findall(r"^0\.\d{3}  \w+$", printed, re.M)) == 10
    with_image, without, alone = (names[name] for name in ("with_image", "without", "alone"))
    assert len({str(words) for words in (with_image, without, alone)}) == 3
    translations = names["translations"]
    assert len(translations) == 2 and all(isinstance(text, str) for text in translations)
    assert names["mmt"].translate(["A man by a bank."], ["1000092795"], beam=8) == translations[:1]
    assert names["score"].tokens == 7
