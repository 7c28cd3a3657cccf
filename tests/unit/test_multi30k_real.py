"""Multi30k preparation: reproduces the published tokenised files; on tiny data, what is written and refused."""

import gzip
import json

import pytest
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset
from preparation import DATA, multi30k, needs_data, prepare_cli, read_lines, write

from stores import ends_with
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.text import prepare
from vtlm_fairseq.text.binarise import binarise
from vtlm_fairseq.text.pipeline import TextPipeline

TESTS = ("test_2016_flickr", "test_2017_flickr", "test_2017_mscoco")


def decoded(folder, split: str, lang: str) -> list[str]:
    """What is binarised, back as words."""
    dictionary = Dictionary.load(str(folder / f"dict.{lang}.txt"))
    data = load_indexed_dataset(str(folder / f"{split}.en-de.{lang}"), dictionary)
    text = TextPipeline.load(folder)
    return [text.decode(dictionary.string(line, extra_symbols_to_ignore={dictionary.pad()}), lang) for line in data]


# ---- real data


@needs_data
def test_reproduces_the_tokenised_files_through_the_binarised_data(tmp_path):
    """Prepared with train cut to 3,000 lines; val and test sets whole. Words are compared, then decoded data."""
    for name in ("train.en", "train.de", "train.txt"):
        source = DATA / "multi30k" / ("image_splits" if name.endswith("txt") else "raw") / name
        lines = source.read_bytes().decode("utf-8").split("\n")[:3000]
        write(tmp_path / "in" / name, "".join(f"{line}\n" for line in lines))
    for split in ("val", *TESTS):
        for folder, name in (("raw", f"{split}.en"), ("raw", f"{split}.de"), ("image_splits", f"{split}.txt")):
            write(tmp_path / "in" / name, (DATA / "multi30k" / folder / name).read_bytes().decode("utf-8"))
    out = tmp_path / "out"
    places = ["--raw", str(tmp_path / "in"), "--image-splits", str(tmp_path / "in"), "--out", str(out)]
    prepare_cli.main(["multi30k", *places, "--vocab-size", "2000", "--any-counts"])
    for split in ("val", *TESTS):
        name = "valid" if split == "val" else split
        for lang in ("en", "de"):
            expected = read_lines(DATA / f"multi30k/tok/{split}.lc.norm.tok.{lang}")
            assert len(expected) == multi30k.COUNTS[split]
            assert read_lines(out / "references" / f"{name}.{lang}") == expected
            known = [(a, b) for a, b in zip(decoded(out, name, lang), expected, strict=True) if "<unk>" not in a]
            assert len(known) > 0.98 * len(expected)
            assert [a for a, _ in known] == [b for _, b in known]
    assert read_lines(out / "test_2017_mscoco.images")[0] == "COCO_train2014_000000117071"
    assert read_lines(out / "valid.images")[:2] == ["1018148011", "1029450589"]


@needs_data
def test_counts_of_the_real_files():
    for split, count in multi30k.COUNTS.items():
        for lang in ("en", "de"):
            assert len(multi30k.read_lines(DATA / f"multi30k/raw/{split}.{lang}", option="--raw")) == count
        assert len(multi30k.read_image_ids(DATA / "multi30k/image_splits", split)) == count


# ---- tiny data

EN = ["A man's dog.", "Two men <mask> .", "", "The dog is red.", "A\u2028man"]
DE = ["Der Hund eines Mannes.", "Zwei Männer.", "Leer.", "Der Hund ist rot.", "Ein\u00a0Mann  "]


@pytest.fixture
def raw(tmp_path):
    """Five lines a split, train packed; test_2017_flickr only in English."""
    for split in ("train", "val", "test_2016_flickr", "test_2017_flickr"):
        write(tmp_path / "splits" / f"{split}.txt", "".join(f"{split}_{i}.jpg#{i}\r\n" for i in range(5)))
        for lang, lines in (("en", EN), ("de", DE)):
            if (split, lang) != ("test_2017_flickr", "de"):
                write(tmp_path / "raw" / f"{split}.{lang}", "\n".join(lines))
    for lang in ("en", "de"):
        path = tmp_path / "raw" / f"train.{lang}"
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    return tmp_path


def arguments(raw, out: str, *more: str) -> list[str]:
    places = ["--raw", str(raw / "raw"), "--image-splits", str(raw / "splits"), "--out", str(raw / out)]
    return [*places, "--any-counts", *more]


@pytest.mark.slow
def test_what_is_written(raw):
    prepare_cli.main(["multi30k", *arguments(raw, "out", "--vocab-size", "60")])
    out = raw / "out"
    data = [
        f"{s}.en-de.{lang}.{e}"
        for s in ("train", "valid", "test_2016_flickr")
        for lang in ("en", "de")
        for e in ("bin", "idx")
    ]
    images = [f"{s}.images" for s in ("train", "valid", "test_2016_flickr")]
    files = ["bpe.model", "dict.de.txt", "dict.en.txt", "references", "text.json"]
    assert sorted(p.name for p in out.iterdir()) == sorted(data + images + files)
    assert read_lines(out / "valid.images") == [f"val_{i}" for i in range(5)]
    assert read_lines(out / "references/train.en") == [
        "a man &apos;s dog .",
        "two men <mask> .",
        "",
        "the dog is red .",
        "a man",
    ]
    assert decoded(out, "test_2016_flickr", "en") == read_lines(out / "references/test_2016_flickr.en")
    assert decoded(out, "valid", "de") == read_lines(out / "references/valid.de")
    assert (out / "dict.en.txt").read_bytes() == (out / "dict.de.txt").read_bytes()
    words = [line.split(" ")[0] for line in read_lines(out / "dict.en.txt")]
    assert "<mask>" in words and (len(words) + 4) % 8 == 0

    # fine-tuning data with the same vocabulary
    more = ["--bpe-model", str(out / "bpe.model"), "--dict", str(out / "dict.en.txt")]
    prepare_cli.main(["multi30k", *arguments(raw, "again", *more)])
    for name in [n for n in data if n.endswith("bin")] + ["bpe.model", "dict.en.txt"]:
        assert (raw / "again" / name).read_bytes() == (out / name).read_bytes(), name

    # that vocabulary was learnt from lower-cased text
    assert "--keep-case" in ends_with(prepare_cli.main, ["multi30k", *arguments(raw, "cased", "--keep-case", *more)])
    assert not (raw / "cased").exists() and not (raw / "cased.tmp").exists()


