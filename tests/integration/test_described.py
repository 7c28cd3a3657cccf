"""What a checkpoint says of its model reaches every command: options, detector, masks of validation."""

import json
import re
import shutil
from pathlib import Path

import h5py
import pytest
import torch

from harness import CommandLines
from toy import Corpus

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
DECODE = ("--beam", "3", "--max-len-b", "20", "--batch-size", "4")
UNUSUAL = ("--langs", "fr,en,de", "--max-regions", "2", "--region-positions", "2", "--region-layernorm",
           "--layernorm-eps", "1e-3", "--max-source-positions", "20", "--max-positions", "32")  # fmt: skip


@pytest.fixture(scope="module")
def unusual(run, corpus, tmp_path_factory) -> tuple[Path, Path]:
    """A pre-trained model with unusual options, and a translation model that adopts them."""
    folder = tmp_path_factory.mktemp("unusual")
    argv = ("--region-mask-fill", "zero", "--region-mask-prob", "0.6", "--seed", "7", "--dropout", "0.3")
    run.pretrain(corpus.data, folder / "vtlm", *UNUSUAL, *argv, "--max-update", "8", regions=corpus.regions)
    vtlm = folder / "vtlm" / "checkpoint_last.pt"
    argv = ("--truncate-source", "--max-source-positions", "9", "--max-positions", "32", "--max-update", "60")
    run.train(corpus.data, folder / "mmt", "--pretrained", vtlm, *argv, "--lr", "3e-3", regions=corpus.regions)
    return vtlm, folder / "mmt" / "checkpoint_last.pt"


def test_every_command_sees_what_training_saw(run, corpus, unusual):
    """Two of seven regions, sources cut to nine tokens, three languages: the same words and scores everywhere."""
    from vtlm_fairseq.evaluation.scoring.scores import TOKENISED
    from vtlm_fairseq.evaluation.teacher_forcing import score_translations
    from vtlm_fairseq.hub import MultimodalTransformer

    _, path = unusual
    assert max(len(line.split()) for line in corpus.lines("test", "en")) > 9
    decoded = run.generate(corpus.data, path, *DECODE, "--lenpen", "0", regions=corpus.regions)
    assert "at most 2 regions" in decoded.output
    lines = list(zip(corpus.lines("test", "en"), corpus.images("test"), strict=True))
    store = ("--regions", corpus.store("test"), "--preprocessed")
    text = "".join(f"{line}\t{image}\n" for line, image in lines)
    argv = ("--beam", "3", "--max-len-b", "20", "--lenpen", "0")
    translated = run.translate(path, *store, *argv, stdin=text).output.splitlines()[-len(lines) :]
    assert translated == decoded.hypotheses()
    hub = MultimodalTransformer.from_pretrained(path, regions=str(corpus.store("test")), preprocessed=True, cpu=True)
    images = [image for _, image in lines]
    assert hub.translate([line for line, _ in lines], images, beam=3, max_len_b=20, lenpen=0) == translated
    scores = score_translations(
        hub,
        [hub.encode(line) for line, _ in lines],
        [hub.encode_target(line) for line in translated],
        regions=hub.line_regions(images),
    )
    bits = [score.normalised(lenpen=0) / torch.log(torch.tensor(2.0)).item() for score in scores]
    assert bits == pytest.approx(decoded.scores(), abs=2e-3)
    # the loss of the references: fairseq-validate, and the same by forced scores
    argv = ("--regions", corpus.regions, "--valid-subset", "test")
    checked = run.validate(corpus.data, path, *argv, task="multimodal_translation").json_lines("test_nll_loss")[-1]
    scores = score_translations(
        hub,
        [hub.encode(line) for line, _ in lines],
        [hub.encode_target(line) for line in corpus.lines("test", "de")],
        regions=hub.line_regions(images),
    )
    tokens = sum(score.tokens for score in scores)
    loss = -sum(score.normalised(lenpen=0) for score in scores) / tokens / torch.log(torch.tensor(2.0)).item()
    assert float(checked["test_nll_loss"]) == pytest.approx(loss, abs=2e-3)
    # the probe's BLEU of given regions is that of fairseq-generate
    argv = ("--system", f"MMT={path}", "--regions", corpus.regions, "--beam", "3", "--max-len-b", "20", "--lenpen", "0",
            "--repeats", "1", "--cpu", "--format", "json")  # fmt: skip
    probe = run("vtlm_fairseq.cli.probe", "incongruent", corpus.data, *argv).output
    rows = json.loads(probe[probe.index("{\n") :])["rows"]
    assert rows[0]["BLEU"] == pytest.approx(TOKENISED.score(translated, corpus.lines("test", "de")).value, abs=1e-4)


