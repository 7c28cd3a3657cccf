"""``vtlm-probe entity``: what it writes, what it prints, and that fairseq-generate gets the same translations."""

import json
import shutil
from collections import defaultdict

import pytest
import torch
from fairseq.data import Dictionary, data_utils
from preparation import annotation, write

from harness import write_lines
from vtlm_fairseq.data.text_pipeline import TextPipeline
from vtlm_fairseq.evaluation.scores import bleu_tokenised

SEARCH = ("--beam", "2")


def probe(run, *argv, **kwargs):
    """vtlm-probe on the CPU."""
    return run("vtlm_fairseq.cli.probe", *argv, "--cpu", **kwargs)


def json_table(result) -> dict:
    """The table that a command printed as JSON, whatever was logged around it."""
    return json.JSONDecoder().raw_decode(result.output, result.output.index('{\n  "title"'))[0]


@pytest.fixture(scope="module")
def world(corpus, tmp_path_factory):
    """The toy corpus as a preparation script would leave it, and Entities of its test set.

    The first two words of a longer sentence are a phrase with a box, its last word is one without.
    """
    folder = tmp_path_factory.mktemp("entities")
    data = folder / "bin"
    shutil.copytree(corpus.data, data)
    for lang in ("en", "de"):
        write_lines(data / "references" / f"test.{lang}", corpus.lines("test", lang))
    TextPipeline("en", "de", steps=(), bpe="none").save(data)
    captions = defaultdict(list)
    for image, line in zip(corpus.images("test"), corpus.lines("test", "en"), strict=True):
        first, *rest, last = f"{line} ".split(" ")[:-1] if " " in line else (line, "")
        if rest:
            line = f"[/EN#1/people {first} {rest[0]}] {' '.join(rest[1:])} [/EN#2/other {last}]"
        captions[image].append(" ".join(line.split()))
    for image, lines in captions.items():
        write_lines(folder / "entities" / "Sentences" / f"{image}.txt", lines)
        write(folder / "entities" / "Annotations" / f"{image}.xml", annotation(9, 9, [((0, 0, 5, 5), (1,))]))
    return folder


def options(world, *argv):
    return ("entity", world / "bin", "--entities", world / "entities", "--gen-subset", "test", *SEARCH, *argv)


def test_variants_and_scores(run, corpus, world, mmt, nmt, tmp_path):
    """Table 3 for a pre-trained MMT with two seeds and an NMT from scratch, against fairseq-generate's translations."""
    state = torch.load(nmt, weights_only=False)
    state["cfg"]["model"]["pretrained"] = None
    shutil.copytree(nmt.parent, tmp_path / "scratch")
    torch.save(state, tmp_path / "scratch" / "nmt.pt")
    out = tmp_path / "variants"
    result = probe(run, *options(world, "--system", f"MMT={mmt},{mmt}", "--system", f"NMT={tmp_path}/scratch/nmt.pt",
                                 "--regions", corpus.regions, "--write", out, "--format", "json"))  # fmt: skip
    table = json_table(result)
    long = sum(len(line.split()) >= 3 for line in corpus.lines("test", "en"))
    assert table["notes"][0].startswith("* trained from scratch")
    assert f"{2 * long} head nouns in {long} of 13 sentences of test" in table["notes"]
    assert "13 of 13 captions align token for token" in table["notes"]
    assert 'regions "random", order given' in table["notes"]
    multimodal, text_only = table["rows"]
    assert (multimodal["system"], multimodal["seeds"], multimodal["MASK ±"]) == ("MMT", 2, 0.0)
    assert (text_only["system"], text_only["seeds"], text_only["MASK ±"]) == ("NMT *", 1, None)

    words = Dictionary.load(str(out / "MASK" / "dict.en.txt"))
    lengths = {}
    for name, folder in (("untouched", world / "bin"), ("MASK", out / "MASK"), ("REMOVE", out / "REMOVE")):
        lines = data_utils.load_indexed_dataset(f"{folder}/test.en-de.en", words, None)
        lengths[name] = sum(len(line) for line in lines)
        masks = sum(int(line.eq(words.index("<mask>")).sum()) for line in lines)
        assert masks == (2 * long if name == "MASK" else 0)
        generated = run.generate(folder, mmt, "--gen-subset", "test", *SEARCH, regions=corpus.regions)
        score = bleu_tokenised(generated.hypotheses(), corpus.lines("test", "de")).score
        assert multimodal[name] == pytest.approx(score, abs=1e-9)
        assert generated.references() == corpus.lines("test", "de")
    assert lengths == {"untouched": lengths["MASK"], "MASK": lengths["REMOVE"] + 2 * long, "REMOVE": lengths["REMOVE"]}
    assert (out / "MASK" / "references" / "test.en").read_text(encoding="utf-8").count("<mask>") == 2 * long


def test_variants_only(run, corpus, world, tmp_path):
    """Without a system the variants are kept and counted; with --boxed-only the last words stay."""
    result = probe(run, *options(world, "--write", tmp_path / "out", "--boxed-only", "--format", "csv"))
    long = sum(len(line.split()) >= 3 for line in corpus.lines("test", "en"))
    tokens = sum(len(line.split()) for line in corpus.lines("test", "en"))
    rows = result.output[result.output.index("variant,") :].splitlines()
    assert rows[1:] == [f"untouched,13,0,{tokens},0", f"MASK,13,{long},{tokens},0", f"REMOVE,13,0,{tokens - long},0"]


def test_faults(run, corpus, world, mmt, tmp_path):
    system = ("--system", f"MMT={mmt}")
    probe(run, *options(world), ok=False).fault("nothing to do", "--system", "--write")
    probe(run, *options(world, *system), ok=False).fault("--region-order none")
    probe(run, *options(world, *system, *system), ok=False).fault("--system MMT is given twice")
    probe(run, *options(world, "--write", tmp_path), ok=False).fault("exists already")
    argv = ("entity", corpus.data, "--entities", world / "entities", "--write", tmp_path / "x")
    probe(run, *argv, ok=False).fault("text.json")
