"""Image ids of captions and stores that do not meet: the message names the rule that would make them."""

import argparse
import io
import tarfile
import unicodedata

import numpy as np
import pytest
import region_layouts
from extraction import extract_regions
from region_sources import coco

from stores import ends_with, fault, make_store
from vtlm_fairseq.cli.prepare import main as prepare
from vtlm_fairseq.cli.regions import main as regions
from vtlm_fairseq.cli.translate import split_line
from vtlm_fairseq.corpora.flickr30k_entities import read_entities
from vtlm_fairseq.evaluation.report.pictures import say_missing
from vtlm_fairseq.regions.formats.coco_json import CocoImages
from vtlm_fairseq.regions.formats.layout import read_layout
from vtlm_fairseq.regions.formats.mapped import MappedImages
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.regions.validate import find_missing
from vtlm_fairseq.tasks.splits import read_image_names
from vtlm_fairseq.text.caption_files import CaptionFile
from vtlm_fairseq.text.id_rules import IdRule, explain_missing

E_ACUTE = unicodedata.normalize("NFC", "cafe\u0301")


@pytest.mark.parametrize(
    ("rules", "given", "changed"),
    [
        ("extension", "a/b.JPG", "a/b"),
        ("extension", "1.5", "1.5"),
        ("basename", "train2014/x.jpg", "x.jpg"),
        ("basename", "C:\\photos\\x.jpg", "x.jpg"),
        ("fragment", "36979.jpg#0", "36979.jpg"),
        ("zeros", "000123", "123"),
        ("zeros", "0000", "0"),
        ("zeros", "COCO_000123", "COCO_000123"),
        ("blanks", "\ufeff 1.jpg \t", "1.jpg"),
        ("nfc", "cafe\u0301", E_ACUTE),
        ("zeros,extension, basename,fragment", "a/000123.jpg#4", "123"),
    ],
)
def test_rules(rules, given, changed):
    assert IdRule.parse(rules)(given) == changed
    assert IdRule()(given) == given


def test_rules_that_do_not_do():
    with pytest.raises(argparse.ArgumentTypeError, match="'stem': not one of nfc, blanks, fragment"):
        IdRule.parse("basename,stem")
    assert "'#3'" in fault(IdRule.parse("fragment"), "#3")


@pytest.mark.parametrize(
    ("missing", "there", "rule"),
    [
        ("1.jpg", "1", "extension"),
        ("1", "1.png", "extension"),
        ("val/1", "1", "basename"),
        ("1#3", "1", "fragment"),
        ("0001", "1", "zeros"),
        ("\ufeff1", "1", "blanks"),
        ("1 ", "1", "blanks"),
        ("1 #3", "1", "fragment"),
        ("cafe\u0301", E_ACUTE, "nfc"),
        ("val/0001.jpg#3", "1", "fragment,basename,extension,zeros"),
    ],
)
def test_the_rule_that_would_match(missing, there, rule):
    """Both ids are shown so that their difference is seen."""
    found = explain_missing([missing, "elsewhere"], ["other", there])
    assert f"--id-rule {rule}, " in found and "1 of 2" in found
    for image_id in (missing, there):
        assert (ascii if rule in ("nfc", "blanks") else repr)(image_id) in found
    assert explain_missing([missing], ["other", "another"]) == ""


def test_no_rule_that_makes_two_images_one():
    """Of different folders or shards; one that keeps them apart is named."""
    found = explain_missing(["1.jpg", "2.jpg"], ["a/1.jpg", "b/1.jpg", "a/2.jpg"])
    assert "--id-rule" not in found and "'a/1.jpg'" in found and "'b/1.jpg'" in found
    assert "--id-rule extension, " in explain_missing(["a/1.jpg"], ["b/1", "a/1", "1"])


