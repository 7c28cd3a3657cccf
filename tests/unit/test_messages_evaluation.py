"""Messages of scoring, probes and reports: from where they come, and what they name."""

import builtins
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from messages import message, says
from tiny import dictionary
from vtlm_fairseq.cli import report, score
from vtlm_fairseq.evaluation.probes import attention, entity, entity_variants, incongruent, last_word
from vtlm_fairseq.evaluation.probes.attention import Masses, plot
from vtlm_fairseq.evaluation.probes.contrastive import ContrastiveSet, score_lines
from vtlm_fairseq.evaluation.probes.entity_variants import Choice, check_variants
from vtlm_fairseq.evaluation.report.data import collect
from vtlm_fairseq.evaluation.report.pictures import load_pictures, small_picture
from vtlm_fairseq.evaluation.scoring.comet import comet_score
from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses, read_lines
from vtlm_fairseq.evaluation.scoring.meteor import meteor_score
from vtlm_fairseq.evaluation.scoring.outputs import read_reference
from vtlm_fairseq.evaluation.scoring.scores import paired_bootstrap, seed_statistics
from vtlm_fairseq.evaluation.splits import load_split
from vtlm_fairseq.evaluation.systems import System, check_systems, parse_system
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.text.pipeline import TextPipeline


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a translation, references and a file of each kind that a message is about."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "hyp": "ein hund\n",
        "ref": "ein hund\n",
        "raw": "Ein Hund\n",
        "two": "a\nb\n",
        "no": "",
    }.items():
        Path(name).write_text(text)
    Path("latin").write_bytes(b"ab\xe9\n")
    return tmp_path


def scores(line: str):
    """`vtlm-score` with arguments between blanks."""
    return lambda: score.main(line.split())


SCORE = [
    ("_check", "give files of translations, or --system and --set; see --help", ""),
    ("_check", "--ref, --raw-ref and --src are part of --set: --set NAME REF", "--system a hyp --set s ref --ref ref"),
    ("_check", "nothing to compare with; give --ref, --raw-ref or both", "hyp"),
    ("_check", "--meteor-jar needs --ref: METEOR compares tokenised text", "hyp --raw-ref raw --meteor-jar x"),
    (
        "_check",
        "--subset holds line numbers of one test set; give one --set",
        "--system a hyp --set s ref --set t ref --subset hyp",
    ),
    ("_check", "--sentences takes one file of translations", "hyp hyp --ref ref --sentences out"),
    ("_references", "--set: two test sets with the same name among s, s", "--system a hyp --set s ref --set s ref"),
    ("_references", "--set s: give NAME REF, NAME REF RAW-REF or NAME REF RAW-REF SRC", "--system a hyp --set s"),
    (
        "_systems",
        "--system: a name twice among a, a; one pattern takes all seeds",
        "--system a hyp --system a hyp --set s ref",
    ),
    (
        "_systems",
        "a: no {set} in hyp, which would score the same files on each",
        "--system a hyp --set s ref --set t ref",
    ),
    ("_systems", "a: files of none: s 0; each test set needs the same seeds", "--system a none --set s ref"),
    (
        "_score",
        "1 files and 2 baselines; give one --baseline, or one a seed",
        "hyp --ref ref --baseline hyp --baseline hyp",
    ),
    ("_score", "--meteor-jar needs the language of the translations: give --lang", "hyp --ref ref --meteor-jar x"),
    (
        "_comet",
        "hyp: --comet needs raw references and raw source sentences: --raw-ref and --src",
        "hyp --ref ref --comet x",
    ),
    (
        "_comet",
        "hyp: lower-cased text, which COMET was not trained on; its score would mean little (--force)",
        "hyp --raw-ref raw --src raw --comet x --steps lowercase,tokenise --lang de",
    ),
]


@pytest.mark.parametrize(("function", "words", "line"), SCORE, ids=[words for _, words, _ in SCORE])
def test_score(here, function, words, line):
    says(f"score.{function}", words, scores(line))


def test_sentences_that_cannot_be_written(here):
    words = "--sentences none/out: cannot be written (No such file or directory)"
    says("writing.check_writable", words, scores("hyp --ref ref --sentences none/out"))


