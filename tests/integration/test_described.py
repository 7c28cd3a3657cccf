"""What a checkpoint says of its model reaches every command: options, detector, masks of validation."""

import math
import re
import shutil
from pathlib import Path

import h5py
import pytest
import torch
from fairseq.data import Dictionary

from harness import CommandLines, write_lines
from toy import CLASSES, Corpus, binarised
from vtlm_fairseq.evaluation.teacher_forcing import score_translations
from vtlm_fairseq.hub import VTLM, MultimodalTransformer
from vtlm_fairseq.text.pipeline import TextPipeline

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden"
DECODE = ("--beam", "3", "--max-len-b", "20", "--batch-size", "4")


def test_every_command_sees_what_training_saw(run, corpus, unusual):
    """Two of seven regions, sources cut to nine tokens, three languages: the same words and scores everywhere."""
    _, path = unusual
    assert max(len(line.split()) for line in corpus.lines("test", "en")) > 9
    decoded = run.generate(corpus.data, path, *DECODE, "--lenpen", "0", regions=corpus.regions)
    assert "at most 2 regions" in decoded.output
    lines = list(zip(corpus.lines("test", "en"), corpus.images("test"), strict=True))
    store = ("--regions", corpus.store("test"), "--preprocessed")
    argv = ("--beam", "3", "--max-len-b", "20", "--lenpen", "0")
    translated = run.translate(path, *store, *argv, stdin=corpus.stdin("test")).output.splitlines()[-len(lines) :]
    assert translated == decoded.hypotheses()
    hub = MultimodalTransformer.from_pretrained(path, regions=str(corpus.store("test")), preprocessed=True, cpu=True)
    images = [image for _, image in lines]

    def score(targets):
        sides = [hub.encode(line) for line, _ in lines], [hub.encode_target(line) for line in targets]
        return score_translations(hub, *sides, regions=hub.line_regions(images))

    assert hub.translate([line for line, _ in lines], images, beam=3, max_len_b=20, lenpen=0) == translated
    bits = [score.normalised(lenpen=0) / math.log(2) for score in score(translated)]
    assert bits == pytest.approx(decoded.scores(), abs=2e-3)
    # the loss of the references: fairseq-validate, and the same by forced scores
    argv = ("--regions", corpus.regions, "--valid-subset", "test")
    checked = run.validate(corpus.data, path, *argv, task="multimodal_translation").json_lines("test_nll_loss")[-1]
    scores = score(corpus.lines("test", "de"))
    tokens = sum(score.tokens for score in scores)
    loss = -sum(score.normalised(lenpen=0) for score in scores) / tokens / math.log(2)
    assert float(checked["test_nll_loss"]) == pytest.approx(loss, abs=2e-3)


def probed(run, probe: str, *argv) -> dict[str, dict]:
    """A probe's rows by masked side, text, layer or order of regions, else by the system."""
    rows = run.probe(probe, *argv, "--format", "json").table()["rows"]
    key = next((name for name in ("masked", "text", "layer", "regions") if name in rows[0]), "system")
    return {str(row[key]): row for row in rows}


def region_inputs(store: Path, image: str) -> dict[str, torch.Tensor]:
    """The first two regions of an image as a batch of one, read from the file."""
    with h5py.File(store, locking=False) as file:
        row = file["ids"].asstr()[:].tolist().index(image)
        start, end = file["offsets"][row], min(file["offsets"][row] + 2, file["offsets"][row + 1])
        found = {name: torch.from_numpy(file[name][start:end])[None] for name in ("features", "boxes")}
    return {**found, "region_padding_mask": torch.zeros(1, end - start, dtype=torch.bool)}


