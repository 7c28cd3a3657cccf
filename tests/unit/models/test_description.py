"""Every option that a checkpoint keeps is adopted by commands that do not give it, and compared with those that do."""

import logging
from pathlib import Path

import pytest
import torch
from fairseq import tasks
from omegaconf import OmegaConf

from stores import fault, make_store
from tiny import folder, pretraining_config, translation_config
from vtlm_fairseq.data.word_masking import RandomWords, register_word_masking
from vtlm_fairseq.models.description import TASK_OPTIONS, Description
from vtlm_fairseq.regions.detector import Detector, check_detector

# trained with, another value, and what becomes of it in: decoding, resuming, --finetune-from-model, --pretrained
OPTIONS = {
    "max_regions": (3, 4, "refused refused warned warned"),
    "region_order": ("shuffle", "none", "warned warned warned warned"),
    "max_source_positions": (40, 50, "warned warned warned nothing"),
    "max_target_positions": (41, 50, "warned warned warned nothing"),
    "truncate_source": (True, False, "warned warned warned nothing"),
    "mask_prob": (0.3, 0.4, "warned warned warned nothing"),
    "leave_unmasked_prob": (0.2, 0.3, "warned warned warned nothing"),
    "random_token_prob": (0.2, 0.3, "warned warned warned nothing"),
    "region_mask_prob": (0.3, 0.4, "warned warned warned nothing"),
    "region_leave_unmasked_prob": (0.2, 0.3, "warned warned warned nothing"),
    "region_random_prob": (0.2, 0.3, "warned warned warned nothing"),
    "word_masking": ("as-random", "random", "warned warned warned nothing"),
    "aligned_share": (0.2, 0.3, "warned warned warned nothing"),
    "region_masking": ("siblings", "overlap", "warned warned warned nothing"),
    "region_mask_overlap": (0.2, 0.3, "warned warned warned nothing"),
    "region_mask_schedule": ("linear:0:1:3", "none", "warned warned warned nothing"),
    "region_objectives": ("mrc:2,mrfr", "mrc", "refused refused refused nothing"),
    "region_mask_fill": ("zero", "mask", "refused refused refused nothing"),
}
MODEL = {"layernorm_eps": (1e-5, 1e-6), "region_activation": ("gelu", "none"), "region_no_bias": (True, False),
         "region_layernorm": (True, False), "region_positions": (6, 8), "region_standardise": (True, False),
         }  # fmt: skip
register_word_masking("as-random")(type("AsRandom", (RandomWords,), {}))
RELATIONS = ("load", "resume", "finetune", "pretrained")
SLOW = [pytest.param(relation, marks=pytest.mark.slow) for relation in ("resume", "finetune")]
CONFIGS = {"visual_translation_lm": pretraining_config, "multimodal_translation": translation_config}


class Trained:
    """A data folder, and for each task a checkpoint whose options are none of the defaults."""

    def __init__(self, path: Path):
        self.path = path
        folder(path / "bin", {"train": 9, "valid": 5})
        make_store(path / "regions" / "train.h5", 4)
        make_store(path / "regions" / "valid.h5", 4, seed=1)
        for name in CONFIGS:
            cfg = self.config(name)
            for option, (value, _, _) in OPTIONS.items():
                if option in cfg.task:
                    cfg.task[option] = value
            for option, (value, _) in MODEL.items():
                cfg.model[option] = value
            task = tasks.setup_task(cfg.task)
            model = task.build_model(cfg.model)
            plain = OmegaConf.to_container(cfg, resolve=False, enum_to_str=True)
            saved = {"model": plain["model"], "task": {"_name": name}}
            state = {"model": model.state_dict(), "cfg": saved, "task_state": task.state_dict()}
            torch.save(state, path / f"{name}.pt")
        self.translation_options = set(cfg.task)

    def config(self, name: str):
        """Of a command that gives no option."""
        return CONFIGS[name](self.path / "bin", "--regions", self.path / "regions")

    def build(self, name: str, relation: str, **given):
        """Task and model configuration of a command in a relation to the checkpoint."""
        cfg = self.config(name)
        path = str(self.path / f"{name}.pt")
        if relation == "pretrained":
            name, path = "multimodal_translation", str(self.path / "visual_translation_lm.pt")
            cfg = self.config(name)
            cfg.model.pretrained = path
        elif relation != "load":
            cfg.task["restore_file" if relation == "resume" else "finetune_from_model"] = path
        for option, value in given.items():
            (cfg.task if option in OPTIONS else cfg.model)[option] = value
        task = tasks.setup_task(cfg.task)
        if relation != "load":
            task.build_model(cfg.model)
            return task, cfg.model
        state = torch.load(path, weights_only=True)
        task.load_state_dict(state["task_state"])
        saved = OmegaConf.create(state["cfg"]["model"])
        task.build_model(saved, from_checkpoint=True)
        return task, saved


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Trained:
    return Trained(tmp_path_factory.mktemp("described"))


