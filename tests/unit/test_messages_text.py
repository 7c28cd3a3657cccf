"""Messages about captions, their preparation and the oracle's regions: from where they come, and what they name."""

import argparse
import contextlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from preparation import (
    annotation,
    entities_regions,
    flickr30k_entities,
    multi30k,
    oracle_features,
    oracle_labels,
    prepare_multi30k,
    write,
)

from messages import message, says
from vtlm_fairseq.corpora.flickr30k_entities import MAX_FILE_BYTES, Box, Caption, ImageEntities, read_entities
from vtlm_fairseq.files import new_folder
from vtlm_fairseq.text.binarise import binarise
from vtlm_fairseq.text.caption_files import CaptionFile, stream_lines
from vtlm_fairseq.text.pipeline import TextPipeline, learn_sentencepiece, load_bpe
from vtlm_fairseq.text.prepare import check_reused_steps, prepare_folder, zip_pairs


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def captions(path: str, text: bytes | None = None, **columns) -> CaptionFile:
    """A file of captions, written if text is given."""
    if text is not None:
        Path(path).write_bytes(text)
    columns = columns or {"image": "1", "en": "2", "de": "3"}
    return CaptionFile(path, source_lang="en", target_lang="de", columns=columns)


def test_caption_files(here):
    keys = {"image": "image", "en": "en", "de": "de"}
    rows = [
        ("caption_files.__init__", "--train none.tsv: no such file", lambda: captions("none.tsv")),
        (
            "caption_files.__init__",
            "e.g. --columns image=1,en=3,de=4",
            lambda: captions("x.tsv", b"", image="1", en="2"),
        ),
        ("caption_files._find", "give a .tsv or .jsonl file, or the common beginning", lambda: captions("none")),
        ("caption_files.__iter__", "x.tsv line 1: no image id", lambda: list(captions("x.tsv", b" \ta\tb\n"))),
        ("caption_files._read_jsonl", "x.jsonl line 1: not JSON", lambda: list(captions("x.jsonl", b"{\n", **keys))),
        (
            "caption_files._read_jsonl",
            "x.jsonl line 1: not a JSON object",
            lambda: list(captions("x.jsonl", b"3\n", **keys)),
        ),
        (
            "caption_files._read_jsonl",
            "'image' is missing; see --columns",
            lambda: list(captions("x.jsonl", b"{}\n", **keys)),
        ),
        (
            "caption_files._read_jsonl",
            "'image' is [], must be text; see --columns",
            lambda: list(captions("x.jsonl", b'{"image": []}\n', **keys)),
        ),
        (
            "caption_files._read_tsv",
            "--columns: columns are counted from 1",
            lambda: list(captions("x.tsv", b"a\n", image="0", en="1", de="2")),
        ),
        ("caption_files.stream_lines", "latin line 2: not UTF-8 text; convert it", lambda: list(stream_lines("latin"))),
        ("caption_files.stream_lines", "none: cannot be read (No such file", lambda: list(stream_lines("none"))),
        ("caption_files.stream_lines", "x.gz: cannot be read (Not a gzipped file", lambda: list(stream_lines("x.gz"))),
    ]
    Path("latin").write_bytes(b"a\n\xe9\n")
    Path("x.gz").write_bytes(b"text")
    for site, words, call in rows:
        says(site, words, call)


def pipeline_file(**changes) -> str:
    """The folder of a `text.json` with changes."""
    content = {"schema_version": 1, "source_lang": "en", "target_lang": "de", "steps": [], "sha256": {}}
    content["bpe"] = {"kind": "none", "file": None}
    Path("text.json").write_text(json.dumps(content | changes))
    return "."


@pytest.mark.parametrize(
    ("site", "words", "changes"),
    [
        (
            "pipeline._from_json",
            "schema_version 7 is not known (this version reads 1); install",
            {"schema_version": 7},
        ),
        ("pipeline._from_json", "'bpe' is {'kind': 'x'}, not a kind and its file", {"bpe": {"kind": "x"}}),
        ("pipeline._from_json", "step escape needs tokenise; prepare the data again", {"steps": ["escape"]}),
        ("pipeline.load", "text.json: 'sha256' has no checksum of dict.de.txt; prepare the data again", {}),
        (
            "pipeline._sha256",
            "dict.en.txt: text.json names it, but it cannot be read (No such",
            {"sha256": {"dict.en.txt": "", "dict.de.txt": ""}},
        ),
    ],
)
def test_text_json(here, site, words, changes):
    says(site, words, TextPipeline.load, pipeline_file(**changes))


