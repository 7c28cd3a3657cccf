"""``vtlm-probe entity``: what it writes, what it prints, and that fairseq-generate gets the same translations."""

import shutil

import pytest
import torch
from fairseq.data import Dictionary, data_utils

from vtlm_fairseq.evaluation.scoring.scores import TOKENISED

SEARCH = ("--beam", "2")


def options(entities, *argv):
    return ("entity", entities / "bin", "--entities", entities / "entities", "--gen-subset", "test", *SEARCH, *argv)


def test_variants_and_scores(run, corpus, entities, mmt, nmt, tmp_path):
    """Table 3 for a pre-trained MMT with two seeds and an NMT from scratch, against fairseq-generate's translations."""
    state = torch.load(nmt, weights_only=False)
    state["cfg"]["model"]["pretrained"] = None
    shutil.copytree(nmt.parent, tmp_path / "scratch")
    torch.save(state, tmp_path / "scratch" / "nmt.pt")
    out = tmp_path / "variants"
    systems = ("--system", f"MMT={mmt},{mmt}", "--system", f"NMT={tmp_path}/scratch/nmt.pt")
    argv = (*systems, "--regions", corpus.regions, "--write", out, "--format", "json")
    table = run.probe(*options(entities, *argv)).table()
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
    for name, folder in (("untouched", entities / "bin"), ("MASK", out / "MASK"), ("REMOVE", out / "REMOVE")):
        lines = data_utils.load_indexed_dataset(f"{folder}/test.en-de.en", words, None)
        lengths[name] = sum(len(line) for line in lines)
        masks = sum(int(line.eq(words.index("<mask>")).sum()) for line in lines)
        assert masks == (2 * long if name == "MASK" else 0)
        generated = run.generate(folder, mmt, "--gen-subset", "test", *SEARCH, regions=corpus.regions)
        score = TOKENISED.score(generated.hypotheses(), corpus.lines("test", "de")).value
        assert multimodal[name] == pytest.approx(score, abs=1e-9)
        assert generated.references() == corpus.lines("test", "de")
    assert lengths == {"untouched": lengths["MASK"], "MASK": lengths["REMOVE"] + 2 * long, "REMOVE": lengths["REMOVE"]}
    assert (out / "MASK" / "references" / "test.en").read_text(encoding="utf-8").count("<mask>") == 2 * long


def test_variants_only(run, corpus, entities, tmp_path):
    """Without a system the variants are kept and counted; with --boxed-only the last words stay."""
    result = run.probe(*options(entities, "--write", tmp_path / "out", "--boxed-only", "--format", "csv"))
    long = sum(len(line.split()) >= 3 for line in corpus.lines("test", "en"))
    tokens = sum(len(line.split()) for line in corpus.lines("test", "en"))
    rows = result.output[result.output.index("variant,") :].splitlines()
    assert rows[1:] == [f"untouched,13,0,{tokens},0", f"MASK,13,{long},{tokens},0", f"REMOVE,13,0,{tokens - long},0"]


def test_faults(run, corpus, entities, mmt, tmp_path):
    system = ("--system", f"MMT={mmt}")
    run.probe(*options(entities), ok=False).fault("nothing to do", "--system", "--write")
    run.probe(*options(entities, *system), ok=False).fault("--region-order none")
    run.probe(*options(entities, *system, *system), ok=False).fault("--system MMT is given twice")
    run.probe(*options(entities, "--write", tmp_path), ok=False).fault("exists already")
    argv = ("entity", corpus.data, "--entities", entities / "entities", "--write", tmp_path / "x")
    assert "--preprocessed" not in run.probe(*argv, ok=False).fault("text.json", "preparation script")