def test_other_options_than_those_of_training(run, corpus, unusual):
    """Fewer regions are an experiment, more are refused; a longer source too is warned of."""
    _, path = unusual
    plain = run.generate(corpus.data, path, *DECODE, regions=corpus.regions)
    fewer = run.generate(corpus.data, path, *DECODE, "--max-regions", "1", regions=corpus.regions)
    assert "trained with --max-regions 2" in fewer.output and fewer.scores() != plain.scores()
    run.generate(corpus.data, path, "--max-regions", "3", regions=corpus.regions, ok=False).fault("--max-regions 2")
    argv = ("--regions", corpus.store("test"), "--max-regions", "36", "--preprocessed")
    run.translate(path, *argv, stdin="word1\tx\n", ok=False).fault("--max-regions 2")


def test_a_resumed_run_has_the_options_of_the_first_call(run, corpus, unusual, tmp_path):
    """Without its options it goes on with them; others are refused."""
    vtlm, _ = unusual
    shutil.copytree(vtlm.parent, tmp_path / "v")
    argv = ("--max-positions", "32", "--max-update", "9", "--seed", "7")
    gone_on = run.pretrain(corpus.data, tmp_path / "v", *argv, regions=corpus.regions)
    assert "at most 2 regions" in gone_on.output
    saved = torch.load(tmp_path / "v" / "checkpoint_last.pt", weights_only=True)
    first = torch.load(vtlm, weights_only=True)
    assert saved["optimizer_history"][-1]["num_updates"] == 9
    assert saved["task_state"] == first["task_state"]
    for option, value in (("--max-regions", "3"), ("--region-mask-fill", "mask"), ("--encoder-attention-heads", "2")):
        refused = run.pretrain(corpus.data, tmp_path / "v", *argv, option, value, regions=corpus.regions, ok=False)
        refused.fault(option)


def test_a_run_with_a_suffix_goes_on_from_its_own_checkpoint(run, corpus, tmp_path):
    """``checkpoint_last.x.pt`` is the one that fairseq restores, and the one that is compared and completed."""
    argv = ("--checkpoint-suffix=.x", "--max-update", "3", "--region-positions", "2", "--max-regions", "2")
    run.pretrain(corpus.data, tmp_path, *argv, regions=corpus.regions)
    best = tmp_path / "checkpoint_best.x.pt"
    best.unlink()
    gone_on = run.pretrain(corpus.data, tmp_path, argv[0], "--max-update", "4", regions=corpus.regions)
    assert "at most 2 regions" in gone_on.output
    assert best.is_file() and not (tmp_path / "checkpoint_best.pt").exists()
    refused = run.pretrain(corpus.data, tmp_path, argv[0], "--max-regions", "3", regions=corpus.regions, ok=False)
    refused.fault("--max-regions")