def test_text_json_that_cannot_be_read(here):
    says(
        "pipeline.load",
        "none/text.json: no such file; give a folder made by a preparation script",
        TextPipeline.load,
        "none",
    )
    Path("text.json").write_text("{")
    text = message("pipeline.load", TextPipeline.load, ".")
    assert "text.json: unreadable (" in text and "prepare the data again or copy the folder whole" in text
    Path("text.json").write_text("[]")
    says("pipeline._from_json", "text.json: not a JSON object; prepare", TextPipeline.load, ".")
    says("pipeline.__post_init__", "BPE kind 'x' is not one of", TextPipeline, "en", "de", bpe="x")
    assert message("pipeline.__post_init__", TextPipeline, "en", "de", ("escape",)) == "step escape needs tokenise"


def test_languages_of_a_pipeline():
    text = TextPipeline("en", "de")
    says(
        "pipeline._check_language",
        "language 'fr': this data is en-de; see --source-lang",
        text.preprocess,
        "a",
        "fr",
    )


def test_bpe_models(here):
    rows = [
        ("pipeline.load_bpe", "none: BPE model cannot be read (No such file", lambda: load_bpe(Path("none"))),
        (
            "pipeline.load_bpe",
            "codes: not codes of subword-nmt (two symbols a line); see --bpe-model",
            lambda: load_bpe(write(here / "codes", "#version: 9.9\na b\n")),
        ),
        (
            "pipeline._load_sentencepiece",
            "neither a sentencepiece model nor codes of subword-nmt",
            lambda: load_bpe(write(here / "text", "a b c d\n")),
        ),
        (
            "pipeline.learn_sentencepiece",
            "sentencepiece cannot learn 9000 pieces (",
            lambda: learn_sentencepiece(["a b"], vocab_size=9000),
        ),
    ]
    for site, words, call in rows:
        text = message(site, call)
        assert words in text and ("--bpe-model" in text or "change --vocab-size" in text)


def test_preparation(here, monkeypatch):
    text = TextPipeline("en", "de", steps=("lowercase",))
    pipeline_file()
    for lang in ("en", "de"):
        Path(f"dict.{lang}.txt").write_text("a 1\n")
    TextPipeline("en", "de", steps=()).save(".")
    options = {"vocab_size": 9, "bpe_model": None, "dictionary": None, "workers": 1}
    rows = [
        (
            "prepare.check_reused_steps",
            "text.json: that text was prepared by no steps, this would be by lowercase; give "
            "the same --keep-case, --strip-accents, --no-escape",
            lambda: check_reused_steps(text, Path("bpe")),
        ),
        (
            "prepare.write",
            "train: no pairs, its file is empty",
            lambda: prepare_folder(here, {"train": []}, text, **options),
        ),
        (
            "prepare.zip_pairs",
            "valid: no lines, its files are empty; see --raw",
            lambda: zip_pairs({"en": [], "de": []}, [], split="valid"),
        ),
        (
            "prepare.zip_pairs",
            "train: numbers of lines differ (en 1, de 0, images 0); mend the raw files",
            lambda: zip_pairs({"en": ["a"], "de": []}, [], split="train"),
        ),
        (
            "binarise.binarise",
            "none: no such file; see --dict",
            lambda: binarise(here, here, ["train"], pipeline=text, dictionary=Path("none"), workers=1),
        ),
        (
            "writing.check_new_folder",
            "text.json: exists already; remove it or choose another --out",
            lambda: contextlib.ExitStack().enter_context(new_folder(Path("text.json"))),
        ),
        (
            "writing.check_writable",
            "text.json/out: cannot be written (Not a directory)",
            lambda: contextlib.ExitStack().enter_context(new_folder(Path("text.json/out"))),
        ),
    ]
    for site, words, call in rows:
        says(site, words, call)
    call = {"pipeline": text, "dictionary": None, "workers": 1}
    failed = message("binarise.binarise", binarise, here, here, ["train"], **call)
    assert failed.startswith("fairseq-preprocess failed: FileNotFoundError") and "train" in failed


