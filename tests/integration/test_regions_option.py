"""``--regions``: what names the same images means the same to every command, and what names none is refused by each."""

import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from harness import TRAINING, USER_DIR, Result, write_lines
from stores import crash_in_children, fault, make_store
from vtlm_fairseq.hub import MultimodalTransformer
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter


def rows(result: Result) -> list[dict]:
    """Of a probe's table."""
    return result.table()["rows"]


@pytest.fixture(scope="module")
def commands(corpus, entities, mmt, vtlm, tmp_path_factory):
    """Every command that reads regions of the test split: module and arguments, and its figures."""
    folder = tmp_path_factory.mktemp("commands")
    texts = {lang: corpus.lines("test", lang) for lang in ("en", "de")}
    source, target = (write_lines(folder / lang, text) for lang, text in texts.items())
    images = write_lines(folder / "images", corpus.images("test"))
    lines = write_lines(folder / "lines", map("\t".join, zip(texts["en"], corpus.images("test"), strict=True)))
    ours = (corpus.data, "--user-dir", USER_DIR, "--cpu", "--task")
    mt, test, system = "multimodal_translation", ("--gen-subset", "test", "--beam", "2"), ("--system", f"M={mmt}")
    pairs = ("--src", source, "--correct", target, "--incorrect", source, "--images", images, "--preprocessed")
    model = ("--arch", "multimodal_transformer_tiny", "--criterion", "cross_entropy")
    probe = ("vtlm_fairseq.cli.probe", "--cpu", "--format", "json")
    masked = ("--path", vtlm, "--subsets", "test")
    return {
        "train": (("fairseq_cli.train", *ours, mt, *model, "--no-save", "--save-dir", folder / "NAME", *TRAINING),
                  lambda result: [(update["loss"], update["gnorm"]) for update in result.updates()]),
        "generate": (("fairseq_cli.generate", *ours, mt, *test, "--path", mmt), Result.hypotheses),
        "validate": (("fairseq_cli.validate", *ours, "visual_translation_lm", "--valid-subset", "test", "--path", vtlm,
                      "--batch-size", "8", "--log-format", "json"), lambda result: result.json_lines("test_loss")),
        "translate": (("vtlm_fairseq.cli.translate", lines, "--preprocessed", "--path", mmt, "--cpu"),
                      lambda result: result.output.splitlines()[-len(texts["en"]) :]),
        "last-word": ((probe[0], "last-word", corpus.data, *masked, *probe[1:]), rows),
        "mrc": ((probe[0], "mrc", corpus.data, *masked, "--no-references", *probe[1:]), rows),
        "contrastive": ((probe[0], "contrastive", *system, *pairs, *probe[1:]), rows),
        "incongruent": ((probe[0], "incongruent", corpus.data, *system, *test, "--repeats", "1", *probe[1:]), rows),
        "attention": ((probe[0], "attention", corpus.data, *system, *test, *probe[1:]), rows),
        "entity": ((probe[0], "entity", entities / "bin", "--entities", entities / "entities", *system, *test,
                    *probe[1:]), rows),
        "report": (("vtlm_fairseq.cli.report", corpus.data, "--path", mmt, *test, "--lines", "3-5", "--out",
                    folder / "NAME.html"), lambda result: Path(result.last_line.split(": ")[0]).read_text("utf-8")),
    }  # fmt: skip


def copy_images(source: Path, target: Path, keep) -> None:
    """A store of those images of another whose numbers ``keep`` takes."""
    store = RegionStore([str(source)], max_regions=None)
    options = {"class_names": store.class_names, "detector": store.detector, "dtype": str(store.dtype)}
    with RegionStoreWriter(target, feature_dim=store.feature_dim, **options) as writer:
        for row, image in enumerate(store.ids()):
            if keep(row):
                writer.add(image, **store[row]._asdict())


@pytest.fixture(scope="module")
def named(corpus, tmp_path_factory) -> dict[str, Path]:
    """One file; and a folder of files and shards, with a copy of one (the quickstart has one) under its own name."""
    folder = tmp_path_factory.mktemp("named")
    (folder / "shards").mkdir()
    for split in ("train", "valid"):
        shutil.copyfile(corpus.store(split), folder / "shards" / f"{split}.h5")
    for k in (0, 1):  # in the same order: shuffling depends on it
        copy_images(corpus.store("test"), folder / "shards" / f"test.{k}.h5", lambda row, k=k: (row >= 4) == k)
    os.link(folder / "shards" / "test.0.h5", folder / "shards" / "test_swapped.h5")
    whole = folder / "whole.h5"
    merge_stores([str(corpus.store(split)) for split in ("train", "valid", "test")], str(whole), copy=True)
    return {"file": whole, "folder": folder / "shards"}


