"""Names of languages and of validation sets, as fairseq's files have them."""

import shutil

import pytest

from stores import fault
from vtlm_fairseq.data.split_files import language_pair, language_pairs

QUICK = ("--max-update", "2", "--disable-validation")


@pytest.mark.parametrize("lang", ["pt-BR", "pt_BR"])
def test_languages_with_a_region(run, corpus, tmp_path, lang):
    """Neither training nor decoding has to be told the pair; image ids and regions are found as ever."""
    data = tmp_path / "bin"
    for split in ("train", "valid", "test"):
        shutil.copytree(corpus.raw, tmp_path / "raw", dirs_exist_ok=True)
        (tmp_path / f"raw/{split}.de").rename(tmp_path / f"raw/{split}.{lang}")
        data.mkdir(exist_ok=True)
        shutil.copy(corpus.data / f"{split}.images", data)
    prefixes = [part for split in ("train", "valid", "test") for part in (f"--{split}pref", tmp_path / "raw" / split)]
    run.preprocess("-s", "en", "-t", lang, "--destdir", data, *prefixes)
    run.pretrain(data, tmp_path / "vtlm", *QUICK, regions=corpus.regions)
    argv = ("--pretrained", tmp_path / "vtlm/checkpoint_last.pt", *QUICK)
    run.train(data, tmp_path / "mmt", *argv, regions=corpus.regions)
    path = tmp_path / "mmt/checkpoint_last.pt"
    decoded = run.generate(data, path, "--beam", "8", "--max-len-b", "9", regions=corpus.regions)
    assert decoded.references() == corpus.lines("test", "de")
    argv = ("--max-len-b", "9", "--regions", corpus.store("test"), "--preprocessed")
    translated = run.translate(path, *argv, stdin=corpus.stdin("test"))
    assert translated.output.splitlines()[-13:] == decoded.hypotheses()


def test_pairs_are_parted_where_the_languages_of_the_files_say(tmp_path):
    for pair, languages in (("en-US-en", "en-US en"), ("pt-pt-BR", "pt pt-BR"), ("zh-Hant-TW-de", "zh-Hant-TW")):
        for lang in languages.split():
            (tmp_path / f"test.{pair}.{lang}.idx").touch()
        assert language_pairs(str(tmp_path)) == [(languages.split()[0], pair.removeprefix(f"{languages.split()[0]}-"))]
        for file in tmp_path.iterdir():
            file.unlink()
    for pair in ("en-de", "en-fr"):
        for lang in pair.split("-"):
            (tmp_path / f"train.{pair}.{lang}.idx").touch()
    assert "en-de and en-fr name the language pair" in fault(language_pair, str(tmp_path))


def test_a_second_validation_set(run, corpus, tmp_path):
    """fairseq ends with a stack where valid1 lies in the folder, also where it is named: one line says what works."""
    here = corpus.copy(tmp_path / "toy")
    for file in here.data.glob("test.en-de.*"):
        shutil.copy(file, here.data / file.name.replace("test.", "valid1."))
    shutil.copy(here.data / "test.images", here.data / "valid1.images")
    shutil.copy(here.store("test"), here.store("valid1"))
    argv = ("--lr", "0", "--max-update", "1", "--no-save")
    for chosen in ("valid", "valid,valid1"):
        refused = run.train(here.data, tmp_path / "a", *argv, "--valid-subset", chosen, ok=False)
        refused.fault(
            "holds valid1; add --combine-valid-subsets to validate on all as one", "--valid-subset valid,valid1"
        )
    each = run.train(here.data, tmp_path / "b", *argv, "--valid-subset", "valid,valid1",
                     "--ignore-unused-valid-subsets", regions=here.regions)  # fmt: skip
    both = run.train(here.data, tmp_path / "c", *argv, "--combine-valid-subsets", regions=here.regions)
    losses = [each.validations(split)[-1]["nll_loss"] for split in ("valid", "valid1")]
    words = [sum(len(line.split()) + 1 for line in corpus.lines(split, "de")) for split in ("valid", "test")]
    mean = sum(loss * count for loss, count in zip(losses, words, strict=True)) / sum(words)
    assert losses[0] != losses[1]
    # valid1 has a store of its own, which is found too
    assert both.validations()[-1]["nll_loss"] == pytest.approx(mean, abs=0.002)