@pytest.fixture
def entities(here):
    """A folder of Flickr30k Entities with one image in each of train and val."""
    for split, image in (("train", "1"), ("val", "2")):
        write(here / f"splits/{split}.txt", f"{image}.jpg\n")
        write(here / f"raw/{split}.en", "A dog\n")
        write(here / f"entities/Sentences/{image}.txt", "[/EN#1/animals A dog]\n[/EN#1/animals A dog] runs\n")
        write(here / f"entities/Annotations/{image}.xml", annotation(9, 9, [((0, 0, 5, 5), (1,))]))
    return here


def archive(size: int, name: str = "Sentences/1.txt") -> Path:
    """An archive of one member."""
    with tarfile.open("e.tgz", "w:gz") as file:
        member = tarfile.TarInfo(name)
        member.size = size
        file.addfile(member, io.BytesIO(bytes(size)))
    return Path("e.tgz")


def test_flickr30k_entities(entities):
    def read(source="entities"):
        return lambda: list(read_entities(Path(source), ["1"]))

    sentences = entities / "entities/Sentences/1.txt"
    sentences.write_bytes(b"\xe9")
    says("flickr30k_entities.read_entities", "entities: Sentences/1.txt is not UTF-8 text", read())
    sentences.write_bytes(bytes(MAX_FILE_BYTES + 1))
    says("flickr30k_entities.read", "bytes, not a file of Flickr30k Entities", read())
    archive(MAX_FILE_BYTES + 1)
    large = f"e.tgz: Sentences/1.txt is larger than {MAX_FILE_BYTES} bytes, not a file of Flickr30k Entities"
    says("flickr30k_entities.__init__", large, read("e.tgz"))
    Path("e.tgz").write_bytes(b"text")
    broken = message("tar._damage", read("e.tgz"))
    assert "e.tgz: not an intact tar file (" in broken and "give --entities the folder" in broken
    says(
        "flickr30k_entities.read_entities",
        "no Sentences/1.txt; Flickr30k Entities covers train, val",
        read(archive(3, "other")),
    )
    says(
        "flickr30k_entities._open",
        "neither an archive nor a folder with Sentences and Annotations, see --entities",
        read("none"),
    )


def regions(*more) -> argparse.Namespace:
    """Options of `entities_regions.py`."""
    argv = ["--entities", "entities", "--raw", "raw", "--image-splits", "splits", "--splits", "train,val"]
    return entities_regions.parse_arguments([*argv, "--feature-dim", "4", "--out", "out", *more])


def test_entities_regions(entities, capsys):
    def built(*more):
        return lambda: entities_regions.build(regions(*more))

    write(entities / "out/train.h5", "")
    says("entities_regions.build", "out/train.h5: exists already; remove it or choose another --out", built())
    rows = [
        (
            "entities_regions.build",
            "--splits 'train,train': give each split once, separated by commas",
            ("--splits", "train,train"),
        ),
        (
            "entities_regions.build",
            "--feature-dim must be at least 1, --noise and --seed not negative",
            ("--seed", "-1"),
        ),
        (
            "entities_regions.read_translated",
            "marks line 1: not `image id<TAB>number`, or an image given twice",
            ("--translated-captions", "marks"),
        ),
        (
            "entities_regions._take_translated",
            "--translated-captions: no line for image 1 of train",
            ("--translated-captions", "other"),
        ),
        (
            "oracle_labels.other_captions",
            "image 1: caption 7 of 2 is named as the translated one; see --translated-captions",
            ("--translated-captions", "seventh"),
        ),
    ]
    Path("marks").write_text("1 0\n")
    Path("other").write_text("9\t0\n")
    Path("seventh").write_text("1\t7\n2\t0\n")
    (entities / "out/train.h5").unlink()
    for site, words, more in rows:
        says(site, words, built(*more))
    write(entities / "raw/train.en", "A dog\nA dog\n")
    says("entities_regions._find_translated", "2 lines for 1 images; see --raw and --image-splits", built())
    write(entities / "raw/train.en", "A cat\n")
    says("entities_regions._find_translated", "none of the captions of image 1; check that --raw", built())
    write(entities / "splits/val.txt", "1.jpg\n")
    says("entities_regions.__init__", "splits: an image stands twice in the splits train, val", built())
    with pytest.raises(SystemExit):
        entities_regions.parse_arguments(["--entities", "e", "--image-splits", "s", "--out", "o"])
    assert "give --raw, or --translated-captions" in capsys.readouterr().err


