"""From pre-training to translation through the command lines."""

import re
import shutil

import pytest
import torch


def checkpoint(path) -> dict:
    return torch.load(path, weights_only=True)


def transfer_counts(output: str) -> dict[str, int]:
    """Numbers of the transfer report by title."""
    return {title: int(n) for n, title in re.findall(r"transfer: (\d+) tensors ([a-z -]+?)(?::.*)?$", output, re.M)}


def fill(run, corpus, folder, pretrained, *argv, **options):
    """One update without learning rate: the checkpoint holds what the transfer has filled in."""
    trained = run.train(corpus.data, folder, "--pretrained", pretrained, "--lr", "0", "--max-update", "1",
                        "--disable-validation", *argv, **options)  # fmt: skip
    return trained, checkpoint(folder / "checkpoint_last.pt")["model"]


def test_report_accounts_for_every_tensor(run, corpus, vtlm, tmp_path):
    """PITFALLS 8: encoder, decoder and cross-attention hold the pre-trained values, and the report adds up."""
    trained, new = fill(run, corpus, tmp_path, vtlm, regions=corpus.regions)
    old = checkpoint(vtlm)["model"]
    counts = transfer_counts(trained.output)
    filled = counts["copied"] + counts["copied from self-attention"] + counts["left random"]
    assert filled == len([name for name in new if name != "decoder.version"])
    assert counts["left random"] == 0
    layers = 2
    assert counts["copied from self-attention"] == layers * (4 * 2 + 2)
    assert counts["unused of the pre-trained model"] == 2
    assert "region_head.weight" in trained.output and "region_head.bias" in trained.output

    def pretrained_name(name: str) -> str:
        name = name.replace("encoder_attn", "self_attn").replace("decoder.", "encoder.")
        return name.replace("encoder.output_projection", "lm_head")

    for name, tensor in new.items():
        if name != "decoder.version":
            assert torch.equal(tensor, old[pretrained_name(name)]), name


def test_random_cross_attention(run, corpus, vtlm, tmp_path):
    """PITFALLS 8: cross-attention is random only on request, and the report says so."""
    argv = ("--init-cross-attention", "random")
    trained, new = fill(run, corpus, tmp_path, vtlm, *argv, regions=corpus.regions)
    counts = transfer_counts(trained.output)
    assert counts["copied from self-attention"] == 0
    assert counts["left random"] == 2 * (4 * 2 + 2)
    weight = new["decoder.layers.0.encoder_attn.q_proj.weight"]
    assert not torch.equal(weight, new["decoder.layers.0.self_attn.q_proj.weight"])


def test_tlm_to_mmt_starts_regions_fresh(run, corpus, tlm, tmp_path):
    """A pre-trained model without regions: the new model's region parameters start fresh, and the report says so."""
    trained, new = fill(run, corpus, tmp_path, tlm, regions=corpus.regions)
    assert "region parameters start fresh" in trained.output
    fresh = [name for name in new if "embed_regions" in name]
    assert len(fresh) == 4
    assert transfer_counts(trained.output)["left random"] == len(fresh)
    assert all(name in trained.output for name in fresh)


def test_vtlm_to_nmt_leaves_regions_out(run, corpus, vtlm, tmp_path):
    """A pre-trained model with regions gives a text-only model; its region parameters are listed as unused."""
    trained, new = fill(run, corpus, tmp_path, vtlm)
    assert not [name for name in new if "region" in name]
    assert transfer_counts(trained.output)["unused of the pre-trained model"] == 6
    assert transfer_counts(trained.output)["left random"] == 0


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


def test_language_rows_meet_by_name(run, corpus, vtlm, tmp_path):
    """Rows of other positions are mapped; a language that is new starts fresh and is reported."""
    trained, new = fill(run, corpus, tmp_path, vtlm, "--langs", "fr,en,de", regions=corpus.regions)
    rows, old = (state["encoder.embed_positions.languages.weight"] for state in (new, checkpoint(vtlm)["model"]))
    assert torch.equal(rows[[2, 1, 3]], old)  # of vtlm: de, en, image
    assert "no language 'fr'" in trained.output


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
