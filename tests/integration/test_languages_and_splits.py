"""Names of languages and of validation sets, as fairseq's files have them."""

import shutil

import pytest

from harness import ROOT, USER_DIR
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


def test_a_pair_that_the_folder_does_not_hold(run, corpus, vtlm, mmt, tmp_path):
    """It is named with what is there; either direction of a pair is, on the command line and in a recipe."""
    recipe = ("--config-dir", ROOT / "vtlm_fairseq/recipes", "--config-name", "nmt",
              f"common.user_dir={USER_DIR}", "common.cpu=true",
              "optimization.max_update=1", "dataset.disable_validation=true", "checkpoint.no_save=true")  # fmt: skip
    sizes = ("model.encoder_embed_dim=16", "model.encoder_ffn_embed_dim=16", "model.encoder_attention_heads=2")
    reverse = ("task.source_lang=de", "task.target_lang=en")
    trained = run("fairseq_cli.hydra_train", *recipe, *sizes, *reverse, f"task.data={corpus.data}", cwd=tmp_path)
    assert "train de-en 45 examples" in trained.output

    french = tmp_path / "fr"
    shutil.copytree(corpus.data, french)
    for file in french.glob("*.en-de.*"):
        file.rename(french / file.name.replace("en-de.de", "en-de.fr").replace("en-de", "en-fr"))
    (french / "dict.de.txt").rename(french / "dict.fr.txt")
    refused = run("fairseq_cli.hydra_train", *recipe, f"task.data={french}", ok=False, cwd=tmp_path)
    refused.fault(str(french), "holds en-fr, not en-de", "task.target_lang")
    pair = ("-s", "en", "-t", "xx")
    for found in (
        run.pretrain(corpus.data, tmp_path / "a", *pair, *QUICK, regions=corpus.regions, ok=False),
        run.train(corpus.data, tmp_path / "b", *pair, *QUICK, "--pretrained", vtlm, regions=corpus.regions, ok=False),
        run.generate(corpus.data, mmt, *pair, regions=corpus.regions, ok=False),
        run.validate(corpus.data, vtlm, *pair, "--regions", corpus.regions, ok=False),
    ):
        found.fault(f"{corpus.data} holds en-de, not en-xx", "-s and -t")
    shutil.copy(french / "dict.fr.txt", french / "dict.de.txt")  # of a pair whose text is not there
    run.train(french, tmp_path / "c", "-s", "en", "-t", "de", *QUICK, ok=False).fault("holds en-fr, not en-de", "-t")

    # models of en-de on en-fr
    options = ("--regions", corpus.regions)
    run.validate(french, vtlm, "-t", "fr", *options, ok=False).fault("de,en", "'fr'")
    start = ("--pretrained", vtlm, "-t", "fr", *QUICK)
    refused = run.train(french, tmp_path / "d", *start, regions=corpus.regions, ok=False)
    refused.fault(str(vtlm), "en-fr", "--langs de,en,fr")
    run.train(french, tmp_path / "d", *start, "--langs", "de,en,fr", regions=corpus.regions)
    (french / "dict.de.txt").unlink()
    for _ in range(2):  # without the dictionary, and with one, but no text of the pair
        refused = run.probe("attention", french, "--path", mmt, *options, ok=False)
        refused.fault("holds en-fr, not en-de", "the checkpoint's", "data folder")
        shutil.copy(french / "dict.fr.txt", french / "dict.de.txt")


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