OUTPUTS = [
    ("outputs.read_reference", "different numbers of lines: ref 1, two 2", "hyp --ref ref --raw-ref two"),
    ("outputs.read_reference", "no: no lines; see --ref", "hyp --ref no"),
    ("outputs.find_pipeline", "--steps: 'x' is not one of ", "hyp --ref ref --steps x"),
    (
        "outputs.find_pipeline",
        "hyp: not a folder and not named text.json (--text-json)",
        "hyp --ref ref --text-json hyp",
    ),
    (
        "outputs._running_text",
        "hyp: --raw-ref needs to know how the model's text was prepared; give --text-json",
        "hyp --raw-ref raw",
    ),
    (
        "outputs._running_text",
        "hyp: accents were stripped from the model's text, so it cannot be compared",
        "hyp --raw-ref raw --steps tokenise,strip_accents",
    ),
    (
        "outputs._running_text",
        "--raw-ref needs the language of the translations: give --lang",
        "hyp --raw-ref raw --steps tokenise",
    ),
    (
        "outputs._check_reference",
        "reference of hyp, line 1: has capitals, but text.json or --steps says",
        "hyp --ref raw --steps lowercase",
    ),
    (
        "outputs.join_subwords",
        "--post-process x: not one of sentencepiece, subword_nmt, '@@ '",
        "hyp --ref ref --post-process x",
    ),
    (
        "outputs.join_subwords",
        "hyp: no mark of subword_nmt sub-words in it; leave out --post-process",
        "hyp --ref ref --post-process subword_nmt",
    ),
    (
        "outputs.read_line_numbers",
        "two, line 1: 'a' is not a line number from 1 to 1 (--subset)",
        "hyp --ref ref --subset two",
    ),
    ("outputs.read_line_numbers", "no: no line numbers (--subset)", "hyp --ref ref --subset no"),
]


@pytest.mark.parametrize(("site", "words", "line"), OUTPUTS, ids=[words for _, words, _ in OUTPUTS])
def test_outputs(here, site, words, line):
    says(site, words, scores(line))


def test_files_of_translations(here):
    Path("log").write_text("S-0\ta\n")
    Path("scoreless").write_text("H-0\tx\ta\n")
    rows = [
        ("hypotheses.read_lines", "none: cannot be read (No such file or directory)", lambda: read_lines("none")),
        ("hypotheses.read_lines", "latin: not UTF-8 text (byte 2); convert it", lambda: read_lines("latin")),
        ("hypotheses.read_hypotheses", "log: no H- lines; is this the whole output", lambda: read_hypotheses("log")),
        ("hypotheses.read_hypotheses", "H-0 has no score but 'x'; decode again", lambda: read_hypotheses("scoreless")),
        (
            "hypotheses.require",
            "two: 2 lines, but the corpus has 3 sentences; is this the right test set?",
            lambda: read_hypotheses("two").require(3),
        ),
        ("outputs.read_reference", "x: no lines; see --ref", lambda: read_reference("x")),
    ]
    for site, words, call in rows:
        says(site, words, call)


def test_lines_without_a_translation(here):
    Path("first").write_text("H-0\t-1\ta\n")
    Path("second").write_text("2\n")
    line = "first --ref two --subset second --allow-missing"
    says("outputs.read_output", "first: none of the lines that are scored has a translation", scores(line))


def test_systems_of_different_steps(here):
    for name, steps in (("a", ("lowercase",)), ("b", ())):
        Path(name).mkdir()
        for lang in ("en", "de"):
            Path(name, f"dict.{lang}.txt").touch()
        Path(name, "hyp").write_text("ein hund\n")
        TextPipeline("en", "de", steps=steps).save(name)
    says("score._score", "have text.json of different steps; score them apart", scores("a/hyp b/hyp --ref ref"))


def test_bootstrap_and_seeds():
    texts = (["a"], ["a"], ["a"])
    says("scores.paired_bootstrap", "--bootstrap-samples and --seed start at 1", paired_bootstrap, *texts, seed=0)
    says("scores.seed_statistics", "no values", seed_statistics, [])