def test_an_average_is_of_one_model(run, unusual, tmp_path):
    """Heads and epsilon do not show in the shapes, regions in no tensor at all."""
    _, path = unusual
    for change in ("encoder_attention_heads", "layernorm_eps", "max_regions"):
        state = torch.load(path, weights_only=True)
        held = state["task_state"]["description"]["options"] if change == "max_regions" else state["cfg"]["model"]
        held[change] = 1
        torch.save(state, tmp_path / "other.pt")
        averaged = run.convert("average", path, tmp_path / "other.pt", "--out", tmp_path / "mean.pt", ok=False)
        averaged.fault("--" + change.replace("_", "-"))
    joined = f"{path}:{tmp_path / 'other.pt'}"  # nor is an ensemble
    run.translate(joined, "--regions", "none", "--region-order", "none", "--preprocessed", ok=False, stdin="").fault(
        "--max-regions"
    )


def test_an_older_checkpoint_says_what_it_does_not_hold(run, corpus, unusual, tmp_path):
    """One without a description, as earlier versions saved it: its training's regions, and a line about the rest."""
    _, path = unusual
    state = torch.load(path, weights_only=True)
    del state["task_state"]["description"]
    state["cfg"]["task"].update(max_regions=2, region_order="given", max_source_positions=512, max_target_positions=512)
    for name in ("any_detector", "fixed_validation_seed"):
        del state["cfg"]["task"][name]
    torch.save(state, tmp_path / "old.pt")
    old = run.generate(corpus.data, tmp_path / "old.pt", *DECODE, "--truncate-source", "--max-source-positions", "9",
                       regions=corpus.regions)  # fmt: skip
    assert old.scores() == run.generate(corpus.data, path, *DECODE, regions=corpus.regions).scores()
    assert len(re.findall("does not say: .*the detector", old.output)) == 1
    new = run.generate(corpus.data, path, *DECODE, regions=corpus.regions)
    assert "does not say" not in new.output


@pytest.fixture
def foreign(corpus, tmp_path) -> Corpus:
    """The corpus with the regions of another detector of the same sizes in every split but train."""
    other = corpus.copy(tmp_path / "foreign")
    for split in ("valid", "test", "test1"):
        with h5py.File(other.store(split), "r+") as file:
            file.attrs["detector"] = "another"
    return other


def test_regions_of_another_detector(run, corpus, unusual, foreign, tmp_path):
    """Name and classes are kept: another one is refused as valid, test, shard, for --pretrained and resuming."""
    vtlm, path = unusual
    mine = ("--any-detector",)
    run.pretrain(foreign.data, tmp_path / "t", regions=foreign.regions, ok=False).fault("another", *mine)
    decode = (foreign.data, path, *DECODE)
    run.generate(*decode, regions=foreign.regions, ok=False).fault("another", *mine)
    meant = run.generate(*decode, *mine, regions=foreign.regions)
    assert meant.scores() == run.generate(corpus.data, path, *DECODE, regions=corpus.regions).scores()
    store = ("--regions", foreign.store("test"), "--preprocessed", "--batch-size", "2")
    line = f"word1 word2\t{corpus.images('test')[0]}\n"
    run.translate(path, *store, stdin=line, ok=False).fault("another", *mine)
    run.translate(path, *store, *mine, stdin=line)
    system = ("--path", vtlm, "--regions", foreign.regions, "--cpu")
    probe = ("mrc", corpus.data, *system, "--subsets", "test", "--no-references")
    run("vtlm_fairseq.cli.probe", *probe, ok=False).fault("another", *mine)
    run("vtlm_fairseq.cli.probe", *probe, *mine)
    page = (corpus.data, "--path", path, "--regions", foreign.regions, "--lines", "1", "--out", tmp_path / "p.html")
    run("vtlm_fairseq.cli.report", *page, "--cpu", ok=False).fault("another", *mine)
    # a run that begins with a model: its train split is of another detector
    shutil.copy(foreign.store("valid"), tmp_path / "valid.h5")
    begun = (foreign.data, "--regions", foreign.regions, "--train-subset", "valid", "--valid-subset", "valid")
    for option in ("--restore-file", "--finetune-from-model"):
        argv = ("--max-positions", "32", option, vtlm, *begun[1:])
        run.pretrain(foreign.data, tmp_path / "r", *argv, regions=foreign.regions, ok=False).fault("another", *mine)
    argv = ("--max-positions", "32", "--pretrained", vtlm, *begun[1:])
    run.train(foreign.data, tmp_path / "m", *argv, regions=foreign.regions, ok=False).fault("another", *mine)
    run.train(foreign.data, tmp_path / "m", *argv, *mine, "--max-update", "1", regions=foreign.regions)
    # shards of one split
    shutil.copy(foreign.store("test1"), foreign.regions / "train.1.h5")
    shutil.move(foreign.store("train"), foreign.regions / "train.0.h5")
    shutil.copy(corpus.store("valid"), foreign.store("valid"))
    joined = run.pretrain(foreign.data, tmp_path / "s", regions=foreign.regions, ok=False)
    joined.fault("train.1.h5", "another", *mine)
    run.pretrain(foreign.data, tmp_path / "s", *mine, "--max-update", "1", regions=foreign.regions)


