"""Fixtures of the session: the command server, a corpus, and small trained models of each kind."""

import shutil
from collections import defaultdict
from pathlib import Path

import composing  # noqa: F401
import pytest
from preparation import annotation, write

from harness import ROOT, CommandLines, shell, write_lines
from toy import Corpus, make_corpus
from vtlm_fairseq.text.pipeline import TextPipeline

FINE_TUNING = ("--max-update", "60", "--lr", "3e-3", "--disable-validation", "--save-interval", "100")


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> CommandLines:
    """The commands."""
    commands = CommandLines(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def corpus(run, tmp_path_factory) -> Corpus:
    """A corpus that no test changes."""
    return make_corpus(run, tmp_path_factory.mktemp("corpus") / "toy")


@pytest.fixture(scope="session")
def second(run, corpus, tmp_path_factory) -> Corpus:
    """Another corpus with the dictionary of the first."""
    sizes = {"train": 21, "valid": 5, "test": 5}
    folder = tmp_path_factory.mktemp("second") / "toy"
    return make_corpus(run, folder, sizes, dictionary=corpus.data / "dict.en.txt", seed=9)


@pytest.fixture(scope="session")
def vtlm(run, corpus, tmp_path_factory) -> Path:
    """A pre-trained VTLM checkpoint."""
    folder = tmp_path_factory.mktemp("vtlm")
    run.pretrain(corpus.data, folder, "--max-update", "12", "--lr", "3e-3", regions=corpus.regions)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def tlm(run, corpus, tmp_path_factory) -> Path:
    """A pre-trained TLM checkpoint."""
    folder = tmp_path_factory.mktemp("tlm")
    run.pretrain(corpus.data, folder)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def mmt(run, corpus, vtlm, tmp_path_factory) -> Path:
    """A multimodal model, fine-tuned from ``vtlm``."""
    folder = tmp_path_factory.mktemp("mmt")
    run.train(corpus.data, folder, "--pretrained", vtlm, *FINE_TUNING, regions=corpus.regions)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def nmt(run, corpus, tlm, tmp_path_factory) -> Path:
    """A text-only model, fine-tuned from ``tlm``."""
    folder = tmp_path_factory.mktemp("nmt")
    run.train(corpus.data, folder, "--pretrained", tlm, *FINE_TUNING)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def entities(corpus, tmp_path_factory):
    """The toy corpus as a preparation script would leave it, and Entities of its test set.

    The first two words of a longer sentence are a phrase with a box, its last word is one without.
    """
    folder = tmp_path_factory.mktemp("entities")
    data = folder / "bin"
    shutil.copytree(corpus.data, data)
    for lang in ("en", "de"):
        write_lines(data / "references" / f"test.{lang}", corpus.lines("test", lang))
    TextPipeline("en", "de", steps=(), bpe="none").save(data)
    captions = defaultdict(list)
    for image, line in zip(corpus.images("test"), corpus.lines("test", "en"), strict=True):
        first, *rest, last = f"{line} ".split(" ")[:-1] if " " in line else (line, "")
        if rest:
            line = f"[/EN#1/people {first} {rest[0]}] {' '.join(rest[1:])} [/EN#2/other {last}]"
        captions[image].append(" ".join(line.split()))
    for image, lines in captions.items():
        write_lines(folder / "entities" / "Sentences" / f"{image}.txt", lines)
        write(folder / "entities" / "Annotations" / f"{image}.xml", annotation(9, 9, [((0, 0, 5, 5), (1,))]))
    return folder


@pytest.fixture(scope="session")
def unusual(run, corpus, tmp_path_factory) -> tuple[Path, Path]:
    """A pre-trained model with unusual options, and a translation model that adopts them."""
    folder = tmp_path_factory.mktemp("unusual")
    argv = ("--langs", "fr,en,de", "--max-regions", "2", "--region-positions", "2", "--region-layernorm",
            "--layernorm-eps", "1e-3", "--max-source-positions", "20", "--max-positions", "32", "--region-mask-fill",
            "zero", "--region-mask-prob", "0.6", "--seed", "7", "--dropout", "0.3", "--max-update", "8")  # fmt: skip
    run.pretrain(corpus.data, folder / "vtlm", *argv, regions=corpus.regions)
    vtlm = folder / "vtlm" / "checkpoint_last.pt"
    argv = ("--truncate-source", "--max-source-positions", "9", "--max-positions", "32", "--max-update", "60")
    run.train(corpus.data, folder / "mmt", "--pretrained", vtlm, *argv, "--lr", "3e-3", regions=corpus.regions)
    return vtlm, folder / "mmt" / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def ssd(tmp_path_factory) -> Path:
    """The detector, fetched once."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (the extra `extract`)")
    if shutil.which("npm") is None:
        pytest.skip("npm, with which the SSD is fetched, is not installed")
    folder = tmp_path_factory.mktemp("ssd")
    result = shell("bash", ROOT / "preprocess" / "fetch_ssd.sh", folder, cwd=folder)
    if result.status:
        pytest.skip(f"the SSD cannot be fetched through npm: {result.last_line}")
    return folder
