"""``--pretrained`` between models of one kind: each tensor from its namesake, and the report accounts for all."""

import re

import pytest
import torch

from stores import make_store

ONCE = ("--lr", "0", "--max-update", "1", "--disable-validation")  # the checkpoint holds what the transfer filled in


def tensors(path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def report(output: str) -> dict[str, int]:
    """Numbers of the transfer report by title."""
    return {title: int(n) for n, title in re.findall(r"transfer: (\d+) tensors ([a-z -]+?)(?::.*)?$", output, re.M)}


def check(trained, folder, old, *, fresh: int, unused: int) -> dict[str, torch.Tensor]:
    """Every tensor is its namesake's but ``fresh`` ones of regions; the report says so. Returns the new model's."""
    new, old = tensors(folder / "checkpoint_last.pt"), tensors(old)
    drawn = [name for name in new if name not in old or not torch.equal(new[name], old[name])]
    assert len(drawn) == fresh and all("region" in name for name in drawn), drawn
    counts = report(trained.output)
    assert counts["copied"] == len(set(new) - {"decoder.version"}) - fresh
    assert (counts["copied from self-attention"], counts["left random"]) == (0, fresh)
    assert counts["unused of the pre-trained model"] == unused == len([x for x in old if x not in new or x in drawn])
    assert ("region parameters start fresh" in trained.output) == (fresh > 0)
    return new


def test_between_translation_models(run, corpus, nmt, mmt, tmp_path):
    """NMT to MMT, back, and the other direction: encoder to encoder, decoder to decoder, cross-attention too."""
    for name, old, argv, regions, fresh, unused in (
        ("nmt-mmt", nmt, (), corpus.regions, 4, 0),
        ("mmt-nmt", mmt, (), "none", 0, 4),
        ("other", mmt, ("-s", "de", "-t", "en"), corpus.regions, 0, 0),
    ):
        folder = tmp_path / name
        trained = run.train(corpus.data, folder, "--pretrained", old, *ONCE, *argv, regions=regions)
        check(trained, folder, old, fresh=fresh, unused=unused)
    # the direction is the new model's own: its target row is that of English
    config = torch.load(tmp_path / "other/checkpoint_last.pt", weights_only=True)["cfg"]["model"]
    assert (config["source_lang"], config["target_lang"], config["langs"]) == ("de", "en", "de,en")
    decoded = run.generate(corpus.data, tmp_path / "nmt-mmt/checkpoint_last.pt", "--max-len-b", "8",
                           "--region-order", "none", regions=corpus.regions)  # fmt: skip
    plain = run.generate(corpus.data, nmt, "--max-len-b", "8")
    assert decoded.hypotheses() == plain.hypotheses()  # with its regions hidden the MMT is the NMT that it began as
    again = run.train(corpus.data, tmp_path / "nmt-mmt", "--pretrained", "moved.pt", "--lr", "0", "--max-update", "2",
                      "--disable-validation", regions=corpus.regions)  # fmt: skip
    assert "transfer:" not in again.output  # resumed: the file is not opened again


def test_more_languages_and_random_cross_attention(run, corpus, nmt, tmp_path):
    """Rows meet by name in both halves; cross-attention is drawn anew on request."""
    argv = ("--langs", "fr,en,de", "--init-cross-attention", "random")
    trained = run.train(corpus.data, tmp_path, "--pretrained", nmt, *ONCE, *argv)
    new, old = tensors(tmp_path / "checkpoint_last.pt"), tensors(nmt)
    for half in ("encoder", "decoder"):
        rows = f"{half}.embed_positions.languages.weight"
        assert torch.equal(new[rows][[2, 1, 3]], old[rows])  # de, en, image
    crossed = [name for name in new if "encoder_attn" in name]
    assert len(crossed) == report(trained.output)["left random"] == 2 * (4 * 2 + 2)
    weights = [name for name in crossed if name.endswith("proj.weight")]
    assert not any(torch.equal(new[name], old[name]) for name in weights)
    assert "no language 'fr'" in trained.output


def test_between_pretraining_models(run, corpus, vtlm, tlm, tmp_path):
    """TLM to VTLM (the region head starts fresh too), VTLM to TLM."""
    trained = run.pretrain(corpus.data, tmp_path / "a", "--pretrained", tlm, *ONCE, regions=corpus.regions)
    check(trained, tmp_path / "a", tlm, fresh=6, unused=0)
    trained = run.pretrain(corpus.data, tmp_path / "b", "--pretrained", vtlm, *ONCE)
    check(trained, tmp_path / "b", vtlm, fresh=0, unused=6)


@pytest.mark.parametrize("kind", ["pre-training", "translation"])
def test_another_detector(run, corpus, vtlm, mmt, tmp_path, kind):
    """Regions of other sizes are refused, and with --fresh-regions everything else is kept."""
    for split in ("train", "valid"):
        images = list(dict.fromkeys(corpus.images(split)))
        make_store(tmp_path / f"regions/{split}.h5", images, feature_dim=5, num_classes=3)
    train, old, fresh = (run.pretrain, vtlm, 6) if kind == "pre-training" else (run.train, mmt, 4)
    argv = (corpus.data, tmp_path / "new", "--pretrained", old, *ONCE)
    refused = train(*argv, regions=tmp_path / "regions", ok=False)
    refused.fault("region_dim 12, the new model 5", "--fresh-regions")
    trained = train(*argv, "--fresh-regions", regions=tmp_path / "regions")
    new = check(trained, tmp_path / "new", old, fresh=fresh, unused=fresh)
    assert new["encoder.embed_regions.feature_proj.weight"].shape == (32, 5)
    if kind == "translation":
        ensemble = f"{mmt}:{tmp_path / 'new/checkpoint_last.pt'}"
        run.generate(corpus.data, ensemble, regions=corpus.regions, ok=False).fault("made for different regions")


def test_pretraining_does_not_begin_with_a_translation_model(run, corpus, nmt, tmp_path):
    run.pretrain(corpus.data, tmp_path, "--pretrained", nmt, ok=False).fault(
        "is a translation model, pre-training begins with a vtlm"
    )
