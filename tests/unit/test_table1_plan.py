"""The recipes hold the paper's numbers, and README commands and the runner at the paper's size are the same recipes."""

import argparse
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from recipes import EXAMPLES, RECIPES, arguments, commands, differences, parsed, recipe
from stages import Stage, prepare_folder
from table1 import FORMATS as OFFERED
from table1 import parse_arguments
from table1_data import Checksums, Data, find_data
from table1_plan import Planner
from table1_rows import ROWS, SIZES

from stores import fault
from tiny import folder
from vtlm_fairseq.evaluation.tables import FORMATS
from vtlm_fairseq.text.pipeline import TextPipeline

SCRATCH = {"nmt", "mmt", "nmt_cc"}
TEXT_ONLY = {"nmt", "nmt_cc", "tlm", "tlm_nmt", "vtlm_nmt"}
PRETRAINING = {"tlm", "vtlm", "vtlm0", "vtlm_m30k"}
TABLE_1 = [row.name for row in ROWS.values() if not row.extra]


def data(**options) -> Data:
    """Data that are only named."""
    facts = dict.fromkeys(("data-bin", "regions", "cc-bin", "cc-regions"), "0")
    defaults = dict(pair=("en", "de"), bpe="sentencepiece", test_sets=("test_2016_flickr", "test_2017_flickr"),
                    region_sets=frozenset(["test_2016_flickr"]), stages=(), has_cc=True, has_cc_regions=True,
                    checksums=facts)  # fmt: skip
    return Data(**{**defaults, **options})


def planner(folder: Path = Path("/nowhere"), *, size: str = "paper", keep=None, **options) -> Planner:
    return Planner(folder, data(**options), SIZES[size], keep=keep)


def plain(name: str) -> dict:
    """A recipe as it stands in its file."""
    return OmegaConf.to_container(OmegaConf.load(RECIPES[name]))


def linked(folder: str) -> set[str]:
    """Names of the recipes that a folder of ``examples/`` links to, which must be those of the package."""
    found = {path.stem: path.resolve() for path in (EXAMPLES / folder).glob("*.yaml")}
    assert found == {name: RECIPES[name].resolve() for name in found}
    return set(found)


def test_there_is_a_recipe_for_every_row_and_pretraining():
    """Nine rows, four pre-trainings; each is linked to from where its corpus belongs."""
    assert set(RECIPES) == set(TABLE_1) | PRETRAINING
    assert linked("conceptual_captions") == {"tlm", "vtlm", "vtlm0", "nmt_cc"}
    assert linked("multi30k") == set(RECIPES) - linked("conceptual_captions")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_numbers_of_the_paper(name):
    """Section 2 of the paper, by hand."""
    cfg = plain(name)
    scratch, pretraining = name in SCRATCH, name in PRETRAINING
    assert cfg["model"]["dropout"] == (0.4 if scratch else 0.1)
    assert cfg["optimization"]["lr"] == ([0.0001] if scratch or pretraining else [0.00001])
    assert cfg["optimizer"] == {"_name": "adam", "adam_betas": f"(0.9, {'0.98' if scratch else '0.999'})",
                                "weight_decay": 0.0}  # fmt: skip
    assert (cfg["dataset"]["batch_size"], cfg["optimization"]["clip_norm"]) == (64, 5.0)
    sizes = ("encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_layers", "encoder_attention_heads")
    assert [cfg["model"][key] for key in sizes] == [512, 2048, 6, 8]
    assert (cfg["model"]["activation_fn"], cfg["model"]["attention_dropout"]) == ("gelu", 0.1)
    if scratch:
        warmup = 60_000 if name == "nmt_cc" else 4_000
        assert cfg["lr_scheduler"] == {"_name": "inverse_sqrt", "warmup_init_lr": 1e-7, "warmup_updates": warmup}
    else:
        assert cfg["lr_scheduler"] == {"_name": "fixed"}
    if pretraining:
        assert cfg["criterion"] == {"_name": "vtlm", "mrc_weight": 1.0}
        assert cfg["checkpoint"]["best_checkpoint_metric"] == "mlm_accuracy"
        assert cfg["checkpoint"]["maximize_best_checkpoint_metric"] is True
        assert cfg["optimization"]["max_update"] == (150_000 if name == "vtlm_m30k" else 1_500_000)
        assert "patience" not in cfg["checkpoint"]
        task = recipe(name)["task"]  # 15 %, 80/10/10; regions the same, or all kept (0 % visual masking)
        assert [task[key] for key in ("mask_prob", "leave_unmasked_prob", "random_token_prob")] == [0.15, 0.1, 0.1]
        expected = [0.15, 1.0, 0.0] if name == "vtlm0" else [0.15, 0.1, 0.1]
        assert [task[f"region_{key}"] for key in ("mask_prob", "leave_unmasked_prob", "random_prob")] == expected
        assert task["max_regions"] == 36
    else:
        assert cfg["criterion"] == {"_name": "cross_entropy"}  # label_smoothed_... would smooth
        assert cfg["checkpoint"]["best_checkpoint_metric"] == "loss"
        assert "maximize_best_checkpoint_metric" not in cfg["checkpoint"]
        assert cfg["checkpoint"]["patience"] == 20
        assert cfg["optimization"]["max_update"] > 0  # fairseq counts patience anew after a resume
    assert (cfg["task"]["regions"] == "none") == (name in TEXT_ONLY)
    start = {"vtlm_m30k_mmt": "vtlm_m30k", "tlm_nmt": "tlm", "tlm_mmt": "tlm", "vtlm_nmt": "vtlm", "vtlm_mmt": "vtlm",
             "vtlm0_mmt": "vtlm0"}.get(name)  # fmt: skip
    assert cfg["model"].get("pretrained") == (start and f"checkpoints/{start}/checkpoint_best.pt")


