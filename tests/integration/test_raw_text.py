"""From raw text to translations: preparation, pre-training, other data with the same vocabulary, vtlm-translate."""

import json
import random
import re
import shutil
from pathlib import Path

import pytest

from harness import ROOT, CommandLines, write_lines
from stores import make_store

COLOURS = (("red", "rote"), ("green", "grüne"), ("blue", "blaue"))
THINGS = (("ball", "Kugel"), ("bag", "Tasche"), ("flower", "Blume"), ("street", "Straße"))
WHO = (("A man", "Ein Mann"), ("Two women", "Zwei Frauen"), ("The boy's dog", "Der Hund des Jungen"))


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """English and German raw captions with capitals, punctuation, umlauts and numbers."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        (who, wer), (colour, farbe), (thing, ding) = (rng.choice(x) for x in (WHO, COLOURS, THINGS))
        more = rng.randint(0, 2)
        english = f'{who}, "the {colour} {thing}"' + f" & {rng.randint(2, 30)} {thing}s" * more + "."
        german = f'{wer}, "die {farbe} {ding}"' + f" & {rng.randint(2, 30)} {ding}n" * more + "."
        pairs.append((english, german))
    return pairs


class Captions:
    """A folder in Multi30k's layout, its prepared data and its regions."""

    def __init__(self, run: CommandLines, folder: Path, seed: int, *argv):
        self.raw, self.data, self.regions = folder / "raw", folder / "bin", folder / "regions"
        for split, count in (("train", 60), ("val", 11), ("test_2016_flickr", 13)):
            pairs = sentences(count, seed + count)
            for side, lang in enumerate(("en", "de")):
                write_lines(self.raw / f"{split}.{lang}", (pair[side] for pair in pairs))
            images = [f"{split}-{i // 2}.jpg" for i in range(count)]
            write_lines(folder / f"splits/{split}.txt", images)
            name = "valid" if split == "val" else split
            ids = sorted({image.removesuffix(".jpg") for image in images})
            make_store(self.regions / f"{name}.h5", ids, regions=[i % 5 for i in range(len(ids))], seed=seed)
        run(ROOT / "preprocess/prepare_multi30k.py", "--raw", self.raw, "--image-splits", folder / "splits", "--out",
            self.data, "--any-counts", *argv)  # fmt: skip

    def lines(self, split: str, lang: str) -> list[str]:
        """Raw text."""
        return (self.raw / f"{split}.{lang}").read_text(encoding="utf-8").splitlines()

    def input(self, split: str) -> str:
        """Lines for vtlm-translate."""
        images = (self.data / f"{split}.images").read_text(encoding="utf-8").splitlines()
        return "".join(f"{line}\t{image}\n" for line, image in zip(self.lines(split, "en"), images, strict=True))


TAB = "\t"
TEST = "test_2016_flickr"
SEARCH = ("--beam", "4", "--max-len-b", "25")


@pytest.fixture(scope="module")
def captions(run, tmp_path_factory):
    """Pre-training on one corpus; another is prepared with its vocabulary and fine-tuned on."""
    folder = tmp_path_factory.mktemp("captions")
    first = Captions(run, folder / "first", 0, "--vocab-size", "140")
    run.pretrain(first.data, folder / "pre", "--lr", "3e-3", "--max-update", "8", regions=first.regions)
    vocabulary = ("--bpe-model", first.data / "bpe.model", "--dict", first.data / "dict.en.txt")
    second = Captions(run, folder / "second", 100, *vocabulary)
    run.train(second.data, folder / "mmt", "--pretrained", folder / "pre/checkpoint_last.pt", "--lr", "3e-3",
              "--max-update", "80", "--disable-validation", regions=second.regions)  # fmt: skip
    return second, folder / "mmt/checkpoint_last.pt"