def test_probes_of_a_translation_model_see_what_training_saw(run, corpus, unusual, entities, tmp_path):
    """The references are what the hub translates: BLEU is 100, scores are the hub's and fairseq-generate's."""
    _, path = unusual
    store, images, source = corpus.store("test"), corpus.images("test"), corpus.lines("test", "en")
    hub = MultimodalTransformer.from_pretrained(path, regions=str(store), preprocessed=True, cpu=True)
    target = hub.translate(source, images, beam=2)
    others = hub.translate(source, [*images[5:], *images[:5]], beam=2)
    data = binarised(run, corpus, tmp_path, images, en=source, de=target)
    for lang, lines in (("en", source), ("de", target)):
        write_lines(data / "references" / f"test.{lang}", lines)
    TextPipeline("en", "de", steps=(), bpe="none").save(data)
    system = ("--system", f"MMT={path}", "--regions", corpus.regions)
    argv = (*system, "--gen-subset", "test", "--beam", "2")
    row = probed(run, "entity", data, *argv, "--entities", entities / "entities")["MMT"]
    assert row["untouched"] == pytest.approx(100) and row["MASK"] < 99
    bleu = probed(run, "incongruent", data, *argv, "--repeats", "1")
    assert (
        bleu["given"]["BLEU"] == pytest.approx(100) and max(bleu[order]["BLEU"] for order in ("shuffle", "none")) < 99
    )

    sides = {"src": source, "correct": target, "incorrect": others, "images": images}
    files = [part for name, lines in sides.items() for part in (f"--{name}", write_lines(tmp_path / name, lines))]
    table = tmp_path / "scores.tsv"
    argv = ("--system", path, "--regions", store, "--preprocessed", "--sentences", table)
    probed(run, "contrastive", *argv, *files)
    found = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines()[1:]]
    for column, texts in ((3, target), (6, others)):
        ids = [hub.encode(line) for line in source], [hub.encode_target(line) for line in texts]
        scores = score_translations(hub, *ids, regions=hub.line_regions(images))
        assert [float(line[column]) for line in found] == pytest.approx(
            [score.normalised() for score in scores], rel=1e-5
        )
    scored = run.generate(data, path, "--score-reference", regions=corpus.regions).scores()
    assert [float(line[3]) / math.log(2) for line in found] == pytest.approx(scored, abs=1e-4)

    words, model = hub.task.source_dictionary, hub.models[0]
    masses, shares = [], []
    for line, reference, image in zip(source, target, images, strict=True):
        inputs = region_inputs(store, image)
        regions = inputs["features"].size(1)
        ids = [words.eos(), *map(words.index, line.split()[:7]), words.eos()]
        batch = {"src_tokens": torch.tensor([ids]), "src_lengths": torch.tensor([len(ids)]),
                 "prev_output_tokens": torch.tensor([[words.eos(), *map(words.index, reference.split())]])}  # fmt: skip
        if regions:
            with torch.no_grad():
                attention = [model(**batch, **inputs, alignment_layer=layer)[1]["attn"][0] for layer in (0, 1)]
            masses.append([float(weights[0, :, len(ids) :].sum(1).mean()) for weights in attention])
            shares.append(regions / (regions + len(ids)))
    rows = probed(run, "attention", data, *system)
    for layer, mass in enumerate(zip(*masses, strict=True), 1):
        row = rows[str(layer)]
        assert (row["mass"], row["uniform"]) == (approx_mean(mass), approx_mean(shares))


def approx_mean(values):
    """A mean, for comparisons."""
    return pytest.approx(sum(values) / len(values), abs=1e-6)