def test_classes_that_cannot_be_told_apart():
    """Two classes of one prototype: half of the labels are read right at best."""
    features = oracle_features.OracleFeatures(["a", "b"], feature_dim=4, seed=1, noise=1.0)
    features.prototypes[1] = features.prototypes[0]
    boxes = [oracle_labels.LabelledBox((0, 0, 1, 1), label, ()) for label in (0, 1)]
    text = message("oracle_features.calibrate", oracle_features.calibrate, features, [("x", boxes)])
    assert "50.0% of the labels are read right without noise; use a larger --feature-dim" in text


def test_captions_that_are_not_there():
    image = ImageEntities("7", 9, 9, (Caption("a", ()),), (Box((0, 0, 1, 1), ()),))
    says("oracle_labels.other_captions", "(counted from 0)", oracle_labels.other_captions, image, 1)


def test_marks_and_boxes():
    caption, boxes = flickr30k_entities.parse_caption, annotation(9, 9, [((0, 0, 5, 10), (1,))]).encode()
    says(
        "flickr30k_entities.parse_caption",
        "caption: a phrase is not of the form [/EN#chain/type words]",
        caption,
        "/EN#1",
    )
    where = {"where": "a.xml"}
    says(
        "flickr30k_entities.parse_annotation",
        "a.xml: box (0, 0, 5, 10) does not lie in the image of 9 x 9 pixels",
        flickr30k_entities.parse_annotation,
        boxes,
        **where,
    )


def test_splits_of_captions(here):
    import prepare_captions

    argv = ["--train", "x.tsv", "--out", "out"]
    Path("x.tsv").write_text("a\tb\tc\td\n")

    def captions_of(*more):
        return lambda: prepare_captions.Captions(prepare_captions.parse_arguments([*argv, *more]), None)

    rows = [
        (
            "prepare_captions.__init__",
            "--test x: must be NAME=FILE, with a name of its own such as test_2016",
            captions_of("--valid", "x.tsv", "--test", "x"),
        ),
        (
            "prepare_captions.__init__",
            "--valid-size takes its images from those of train: give --regions one file, also in training",
            captions_of("--valid-size", "1", "--regions", "."),
        ),
    ]
    for site, words, call in rows:
        says(site, words, call)


def test_multi30k(entities, capsys):
    argv = ["--raw", "raw", "--image-splits", "splits", "--out", "out"]
    for lang in ("en", "de"):
        write(entities / f"raw/test_2016_flickr.{lang}", "A dog\n")
    arguments = prepare_multi30k.parse_arguments([*argv, "--vocab-size", "9"])
    says(
        "prepare_multi30k._test_sets",
        "splits/test_2016_flickr.txt: no such file for this test set; see --image-splits",
        prepare_multi30k.read_text,
        arguments,
    )
    with pytest.raises(SystemExit):
        prepare_multi30k.parse_arguments([*argv, "--vocab-size", "9", "--dict", "d"])
    assert "--dict belongs to an existing BPE model: give --bpe-model too" in capsys.readouterr().err
    arguments.target_lang = "en"
    says("text_options.make_pipeline", "are both 'en'; name two languages", prepare_multi30k.prepare, arguments)
    write(entities / "splits/x.txt", "a.jpg\n#0\n")
    says("multi30k.read_image_ids", "splits/x.txt line 2: no image name", multi30k.read_image_ids, Path("splits"), "x")


def test_translation_of_captions(here):
    import translate_captions

    Path("x.tsv").write_text("a\tb\n")
    arguments = argparse.Namespace(input="x.tsv", column=3)
    says(
        "translate_captions.read_sentences",
        "x.tsv line 1: 2 columns between tabs, no column 3; see --column",
        list,
        translate_captions.read_sentences(arguments),
    )
    options = {"block": 8, "settings": {}}
    says(
        "translate_captions.refuse_existing",
        "x.tsv: exists already; remove it or choose another --out",
        translate_captions.BlockWriter,
        Path("x.tsv"),
        **options,
    )
    says(
        "writing.check_writable",
        "none/y.partial: cannot be written (No such file or directory): folder",
        translate_captions.BlockWriter,
        Path("none/y"),
        **options,
    )


def test_dictionaries_of_a_translator(here, monkeypatch):
    import translate_captions

    monkeypatch.setattr(translate_captions, "load_checkpoint", lambda path, mmap: {})
    argv = ["--model", "m", "--input", "x", "--out", "y"]
    says(
        "translate_captions.__init__",
        "m/dict.en.txt: no such file; see --model, -s and -t",
        translate_captions.TextTranslator,
        translate_captions.parse_arguments(argv),
    )