def test_measures_with_programs_of_their_own(here, monkeypatch):
    one = (["a"], ["a"])
    monkeypatch.setitem(sys.modules, "comet", None)
    Path("model.ckpt").touch()
    words = "--comet needs a package that is not there ("
    text = message("comet.comet_score", comet_score, ["a"], *one, model="model.ckpt")
    assert words in text and "pip install 'vtlm-fairseq[comet]'" in text
    says(
        "comet.comet_score",
        "x: no such file; --comet takes a local checkpoint, .../checkpoints/model.ckpt",
        comet_score,
        ["a"],
        *one,
        model="x",
    )
    Path("java").write_text("#!/bin/sh\necho Error: x\n")
    Path("java").chmod(0o755)
    monkeypatch.setenv("PATH", str(here))
    says("meteor.meteor_score", "x.jar: no such file (--meteor-jar); ", meteor_score, *one, jar="x.jar", lang="de")
    says(
        "meteor.meteor_score",
        "METEOR failed: Error: x; is hyp meteor-1.5.jar?",
        meteor_score,
        *one,
        jar="hyp",
        lang="de",
    )
    monkeypatch.setenv("PATH", "/nowhere")
    says(
        "meteor.meteor_score",
        "METEOR needs Java: no `java` on PATH; install a Java runtime or leave out --meteor-jar",
        meteor_score,
        *one,
        jar="hyp",
        lang="de",
    )


# ---- probes


def without(monkeypatch, package: str) -> None:
    """Make a package one that is not installed."""
    found = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_attention(here, monkeypatch):
    says("attention.run", "no system: give --system NAME=CKPT,CKPT", attention.run, Namespace(systems=[], plot=None))
    says("attention.check_plot", "--plot x.txt: name a file that ends in ", attention.check_plot, Path("x.txt"))
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    masses = {System("a", ("x",)): [Masses(torch.ones(2, 2), 0.5, 1, 0, "no regions")]}
    says("writing.check_writable", "--plot ref/x.png: cannot be written (", plot, masses, Path("ref/x.png"))
    without(monkeypatch, "matplotlib")
    says(
        "attention.check_plot",
        "--plot needs matplotlib: pip install 'vtlm-fairseq[plots]'",
        attention.check_plot,
        Path("x.png"),
    )


def test_splits_without_references_or_regions(here, monkeypatch):
    args = Namespace(
        data="bin",
        gen_subset="test",
        regions="none",
        region_order="given",
        cpu=True,
        on="references",
        any_detector=False,
    )
    args.batch_size = 1
    loaded = SimpleNamespace(dataset=[0], batches=lambda size: iter([{"net_input": {}}]))
    monkeypatch.setattr(attention, "load_model", lambda *a, **k: loaded)
    says(
        "attention.measure", "test has no references; give --on hypotheses", attention.measure, "x.pt", args, label="x"
    )
    dataset = SimpleNamespace(tgt=None)
    loaded = SimpleNamespace(dataset=dataset, task=SimpleNamespace(target_dictionary=None))
    monkeypatch.setattr(incongruent, "load_model", lambda *a, **k: loaded)
    says(
        "incongruent.translate_orders",
        "bin: test has no references, which BLEU needs",
        incongruent.translate_orders,
        "x.pt",
        args,
    )
    words = "the checkpoint has regions, --regions is none: name a region store or a folder of them"
    task = SimpleNamespace(has_regions=True)
    says("splits.load_split", words, load_split, task, "test", regions="none")


def test_contrastive(here):
    Path("empty").touch()
    words = (
        "the files must have the same number of lines, line i belonging together: --src 2, --correct 1, --incorrect 1"
    )
    text = message("contrastive.read", ContrastiveSet.read, src="two", correct="hyp", incorrect="hyp")
    assert words in text
    model = SimpleNamespace(needs_images=True)
    lines = ContrastiveSet(["a", "b"], ["a", "b"], ["a", "b"], None)
    says(
        "contrastive.score_lines",
        "this model translates with regions: give --images, or hide the regions with --region-order none",
        score_lines,
        model,
        lines,
    )
    model = SimpleNamespace(
        needs_images=False,
        max_positions=(6, 3),
        encode=lambda text: [0] * 2,
        encode_target=lambda text: [0] * len(text),
    )
    lines.incorrect[1] = "abcd"
    says(
        "contrastive.score_lines",
        "--incorrect, line 2: 4 tokens, the model takes 3; shorten it",
        score_lines,
        model,
        lines,
    )