def readme_commands() -> dict[str, list[str]]:
    """The commands of both folders."""
    return {name: argv for folder in ("multi30k", "conceptual_captions")
            for name, argv in commands(EXAMPLES / folder / "README.md").items()}  # fmt: skip


@pytest.mark.slow
def test_readme_commands_are_the_recipes():
    """Value for value, paths included; each in the folder that links to its recipe."""
    assert readme_commands().keys() == RECIPES.keys()
    for name, argv in readme_commands().items():
        assert differences(recipe(name), parsed(argv)) == {}, name
    for corpus in ("multi30k", "conceptual_captions"):
        assert commands(EXAMPLES / corpus / "README.md").keys() == linked(corpus)


@pytest.mark.slow
def test_runner_at_the_papers_size_is_the_recipes():
    """Its options are those of the README's commands, which are the recipes; so is what it starts from."""
    made = planner()
    trainings = made.plan(TABLE_1, [1]).trainings.values()
    assert {training.system.name for training in trainings} == set(RECIPES)
    own = ("save_dir", "pretrained", "user_dir")
    for training in trainings:
        name = training.system.name
        ours, theirs = (vars(arguments(argv)) for argv in (made.training_options(training), readme_commands()[name]))
        assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
        start = training.start and f"checkpoints/{training.start.folder}/checkpoint_best.pt"
        assert theirs.get("pretrained") == start


def test_beam_and_lengths_of_decoding():
    """Section 2.4: beam 8; the authors': length penalty 1, 1.5 x source + 10."""
    (stage,) = [s for s in planner().plan(["vtlm_mmt"], [2]).stages if s.name.endswith("2016_flickr.given")]
    command = " ".join(stage.command)
    assert "--beam 8 --lenpen 1 --max-len-a 1.5 --max-len-b 10 " in command
    assert "--path vtlm_mmt/2/checkpoint_best.pt" in command
    assert "--region-order" not in command


def test_pretrainings_are_shared_and_rows_decode_what_has_regions():
    """Two seeds of three rows on one pre-training; MMT decodes in three orders where regions are, NMT everywhere."""
    names = [stage.name for stage in planner().plan(["vtlm_nmt", "vtlm_mmt"], [1, 2]).stages]
    assert names.count("vtlm") == 1
    assert names.index("vtlm") < names.index("vtlm_nmt.1")
    assert [name for name in names if name.startswith("decode.vtlm_mmt.2")] == [
        f"decode.vtlm_mmt.2.test_2016_flickr.{order}"
        for order in ("given", "shuffled", "shuffled2", "shuffled3", "shuffled4", "shuffled5", "hidden")
    ]
    assert [name for name in names if name.startswith("decode.vtlm_nmt.2")] == [
        f"decode.vtlm_nmt.2.{name}.given" for name in ("test_2016_flickr", "test_2017_flickr")
    ]
    stages = planner().plan(["tlm_mmt", "vtlm_mmt"], [1]).stages
    shuffled = [stage for stage in stages if ".shuffled" in stage.name]  # the paper's "+shuf"; of other rows by one
    assert [stage.name.split(".")[1] for stage in shuffled] == ["tlm_mmt"] + ["vtlm_mmt"] * 5
    seeds = [s.command[s.command.index("--seed") + 1] for s in shuffled if "--seed" in s.command]
    assert seeds == ["2", "3", "4", "5"]
    assert len({stage.outputs for stage in shuffled}) == 6


