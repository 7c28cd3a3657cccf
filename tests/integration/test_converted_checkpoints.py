"""Converted checkpoints of the paper's code go on like our own: fine-tuning, pre-training, decoding, averaging."""

import random
import re
from pathlib import Path

import pytest
import torch

from harness import write_lines
from originals import FIXTURES
from stores import make_store
from toy import Corpus
from vtlm_fairseq.text.pipeline import TextPipeline

SIZE = ("--encoder-embed-dim", "32", "--encoder-ffn-embed-dim", "128", "--encoder-layers", "2",
        "--encoder-attention-heads", "4")  # fmt: skip
SIZES = {"train": 40, "valid": 6, "test": 5}


@pytest.fixture(scope="module")
def pretrained(run, tmp_path_factory) -> Path:
    """The pre-trained checkpoint."""
    path = tmp_path_factory.mktemp("pretrained") / "vtlm.pt"
    run.convert("checkpoint", FIXTURES / "pretrained.pth", "--out", path)
    return path


@pytest.fixture(scope="module")
def mmt(run, tmp_path_factory) -> Path:
    """The translation checkpoint."""
    path = tmp_path_factory.mktemp("converted") / "new" / "mmt.pt"
    printed = run.convert("checkpoint", FIXTURES / "mmt.pth", "--out", path).output
    assert "multimodal_transformer en-de, languages de,en, 134 symbols, d 32, 2 layers, 4 heads" in printed
    return path


@pytest.fixture(scope="module")
def corpus(run, pretrained, tmp_path_factory) -> Corpus:
    """Captions in the checkpoints' vocabulary, German saying the next word for each; 36 regions an image."""
    corpus = Corpus(tmp_path_factory.mktemp("captions"))
    rng = random.Random(0)
    for split, count in SIZES.items():
        lines = [[rng.randrange(100) for _ in range(rng.randint(2, 8))] for _ in range(count)]
        write_lines(corpus.raw / f"{split}.en", (" ".join(f"w{w}" for w in line) for line in lines))
        write_lines(corpus.raw / f"{split}.de", (" ".join(f"w{w + 1}" for w in line) for line in lines))
        images = [f"{split}{i}" for i in range(count)]
        write_lines(corpus.data / f"{split}.images", images)
        make_store(corpus.store(split), images, regions=36, feature_dim=1536, num_classes=601, seed=count)
    prefixes = [argument for split in SIZES for argument in (f"--{split}pref", corpus.raw / split)]
    run.preprocess("-s", "en", "-t", "de", "--destdir", corpus.data, "--srcdict", pretrained.parent / "dict.en.txt",
                   *prefixes)  # fmt: skip
    assert (corpus.data / "dict.de.txt").read_bytes() == (pretrained.parent / "dict.de.txt").read_bytes()
    return corpus


def test_pretrained_is_fine_tuned(run, corpus, pretrained, tmp_path):
    """20 updates of MMT with a falling loss; no tensor is left random."""
    trained = run.train(corpus.data, tmp_path, "--pretrained", pretrained, *SIZE, "--max-update", "20", "--lr", "2e-3",
                        arch="multimodal_transformer", regions=corpus.regions)  # fmt: skip
    losses = [update["loss"] for update in trained.updates()]
    assert len(losses) == 20 and sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert "transfer: 0 tensors left random" in trained.output
    assert "transfer: 2 tensors unused of the pre-trained model: region_head.weight, region_head.bias" in trained.output


def test_pretrained_trains_on(run, corpus, pretrained, tmp_path):
    """As a pre-training model, from its own loss down; and its checkpoint can still be checked."""
    argv = ("--finetune-from-model", pretrained, *SIZE, "--max-update", "40", "--lr", "5e-3")
    trained = run.pretrain(corpus.data, tmp_path, *argv, arch="vtlm", regions=corpus.regions)
    losses = [update["loss"] for update in trained.updates()]
    before = run.validate(corpus.data, pretrained, "--regions", corpus.regions).validations()[0]
    assert losses[0] == pytest.approx(before["loss"], rel=0.15)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])
    argv = ("--reference", FIXTURES / "pretrain_forward.npz")
    run.convert("check", tmp_path / "checkpoint_last.pt", *argv, ok=False).fault("above the tolerance: hidden_text")


