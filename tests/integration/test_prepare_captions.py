"""preprocess/prepare_captions.py: TSV and line files to folders that train, with the pairs that were left out."""

import importlib
import io
import json
import random
import sys
import tarfile

import numpy as np
import pytest
from preparation import read_lines

from harness import ROOT, write_lines
from stores import make_store
from vtlm_fairseq.text.pipeline import TextPipeline

sys.path.insert(0, str(ROOT / "benchmarks"))
corpus_size = importlib.import_module("corpus_size")

SCRIPT = ROOT / "preprocess/prepare_captions.py"
COLOURS = (("red", "rote"), ("Green", "Grüne"), ("blue", "blaue"))
THINGS = (("ball", "Kugel"), ("bag", "Tasche"), ("street", "Straße"), ("flower", "Blume"))


def captions(images: int, each: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """Image name, English and German of every line; lines of an image do not follow each other."""
    rng = random.Random(seed)
    lines = []
    for _ in range(each):
        for image in range(images):
            (colour, farbe), (thing, ding) = rng.choice(COLOURS), rng.choice(THINGS)
            count = rng.randint(2, 40)
            english, german = f"A {colour} {thing} & {count} more.", f"Eine {farbe} {ding} & {count} mehr."
            lines.append((f"img{image}.jpg", english, german))
    return lines


@pytest.fixture(scope="module")
def prepared(run, tmp_path_factory):
    """A TSV of the paper's layout, a store without some of its images, and the folder made of them."""
    folder = tmp_path_factory.mktemp("captions")
    lines = captions(40, 3)
    lines[5] = ("img5.jpg", "ball " * 101, "Kugel.")
    lines[7] = ("img7.jpg", "A ball.", "")
    write_lines(folder / "cc.tsv", (f"{image}\thttp://x/{image}\t{en}\t{de}" for image, en, de in lines))
    write_lines(folder / "test.tsv", (f"{i}\t\t{en}\t{de}" for i, en, de in [*lines[:9], ("img1.jpg", "", "x")]))
    ids = [f"img{i}" for i in range(38)]
    make_store(folder / "regions.h5", ids, regions=[0 if i == 11 else 3 for i in range(38)])
    result = run(
        *(SCRIPT, "--train", folder / "cc.tsv", "--valid-size", 6, "--test", f"flickr={folder / 'test.tsv'}"),
        *("--regions", folder / "regions.h5", "--strip-extension", "--vocab-size", 90, "--workers", 1),
        *("--out", folder / "bin"),
    )
    return folder, lines, result


def test_what_is_written_and_left_out(prepared):
    """Splits, image ids, pieces and `dropped.tsv`, line by line."""
    folder, lines, result = prepared
    out = folder / "bin"
    splits = {split: read_lines(out / f"{split}.images") for split in ("train", "valid", "flickr")}
    assert len(set(splits["valid"])) == 6 and not set(splits["valid"]) & set(splits["train"])
    gone = {"img38", "img39", "img11"}
    assert set(splits["train"]) | set(splits["valid"]) == {f"img{i}" for i in range(40)} - gone
    assert len(splits["train"]) + len(splits["valid"]) == 37 * 3 - 2
    assert len(splits["flickr"]) == 10  # a test set stays whole, over-long and empty lines included

    dropped = [line.split("\t") for line in read_lines(out / "dropped.tsv")]
    tsv = folder / "cc.tsv"
    for number in (12, 39, 40, 52, 79, 80, 92, 119, 120):
        assert ["train", f"{tsv} line {number}", f"img{(number - 1) % 40}"] in [line[:3] for line in dropped]
    reasons = {place: reason for _, place, _, reason in dropped}
    assert reasons[f"{tsv} line 12"] == reasons[f"{tsv} line 52"] != reasons[f"{tsv} line 39"]
    assert reasons[f"{tsv} line 6"] == "source is too long" and reasons[f"{tsv} line 8"] == "target is empty"
    assert len(dropped) == 11
    assert "train: 6 pairs dropped, image is not in the region store" in result.output
    assert "dropped.tsv: the 11 pairs dropped" in result.output

    english = read_lines(out / "references/train.en")
    kept = [en for image, en, de in lines if de and len(en) < 100 and image[:-4] in splits["train"]]
    assert english == [line.lower().replace("&", "&amp;").replace(".", " .") for line in kept]
    content = json.loads((out / "text.json").read_text())
    assert content["bpe"]["kind"] == "sentencepiece" and sorted(content["sha256"]) == [
        "bpe.model", "dict.de.txt", "dict.en.txt",
    ]  # fmt: skip
    assert not [p.name for p in out.iterdir() if p.name.startswith(("tmp", "."))]


def test_it_trains(run, prepared, tmp_path):
    folder, _, _ = prepared
    result = run.pretrain(folder / "bin", tmp_path / "save", regions=folder / "regions.h5")
    assert result.updates()[-1]["num_updates"] == 3
    assert np.isfinite(result.validations()[-1]["mrc_loss"])


def test_shards_of_a_downloader(run, prepared, tmp_path):
    """Two tar files with the same keys, and images that were not fetched: dropped and counted, ids by the shard."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"0000{shard}.tar", "w") as archive:
            for key, (_, english, german) in enumerate(captions(5, 1, seed=shard)):
                status = "success" if key else "failed_to_resize"
                record = {"caption": english, "german": german, "url": "http://x", "status": status}
                for name, content in ((f"{key}.jpg", b""), (f"{key}.json", json.dumps(record).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    make_store(tmp_path / "regions.h5", [f"0000{shard}/{key}" for shard in range(2) for key in range(4)])
    first = prepared[0] / "bin"
    argv = (SCRIPT, "--train", tmp_path / "*.tar", "--valid-size", 2, "--columns", "en=caption,de=german")
    argv += ("--bpe-model", first / "bpe.model", "--regions", tmp_path / "regions.h5", "--out", tmp_path / "bin")
    run(*argv, ok=False).fault("00000.tar", "00001.tar", "--id-prefix tar")
    for name, line in (("images", "00001/2"), ("en", "A ball."), ("de", "Eine Kugel.")):
        write_lines(tmp_path / f"test.{name}", [line])  # the prefix is for shards only
    result = run(*argv, "--id-prefix", "tar", "--test", f"test={tmp_path / 'test'}", "--workers", 1)
    assert read_lines(tmp_path / "bin/test.images") == ["00001/2"]
    assert "train: 2 pairs dropped, image was not fetched, status 'failed_to_resize'" in result.output
    assert "train: 2 pairs dropped, image is not in the region store" in result.output
    found = [line for split in ("train", "valid") for line in read_lines(tmp_path / f"bin/{split}.images")]
    assert sorted(found) == [f"0000{shard}/{key}" for shard in range(2) for key in range(1, 4)]
    dropped = [line.split("\t") for line in read_lines(tmp_path / "bin/dropped.tsv")]
    assert [row[2] for row in dropped] == ["0", "00000/4", "0", "00001/4"]
    images = read_lines(tmp_path / "bin/train.images")
    english = read_lines(tmp_path / "bin/references/train.en")[images.index("00001/3")]
    assert english == captions(5, 1, seed=1)[3][1].lower().replace("&", "&amp;").replace(".", " .")


def test_tokenised_text_gives_the_same_folder(run, prepared, tmp_path):
    """Text after Moses is refused; with --tokenised all is as from the raw text, `text.json` too: it takes raw text."""
    lines = [(image, en.replace("a ", "the dog's "), de) for image, en, de in captions(12, 1)]
    moses = TextPipeline("en", "de", steps=("normalise", "tokenise", "escape"))
    (tmp_path / "raw.csv").write_text("image,en,de\n" + "".join(f"{i},{en},{de}\n" for i, en, de in lines))
    done = "".join(f"{i},{moses.preprocess(en, 'en')},{moses.preprocess(de, 'de')}\n" for i, en, de in lines)
    (tmp_path / "done.csv").write_text("image,en,de\n" + done)
    model = ("--bpe-model", prepared[0] / "bin/bpe.model", "--workers", 1)
    for name, more in (("raw", ()), ("done", ("--tokenised",))):
        argv = (SCRIPT, "--train", tmp_path / f"{name}.csv", "--valid", tmp_path / f"{name}.csv", *model)
        if more:
            run(*argv, "--out", tmp_path / name, ok=False).fault("train, en: ", "&apos;", "--tokenised")
        run(*argv, *more, "--out", tmp_path / name)
    names = sorted(path.relative_to(tmp_path / "raw") for path in (tmp_path / "raw").rglob("*") if path.is_file())
    assert len(names) > 15
    for name in names:
        if name.name != "preprocess.log":
            assert (tmp_path / "raw" / name).read_bytes() == (tmp_path / "done" / name).read_bytes(), name


def test_line_files_with_an_earlier_vocabulary(run, prepared, tmp_path):
    """URLs become ids by a map; the target language may come first; the dictionary is the earlier one's.

    The current folder has modules of fairseq's names: fairseq-preprocess must not be run with them.
    """
    write_lines(tmp_path / "fairseq_cli" / "__init__.py", ["raise SystemExit('code of the current folder ran')"])
    first = prepared[0] / "bin"
    for split in ("train", "valid"):
        lines = captions(6, 2, seed=3)
        for name, texts in (("images", (f"http://x/{i}" for i, _, _ in lines)), ("en", (en for _, en, _ in lines))):
            write_lines(tmp_path / f"{split}.{name}", texts)
        write_lines(tmp_path / f"{split}.de", (de for _, _, de in lines))
    write_lines(tmp_path / "map", (f"http://x/img{i}.jpg\t{i:05d}" for i in range(5)))
    result = run(
        *(SCRIPT, "--train", tmp_path / "train", "--valid", tmp_path / "valid", "--image-map", tmp_path / "map"),
        *("-s", "de", "-t", "en", "--bpe-model", first / "bpe.model", "--dict", first / "dict.en.txt"),
        *("--workers", 2, "--out", tmp_path / "bin"),
        cwd=tmp_path,
    )
    assert "valid: 2 pairs dropped, image is not in --image-map" in result.output
    assert read_lines(tmp_path / "bin/train.images") == [f"{i:05d}" for i in range(5)] * 2
    assert (tmp_path / "bin/dict.de.txt").read_bytes() == (first / "dict.en.txt").read_bytes()
    pipeline = TextPipeline.load(tmp_path / "bin")
    assert (pipeline.source_lang, pipeline.target_lang) == ("de", "en")
    assert read_lines(tmp_path / "bin/references/valid.de")[0].startswith("eine ")
    binarised = [f"train.de-en.{lang}.{kind}" for lang in ("de", "en") for kind in ("bin", "idx")]
    assert sorted(p.name for p in (tmp_path / "bin").glob("train.*")) == [*binarised, "train.images"]


def test_faults_leave_nothing(run, prepared, tmp_path):
    """One line each, and no folder."""
    folder = prepared[0]
    tsv, store = folder / "cc.tsv", folder / "regions.h5"
    both = ("--train", tsv, "--valid", tsv)
    base = (SCRIPT, "--vocab-size", 90, "--workers", 1, "--out", tmp_path / "bin")
    write_lines(tmp_path / "x.jsonl", ["{}"])
    write_lines(tmp_path / "bad.tsv", ["a\tb\tA ball.\tEin Ball.", "a\tb\tc"])
    for argv, parts in (
        (("--train", tmp_path / "no.tsv", "--valid-size", 2), ("--train", "no.tsv: no such file")),
        (("--train", tmp_path / "bad.tsv", "--valid", tsv), ("bad.tsv line 2", "3 columns between tabs, must be 4")),
        (("--train", tsv, "--valid-size", 40), ("--valid-size 40", "there are 40 images")),
        (("--train", tsv, "--valid-size", 2, "--columns", "image=1,en=3"), ("--columns", "where de is")),
        ((*both, "--test", "test"), ("--test test", "NAME=FILE")),
        ((*both, "--id-prefix", "tar"), ("--id-prefix tar", "there is none")),
        ((*both, "--id-prefix", "tar", "--image-map", tsv), ("--image-map", "leave out one")),
        (("--train", tmp_path / "x.jsonl", "--valid-size", 2, "--quoting", "minimal"), ("--quoting", "there is none")),
        ((*both, "--test", f"t={tsv}", "--regions", store, "--strip-extension"),
         ("cc.tsv line 12: ", "regions", "test set")),
        ((*both, "--regions", store), ("cc.tsv line 1: ", "'img0.jpg'", "no pair of train", "--strip-extension")),
        (("--train", tsv, "--valid-size", 2, "--regions", folder), ("--regions", "vtlm-regions merge")),
        ((*both, "--min-tokens", 500, "--max-tokens", 600), ("no pair", "--min-tokens")),
        ((*both, "--min-tokens", 9, "--max-tokens", 3), ("--min-tokens 9", "--max-tokens 3")),
        ((*both, "-t", "en"), ("-s en -t en",)),
    ):  # fmt: skip
        run(*base, *argv, ok=False).fault(*parts)
    assert not list(tmp_path.glob("bin*"))


def test_corpus_size_benchmark_at_a_small_size(run, tmp_path):
    """Generated captions and a store of 2 GB, a sparse file that takes no room, are prepared and train."""
    pairs = 20_000
    corpus_size.write_captions(tmp_path / "c.tsv", 300, words=400)
    corpus_size.write_store(tmp_path / "regions.h5", pairs)
    stat = (tmp_path / "regions.h5").stat()
    assert stat.st_blocks * 512 < 2_000_000 < pairs * 36 * 1536 * 2 < stat.st_size
    run(
        *(SCRIPT, "--train", tmp_path / "c.tsv", "--valid-size", 20, "--regions", tmp_path / "regions.h5"),
        *("--vocab-size", 300, "--workers", 1, "--out", tmp_path / "bin"),
    )
    assert len(read_lines(tmp_path / "bin/train.images")) == 280
    command = corpus_size.train_command(tmp_path / "bin", tmp_path / "regions.h5", 3)
    result = run("fairseq_cli.train", *command[command.index("fairseq_cli.train") + 1 :])
    assert result.updates()[-1]["num_updates"] == 3