def test_entities(here):
    says(
        "entity.run",
        "nothing to do: give --system NAME=CKPT,CKPT to translate, or --write DIR to keep the variants",
        entity.run,
        Namespace(systems=[], write=None),
    )
    says(
        "entity_variants.__post_init__",
        "--whole-phrase masks phrases, --what colour words; give one of them",
        Choice,
        what="colour",
        whole_phrase=True,
    )
    says(
        "entity_variants._read",
        "none: cannot be read (No such file or directory); this probe needs a data folder that a preparation",
        entity_variants._read,
        Path("none"),
    )
    says("entity_variants._read", "latin: not UTF-8 text; prepare the data again", entity_variants._read, Path("latin"))
    plain = dictionary()
    del plain.indices["<mask>"]
    says(
        "entity_variants.check_variants",
        "the dictionary has no <mask>; prepare the data with this package",
        check_variants,
        None,
        plain,
    )


def test_last_words(here, monkeypatch):
    args = Namespace(systems=[], subsets="test,valid", lines="two")
    says("last_word.run", "--lines holds line numbers of one split; give one with --subsets", last_word.run, args)
    text = SimpleNamespace(src=[torch.tensor([5, 9, 2])], tgt=[torch.tensor([5, 2])])

    class Text(SimpleNamespace):
        def __len__(self):
            return 1

    monkeypatch.setattr(last_word, "load_split", lambda *a, **k: (Text(**vars(text)), None))
    words_of = dictionary()
    model = SimpleNamespace(task=None, dictionary=words_of, mask_idx=9)
    args = Namespace(regions="none", lines=None, data="bin", keep_punctuation=False, last_token=False)
    says(
        "last_word.load",
        "bin, test, line 1: holds <mask> already; use the whole text",
        last_word.SplitProbe.load,
        model,
        "test",
        args,
    )


def test_systems_and_tables():
    assert message("systems.parse_system", parse_system, "a=") == "'a=' is not NAME=CKPT,CKPT,..."
    twice = "--system a is given twice; give its checkpoints together, a=CKPT,CKPT"
    says("systems.check_systems", twice, check_systems, [System("a", ("x",)), System("a", ("y",))])
    says("tables.render", "--format x: not one of text, ", Table(["a"], []).render, "x")
    says("tables.render", "columns with the same name: ['a', 'a']", Table(["a", "a"], []).render)
    says("tables.render", "2 cells for 1 columns: [1, 2]", Table(["a"], [[1, 2]]).render)


# ---- reports


def test_reports(here, monkeypatch):
    rows = [
        ("report.parse_lines", "'1-' is not like 1,5,7-9", lambda: report.parse_lines("1-")),
        (
            "report.parse_lines",
            "'0': lines count from 1, and at most 200 fit on a page",
            lambda: report.parse_lines("0"),
        ),
        ("report.parse_lines", "'1-150,200-300': give 1 to 200 lines", lambda: report.parse_lines("1-150,200-300")),
        (
            "writing.check_writable",
            "--out none/x.html: cannot be written (No such file",
            lambda: report.main(["data", "--path", "x", "--out", "none/x.html"]),
        ),
        (
            "data.collect",
            "--lines: no line 9, the split has 1",
            lambda: collect(SimpleNamespace(dataset=[0]), [8], spelling=None, beam=1),
        ),
        ("pictures.load_pictures", "--images none: no such folder", lambda: load_pictures(Path("none"), ["a"])),
        (
            "image_reading.open_image",
            "hyp: no image, or not in a format",
            lambda: small_picture(Path("hyp")),
        ),
    ]
    for site, words, call in rows:
        says(site, words, call)
    without(monkeypatch, "PIL")
    says(
        "image_reading.require_pillow",
        "images are read with Pillow, not installed here: pip install 'vtlm-fairseq[extract]'",
        load_pictures,
        Path("."),
        ["a"],
    )
