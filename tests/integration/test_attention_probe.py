"""``vtlm-probe attention``: equal weights give the uniform share, references and hypotheses, plot, faults."""

import csv
import io

import pytest
import torch

LAYERS, HEADS = 2, 4


def probe(run, *argv, **kwargs):
    """vtlm-probe attention."""
    return run.probe("attention", *argv, "--batch-size", "5", **kwargs)


def rows(result) -> list[dict]:
    """The CSV table that a command printed."""
    return list(csv.DictReader(io.StringIO(result.output[result.output.index("system,layer") :])))


@pytest.fixture(scope="module")
def equal(mmt, tmp_path_factory):
    """The multimodal model with queries and keys of its cross-attention set to 0."""
    state = torch.load(mmt, weights_only=False)
    for name, value in state["model"].items():
        if "encoder_attn.q_proj" in name or "encoder_attn.k_proj" in name:
            value.zero_()
    path = tmp_path_factory.mktemp("equal") / "model.pt"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def shares(corpus):
    """R / (R + T) of each test sentence that has a region, from the text and the store."""
    import h5py

    with h5py.File(corpus.store("test"), locking=False) as file:
        counts = dict(zip(file["ids"].asstr()[:], (file["offsets"][1:] - file["offsets"][:-1]).tolist(), strict=True))
    lines = zip(corpus.images("test"), corpus.lines("test", "en"), strict=True)
    return [counts[image] / (counts[image] + len(line.split()) + 2) for image, line in lines if counts[image]]


@pytest.mark.parametrize(
    ("on", "suffix", "magic"),
    [((), "png", b"\x89PNG"), (("--on", "hypotheses", "--beam", "3"), "pdf", b"%PDF")],
)
def test_mass_and_uniform_share(run, corpus, mmt, equal, shares, on, suffix, magic, tmp_path):
    """With equal weights each layer and head has the share that is worked out from the text and the store here."""
    assert 0 < len(shares) < 13
    plot = tmp_path / "figures" / f"mass.{suffix}"
    result = probe(run, corpus.data, "--system", f"trained={mmt}", "--system", f"equal={equal},{equal}",
                   "--regions", corpus.regions, "--per-head", "--format", "csv", "--plot", plot, *on)  # fmt: skip
    table = rows(result)
    assert [(row["system"], row["layer"], row["head"]) for row in table] == [
        (system, str(layer), str(head))
        for system in ("trained", "equal")
        for layer in range(1, LAYERS + 1)
        for head in range(1, HEADS + 1)
    ]
    share = sum(shares) / len(shares)
    for row in table:
        assert float(row["uniform"]) == pytest.approx(share, abs=1e-6)
        if row["system"] == "equal":
            assert float(row["mass"]) == pytest.approx(share, abs=1e-6)
            assert float(row["±"]) == 0
    assert max(abs(float(row["mass"]) - share) for row in table if row["system"] == "trained") > 1e-3
    assert plot.read_bytes().startswith(magic) and len(list(plot.parent.iterdir())) == 1


def test_mean_over_heads_and_notes(run, corpus, mmt, shares):
    argv = (corpus.data, "--system", mmt, "--regions", corpus.regions)
    heads = rows(probe(run, *argv, "--per-head", "--format", "csv"))
    result = probe(run, *argv, "--format", "csv")
    for row in rows(result):
        of_layer = [float(head["mass"]) for head in heads if head["layer"] == row["layer"]]
        assert float(row["mass"]) == pytest.approx(sum(of_layer) / HEADS)
    text = probe(run, *argv).output
    assert f"{mmt}: {len(shares)} sentences, {13 - len(shares)} without regions left out" in text
    assert 'regions "random", order given' in text


def test_faults(run, corpus, mmt, nmt, tmp_path):
    regions = ("--regions", corpus.regions)
    probe(run, corpus.data, *regions, ok=False).fault("no system")
    probe(run, corpus.data, "--system", nmt, *regions, ok=False).fault("has no regions to attend to")
    probe(run, corpus.data, "--system", mmt, ok=False).fault(str(mmt), "name their store with --regions")
    system = ("--system", mmt, *regions)
    probe(run, corpus.data, *system, "--plot", "x.gif", ok=False).fault("--plot x.gif", ".png or .pdf")
    probe(run, corpus.data, *system, "--region-order", "none", ok=False).fault("no sentence of test has a region")