def test_where_ids_are_looked_up(tmp_path):
    """In training and decoding, by `validate`, and in the sizes of images."""
    make_store(tmp_path / "s.h5", ["a", "b"])
    message = fault(RegionStore([str(tmp_path / "s.h5")]).rows, ["a.jpg", "b.jpg"])
    assert "'a.jpg', 'b.jpg'" in message and "'a.jpg' is there as 'a': --id-rule extension" in message
    message = fault(lambda: RegionStore([str(tmp_path / "s.h5")]).rows(["a", "b.jpg"], lines=["in.tsv line 1", 2]))
    assert message.startswith("line 2: ") and "as 'b'" in message and "extension" in message
    assert "--id-rule" not in message  # the commands that read such lines have none
    (tmp_path / "images").write_text("a\nx/b\n")
    (line,) = find_missing([str(tmp_path / "s.h5")], str(tmp_path / "images"))
    assert "--id-rule basename" in line and "1 of 1" in line


def test_blanks_around_ids_are_left_out_by_captions_and_by_translation(tmp_path):
    (tmp_path / "c.csv").write_text("image,en,de\n 001 ,a dog,ein Hund\n")
    (pair,) = CaptionFile(str(tmp_path / "c.csv"), source_lang="en", target_lang="de", columns=None)
    assert pair.image == "001" and split_line("a dog\t 001 ", "line 1", True) == ("a dog", "001")
    assert "line 1: no image id" in fault(split_line, "a dog\t ", "line 1", True)


def convert(folder, *argv):
    return ["convert", *map(str, ("--npy", folder / "f.npy", "--ids", folder / "ids", "--out", folder / "s.h5", *argv))]


@pytest.mark.slow
def test_convert_and_prepare_with_one_rule(tmp_path, capsys):
    """Both sides by the same option; the sizes of images too."""
    np.save(tmp_path / "f.npy", np.ones((3, 1, 2), np.float32))
    np.save(tmp_path / "b.npy", np.tile([0, 0, 5, 5], (3, 1, 1)))
    (tmp_path / "ids").write_text("v/001.jpg\nv/002.jpg\nv/003.jpg\n")
    (tmp_path / "sizes").write_text("001.jpg\t10\t10\n002.jpg\t10\t10\n003.jpg\t10\t10\n")
    more = ("--boxes", tmp_path / "b.npy", "--box-units", "pixels", "--image-sizes", tmp_path / "sizes")
    assert "--id-rule basename" in ends_with(regions, convert(tmp_path, *more))
    (tmp_path / "ids").write_text(" v/001.jpg\nv/002.jpg\t\nv/003.jpg \n")  # as around the ids of captions
    (tmp_path / "sizes").write_text("".join(f" v/00{k}.jpg \t10\t10\n" for k in (1, 2, 3)))
    assert regions(convert(tmp_path, *more)) == 0
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["v/001.jpg", "v/002.jpg", "v/003.jpg"]
    (tmp_path / "train.images").write_text((tmp_path / "ids").read_text())
    ids = read_image_names(str(tmp_path), "train")
    assert RegionStore([str(tmp_path / "s.h5")]).rows(ids).tolist() == [0, 1, 2]
    make_store(tmp_path / "odd.h5", [" v/001.jpg", "v/001.jpg", "v/003.jpg"])
    assert RegionStore([str(tmp_path / "odd.h5")]).rows([ids[0], ids[2]]).tolist() == [0, 2]  # as it stands there
    assert "' '" in fault(RegionStore([str(tmp_path / "odd.h5")]).rows, [" "])
    assert regions(["validate", str(tmp_path / "s.h5"), "--images", str(tmp_path / "train.images")]) == 0
    (tmp_path / "ids").write_text("v/001.jpg\n \nv/003.jpg\n")
    assert "ids: line 2 is empty" in ends_with(regions, [*convert(tmp_path, *more), "--overwrite"])
    (tmp_path / "ids").write_text("v/001.jpg\nv/002.jpg\nv/003.jpg\n")
    (tmp_path / "sizes").write_text("001.jpg\t10\t10\n002.jpg\t10\t10\n003.jpg\t10\t10\n")
    rule = ("--id-rule", "basename,extension,zeros,fragment")
    assert regions(convert(tmp_path, *more, *rule, "--overwrite")) == 0
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["1", "2", "3"]
    lines = [f"{k:03}.jpg#{c}\tu\tthe cat sat on mat {k} {c}\tdie Katze sass auf Matte {k} {c}\n" for k in (1, 2, 3)
             for c in range(9)]  # fmt: skip
    (tmp_path / "c.tsv").write_text("".join(lines))
    argv = ["captions", "--train", tmp_path / "c.tsv", "--valid", tmp_path / "c.tsv", "--regions", tmp_path / "s.h5"]
    argv = [str(a) for a in (*argv, "--vocab-size", 60, "--workers", 1, "--out", tmp_path / "bin")]
    message = ends_with(prepare, argv)
    assert "'001.jpg#0' is there as '1': --id-rule fragment,extension,zeros, " in message and "27 of 27" in message
    assert prepare([*argv, *rule]) == 0
    assert (tmp_path / "bin/valid.images").read_text().split() == ["1"] * 9 + ["2"] * 9 + ["3"] * 9
    # where only some do not meet
    (tmp_path / "c.tsv").write_text("".join(lines) + "x/0001\tu\ta cat\teine Katze\nnone\tu\ta\tb\n")
    capsys.readouterr()
    assert prepare([*argv[:-1], str(tmp_path / "bin2"), "--id-rule", "fragment,zeros,extension"]) == 0
    report = capsys.readouterr().out
    assert "train: 2 pairs dropped" in report and "--id-rule basename,zeros, " in report and "1 of 2" in report