@pytest.mark.slow
@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("name", list(CONFIGS))
def test_options_that_are_not_given_are_the_checkpoints(trained, name, relation):
    if relation == "pretrained" and name == "visual_translation_lm":
        pytest.skip("pre-training begins with no pre-trained model")
    task, model = trained.build(name, relation)
    for option, (value, _, found) in OPTIONS.items():
        if option in task.cfg:
            adopted = relation in ("load", "resume") or (
                option == "max_regions" if relation == "pretrained" else option != "region_order"
            )
            assert (task.option(option) == value) == adopted, (option, found)
    assert {option: getattr(model[option], "value", model[option]) for option in MODEL} == {
        option: value for option, (value, _) in MODEL.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("relation", ["load", *SLOW, "pretrained"])
@pytest.mark.parametrize("option", list(OPTIONS))
def test_options_that_differ(trained, option, relation, caplog):
    """Refused, warned of where they are an experiment, or without a counterpart in the other task."""
    name = "multimodal_translation" if option in trained.translation_options else "visual_translation_lm"
    if relation == "pretrained" and name == "visual_translation_lm":
        return
    _, other, expected = OPTIONS[option]
    expected = expected.split()[RELATIONS.index(relation)]
    flag = f"--{option.replace('_', '-')}"
    caplog.set_level(logging.WARNING)
    if expected == "refused":
        with pytest.raises(SystemExit) as caught:
            trained.build(name, relation, **{option: other})
        assert flag in str(caught.value) and str(OPTIONS[option][0]) in str(caught.value)
        return
    task, _ = trained.build(name, relation, **{option: other})
    task.load_dataset("valid")
    assert task.option(option) == other
    assert (flag in caplog.text) == (expected == "warned")


@pytest.mark.slow
@pytest.mark.parametrize("relation", RELATIONS[1:])
@pytest.mark.parametrize("option", list(MODEL))
def test_models_that_differ(trained, option, relation, caplog):
    """One with another activation or table of positions is another model; a new training may change epsilon."""
    if option == "layernorm_eps" and relation != "resume":
        caplog.set_level(logging.WARNING)
        _, model = trained.build("multimodal_translation", relation, layernorm_eps=1e-6)
        assert model.layernorm_eps == 1e-6 and "--layernorm-eps 1e-05" in caplog.text
        return
    with pytest.raises(SystemExit) as caught:
        trained.build("multimodal_translation", relation, **{option: MODEL[option][1]})
    assert option.replace("_", "-") in str(caught.value).replace("_", "-")


def test_fewer_regions_are_an_experiment(trained, caplog):
    caplog.set_level(logging.WARNING)
    assert trained.build("multimodal_translation", "load", max_regions=2)[0].option("max_regions") == 2
    assert "--max-regions 3" in caplog.text


@pytest.mark.slow
def test_nothing_is_said_where_options_agree(trained, caplog):
    assert set(OPTIONS) == set(TASK_OPTIONS)  # all are tried
    caplog.set_level(logging.WARNING)
    for relation in RELATIONS[:3]:
        for name in CONFIGS:
            given = {o: v for o, (v, _, _) in OPTIONS.items() if o in trained.config(name).task}
            task, _ = trained.build(name, relation, **given)
            task.load_dataset("valid")
    assert not [record for record in caplog.records if record.name.startswith("vtlm_fairseq")]


SAVED = {"version": 1, "options": {"max_regions": 2, "mask_prob": 0.3}, "detector": None, "masks": 2,
         "validation_seed": 1}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"version": 0}, {"version": "1"}, {"options": []}, {"options": {"max_regions": 0}}, {"masks": None},
     {"options": {"mask_prob": float("nan")}}, {"options": {"region_order": "other"}}, {"detector": "d"},
     {"options": {"truncate_source": 1}}, {"detector": {"name": 3, "classes": ""}}, {"validation_seed": "1"}],
)  # fmt: skip
def test_descriptions_that_are_damaged(change):
    read = Description.of_task_state
    assert read(SAVED, "x.pt").options == SAVED["options"]
    for damaged in ({**SAVED, **change}, [SAVED]):
        assert "x.pt" in fault(read, damaged, "x.pt")
    assert "version 2" in fault(read, {**SAVED, "version": 2}, "x.pt")


def test_detectors_differ_by_name_and_by_classes(caplog):
    caplog.set_level(logging.WARNING)
    one, two, three = Detector.of("one", ["a", "b"]), Detector.of("two", ["a", "b"]), Detector.of("one", ["ab", ""])
    where = {"where": "s.h5", "owner": "the model"}
    assert one.classes == two.classes != three.classes
    for other, named in ((two, "'two'"), (three, three.classes)):
        assert named in fault(check_detector, one, other, any_detector=False, **where)
    for known in (one, None):
        check_detector(known, one, any_detector=False, **where)
    assert not caplog.text
    check_detector(one, two, any_detector=True, **where)
    assert "'two'" in caplog.text and "--any-detector" in caplog.text


def test_masks_of_another_version(trained, caplog):
    caplog.set_level(logging.WARNING)
    task, _ = trained.build("visual_translation_lm", "load")
    task.source.masks, task.told = 99, False
    task.warn_of_figures()
    assert "version 99" in caplog.text
