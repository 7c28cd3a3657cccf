"""What is said where a checkpoint and a command do not describe the same model."""

import logging

import pytest

from messages import says
from tiny import dictionary, folder, pretraining_task
from vtlm_fairseq.models.description import Description, Relation, adopt_options, check_same_model
from vtlm_fairseq.regions.detector import Detector, check_detector

SAVED = {"version": 1, "options": {"max_regions": 2, "mask_prob": 0.3}, "detector": None, "masks": 2,
         "validation_seed": 1}  # fmt: skip


@pytest.fixture
def task(tmp_path):
    """A pre-training task that has been given two options."""
    folder(tmp_path / "bin", {"train": 3, "valid": 3})
    return pretraining_task(tmp_path / "bin", "--max-regions", "3", "--mask-prob", "0.2")


def test_options_that_differ(task, caplog):
    caplog.set_level(logging.WARNING)
    source = Description.of_task_state(SAVED, "x.pt")
    source.model = {"region_dim": 4, "langs": "de,en"}
    call = (adopt_options, task.cfg, source, Relation.RESUME)
    says(
        "description._contradict", "x.pt has --max-regions 2, this command 3; go on with the options of the first call",
        *call, has_regions=True,
    )  # fmt: skip
    adopt_options(task.cfg, source, Relation.RESUME, has_regions=False)
    assert "x.pt was trained with --mask-prob 0.3, this command gives 0.2" in caplog.text
    says(
        "description.check_same_model",
        "x.pt has --langs de,en, this command en,de; go on with the options of the first call",
        check_same_model, source, {"langs": "en,de", "region_dim": 4}, Relation.RESUME,
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"version": 0}, {"version": "1"}, {"options": []}, {"options": {"max_regions": 0}}, {"masks": None},
     {"options": {"mask_prob": float("nan")}}, {"options": {"region_order": "other"}}, {"detector": "d"},
     {"options": {"truncate_source": 1}}, {"detector": {"name": 3, "classes": ""}}, {"validation_seed": "1"}],
)  # fmt: skip
def test_descriptions_that_are_damaged(change):
    read = Description.of_task_state
    for damaged in ({**SAVED, **change}, [SAVED]):
        says(
            "description.of_task_state", "x.pt: its description of the model is damaged; use another",
            read, damaged, "x.pt",
        )  # fmt: skip
    says(
        "description.of_task_state",
        "x.pt: its description of the model is of version 2, this vtlm-fairseq knows 1; install the one that wrote",
        read, {**SAVED, "version": 2}, "x.pt",
    )  # fmt: skip


def test_detectors_that_differ(caplog):
    caplog.set_level(logging.WARNING)
    one, two, three = Detector.of("one", ["a", "b"]), Detector.of("two", ["a", "b"]), Detector.of("one", ["ab", ""])
    assert one.classes != three.classes
    names = {"where": "s.h5", "owner": "the model"}
    words = (
        "s.h5: regions are by 'two', those of the model by 'one'; use regions of the same detector, or --any-detector"
    )
    says("detector.check_detector", words, check_detector, one, two, any_detector=False, **names)
    words = f"s.h5: 'one' has other classes ({three.classes}) than that of the model ({one.classes})"
    says("detector.check_detector", words, check_detector, one, three, any_detector=False, **names)
    check_detector(one, one, any_detector=False, **names)
    check_detector(None, one, any_detector=False, **names)
    assert not caplog.text
    check_detector(one, two, any_detector=True, **names)
    assert "those of the model by 'one'; taken all the same, as --any-detector asks" in caplog.text


def test_what_older_checkpoints_do_not_say(task, caplog):
    caplog.set_level(logging.WARNING)
    task.load_state_dict({"symbols": dictionary().symbols})
    task.source.model, task.relation = {"region_dim": 4}, Relation.LOAD
    task._tell_unsaid(task.source)
    assert "the checkpoint is of an older version and does not say: --max-regions, the detector; this" in caplog.text
    task.source = Description("x.pt", validation_seed=5, masks=2, whole=True)
    task.cfg.fixed_validation_seed = 4
    task.warn_of_figures()
    words = "x.pt was validated with masks of seed 5, this command has 4: figures of validation are not comparable"
    assert words in caplog.text
    task.source, task.told = Description("x.pt", validation_seed=5, masks=3, whole=True), False
    task.warn_of_figures()
    assert "x.pt was trained with version 3 of the masks, this is 2: figures of validation are not" in caplog.text
    task.source, task.has_regions = Description("x.pt", {"region_order": "shuffle"}), True
    task.warn_of_order()
    assert "the model was trained with --region-order shuffle, this command has given" in caplog.text