def test_image_map(tmp_path):
    """The names that it has are those of another side; the rule is of these."""
    (tmp_path / "map").write_text("http://x/1.jpg\ta\nhttp://x/2.jpg\tb\n")
    (tmp_path / "c.tsv").write_text("".join(f"1\tu\ta cat {k}\teine Katze {k}\n" for k in range(3)))
    argv = ["captions", "--train", tmp_path / "c.tsv", "--valid", tmp_path / "c.tsv", "--image-map", tmp_path / "map"]
    message = ends_with(prepare, [str(a) for a in (*argv, "--workers", 1, "--out", tmp_path / "bin")])
    assert "'1' is there as 'http://x/1.jpg'" in message and "basename,extension; " in message and "1 of 1" in message
    assert not (tmp_path / "bin").exists()


def beside(tmp_path):
    """An array for each image, and another beside it under another name."""
    path = region_layouts.vgamt_mdetr(tmp_path)
    (path / "boxes_loc/a.jpg.npy").rename(path / "boxes_loc/a.npy")
    return fault(MappedImages, read_layout("vgamt-mdetr"), str(path))


def two_tables(tmp_path):
    """Two tables, line by line."""
    return fault(MappedImages, read_layout("vinvl"), str(region_layouts.vinvl(tmp_path, key="a.jpg")))


def rows_of_annotations(tmp_path):
    """Arrays called after the images of a COCO file."""
    coco(tmp_path)
    (tmp_path / "f/cat.npy").rename(tmp_path / "f/cat.png.npy")
    return fault(CocoImages, str(tmp_path / "coco.json"), str(tmp_path / "f"))


def quoted_numbers(tmp_path):
    """Numbers of images in quotes on one side."""
    coco(tmp_path, annotations=[{"image_id": "9", "category_id": 3, "bbox": [0, 0, 1, 1]}])
    return fault(CocoImages, str(tmp_path / "coco.json"), str(tmp_path / "f"))


