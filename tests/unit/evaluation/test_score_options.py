"""vtlm-score: options and files that do not fit each other end in one line that names them."""

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from vtlm_fairseq.cli import score
from vtlm_fairseq.text.pipeline import TextPipeline


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder with a translation, its references, and two folders of prepared data."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("hyp", "ein hund\n"), ("ref", "ein hund\n"), ("raw", "Ein Hund\n"), ("two", "a\nb\n")):
        Path(name).write_text(text)
    Path("gap").write_text("H-0\t-1\ta\n")
    Path("second").write_text("2\n")
    for name, steps in (("a", ("lowercase",)), ("b", ())):
        Path(name).mkdir()
        for lang in ("en", "de"):
            Path(name, f"dict.{lang}.txt").touch()
        Path(name, "hyp").write_text("ein hund\n")
        TextPipeline("en", "de", steps=steps).save(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ("", "--system --set"),
        ("hyp", "--ref --raw-ref"),
        ("hyp --ref two", "2 hyp"),
        ("hyp --ref ref --system a hyp", "--system --set"),
        ("--system a hyp --set s ref --ref ref", "--ref --raw-ref --src --set"),
        ("--system a hyp --set s ref --set t ref --subset hyp", "--subset --set"),
        ("--system a hyp --set s ref --set s ref", "--set s, s"),
        ("--system a hyp --set s", "--set s:"),
        ("--system a hyp --system a hyp --set s ref", "--system a, a"),
        ("--system a hyp --set s ref --set t ref", "a: {set} hyp"),
        ("--system a none --set s ref", "a: none s 0"),
        ("hyp hyp --ref ref --sentences out", "--sentences"),
        ("hyp --ref ref --sentences none/out", "--sentences none/out"),
        ("hyp --ref ref --baseline hyp --baseline hyp", "1 2 --baseline"),
        ("hyp --raw-ref raw --meteor-jar x", "--meteor-jar --ref"),
        ("hyp --ref ref --meteor-jar x", "--meteor-jar --lang"),
        ("hyp --ref ref --comet x", "hyp --comet --raw-ref --src"),
        ("hyp --raw-ref raw --src raw --comet x --steps lowercase,tokenise --lang de", "hyp COMET --force"),
        ("hyp --raw-ref raw --src raw --comet none.ckpt --steps none", "none.ckpt --comet"),
        ("hyp --raw-ref raw --src raw --comet hyp --steps none", "--comet vtlm-fairseq[comet]"),
        ("gap --ref two --subset second --allow-missing", "gap"),
        ("a/hyp b/hyp --ref ref", "text.json a/hyp"),
        ("hyp --ref ref --out ./hyp", "--out ./hyp"),
        ("hyp --ref ref --out ref", "--out ref"),
        ("hyp --ref ref --sentences ref", "--sentences ref"),
        ("hyp --ref ref --out new --sentences ./new", "--out new ./new"),
        ("hyp --ref ref --out=", "--out name"),
    ],
)
def test_what_does_not_fit(argv, named, monkeypatch):
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(SystemExit) as end:
        score.main(argv.split())
    message = str(end.value)
    assert message.startswith("error: ") and "\n" not in message
    assert all(part in message for part in named.split()), message


def test_hypotheses_from_a_pipe(capsys):
    """What comes through a pipe can be read once."""
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("ein hund\n",))
    writer.start()
    assert score.main("pipe --ref ref --lang de --steps none --format json --sentences each".split()) == 0
    writer.join()
    assert json.loads(capsys.readouterr().out)["rows"]
    assert Path("each").read_text().splitlines()[1].startswith("0\tein hund\t")
