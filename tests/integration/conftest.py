"""Fixtures of the session: the command server, a corpus, and small trained models of each kind."""

from pathlib import Path

import pytest

from harness import CommandLines
from toy import Corpus, make_corpus


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
    run.train(corpus.data, folder, "--pretrained", vtlm, "--max-update", "60", "--lr", "3e-3", "--disable-validation",
              "--save-interval", "100", regions=corpus.regions)  # fmt: skip
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def nmt(run, corpus, tlm, tmp_path_factory) -> Path:
    """A text-only model, fine-tuned from ``tlm``."""
    folder = tmp_path_factory.mktemp("nmt")
    run.train(corpus.data, folder, "--pretrained", tlm, "--max-update", "60", "--lr", "3e-3", "--disable-validation",
              "--save-interval", "100")  # fmt: skip
    return folder / "checkpoint_last.pt"
