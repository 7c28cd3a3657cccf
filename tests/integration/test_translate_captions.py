"""preprocess/translate_captions.py with a tiny stock fairseq model that is trained here."""

import json
import random

import pytest
import torch
from qa.faults.kills import Running

from harness import ROOT, TRAINING, write_lines
from vtlm_fairseq.text.pipeline import load_bpe

SCRIPT = ROOT / "preprocess/translate_captions.py"
WORDS = {"a": "ein", "man": "Mann", "dog": "Hund", "house": "Haus", "red": "rot", "walks": "geht", ",": ",", ".": "."}


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Tokenised sentences that translate word for word."""
    rng = random.Random(seed)
    lines = [[rng.choice(list(WORDS)) for _ in range(rng.randint(2, 5))] for _ in range(count)]
    return [(" ".join(line), " ".join(WORDS[w] for w in line)) for line in lines]


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    """A folder as fairseq publishes its models: a stock `transformer`, dictionaries, fastBPE codes."""
    folder = tmp_path_factory.mktemp("model")
    codes = ["h o 9", "ho u 8", "M a 7", "Ma nn</w> 1", "d o 6"]
    write_lines(folder / "bpecodes", codes)
    segment = load_bpe(folder / "bpecodes")[1]
    pairs = sentences(60, 1)
    for side, lang in enumerate(("en", "de")):
        write_lines(folder / f"raw/train.{lang}", (segment(pair[side]) for pair in pairs))
    assert "ho@@" in " ".join(segment(pair[0]) for pair in pairs) or "hou@@" in segment("house")
    run("fairseq_cli.preprocess", "-s", "en", "-t", "de", "--joined-dictionary", "--trainpref", folder / "raw/train",
        "--validpref", folder / "raw/train", "--destdir", folder / "bin")  # fmt: skip
    size = "--encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 32 --decoder-ffn-embed-dim 32"
    size += " --encoder-layers 1 --decoder-layers 1 --encoder-attention-heads 2 --decoder-attention-heads 2"
    run("fairseq_cli.train", folder / "bin", "--task", "translation", "--arch", "transformer", "--share-all-embeddings",
        *size.split(), "--criterion", "cross_entropy", "--max-source-positions", 40, "--max-target-positions", 60,
        "--save-dir", folder, *TRAINING, "--max-update", "15", "--lr", "1e-2", "--disable-validation")  # fmt: skip
    (folder / "checkpoint_last.pt").rename(folder / "model.pt")
    for lang in ("en", "de"):
        (folder / f"dict.{lang}.txt").write_bytes((folder / f"bin/dict.{lang}.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """A TSV as Google publishes it: caption and URL; some captions are empty, long, or full of unknown letters."""
    lines = [source for source, _ in sentences(60, 2)]
    lines[3], lines[10], lines[20], lines[-1] = "", "dog " * 300, "???  Ünïcode\u2028and\xa0more", " "
    return write_lines(tmp_path_factory.mktemp("cc") / "cc.tsv", (f"{c}\thttp://x/{i}" for i, c in enumerate(lines)))


@pytest.fixture(scope="module")
def options(model, captions):
    """Options but --out."""
    return ("--model", model, "--input", captions, "--column", 1, "--append", "--block", 8, "--beam", 2, "--cpu")


@pytest.fixture(scope="module")
def translated(run, options, tmp_path_factory):
    """The translation of the captions, made in one go."""
    out = tmp_path_factory.mktemp("out") / "cc.tsv"
    result = run(SCRIPT, *options, "--out", out)
    assert "60 lines, 1 sentences of this run were too long and lost their end" in result.output
    return out


def test_one_line_out_for_each_in(translated, captions):
    """Each output line is the input line and a translation; only empty captions have none."""
    assert sorted(p.name for p in translated.parent.iterdir()) == ["cc.tsv"]
    text = translated.read_bytes().decode()
    lines = text.split("\n")
    given = captions.read_bytes().decode().split("\n")
    assert len(lines) == len(given) == 61 and lines[-1] == ""
    german = []
    for line, before in zip(lines[:-1], given[:-1], strict=True):
        caption, url, translation = line.split("\t")
        assert f"{caption}\t{url}" == before
        german.append(translation)
    assert [i for i, line in enumerate(german) if not line] == [3, 59]
    assert len(set(german)) > 5 and "@@" not in " ".join(german) and "\u2028" not in " ".join(german)


def test_the_same_as_fairseq_generate(run, model, translated, tmp_path):
    """Words of the stock command on the first block, whose lines are tokenised already."""
    rows = [line.split("\t") for line in translated.read_text(encoding="utf-8").split("\n")[:8]]
    rows = [row for row in rows if row[0]]
    segment = load_bpe(model / "bpecodes")[1]
    for lang in ("en", "de"):
        write_lines(tmp_path / f"test.{lang}", (segment(row[0]) for row in rows))
    run("fairseq_cli.preprocess", "-s", "en", "-t", "de", "--srcdict", model / "dict.en.txt", "--joined-dictionary",
        "--testpref", tmp_path / "test", "--destdir", tmp_path / "bin")  # fmt: skip
    argv = (tmp_path / "bin", "--path", model / "model.pt", "--beam", 2, "--cpu", "-s", "en", "-t", "de")
    argv += ("--remove-bpe", "--required-batch-size-multiple", 1, "--tokenizer", "moses")
    result = run("fairseq_cli.generate", *argv)
    found = [line[2:].split("\t") for line in result.output.split("\n") if line.startswith("D-")]
    expected = sorted((int(number), text) for number, _, text in found)
    assert [row[2] for row in rows] == [text.strip() for _, text in expected]


def test_killed_and_continued(run, options, translated, tmp_path):
    """SIGKILL in the middle; the second call goes on and the file equals that of one call, byte for byte."""
    out, partial = tmp_path / "cc.tsv", tmp_path / "cc.tsv.partial"
    running = Running(run, SCRIPT, *options, "--out", out)
    while not partial.exists() or partial.stat().st_size < 500:
        assert not running.wait(0), "it ended before it was killed"
    running.kill()
    assert not out.exists()
    whole = translated.read_bytes()
    content = partial.read_bytes()
    assert content and whole.startswith(content)
    partial.write_bytes(content + b"half a li")  # as a kill within a write would leave it
    done = content.count(b"\n")
    again = run(SCRIPT, *options, "--out", out)
    assert out.read_bytes() == whole
    assert f"{done}/60" in again.output  # the bar begins where the first call ended
    assert [p.name for p in tmp_path.iterdir()] == ["cc.tsv"]


def test_shards_behind_each_other_are_the_whole(run, options, translated, tmp_path):
    """Contiguous parts of 60 lines; a part that was begun is not continued by another one."""
    outs = [tmp_path / f"{part}.tsv" for part in range(3)]
    for part, out in enumerate(outs):
        result = run(SCRIPT, *options, "--shard", f"{part}/3", "--out", out)
    assert "20 lines" in result.output
    assert b"".join(out.read_bytes() for out in outs) == translated.read_bytes()
    settings = {"shard": "0/3"}
    (tmp_path / "x.partial").write_bytes(b"")
    (tmp_path / "x.partial.json").write_text(json.dumps(settings))
    run(SCRIPT, *options, "--shard", "1/3", "--out", tmp_path / "x", ok=False).fault("begun with another", "shard")
    run(SCRIPT, *options, "--fp16", "--out", tmp_path / "y", ok=False).fault("--fp16", "GPU")
    assert not (tmp_path / "y").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision(run, options, translated, tmp_path):
    """As many lines, most of them as in float32 on the CPU."""
    run(SCRIPT, *(option for option in options if option != "--cpu"), "--fp16", "--out", tmp_path / "half.tsv")
    lines = [path.read_text(encoding="utf-8").split("\n") for path in (translated, tmp_path / "half.tsv")]
    same = [one == other for one, other in zip(*lines, strict=True)]
    assert sum(same) > 0.8 * len(same)


def test_faults_of_translation(run, model, options, tmp_path):
    """One line each."""
    out = ("--out", tmp_path / "out")
    run(SCRIPT, *options, *out, "--column", 3, ok=False).fault("cc.tsv line 1: 2 columns", "--column")
    run(SCRIPT, *options, *out, "--checkpoint", "x.pt", ok=False).fault("x.pt: no such file")
    run(SCRIPT, *options, *out, "-t", "fr", ok=False).fault("dict.fr.txt: no such file", "--model")
    (tmp_path / "out.partial").write_bytes(b"")
    (tmp_path / "out.partial.json").write_text('{"beam": 7}')
    run(SCRIPT, *options, *out, ok=False).fault("out.partial: begun with another", "beam", "start anew")
    (tmp_path / "out").write_text("")
    run(SCRIPT, *options, *out, ok=False).fault("out: exists already")
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / "model.pt").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "marker").encode() + b"'\ntR.")
    run(SCRIPT, *options, "--out", tmp_path / "o", "--model", evil, ok=False).fault("model.pt: not a whole fairseq")
    assert not (tmp_path / "marker").exists()
