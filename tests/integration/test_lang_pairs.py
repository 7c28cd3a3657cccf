"""One model from several corpora: pairs, captions of one language, and text without images."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary

from harness import USER_DIR, CommandLines, pretraining, write_lines
from stores import make_store
from tiny import pretraining_task

WORDS = {"en": "word", "de": "Wort", "fr": "mot", "cs": "slovo"}
NAMES = ("en-de", "en-fr", "en-cs", "en")
SIZES = {"train": 24, "valid": 9, "test": 5}
PAIRS = ("--lang-pairs", ",".join(NAMES))


@pytest.fixture(scope="module")
def corpora(run: CommandLines, tmp_path_factory) -> Path:
    """A folder each, with one dictionary of words of which no two languages share one; en-cs has no images."""
    folder, rng = tmp_path_factory.mktemp("corpora"), random.Random(5)
    write_lines(folder / "words.en", (f"{word}{k}" for word in WORDS.values() for k in range(20)))
    ours = ("--user-dir", USER_DIR, "--task", "visual_translation_lm")
    argv = ("-s", "en", "--only-source", "--trainpref", folder / "words", "--destdir", folder / "dictionary")
    run("fairseq_cli.preprocess", *ours, *argv)
    for number, name in enumerate(NAMES):
        languages = name.split("-")
        argv = ["-s", "en", *(["-t", languages[1]] if len(languages) > 1 else ["--only-source"])]
        for split, size in SIZES.items():
            size += 7 * number
            lines = [[rng.randrange(20) for _ in range(rng.randint(1, 9))] for _ in range(size)]
            for lang in languages:
                text = (" ".join(f"{WORDS[lang]}{w}" for w in line) for line in lines)
                write_lines(folder / "raw" / name / f"{split}.{lang}", text)
            argv += [f"--{split}pref", folder / "raw" / name / split]
            if name != "en-cs":
                ids = [f"{split}-{k}" for k in range(size)]
                write_lines(folder / name / f"{split}.images", ids)
                make_store(folder / "regions" / name / f"{split}.h5", ids, regions=[k % 4 for k in range(size)])
        argv += ["--srcdict", folder / "dictionary" / "dict.en.txt", "--destdir", folder / name]
        run("fairseq_cli.preprocess", *ours, *argv, *(["--joined-dictionary"] if len(languages) > 1 else []))
    return folder


@pytest.fixture(scope="module")
def stores(corpora) -> str:
    """``--regions``."""
    return ":".join("none" if name == "en-cs" else str(corpora / "regions" / name) for name in NAMES)


@pytest.fixture(scope="module")
def model(run, corpora, stores, tmp_path_factory):
    """A model of all corpora, and the log of its training of four epochs."""
    folder = tmp_path_factory.mktemp("model")
    argv = ("--sampling-temperature", "3", "--max-epoch", "4", "--max-update", "999", "--lr", "3e-3")
    trained = run.pretrain(corpora, folder, *PAIRS, *argv, "--num-workers", "2", regions=stores)
    return folder / "checkpoint_last.pt", trained


def parameters(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same(one: Path, other: Path) -> bool:
    one, other = parameters(one), parameters(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_one_pair_is_as_without_the_option(run, corpora, tmp_path):
    """Bit for bit over three epochs: losses of updates and validations, and the model."""
    argv, store = ("--max-epoch", "3", "--max-update", "99", "--seed", "5"), corpora / "regions" / "en-de"
    old = run.pretrain(corpora / "en-de", tmp_path / "old", *argv, regions=store)
    new = run.pretrain(corpora / "en-de", tmp_path / "new", *argv, "--lang-pairs", "en-de", regions=store)
    assert [one["loss"] for one in old.updates()] == [one["loss"] for one in new.updates()]
    assert same(tmp_path / "old" / "checkpoint_last.pt", tmp_path / "new" / "checkpoint_last.pt")
    for before, after in zip(old.validations(), new.validations(), strict=True):
        figures = {name for name in before if "loss" in name or "accuracy" in name}
        assert len(figures) > 5 and all(before[name] == after[name] for name in figures)
        assert after["en-de:loss"] == before["loss"] and after["en-de:mrc_accuracy"] == before["mrc_accuracy"]


def test_each_corpus_is_validated_apart(run, corpora, stores, model):
    """With the figures that it has by itself; of text without images nothing is said of regions."""
    path, trained = model
    logged = trained.validations()[-1]
    for name, store in zip(NAMES, stores.split(":"), strict=True):
        argv = ["--lang-pairs", name, "--regions", store, *(["--region-order", "none"] if store == "none" else [])]
        (alone,) = run.validate(corpora / name, path, *argv).validations()
        figures = ("loss", "mlm_loss", "mlm_accuracy", "mrc_loss", "mrc_accuracy")
        assert [logged[f"{name}:{figure}"] for figure in figures] == [alone[figure] for figure in figures]
        assert (logged[f"{name}:mrc_loss"] == 0) == (store == "none") and logged[f"{name}:mlm_loss"] > 1
    assert len({logged[f"{name}:loss"] for name in NAMES}) == len(NAMES)


def test_batches_keep_languages_apart(corpora, stores):
    """All that is predicted has the row of its language; each corpus has the share of its size^(1/T)."""
    task = pretraining_task(corpora, *PAIRS, "--regions", stores, "--sampling-temperature", "2", "--mask-prob", "0.5")
    task.load_dataset("train")
    data, words, rows = task.dataset("train"), task.source_dictionary, sorted(WORDS)
    seen = {name: [] for name in NAMES}
    for epoch in (1, 2, 3, 4):
        iterator = task.get_batch_iterator(data, max_sentences=8, max_positions=(512, 512), epoch=epoch, seed=3)
        for batch in iterator.next_epoch_itr():
            net, predicted = batch["net_input"], batch["target"] != words.pad()
            langs, targets = net["langs"][predicted].tolist(), words_of(words, batch["target"][predicted])
            assert targets and all(
                word.startswith(WORDS[rows[lang]]) for lang, word in zip(langs, targets, strict=True)
            )
            real = net["src_tokens"] != words.pad()
            assert {rows[lang] for lang in net["langs"][real].tolist()} == set(batch["corpus"].split("-"))
            assert net["region_padding_mask"].all() or batch["corpus"] != "en-cs"
            seen[batch["corpus"]].append((epoch, batch["id"].tolist()))
    for name, size in zip(NAMES, (24, 31, 38, 45), strict=True):
        lines = [line for _, ids in seen[name] for line in ids]
        assert len(lines) == 4 * data.shares[NAMES.index(name)]
        counts = [lines.count(line) for line in range(size)]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1
    task.load_dataset("valid")
    seeds = [{one.seed for one in task.dataset(split).corpora.values()} for split in ("train", "valid")]
    assert [len(one) for one in seeds] == [4, 1]  # pairs of the same images have other masks in training
    assert data.shares.tolist() == [29, 33, 36, 40] and len(data) == 138


def words_of(words: Dictionary, ids: torch.Tensor) -> list[str]:
    return [words[index] for index in ids.tolist()]


def test_a_resumed_run_is_an_uninterrupted_one(run, corpora, stores, model, tmp_path):
    """From the middle of an epoch, with other workers."""
    path, trained = model
    argv = (*PAIRS, "--sampling-temperature", "3", "--max-epoch", "4", "--lr", "3e-3")
    run.pretrain(corpora, tmp_path, *argv, "--max-update", "29", regions=stores)
    again = run.pretrain(corpora, tmp_path, *argv, "--max-update", "999", regions=stores)
    assert again.updates()[0]["num_updates"] == 30 and same(path, tmp_path / "checkpoint_last.pt")
    assert [one["loss"] for one in again.updates()] == [one["loss"] for one in trained.updates()[29:]]


def test_a_resumed_run_that_differs(run, corpora, stores, tmp_path):
    """It goes on in the middle of an epoch and says what is other; of another language it says which options."""
    argv = (*PAIRS, "--max-epoch", "1", "--sampling-temperature")
    run.pretrain(corpora, tmp_path / "run", *argv, "3", "--max-update", "2", regions=stores)
    same = run.pretrain(corpora, tmp_path / "run", *argv, "3", "--max-update", "3", regions=stores)
    assert "another --save-dir" not in same.output and "others here" not in same.output
    fewer = stores.replace(str(corpora / "regions" / "en-fr"), "none")
    again = run.pretrain(corpora, tmp_path / "run", *argv, "9", "--max-update", "4", regions=fewer)
    for words in (
        "was trained with --sampling-temperature 3.0, it goes on with --sampling-temperature 9.0",
        f"with --regions {stores}, it goes on with --regions {fewer}",
        "(--sampling-temperature 3.0 -> 9.0)",
    ):
        assert words in again.output
    shutil.copytree(corpora / "en-fr", tmp_path / "en-it")
    for file in (tmp_path / "en-it").iterdir():
        file.rename(file.with_name(file.name.replace("fr", "it")))
    more = ("--lang-pairs", "en-de,en-it", "--max-update", "5")
    data, two = f"{corpora / 'en-de'}:{tmp_path / 'en-it'}", ":".join(stores.split(":")[:2])
    run.pretrain(data, tmp_path / "run", *more, regions=two, ok=False).fault("en-de-it", "--lang-pairs", "--pretrained")


def test_what_one_corpus_holds_out_of_another(run, corpora, tmp_path):
    """Images of which another corpus trains on captions; of the same splits there are none."""
    data = f"{corpora / 'en-de'}:{tmp_path / 'en-fr'}"
    shutil.copytree(corpora / "en-fr", tmp_path / "en-fr")
    argv, store = ("--lang-pairs", "en-de,en-fr", "--max-update", "1"), corpora / "regions" / "en-fr"
    assert "images of" not in run.pretrain(data, tmp_path / "run", *argv, regions=store).output
    ids = (tmp_path / "en-fr" / "valid.images").read_text(encoding="utf-8").split()
    ids[:3] = ["train-3", "train-4", "train-30"]  # of 24 and 31 images
    write_lines(tmp_path / "en-fr" / "valid.images", ids)
    make_store(tmp_path / "both.h5", [f"{split}-{k}" for split in SIZES for k in range(31)], regions=[2] * 93)
    said = run.pretrain(data, tmp_path / "run", *argv, regions=tmp_path / "both.h5").output
    assert "en-fr, beside train of en-de: 2 of 16 images of valid are in train too, such as 'train-3'" in said
    assert "train of en-fr: 3 of 16 images of valid are in train too" in said and "en-de, beside" not in said


def test_two_ranks(run, corpora, stores, model, tmp_path):
    """Each has batches of other corpora, of which there is an odd number; figures are those of one process."""
    line = pretraining(corpora, tmp_path, *PAIRS, "--max-epoch", "1", "--max-update", "99", regions=stores)
    first, second = run.two_ranks(line)
    assert not second.validations() or second.validations() == first.validations()
    argv = ("--regions", stores, *PAIRS)
    (alone,) = run.validate(corpora, tmp_path / "checkpoint_last.pt", *argv).validations()
    figures = [f"{name}:{figure}" for name in NAMES for figure in ("loss", "mlm_accuracy", "mrc_loss")]
    assert [first.validations()[0][name] for name in figures] == pytest.approx(
        [alone[name] for name in figures], abs=2e-3
    )


def test_one_folder_for_all(run, corpora, stores, tmp_path):
    """Pairs in one folder, with the same images; the best checkpoint is that of one of them; its folder is complete."""
    for name in ("en-de", "en-fr"):
        for file in (corpora / name).iterdir():
            if file.name.startswith(("train.en", "valid.en", "dict")):
                shutil.copy(file, tmp_path)
    data, store = tmp_path, corpora / "regions" / "en-fr"
    for split in ("train", "valid"):
        write_lines(data / f"{split}.images", [f"{split}-{k}" for k in range(SIZES[split])])
    shorter = ("--lang-pairs", "en-de,fr")  # en-fr has more lines than images
    argv = (*shorter, "--best-checkpoint-metric", "en-de:mlm_accuracy", "--max-epoch", "2")
    run.pretrain(data, tmp_path / "out", *argv, regions=f"{store}:none")
    assert {"dict.de.txt", "dict.fr.txt", "checkpoint_best.pt"} <= {file.name for file in (tmp_path / "out").iterdir()}
    state = torch.load(tmp_path / "out" / "checkpoint_best.pt", weights_only=True)
    assert (
        state["cfg"]["model"]["langs"] == "de,en,fr" and state["cfg"]["checkpoint"]["maximize_best_checkpoint_metric"]
    )
    run.pretrain(data, tmp_path / "2", *shorter, regions=store, ok=False).fault("valid.images", "9", "16")


def test_any_direction_of_any_pair(run, corpora, model, tmp_path):
    """Fine-tuned from one model; another pair is decoded only where that is meant, by the rows of its languages."""
    path, _ = model
    probe = ("--system", path, "--regions", corpora / "regions" / "en-fr", "--subsets", "valid", "--format", "json")
    rows = run.probe("last-word", corpora / "en-fr", *probe).table()["rows"]
    assert {row["masked"] for row in rows} == {"EN", "FR", "BOTH"}
    store, argv = corpora / "regions" / "en-fr", ("--pretrained", path, "--max-update", "4", "--disable-validation")
    run.train(corpora / "en-fr", tmp_path / "fr", "-s", "fr", "-t", "en", *argv, regions=store)
    run.train(corpora / "en-cs", tmp_path / "cs", "-s", "en", "-t", "cs", *argv, "--dropout", "0")
    tuned, ours = tmp_path / "fr" / "checkpoint_last.pt", ("--max-len-b", "9", "--nbest", "1")
    rows = parameters(path)["encoder.embed_positions.languages.weight"]
    assert rows.shape[0] == len(WORDS) + 1 == parameters(tuned)["decoder.embed_positions.languages.weight"].shape[0]
    known = run.generate(corpora / "en-fr", tuned, "-s", "fr", "-t", "en", *ours, regions=store)
    other, images = ("-s", "de", "-t", "en"), corpora / "regions" / "en-de"
    fault = run.generate(corpora / "en-de", tuned, *other, *ours, regions=images, ok=False)
    fault.fault("fr-en", "de-en", "--zero-shot")
    shot = run.generate(corpora / "en-de", tuned, *other, *ours, "--zero-shot", regions=images)
    assert len(known.hypotheses()) == 12 and len(shot.hypotheses()) == 5 and "--zero-shot" in shot.output
    # the same sentences as if they were German: another row of the encoder's table, other scores
    disguised = tmp_path / "disguised"
    disguised.mkdir()
    for file in (corpora / "en-fr").iterdir():
        shutil.copy(file, disguised / file.name.replace("en-fr.fr", "en-de.de").replace("en-fr", "en-de"))
    shutil.copy(disguised / "dict.fr.txt", disguised / "dict.de.txt")
    turned = run.generate(disguised, tuned, *other, *ours, "--zero-shot", regions=store)
    assert len(turned.scores()) == 12 and turned.scores() != known.scores()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (("--lang-pairs", "en-de,en-xx"), ("en-xx", "en-de")),
        (("--lang-pairs", "en-de,de", "-s", "en", "-t", "cs"), ("--lang-pairs", "-s")),
        (("--lang-pairs", "en-de,de,en", "--regions", "a:b"), ("--regions a:b", "2", "3")),
        (("--lang-pairs", "en-de", "--sampling-temperature", "0"), ("--sampling-temperature",)),
    ],
)
def test_faults(run, corpora, tmp_path, argv, named):
    run.pretrain(corpora / "en-de", tmp_path, *argv, ok=False).fault(*named)


def test_images_and_dictionaries_that_are_missing(run, corpora, stores, tmp_path):
    """A corpus without images is said to be one; dictionaries of all corpora are compared."""
    fault = run.pretrain(corpora, tmp_path / "out", *PAIRS, regions=corpora / "regions" / "en", ok=False)
    fault.fault("en-cs/valid.images", ":none:")
    shutil.copytree(corpora, tmp_path / "copy")
    other = tmp_path / "copy" / "en-fr" / "dict.fr.txt"
    other.write_text("strange 1\n" + other.read_text(encoding="utf-8"), encoding="utf-8")
    run.pretrain(tmp_path / "copy", tmp_path / "out", *PAIRS, regions=stores, ok=False).fault("dict.fr.txt", "strange")


def test_captions_and_splits_that_are_missing(run, corpora, stores, tmp_path):
    """Captions of one language without the option that reads them; no split to validate on; one without lines."""
    store, out = corpora / "regions" / "en", tmp_path / "out"
    run.pretrain(corpora / "en", out, regions=store, ok=False).fault("--lang-pairs en")
    none = ("--lang-pairs", "en", "--valid-subset", "held")
    run.pretrain(corpora / "en", out, *none, regions=store, ok=False).fault("'held'", "--disable-validation")
    pair = ("-s", "en", "-t", "de")
    assert "None" not in run.pretrain(corpora / "en", out, *pair, regions=store, ok=False).fault("holds en, not en-de")
    shutil.copytree(corpora / "en", tmp_path / "en")
    (tmp_path / "en" / "train.en-None.en.bin").write_bytes(b"")
    empty = run.pretrain(tmp_path / "en", out, "--lang-pairs", "en", regions=store, ok=False)
    empty.fault("train.en-None.en.bin", "no lines")
    assert "Traceback" not in empty.output
