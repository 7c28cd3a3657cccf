"""``--pretrained`` through the command lines: each tensor from its namesake, and the report accounts for all."""

import re
import shutil

import pytest
import torch

from stores import make_store

ONCE = ("--lr", "0", "--max-update", "1", "--disable-validation")  # the checkpoint holds what the transfer filled in
COPIES = 2 * (4 * 2 + 2)  # tensors of the cross-attention of two layers


def checkpoint(path) -> dict:
    return torch.load(path, weights_only=True)


def tensors(path) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in checkpoint(path)["model"].items() if name != "decoder.version"}


def report(output: str) -> dict[str, int]:
    """Numbers of the transfer report by title."""
    return {title: int(n) for n, title in re.findall(r"transfer: (\d+) tensors ([a-z -]+?)(?::.*)?$", output, re.M)}


def namesake(name: str, old: dict) -> str:
    """The tensor that one of a new model is filled from: its namesake, or in a pre-trained model the encoder's."""
    if name in old:
        return name
    name = name.replace("encoder_attn", "self_attn").replace("decoder.", "encoder.")
    return name.replace("encoder.output_projection", "lm_head")


def check(trained, folder, old, *, fresh: int, unused: int, copies: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor is its namesake's but ``fresh`` ones of regions; the report says so. Returns the new model's."""
    new, old = tensors(folder / "checkpoint_last.pt"), tensors(old)
    sources = {name: namesake(name, old) for name in new}
    drawn = [name for name, of in sources.items() if of not in old or not torch.equal(new[name], old[of])]
    assert len(drawn) == fresh and all("region" in name for name in drawn), drawn
    left = old.keys() - {of for name, of in sources.items() if name not in drawn}
    counts = report(trained.output)
    assert counts["copied"] == len(new) - fresh - copies
    assert (counts["copied from self-attention"], counts["left random"]) == (copies, fresh)
    assert counts["unused of the pre-trained model"] == unused == len(left)
    assert all(name in trained.output for name in (*drawn, *left))
    assert ("region parameters start fresh" in trained.output) == (fresh > 0)
    return new


def test_from_pretraining_to_translation(run, corpus, vtlm, tlm, tmp_path):
    """PITFALLS 8: VTLM and TLM to MMT, VTLM to NMT: encoder, decoder and cross-attention hold the values.

    Without regions in the pre-trained model the new model's start fresh; without them in the new one they are unused.
    """
    for name, old, regions, fresh, unused in (
        ("vtlm-mmt", vtlm, corpus.regions, 0, 2),
        ("tlm-mmt", tlm, corpus.regions, 4, 0),
        ("vtlm-nmt", vtlm, "none", 0, 6),
    ):
        folder = tmp_path / name
        trained = run.train(corpus.data, folder, "--pretrained", old, *ONCE, regions=regions)
        new = check(trained, folder, old, fresh=fresh, unused=unused, copies=COPIES)
        assert ("encoder.embed_regions.feature_proj.weight" in new) == (regions != "none")


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


@pytest.mark.parametrize("kind", ["vtlm", "nmt"])
def test_more_languages_and_random_cross_attention(run, corpus, request, tmp_path, kind):
    """PITFALLS 8: rows meet by name in both halves; cross-attention is random only on request, and reported."""
    path = request.getfixturevalue(kind)
    argv = ("--langs", "fr,en,de", "--init-cross-attention", "random")
    regions = corpus.regions if kind == "vtlm" else "none"
    trained = run.train(corpus.data, tmp_path, "--pretrained", path, *ONCE, *argv, regions=regions)
    new, old = tensors(tmp_path / "checkpoint_last.pt"), tensors(path)
    for half in ("encoder", "decoder"):
        rows = f"{half}.embed_positions.languages.weight"
        assert torch.equal(new[rows][[2, 1, 3]], old[namesake(rows, old)])  # de, en, image
    crossed = [name for name in new if "encoder_attn" in name]
    counts = report(trained.output)
    assert (counts["copied from self-attention"], counts["left random"]) == (0, COPIES) == (0, len(crossed))
    weights = [name for name in crossed if name.endswith("proj.weight")]
    assert not any(torch.equal(new[name], old[namesake(name, old)]) for name in weights)
    assert "no language 'fr'" in trained.output


def test_between_pretraining_models(run, corpus, vtlm, tlm, nmt, tmp_path):
    """TLM to VTLM (the region head starts fresh too), VTLM to TLM; a translation model is refused."""
    trained = run.pretrain(corpus.data, tmp_path / "a", "--pretrained", tlm, *ONCE, regions=corpus.regions)
    check(trained, tmp_path / "a", tlm, fresh=6, unused=0)
    trained = run.pretrain(corpus.data, tmp_path / "b", "--pretrained", vtlm, *ONCE)
    check(trained, tmp_path / "b", vtlm, fresh=0, unused=6)
    refused = run.pretrain(corpus.data, tmp_path / "c", "--pretrained", nmt, ok=False)
    refused.fault(f"--pretrained {nmt} is a translation model")


@pytest.mark.parametrize("kind", ["pre-training", "translation"])
def test_another_detector(run, corpus, vtlm, mmt, tmp_path, kind):
    """Regions of other sizes are refused, and with --fresh-regions everything else is kept."""
    for split in ("train", "valid"):
        images = list(dict.fromkeys(corpus.images(split)))
        make_store(tmp_path / f"regions/{split}.h5", images, feature_dim=5, num_classes=3)
    train, old, fresh = (run.pretrain, vtlm, 6) if kind == "pre-training" else (run.train, mmt, 4)
    argv = (corpus.data, tmp_path / "new", "--pretrained", old, *ONCE)
    refused = train(*argv, regions=tmp_path / "regions", ok=False)
    refused.fault("region_dim 12", "model 5", "--fresh-regions")
    trained = train(*argv, "--fresh-regions", regions=tmp_path / "regions")
    new = check(trained, tmp_path / "new", old, fresh=fresh, unused=fresh)
    assert new["encoder.embed_regions.feature_proj.weight"].shape == (32, 5)
    if kind == "translation":
        ensemble = f"{mmt}:{tmp_path / 'new/checkpoint_last.pt'}"
        run.generate(corpus.data, ensemble, regions=corpus.regions, ok=False).fault("ensemble", "regions")


@pytest.mark.parametrize("pair", [("en", "de"), ("de", "en")])
def test_one_checkpoint_for_both_directions(run, corpus, vtlm, tmp_path, pair):
    """One pre-trained en-de checkpoint fine-tunes en->de and de->en."""
    source, target = pair
    argv = ("-s", source, "-t", target, "--pretrained", vtlm)
    run.train(corpus.data, tmp_path, *argv, "--lr", "3e-3", "--max-update", "60", "--disable-validation",
              regions=corpus.regions)  # fmt: skip
    decoded = run.generate(corpus.data, tmp_path / "checkpoint_last.pt", "-s", source, "-t", target, "--max-len-b",
                           "20", regions=corpus.regions)  # fmt: skip
    assert decoded.references() == corpus.lines("test", target)
    words = {word for line in decoded.hypotheses() for word in line.split()}
    assert words <= {f"{'word' if target == 'en' else 'Wort'}{i}" for i in range(30)} | {"<unk>"}
    other = run.generate(corpus.data, tmp_path / "checkpoint_last.pt", "-s", target, "-t", source, ok=False,
                         regions=corpus.regions)  # fmt: skip
    other.fault(f"translates {source}-{target}", f"-s {source} -t {target}")


def test_three_languages(run, corpus, tmp_path):
    """``--langs de,en,fr`` on an en-de pair; then fine-tuning and generating without ``--langs`` works."""
    run.pretrain(corpus.data, tmp_path / "pre", "--langs", "de,en,fr", regions=corpus.regions)
    pretrained = tmp_path / "pre/checkpoint_last.pt"
    assert checkpoint(pretrained)["cfg"]["model"]["langs"] == "de,en,fr"
    run.train(corpus.data, tmp_path / "mmt", "--pretrained", pretrained, regions=corpus.regions)
    tuned = checkpoint(tmp_path / "mmt/checkpoint_last.pt")
    assert tuned["cfg"]["model"]["langs"] == "de,en,fr"
    assert tuned["model"]["encoder.embed_positions.languages.weight"].shape == (4, 32)
    path = tmp_path / "mmt/checkpoint_last.pt"
    assert len(run.generate(corpus.data, path, "--max-len-b", "5", regions=corpus.regions).hypotheses()) == 13
    run.train(corpus.data, tmp_path / "mmt", "--pretrained", pretrained, "--max-update", "5", regions=corpus.regions)
    other = run.generate(corpus.data, path, "--langs", "de,en", regions=corpus.regions, ok=False)
    other.fault("--langs de,en", "de,en,fr")


def test_pretrained_file_is_not_needed_again(run, corpus, vtlm, tmp_path):
    """PITFALLS 10: data, regions and the pre-trained file move; resuming and decoding still work."""
    old, new = tmp_path / "old", tmp_path / "new"
    here = corpus.copy(old / "corpus")
    shutil.copy(vtlm, old / "pre.pt")
    argv = ("--pretrained", old / "pre.pt", "--max-update", "3")
    run.train(here.data, old / "ckpt", *argv, regions=here.regions)
    before = run.generate(here.data, old / "ckpt/checkpoint_last.pt", "--max-len-b", "9", regions=here.regions)
    old.rename(new)
    (new / "pre.pt").unlink()
    moved = type(here)(new / "corpus")
    path = new / "ckpt/checkpoint_last.pt"
    after = run.generate(moved.data, path, "--max-len-b", "9", regions=moved.regions)
    assert (after.hypotheses(), after.scores()) == (before.hypotheses(), before.scores())
    resumed = run.train(moved.data, new / "ckpt", *argv[:2], "--max-update", "5", regions=moved.regions)
    assert [int(update["num_updates"]) for update in resumed.updates()] == [4, 5]
    assert "transfer:" not in resumed.output