def test_translate_equals_generate(run, captions):
    """vtlm-translate of raw sentences equals fairseq-generate on the same lines, words and scores."""
    second, path = captions
    generated = run.generate(second.data, path, *SEARCH, "--gen-subset", TEST, "--remove-bpe", "sentencepiece",
                             "--nbest", "3", regions=second.regions)  # fmt: skip
    expected = [(int(line), float(score), " ".join(text.split()))  # a lone ▁ leaves two spaces there
                for line, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", generated.output, re.M)]  # fmt: skip
    expected.sort(key=lambda row: (row[0], -row[1]))
    assert len(expected) == 39 and len({text for _, _, text in expected}) > 6
    argv = (*SEARCH, "--regions", second.regions / f"{TEST}.h5", "--no-detokenize")
    best = [text for _, _, text in expected[::3]]
    for batch in (1, 32):
        translated = run.translate(path.parent, *argv, "--batch-size", batch, stdin=second.input(TEST))
        assert translated.output.splitlines()[-13:] == best
    scored = run.translate(path, *argv, "--scores", "--nbest", "3", stdin=second.input(TEST)).output
    rows = [line.split("\t") for line in scored.splitlines()[-39:]]
    assert [(int(number) - 1, text) for number, _, text in rows] == [(line, text) for line, _, text in expected]
    assert [float(score) for _, score, _ in rows] == [pytest.approx(score, abs=2e-3) for _, score, _ in expected]


def test_moved_checkpoint_folder(run, captions, tmp_path):
    """PITFALLS 10: the checkpoint's folder, moved, is all that translating raw text needs beside the regions."""
    second, path = captions
    before = run.translate(path, *SEARCH, "--region-order", "none", stdin=second.input(TEST)).output
    folder = tmp_path / "moved"
    folder.mkdir()
    for name in (path.name, "dict.en.txt", "dict.de.txt", "bpe.model", "text.json"):
        (folder / name).write_bytes((path.parent / name).read_bytes())
    after = run.translate(folder / path.name, *SEARCH, "--region-order", "none", stdin=second.input(TEST)).output
    assert before.splitlines()[-13:] == after.splitlines()[-13:]


def test_running_text_and_empty_lines(run, captions, tmp_path):
    """Running text unless tokens are asked for, or text.json is of a folder that always gave tokens."""
    second, path = captions
    argv = (*SEARCH, "--region-order", "none")
    line = 'A man, "the red ball".\n\n'
    plain = run.translate(path, *argv, "--no-detokenize", stdin=line).output.splitlines()[-2:]
    assert "&quot;" in plain[0] and " , " in plain[0] and not plain[1]
    running = run.translate(path, *argv, stdin=line).output.splitlines()[-2:]
    assert '"' in running[0] and "&quot;" not in running[0] and " ," not in running[0] and not running[1]
    older = shutil.copytree(path.parent, tmp_path / "older")
    described = json.loads((older / "text.json").read_text(encoding="utf-8"))
    assert described.pop("running_text") is True
    (older / "text.json").write_text(json.dumps(described), encoding="utf-8")
    assert run.translate(older, *argv, stdin=line).output.splitlines()[-2:] == plain
    assert run.translate(older, *argv, "--detokenize", stdin=line).output.splitlines()[-2:] == running
    pieces = run.translate(path, *argv, "--preprocessed", stdin="▁a ▁man\n").output.splitlines()[-1]
    assert "▁" in pieces


def test_faults_of_translate(run, captions, tmp_path):
    """One line each."""
    second, path = captions
    store = ("--regions", second.regions / f"{TEST}.h5")
    run.translate(path, *store, stdin="A man.\n", ok=False).fault("line 1", "sentence<TAB>image id")
    known = second.input(TEST).splitlines()[0]
    unknown = f"{known}\n\t{known.split(TAB)[1]}\nA man.\tnobody\n"
    fault = run.translate(path, *store, stdin=unknown, ok=False).fault("standard input line 3", "nobody", "--regions")
    assert ".images" not in fault
    fault = run.translate(path, stdin="A man.\n", ok=False).fault("--region-order none")
    assert "vtlm-translate" not in fault
    run.translate(path, *store, "--nbest", "9", "--beam", "4", stdin="", ok=False)
    run.translate(tmp_path / "x.pt", stdin="A man.\n", ok=False).fault("x.pt", "no such file")
    alone = shutil.copy(path, tmp_path / "alone.pt")  # as of vtlm-convert average --out
    for more in ((), ("--preprocessed",)):
        run.translate(alone, *store, *more, stdin=known, ok=False).fault(str(tmp_path), "--data")
    run.translate(path, *store, "--regions", tmp_path / "x.h5", stdin="A man.\tx\n", ok=False).fault("x.h5")
    long = "ball " * 600 + f"\t{second.input(TEST).split()[-1]}\n"
    run.translate(path, *store, stdin=long, ok=False).fault("line 1", "601 tokens")