def test_one_meaning(run, corpus, commands, named, mmt):
    """A file and a folder, with a split and without one: the same figures."""
    found = {}
    for name, (command, figures) in commands.items():
        argvs = [[str(part).replace("NAME", kind) for part in command] for kind in named]
        argvs = [
            (module, [*argv, "--regions", named[kind]]) for kind, (module, *argv) in zip(named, argvs, strict=True)
        ]
        done = run.together(argvs)
        found[name], other = map(figures, done)
        assert found[name] and other == found[name], name
    for regions in named.values():
        info = run("vtlm_fairseq.cli.regions", "info", regions).output
        assert info.count("detector") == max(1, len(list(regions.glob("*.h5"))))
        model = MultimodalTransformer.from_pretrained(mmt, regions=str(regions), preprocessed=True, cpu=True)
        assert model.translate(corpus.lines("test", "en"), corpus.images("test")) == found["translate"]


@pytest.fixture(scope="module")
def wrong(tmp_path_factory) -> dict[str, Path]:
    """What is no store."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty").mkdir()
    (folder / "foreign.h5").write_text("no HDF5")
    make_store(folder / "damaged.h5", 3)
    return {kind: folder / kind for kind in ("nowhere.h5", "empty", "foreign.h5", "damaged.h5")}


WORDS = {
    "nowhere.h5": "no such file or folder",
    "empty": "(splits there: none)|no .h5 file",
    "foreign.h5": "not an intact HDF5 file",
    "damaged.h5": "HDF5 crashes",
}


TEXT_ONLY_TOO = ("last-word", "contrastive", "incongruent", "attention", "entity", "report")


@pytest.mark.parametrize("kind", WORDS)
def test_refused_by_each(commands, wrong, corpus, mmt, nmt, vtlm, tlm, kind, monkeypatch, tmp_path):
    """A wrong path, an empty folder, a file that is no store and one on which HDF5 crashes: one line that names it.

    So it is where a text-only model alone is asked, by commands that take it beside models with regions.
    """
    crash_in_children(monkeypatch, "damaged.h5")
    regions = str(wrong[kind])
    argvs = {name: [*command, "--regions", regions] for name, (command, _) in commands.items()}
    for name in TEXT_ONLY_TOO if kind != "foreign.h5" else ():  # which they do not read
        texts = [str(part).replace(str(mmt), str(nmt)).replace(str(vtlm), str(tlm)) for part in argvs[name]]
        argvs[f"{name}, text only"] = texts
    for name in ("info", "validate", "merge", "show"):
        more = {"merge": ["--out", tmp_path / "out.h5"], "show": ["a", "--image", "a.png", "--out", tmp_path / "a.png"]}
        argvs[f"vtlm-regions {name}"] = ["vtlm_fairseq.cli.regions", name, regions, *more.get(name, [])]
    captions = write_lines(tmp_path / "captions.tsv", ["a\tu\ta b\tc d"] * 3)
    prepare = ["--train", captions, "--valid", captions, "--vocab-size", "9", "--out", tmp_path / "bin"]
    argvs["prepare"] = ["vtlm_fairseq.cli.prepare", "captions", *prepare, "--regions", regions]
    argvs["nouns"] = ["vtlm_fairseq.cli.prepare", "nouns", corpus.data, "--regions", regions]
    for name, (module, *argv) in argvs.items():
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        imported = importlib.import_module(module)
        if (name, kind) == ("vtlm-regions validate", "foreign.h5"):
            continue  # lists the faults of a file
        with pytest.raises(SystemExit) as end:
            getattr(imported, "cli_main", imported.main)()
        assert regions in str(end.value.code) and "\n" not in str(end.value.code), name
        assert any(words in str(end.value.code) for words in WORDS[kind].split("|")), name
    assert regions in fault(MultimodalTransformer.from_pretrained, mmt, regions=regions, preprocessed=True, cpu=True)