def archive(tmp_path):
    """Flickr30k Entities, packed."""
    with tarfile.open(tmp_path / "e.tgz", "w:gz") as file:
        for name in ("Annotations/1.xml", "Sentences/1.txt"):
            file.addfile(tarfile.TarInfo(name))
    return fault(lambda: list(read_entities(tmp_path / "e.tgz", ["1.jpg"])))


def unpacked(tmp_path):
    """Flickr30k Entities as a folder."""
    for name in ("Annotations/1.xml", "Sentences/1.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    return fault(lambda: list(read_entities(tmp_path, ["0001"])))


def pictures(tmp_path):
    """Photos for the report."""
    (tmp_path / "1.JPG").touch()
    return say_missing(tmp_path, ["1"])


@pytest.mark.parametrize(
    ("join", "shown", "rule"),
    [
        (beside, ("a.jpg", "a"), "extension"),
        (two_tables, ("a.jpg", "a"), "extension"),
        (rows_of_annotations, ("cat.jpg", "cat.png"), "extension"),
        (quoted_numbers, ("9",), "in quotes"),
        (archive, ("1.jpg", "1"), "extension"),
        (unpacked, ("0001", "1"), "zeros"),
        (pictures, ("1", "1.JPG"), "extension"),
    ],
)
def test_other_files_that_name_images(tmp_path, join, shown, rule):
    """Where no option changes the names, too, the message says by which rule two of them agree."""
    message = join(tmp_path)
    assert rule in message and all(repr(name) in message for name in shown), message
    assert "--id-rule" not in message


def write_tar(path, names):
    with tarfile.open(path, "w") as file:
        for name in names:
            buffer = io.BytesIO()
            np.save(buffer, np.full((2, 2, 3), float(name[:4])))
            for member, content in ((name, buffer.getvalue()), (f"{name[:4]}.txt", b"a dog")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


def extract(source, out, *argv):
    return [str(a) for a in ("--images", source, "--detector", "grid", "--workers", 0, "--out", out, *argv)]


@pytest.mark.slow
def test_keys_that_repeat_from_tar_to_tar(tmp_path):
    """Noticed at the start, by each shard; told apart by the name of the tar file."""
    for k in range(3):
        write_tar(tmp_path / f"t{k}.tar", ["0000.npy", "0001.npy"])
    for more in ((), ("--shard", "1/3")):
        message = ends_with(extract_regions.main, extract(tmp_path / "t*.tar", tmp_path / "s.h5", *more))
        assert "'0000'" in message and "--id-prefix tar" in message
    argv = extract(tmp_path / "t*.tar", tmp_path / "s.h5", "--id-prefix", "tar", "--id-rule", "zeros")
    assert extract_regions.main(argv) == 0
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["t0/0", "t0/1", "t1/0", "t1/1", "t2/0", "t2/1"]
    # captions of one of them, with the prefix on one side only
    captions = ["captions", "--train", str(tmp_path / "t0.tar"), "--columns", "en=.txt,de=.txt", "--id-rule", "zeros"]
    captions += ["--valid", str(tmp_path / "t0.tar"), "--vocab-size", "60", "--workers", "1", "--out", "bin"]
    message = ends_with(prepare, [*captions, "--regions", str(tmp_path / "s.h5")])
    assert "'t0/0' is there: add --id-prefix tar, which finds 2 of 2" in message and "basename" not in message
    make_store(tmp_path / "plain.h5", ["0", "1"])
    message = ends_with(prepare, [*captions, "--id-prefix", "tar", "--regions", str(tmp_path / "plain.h5")])
    assert "'0' is there: leave --id-prefix tar out" in message
    assert extract_regions.main([*argv[:-4], "--id-prefix", "tar", "--shard", "2/3", "--overwrite"]) == 0
    assert RegionStore([str(tmp_path / "s.h5")]).ids() == ["t2/0000", "t2/0001"]
    assert "tar files" in ends_with(extract_regions.main, extract(tmp_path, tmp_path / "x.h5", "--id-prefix", "tar"))