@pytest.mark.slow
def test_subword_nmt_codes_cased_and_without_accents(raw):
    write(raw / "codes", "#version: 0.2\nM a\nMa n\nMan n</w>\n")
    more = ["--bpe-model", str(raw / "codes"), "--keep-case", "--strip-accents", "--no-escape", "--workers", "2"]
    prepare_cli.main(["multi30k", *arguments(raw, "out", *more)])
    out = raw / "out"
    assert read_lines(out / "references/valid.de")[1] == "Zwei Manner ."
    assert read_lines(out / "references/valid.en")[0] == "A man 's dog ."
    content = json.loads((out / "text.json").read_text())
    assert content["steps"] == ["normalise", "tokenise", "strip_accents"]
    assert content["bpe"] == {"kind": "subword_nmt", "file": "bpe.codes"}
    assert decoded(out, "valid", "de") == read_lines(out / "references/valid.de")

    # a dictionary of another vocabulary
    write(raw / "dict.txt", "x 1\n")
    with pytest.raises(SystemExit, match=r"dict.txt: does not know .*--dict"):
        prepare_cli.main(["multi30k", *arguments(raw, "foreign", *more, "--dict", str(raw / "dict.txt"))])


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("raw/val.en", "one\n", "valid: numbers of lines differ .en 1, de 5, images 5."),
        ("splits/val.txt", "a.jpg\n", "valid: numbers of lines differ .*images 1"),
        ("splits/val.txt", "a.jpg\n#2\nb.jpg\n", "val.txt line 2: no image name"),
        ("raw/test_2018_flickr.en", "a\n", None),
        ("out/x", "x", "out: exists already.*--out"),
    ],
)
def test_faults_are_one_line(raw, path, text, message):
    write(raw / path, text)
    if message is None:
        write(raw / "raw/test_2018_flickr.de", text)
        message = "test_2018_flickr.txt: no such file.*--image-splits"
    with pytest.raises(SystemExit, match=message) as error:
        prepare_cli.main(["multi30k", *arguments(raw, "out", "--vocab-size", "60")])
    assert "\n" not in str(error.value)
    assert not (raw / "out.tmp").exists()


def test_counts_and_files_of_train(raw):
    """Counts are checked unless told not to; either name of a file may be missing."""
    argv = ["multi30k", *arguments(raw, "out", "--vocab-size", "60")]
    with pytest.raises(SystemExit, match=r"train.en: 5 lines, Multi30k's train has 29000.*--any-counts"):
        prepare_cli.main([part for part in argv if part != "--any-counts"])
    (raw / "raw/train.de.gz").unlink()
    assert "train.de: no such file, nor train.de.gz; see --raw" in ends_with(prepare_cli.main, argv)


@pytest.mark.slow
def test_options_and_files_that_do_not_fit(raw, capsys):
    codes = ("--bpe-model", str(write(raw / "codes", "d o 12\n")))
    with pytest.raises(SystemExit, match="none.txt.*--dict"):
        prepare_cli.main(["multi30k", *arguments(raw, "out", *codes, "--dict", str(raw / "none.txt"))])
    with pytest.raises(SystemExit):
        prepare_cli.main(["multi30k", *arguments(raw, "out", "--vocab-size", "60", "--dict", "d")])
    assert "--bpe-model" in capsys.readouterr().err
    assert "codes/out" in ends_with(prepare_cli.main, ["multi30k", *arguments(raw, "codes/out", "--vocab-size", "60")])
    for name in ("raw/val.en", "raw/val.de", "splits/val.txt"):
        write(raw / name, "")
    with pytest.raises(SystemExit, match="valid.*--raw"):
        prepare_cli.main(["multi30k", *arguments(raw, "out", "--vocab-size", "60")])
    pipeline = TextPipeline("en", "de")
    options = {"vocab_size": 9, "bpe_model": None, "dictionary": None, "workers": 1}
    for call, named in (
        (lambda: binarise(raw, raw, ["train"], pipeline=pipeline, dictionary=None, workers=1), "fairseq-preprocess"),
        (lambda: prepare.prepare_folder(raw, {"train": []}, pipeline, **options), "train"),
    ):
        with pytest.raises(VTLMError, match=named):
            call()


def test_lines_in_several_processes_keep_their_order():
    lines = [f"line {i}" for i in range(2500)]
    mapped = prepare.map_stream(str.upper, iter(lines), workers=2, label="x")
    assert list(mapped) == [line.upper() for line in lines]