def test_mmt_decodes(run, corpus, mmt, tmp_path):
    """Beam 8 through fairseq-generate, words of the text only; vtlm-translate and an average of two say the same."""
    argv = ("--beam", "8", "--max-len-a", "1.5", "--max-len-b", "10")
    decoded = run.generate(corpus.data, mmt, *argv, regions=corpus.regions)
    assert decoded.ids() == list(range(SIZES["test"]))
    assert all(re.fullmatch(r"(w\d+ ?)*", line) for line in decoded.hypotheses())
    store = ("--regions", corpus.store("test"), "--preprocessed")
    translated = run.translate(mmt, *store, *argv, stdin=corpus.stdin("test"))
    assert translated.output.splitlines()[-SIZES["test"] :] == decoded.hypotheses()
    average = mmt.parent / "average.pt"
    run.convert("average", mmt, mmt, "--out", average)
    again = run.generate(corpus.data, average, *argv, regions=corpus.regions)
    assert (again.hypotheses(), again.scores()) == (decoded.hypotheses(), decoded.scores())
    other = run.generate(corpus.data, mmt, *argv, "--region-order", "shuffle", regions=corpus.regions)
    assert other.scores() != decoded.scores()


def test_mmt_trains_on(run, corpus, mmt, tmp_path):
    """From the converted translation model, with a falling loss."""
    trained = run.train(corpus.data, tmp_path, "--finetune-from-model", mmt, *SIZE, "--max-update", "12", "--lr",
                        "3e-3", arch="multimodal_transformer", regions=corpus.regions)  # fmt: skip
    losses = [update["loss"] for update in trained.updates()]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_raw_text_with_the_originals_codes(run, corpus, mmt, tmp_path):
    """fastBPE codes and ``text.json`` beside the converted checkpoint: raw text is translated."""
    folder = mmt.parent
    write_lines(folder / "bpe.codes", ["w 1 50", "w1 2</w> 40"])
    pipeline = TextPipeline("en", "de", ("lowercase", "normalise", "tokenise", "strip_accents"), "subword_nmt", folder)
    pipeline.save(folder)
    assert TextPipeline.load(folder).encode("W12 Ẃ1", "en") == "w12 w@@ 1"
    images = corpus.images("test")
    translated = run.translate(mmt, "--regions", corpus.store("test"), stdin=f"W12  ẃ12\t{images[0]}\n")
    words = run.translate(mmt, "--regions", corpus.store("test"), "--preprocessed", stdin=f"w12 w12\t{images[0]}\n")
    assert translated.last_line == words.last_line


def test_faults_are_one_line(run, pretrained, mmt, tmp_path):
    """Of each command: foreign input, a file that was not converted, a folder with another dictionary."""
    write_lines(tmp_path / "x.pth", ["x"])
    run.convert("checkpoint", tmp_path / "x.pth", "--out", tmp_path / "x.pt", ok=False).fault(str(tmp_path / "x.pth"))
    reference = FIXTURES / "mmt_forward.npz"
    run.convert("check", pretrained, "--reference", reference, ok=False).fault(str(reference), "lacks tokens_in")
    state = torch.load(pretrained, weights_only=True)
    state["task_state"]["symbols"][-1] = "word"
    torch.save(state, tmp_path / "x.pt")
    run.convert("check", tmp_path / "x.pt", "--reference", reference, ok=False).fault("vtlm-convert checkpoint")
    write_lines(tmp_path / "dict.en.txt", ["word 1"])
    before = sorted(tmp_path.iterdir())
    fault = run.convert("checkpoint", FIXTURES / "mmt.pth", "--out", tmp_path / "y.pt", ok=False).fault("dict.en.txt")
    assert "folder of its own" in fault and sorted(tmp_path.iterdir()) == before