def test_controls_take_their_own_regions():
    """Pre-training, fine-tuning and decoding read the store whose features are noise; without --entities, a line."""
    stores = {"m30k_signal0": "regions-signal0", "m30k_noboxes": "regions-noboxes"}
    rows = [row for row in ROWS.values() if row.corpus in stores]
    assert [row.name for row in rows] == ["vtlm_mmt_signal0", "vtlm_mmt_noboxes"]
    assert planner().plan([row.name for row in rows], [1]).trainings == {}
    made = tuple(Stage(name, name, (), (name,)) for name in ("prepare", "regions", *stores.values()))
    for row in rows:
        plan = planner(stages=made, checksums={}).plan([row.name], [1])
        names = [stage.name for stage in plan.stages]
        assert names[:2] == ["prepare", stores[row.corpus]] and "regions" not in names
        found = {stage.command[stage.command.index("--regions") + 1] for stage in plan.stages[2:]}
        assert (len(plan.stages), found) == (2 + 2 + 3, {stores[row.corpus]})
    for row, needed in (("nmt", {"prepare"}), ("mmt", {"prepare", "regions"})):  # text-only rows need no regions
        stages = planner(stages=made, checksums={}).plan([row], [1]).stages
        assert {stage.name for stage in stages} & {stage.name for stage in made} == needed


def test_rows_without_their_data_are_left_out_with_a_line():
    """Without CC all pre-training is on Multi30k; with CC but without its regions, VTLM cannot be."""
    plan = planner(has_cc=False, has_cc_regions=False).plan(TABLE_1, [1])
    assert [line.split()[0] for line in plan.skipped] == ["nmt_cc", "vtlm_m30k_mmt"]
    assert {t.system.name: t.corpus for t in plan.trainings.values() if t.system.name in PRETRAINING} == {
        "tlm": "m30k", "vtlm": "m30k", "vtlm0": "m30k",
    }  # fmt: skip
    plan = planner(has_cc_regions=False).plan(TABLE_1, [1])
    assert [line.split()[0] for line in plan.skipped] == ["vtlm_nmt", "vtlm_mmt", "vtlm0_mmt"]
    assert plan.trainings["tlm"].corpus == "cc"
    assert plan.trainings["vtlm_m30k"].corpus == "m30k"


def test_a_training_depends_on_its_own_data_only():
    """Other regions leave text-only rows finished; commands hold no path of the data."""
    first, second = planner(), planner(checksums={"data-bin": "0", "regions": "1", "cc-bin": "0", "cc-regions": "0"})
    facts = [{s.name: (s.command, s.facts) for s in p.plan(TABLE_1, [1]).stages} for p in (first, second)]
    changed = {name for name in facts[0] if facts[0][name] != facts[1][name]}
    assert {name for name in changed if not name.startswith("decode")} == {
        "mmt.1", "vtlm_m30k", "vtlm_m30k_mmt.1", "tlm_mmt.1", "vtlm_mmt.1", "vtlm0_mmt.1",
    }  # fmt: skip


def test_stock_transformer_has_our_size_and_loses_no_sentence():
    """fairseq's own: without our options, every sentence in its batches (PITFALLS 32)."""
    made = planner(size="small")
    plan = made.plan(["stock", "nmt"], [1])
    stock, ours = (vars(arguments(made.training_options(plan.trainings[f"{name}.1"]))) for name in ("stock", "nmt"))
    assert (stock["task"], stock["arch"], stock["required_batch_size_multiple"]) == ("translation", "transformer", 1)
    for key in ("embed_dim", "ffn_embed_dim", "layers", "attention_heads"):
        assert stock[f"decoder_{key}"] == stock[f"encoder_{key}"] == ours[f"encoder_{key}"]
    same = ("lr", "lr_scheduler", "adam_betas", "clip_norm", "warmup_updates", "max_update", "batch_size", "criterion",
            "label_smoothing",
            "best_checkpoint_metric", "dropout", "attention_dropout", "activation_fn", "seed")  # fmt: skip
    assert {key: stock[key] for key in same} == {key: ours[key] for key in same}
    (decode,) = [s for s in plan.stages if s.name == "decode.stock.1.test_2016_flickr.given"]
    assert "--required-batch-size-multiple 1" in " ".join(decode.command)
    assert "--regions" not in decode.command


