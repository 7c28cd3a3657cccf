"""--regions-on-device: trainings, validations and translations are those without it, to the last bit."""

import pytest
import torch
from equality import equal
from fairseq.checkpoint_utils import load_model_ensemble_and_task

from harness import pretraining, translation
from toy import DIM, spoil

OPTION = "--regions-on-device"
SPEEDS = {"wall", "wps", "ups", "wpb", "bsz", "train_wall", "gb_free"}
LENGTH = ("--max-update", "20", "--save-interval-updates", "8", "--keep-interval-updates", "-1")
MANY = ("--region-mask-prob", "0.6", "--region-random-prob", "0.3", "--region-leave-unmasked-prob", "0.2")
CASES = {
    "masked": (pretraining, (*MANY, "--num-workers", "2")),
    "zeros": (pretraining, (*MANY, "--region-mask-fill", "zero", "--update-freq", "2", "--max-regions", "2")),
    "shuffled": (pretraining, (*MANY, "--region-order", "shuffle", "--num-workers", "0")),
    "hidden": (pretraining, ("--region-order", "none", "--max-update", "4")),
    "mmt": (translation, ("--num-workers", "2", "--update-freq", "2")),
    "bf16": (
        translation,
        ("--autocast", "bf16", "--max-update", "4", "--eval-bleu", "--eval-bleu-args", '{"beam": 2}'),
    ),
}


def figures(result) -> list[dict]:
    """What was logged of updates and validations, without times."""
    return figures_of([*result.updates(), *result.validations()])


def figures_of(records: list[dict]) -> list[dict]:
    """Log records without times."""
    return [{name: value for name, value in record.items() if name not in SPEEDS} for record in records]


@pytest.fixture(scope="module")
def trained(run, corpus, tmp_path_factory):
    """Each case with and without the option: logs, and the folder of the checkpoints."""
    folder = tmp_path_factory.mktemp("on_device")
    commands = {}
    folders = {"zeros": f"{corpus.data}:{corpus.data}"}  # in alternate epochs
    for name, (make, argv) in CASES.items():
        for on in (False, True):
            more = [OPTION] if on else []
            line = make(
                folders.get(name, corpus.data), folder / f"{name}{on}", *LENGTH, *argv, *more, regions=corpus.regions
            )
            commands[name, on] = ("fairseq_cli.train", line)
    results = run.together(list(commands.values()))
    return {key: (result, folder / f"{key[0]}{key[1]}") for key, result in zip(commands, results, strict=True)}


@pytest.mark.parametrize("name", CASES)
def test_the_same_training(trained, name):
    (without, plain), (with_it, folder) = trained[name, False], trained[name, True]
    assert len(without.updates()) in (4, 20) and figures(without) == figures(with_it)
    ours, theirs = (torch.load(path / "checkpoint_last.pt", weights_only=True)["model"] for path in (folder, plain))
    assert equal(ours, theirs)


def test_resumed_validated_and_decoded(run, corpus, trained, tmp_path):
    """From the middle of an epoch; by fairseq-validate, fairseq-generate and from Python, on another split."""
    result, plain = trained["masked", False]
    argv = (OPTION, *LENGTH, *CASES["masked"][1])
    path = next(plain.glob("checkpoint_*_8.pt"))
    resumed = run.pretrain(corpus.data, tmp_path / "resumed", "--restore-file", path, *argv, regions=corpus.regions)
    assert figures(resumed)[:12] == figures(result)[8:20]
    paths = {name: [trained[name, on][1] / "checkpoint_last.pt" for on in (False, True)] for name in ("masked", "mmt")}
    loaded = load_model_ensemble_and_task([str(paths["masked"][1])])[2]  # fairseq's own way from Python
    loaded.load_dataset("test")
    dataset = loaded.dataset("test")
    assert dataset.collater([dataset[0], dataset[1]])["net_input"]["features"].shape[2] == DIM
    validated = [run.validate(corpus.data, path, "--valid-subset", "test") for path in paths["masked"]]
    assert len(validated[0].validations("test")) == 1
    assert figures_of(validated[0].validations("test")) == figures_of(validated[1].validations("test"))
    hidden = ("--valid-subset", "test", "--regions", "none", "--region-order", "none")
    without = [
        run.validate(corpus.data, path, *hidden, task="multimodal_translation").validations("test")
        for path in paths["mmt"]
    ]
    assert len(without[0]) == 1 and figures_of(without[0]) == figures_of(without[1])
    decoded = [
        run.generate(corpus.data, paths["mmt"][0], "--max-len-b", "5", *more, regions=corpus.regions)
        for more in ([], [OPTION])
    ]
    assert decoded[0].scores() == decoded[1].scores() and decoded[0].hypotheses() == decoded[1].hypotheses()
    assert "features of" in decoded[1].output and "features of" not in decoded[0].output


def test_a_probe_of_a_model_that_was_trained_so(run, corpus, trained):
    """Commands of this package read regions as ever."""
    tables = [
        run.probe("mrc", corpus.data, "--system", f"a={trained['masked', on][1] / 'checkpoint_last.pt'}",
                  "--regions", corpus.regions, "--subsets", "valid", "--format", "json").table()["rows"]
        for on in (False, True)
    ]  # fmt: skip
    assert tables[0] == tables[1]


def test_faults(run, corpus, tmp_path):
    """One line before the first update: nothing to keep, and a feature that is not finite."""
    run.pretrain(corpus.data, tmp_path / "a", OPTION, ok=False).fault(OPTION, "--regions")
    other = tmp_path / "regions"
    other.mkdir()
    for split in ("train", "valid"):
        (other / f"{split}.h5").write_bytes((corpus.regions / f"{split}.h5").read_bytes())

    def break_last(values):
        values[-1, -1] = float("inf")
        return values

    spoil(other / "train.h5", "features", break_last)
    failed = run.pretrain(corpus.data, tmp_path / "b", OPTION, regions=other, ok=False)
    failed.fault("train.h5", "not finite")
    assert failed.updates() == []