def test_probes_of_a_pretrained_model_see_what_training_saw(run, corpus, unusual, tmp_path):
    """last-word finds the words of ``fill_mask``, mrc the labels that the model gives for features of zeros.

    The weights are made large, so that words and labels change with the regions; the sources end in predicted words.
    """
    state = torch.load(unusual[0], weights_only=True)
    for name, value in state["model"].items():
        if name.endswith("weight") and value.dim() == 2 and "embed_tokens" not in name and name != "lm_head.weight":
            value *= 6
    words = Dictionary.load(str(corpus.data / "dict.en.txt"))
    is_word = torch.tensor([symbol[:4] in ("word", "Wort") for symbol in words.symbols])
    state["model"]["lm_head.bias"][~is_word] = -99
    path, store, images = tmp_path / "large.pt", corpus.store("train"), corpus.images("train")
    torch.save(state, path)
    hub = VTLM.from_pretrained(path, data=corpus.data, regions=str(store), preprocessed=True, cpu=True)
    target = corpus.lines("train", "de")

    def last_words(source: list[str], images: list[str]) -> tuple[list[str], list[str], list[str]]:
        """Predictions of the source's, the target's and both last words."""
        found = [], [], []
        for one, other, image in zip(source, target, images, strict=True):
            hidden = [re.sub(r"\S+$", "<mask>", side) for side in (one, other)]
            for kind, pair in zip(found, ((hidden[0], other), (one, hidden[1]), hidden), strict=True):
                kind.extend(mask[0][0] for mask in hub.fill_mask(*pair, image=image, top=1))
        return found

    source = corpus.lines("train", "en")
    predicted, _, _ = last_words(source, images)
    source = [re.sub(r"\S+$", word, line) for line, word in zip(source, predicted, strict=True)]
    data = binarised(run, corpus, tmp_path, images, en=source, de=target)
    ends = [[line.split()[-1] for line in side] for side in (source, target)]
    ends.append([word for pair in zip(*ends, strict=True) for word in pair])
    right, other = (
        [sum(map(str.__eq__, ours, theirs)) for ours, theirs in zip(last_words(source, order), ends, strict=True)]
        for order in (images, [*images[5:], *images[:5]])
    )
    assert right[0] == len(source) > other[0] + 9
    argv = (data, "--system", path, "--subsets", "test")
    rows = probed(run, "last-word", *argv, "--regions", store)
    assert [rows[side]["test right"] for side in ("EN", "DE", "BOTH")] == right

    logits = []  # of each region of each line, its features 0
    for sides, image in zip(zip(source, target, strict=True), images, strict=True):
        ids = [[words.eos(), *map(words.index, side.split()), words.eos()] for side in sides]
        places = [torch.arange(len(side)) for side in ids]
        tokens, inputs = torch.tensor([sum(ids, [])]), region_inputs(store, image)
        logits.append(torch.zeros(0, CLASSES))
        for chosen in torch.eye(inputs["features"].size(1), dtype=torch.bool):
            with torch.no_grad():
                _, found = hub.model(
                    tokens,
                    positions=torch.cat(places)[None],
                    langs=torch.cat([torch.full_like(place, lang) for lang, place in enumerate(places, 1)])[None],
                    masked_tokens=torch.zeros_like(tokens, dtype=torch.bool),
                    selected_regions=chosen[None],
                    **{**inputs, "features": inputs["features"].masked_fill(chosen[None, :, None], 0)},
                )
            logits[-1] = torch.cat([logits[-1], found])
    mean = torch.cat(logits).mean(0)  # without it one label wins everywhere
    state["model"]["region_head.bias"] -= mean
    torch.save(state, path)
    labels = [(each - mean).argmax(1).tolist() for each in logits]
    assert len(set(sum(labels, []))) > 3
    first = {image: labels[images.index(image)] for image in images}  # the store has them
    changed = shutil.copy(store, tmp_path / "test.h5")
    with h5py.File(changed, "r+") as file:
        for row, image in enumerate(file["ids"].asstr()[:]):
            start = file["offsets"][row]
            file["labels"][start : start + len(first[image])] = first[image]
    row = probed(run, "mrc", *argv, "--regions", changed, "--no-references")["given"]
    same = [
        ours == theirs
        for each, image in zip(labels, images, strict=True)
        for ours, theirs in zip(each, first[image], strict=True)
    ]
    assert (row["test of"], row["test"]) == (len(same), pytest.approx(100 * sum(same) / len(same)))


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
    system = ("--path", vtlm, "--regions", foreign.regions)
    probe = ("mrc", corpus.data, *system, "--subsets", "test", "--no-references")
    run.probe(*probe, ok=False).fault("another", *mine)
    run.probe(*probe, *mine)
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
    # the same detector with as many classes of other names
    with h5py.File(foreign.store("test"), "r+") as file:
        file.attrs["detector"] = "random"
        file["class_names"][0] = b"other0"
    run.generate(*decode, regions=foreign.regions, ok=False).fault("classes", *mine)


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