def given(**paths) -> argparse.Namespace:
    """Options of `table1.py` that name data."""
    names = ("data", "regions", "raw", "image_splits", "entities", "cc_data", "cc_regions")
    found = {name: Path(paths[name]) if name in paths else None for name in names}
    pair = {"source_lang": paths.get("source_lang"), "target_lang": paths.get("target_lang")}
    return argparse.Namespace(**found, **pair, out=Path("out"), test_sets=["test"], any_counts=False)


@pytest.mark.parametrize(
    ("names", "words"),
    [("", "--data"), ("raw", "--image-splits"), ("data", "--regions"), ("data regions cc_regions", "--cc-data"),
     ("raw image_splits entities regions", "--regions"), ("none regions", "--data none")],
)  # fmt: skip
def test_data_options_that_do_not_go_together(tmp_path, monkeypatch, names, words):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "bin", {"train": 2})
    paths = dict.fromkeys(names.replace("none", "data").split(), "bin") | ({"data": "none"} if "none" in names else {})
    assert words in fault(find_data, given(**paths), vocab=9, checksums=Checksums(tmp_path))


def test_any_language_pair(tmp_path, monkeypatch):
    """Of a prepared folder, in either direction; of raw text, which is then prepared with the languages."""
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "bin", {"train": 2})
    find = {"vocab": 9, "checksums": Checksums(tmp_path)}
    Path("out").mkdir()
    prepared = {"data": "bin", "regions": "bin"}
    assert find_data(given(**prepared), **find).pair == ("en", "de")
    assert find_data(given(**prepared, source_lang="de", target_lang="en"), **find).pair == ("de", "en")
    message = fault(find_data, given(**prepared, source_lang="en", target_lang="fr"), **find)
    assert "bin holds en-de, not en-fr" in message and "-t" in message
    (tmp_path / "other").mkdir()
    find["checksums"] = Checksums(tmp_path / "other")
    for target, options in (("de", []), ("fr", ["--source-lang", "en", "--target-lang", "fr"])):
        (out := tmp_path / target).mkdir()
        asked = given(**dict.fromkeys(("raw", "image_splits", "entities"), "bin"), target_lang=target)
        asked.out = out
        found = find_data(asked, **find)
        assert found.pair == ("en", target)
        command = next(stage.command for stage in found.stages if stage.name == "prepare")
        assert list(command[command.index("9") + 1 :]) == options


def test_data_that_cannot_be_taken(tmp_path, monkeypatch):
    """Made by a call with other options; Conceptual Captions without what prepares Multi30k as they were."""
    monkeypatch.chdir(tmp_path)
    made = folder(tmp_path / "bin", {"train": 2})
    raw = given(**dict.fromkeys(("raw", "image_splits", "entities", "cc_data"), "bin"))
    find = {"vocab": 9, "checksums": Checksums(tmp_path)}
    Path("out").mkdir()
    assert "text.json" in (message := fault(find_data, raw, **find)) and "--data" in message
    TextPipeline("en", "de").save(made.path)
    assert "BPE" in (message := fault(find_data, raw, **find)) and "--data" in message
    Path("out/data-bin").mkdir()
    assert "out/data-bin" in fault(find_data, given(data="bin", regions="bin"), **find)


def test_options_of_the_command(capsys):
    """Formats stand in the runner too, whose --help imports nothing of the package."""
    assert OFFERED == FORMATS
    for argv in (("--rows", "x"), ("--seeds", "2,2")):
        with pytest.raises(SystemExit):
            parse_arguments(["--out", "o", *argv])
        assert argv[0] in (line := capsys.readouterr().err.splitlines()[-1]) and argv[1] in line


def test_folders_that_cannot_hold_a_run(tmp_path):
    """A file stands in the way, or the files of something else."""
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x").touch()
    for path in (tmp_path / "file" / "x", tmp_path / "other"):
        assert f"--out {path}" in fault(prepare_folder, path)
    assert "--keep" in fault(planner(keep=tmp_path / "file").plan, ["nmt"], [1])


def test_corpora_that_do_not_join(tmp_path):
    from join_corpora import join  # the folder is found once `recipes` is imported

    first, second = folder(tmp_path / "a", {"train": 2}), folder(tmp_path / "b", {"train": 2}, words=9)
    out = tmp_path / "out"
    assert str(tmp_path / "none") in fault(join, tmp_path / "none", second.path, out)
    message = fault(join, first.path, second.path, out)
    assert "a/dict.de.txt: at symbol 13" in message and "--dict" in message
    (first.path / "dict.de.txt").unlink()
    assert "a/dict.de.txt" in fault(join, first.path, second.path, out)