def test_the_same_detector_with_other_classes(run, corpus, unusual, tmp_path):
    """As many classes of other names."""
    other = corpus.copy(tmp_path / "classes")
    with h5py.File(other.store("test"), "r+") as file:
        file["class_names"][0] = b"other0"
    run.generate(other.data, unusual[1], regions=other.regions, ok=False).fault("classes", "--any-detector")


def figures(run: CommandLines, data, path, *argv) -> tuple[str, str, str]:
    """Loss and accuracies of validation, and the output."""
    checked = run.validate(data, path, *argv)
    found = checked.json_lines("valid_loss")[-1]
    return found["valid_mlm_loss"], found["valid_mrc_accuracy"], checked.output


def test_the_same_weights_have_the_same_figures(run, corpus, unusual, tmp_path):
    """Masks of validation do not follow --seed, in training, in fairseq-validate and where a run is resumed."""
    vtlm, _ = unusual
    first = figures(run, corpus.data, vtlm)
    assert figures(run, corpus.data, vtlm, "--seed", "5")[:2] == first[:2]
    frozen = ("--lr", "0", "--max-positions", "32", "--restore-file", vtlm, "--reset-optimizer", "--max-update", "9")
    logged = [
        run.pretrain(corpus.data, tmp_path / seed, *frozen, "--seed", seed, regions=corpus.regions)
        for seed in ("3", "4")
    ]
    one, two = (result.validations()[-1] for result in logged)
    assert one["mlm_loss"] == two["mlm_loss"] == float(first[0])
    assert one["mrc_accuracy"] == two["mrc_accuracy"] == float(first[1])
    other = figures(run, corpus.data, vtlm, "--fixed-validation-seed", "5")
    assert other[0] != first[0] and "not comparable" in other[2] and "not comparable" not in first[2]
    argv = (*frozen, "--fixed-validation-seed", "5")
    again = run.pretrain(corpus.data, tmp_path / "5", *argv, regions=corpus.regions)
    assert again.validations()[-1]["mlm_loss"] == float(other[0]) and "not comparable" in again.output


def test_a_run_of_an_older_version_is_told_of_its_masks(run, corpus, unusual, tmp_path):
    """Masks were those of --seed 7; --fixed-validation-seed 7 gives them again."""
    vtlm, _ = unusual
    state = torch.load(vtlm, weights_only=True)
    del state["task_state"]["description"]
    torch.save(state, tmp_path / "old.pt")
    now = figures(run, corpus.data, tmp_path / "old.pt", "--max-regions", "2")
    assert "not comparable" in now[2]
    then = figures(run, corpus.data, tmp_path / "old.pt", "--max-regions", "2", "--fixed-validation-seed", "7")
    assert then[0] != now[0] and "not comparable" not in then[2]
    argv = ("--max-positions", "32", "--restore-file", tmp_path / "old.pt", "--max-update", "9", "--max-regions", "2")
    assert "not comparable" in run.pretrain(corpus.data, tmp_path / "r", *argv, regions=corpus.regions).output
