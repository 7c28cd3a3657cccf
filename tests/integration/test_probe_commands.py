"""vtlm-probe last-word, contrastive and incongruent on small models, against fairseq's own commands."""

import math
from pathlib import Path

import pytest
from preparation import DATA, needs_data
from sacrebleu.metrics import BLEU

from harness import write_lines
from toy import SIZES
from vtlm_fairseq.text.pipeline import TextPipeline, learn_sentencepiece

SHORT = ("--max-len-b", "18")


def test_last_word(run, corpus, tlm, vtlm):
    """TLM and VTLM, two splits, given and shuffled; every pair of the toy corpus has a last word on both sides."""
    systems = ("--path", f"TLM={tlm}", "--path", f"VTLM={vtlm}", "--regions", corpus.regions)
    order = ("--region-order", "given", "--region-order", "shuffle")
    done = run.probe("last-word", corpus.data, *systems, *order, "--format", "json")
    found = done.rows("system", "regions", "masked")
    sides = ("EN", "DE", "BOTH")
    orders = [("TLM", "none"), ("VTLM", "given"), ("VTLM", "shuffle")]
    assert list(found) == [(*order, side) for order in orders for side in sides]
    for (_, _, side), row in found.items():
        for split in ("valid", "test"):
            assert row[f"{split} of"] == SIZES[split] * (2 if side == "BOTH" else 1)
            assert row[split] == pytest.approx(100 * row[f"{split} right"] / row[f"{split} of"])
            assert row[f"{split} from"] <= row[split] <= row[f"{split} to"]
    assert any("random" in note for note in done.table()["notes"])  # what made the regions


def test_last_word_of_some_lines(run, corpus, vtlm, tmp_path):
    """Hidden regions need no store; ``--lines`` numbers lines from 1; without it all are there."""
    path = write_lines(tmp_path / "lines", ["2", "13"])
    argv = ("last-word", corpus.data, "--path", vtlm, "--region-order", "none", "--regions", corpus.regions,
            "--subsets", "test")  # fmt: skip
    some = run.probe(*argv, "--lines", path, "--format", "json").rows("masked")
    assert [some[side,]["test of"] for side in ("EN", "DE", "BOTH")] == [2, 2, 4]
    run.probe(*argv[:-1], "valid,test", "--lines", path, ok=False).fault("--lines", "--subsets")
    run.probe(*argv[:4], "--subsets", "test", ok=False).fault("--regions is none")


def test_incongruent(run, corpus, mmt, nmt):
    """BLEU equals sacreBLEU's on fairseq-generate's output with the same regions and seed of shuffling."""
    systems = ("--path", f"MMT={mmt}", "--path", f"NMT={nmt}", "--regions", corpus.regions)
    options = ("--repeats", "1", "--seed", "4", "--beam", "3", *SHORT)
    done = run.probe("incongruent", corpus.data, *systems, *options, "--format", "json")
    found = done.rows("system", "regions")
    assert list(found) == [("MMT", "given"), ("MMT", "shuffle"), ("MMT", "none"), ("NMT", "none")]
    given = found["MMT", "given"]["BLEU"]
    for order in ("given", "shuffle", "none"):
        decoded = run.generate(corpus.data, mmt, *SHORT, "--beam", "3", "--region-order", order, "--seed", "4",
                               regions=corpus.regions)  # fmt: skip
        score = BLEU(tokenize="none").corpus_score(decoded.hypotheses(), [corpus.lines("test", "de")]).score
        assert found["MMT", order]["BLEU"] == pytest.approx(score)
        assert found["MMT", order]["drop"] == pytest.approx(given - score)
    assert 0 < found["MMT", "shuffle"]["p"] <= 1
    assert (found["NMT", "none"]["drop"], found["NMT", "none"]["p"]) == (0, None)


def contrastive_files(corpus, folder: Path) -> list:
    """Twins: each source of the test split with its own and another's translation, and the other way round."""
    source, target = corpus.lines("test", "en"), corpus.lines("test", "de")
    other = [*target[1:], target[0]]
    files = {
        "--src": [*source, *source],
        "--correct": [*target, *other],
        "--incorrect": [*other, *target],
        "--images": corpus.images("test") * 2,
    }
    return [part for option, lines in files.items() for part in (option, write_lines(folder / option[2:], lines))]


def test_contrastive(run, corpus, mmt, nmt, tmp_path):
    """PITFALLS 14: perplexities are those of ``fairseq-generate --score-reference``; NMT gets exactly half of twins."""
    tsv = tmp_path / "scores.tsv"
    systems = ("--path", f"MMT={mmt}", "--path", f"NMT={nmt}", "--regions", corpus.store("test"))
    files = contrastive_files(corpus, tmp_path)
    done = run.probe("contrastive", *systems, *files, "--preprocessed", "--sentences", tsv, "--format", "json")
    found = done.rows("system", "score")
    assert found["NMT", "perplexity"] == {
        "system": "NMT", "score": "perplexity", "accuracy": 50, "right": 13, "ties": 0, "lines": 26
    }  # fmt: skip
    assert found["NMT", "log-probability"]["right"] == 13
    lines = [line.split("\t") for line in tsv.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(lines) == 52
    for system, path, regions in (("MMT", mmt, corpus.regions), ("NMT", nmt, "none")):
        scored = run.generate(corpus.data, path, "--score-reference", regions=regions).scores()  # base 2, per token
        ours = [line for line in lines if line[0] == system][:13]
        assert [float(line[2]) for line in ours] == pytest.approx([2**-score for score in scored], rel=2e-4)
        assert [math.log2(math.e) * float(line[3]) for line in ours] == pytest.approx(scored, abs=1e-4)
        right = sum(float(line[2]) < float(line[5]) for line in lines if line[0] == system)
        assert found[system, "perplexity"]["right"] == right


def test_contrastive_faults(run, corpus, mmt, vtlm, tmp_path):
    """One line each."""
    files = contrastive_files(corpus, tmp_path)
    argv = ("--preprocessed", "--regions", corpus.store("test"))
    run.probe("contrastive", "--path", mmt, *files[:6], *argv, ok=False).fault("give --images")
    run.probe("contrastive", "--path", mmt, *files, ok=False).fault("text.json")
    ids = [*corpus.images("test")[:3], "nobody"] * 6 + corpus.images("test")[:2]
    foreign = write_lines(tmp_path / "foreign.images", ids)
    run.probe("contrastive", "--path", mmt, *files, "--images", foreign, *argv, ok=False).fault("line 4", "nobody")
    run.probe("contrastive", "--path", vtlm, *files, *argv, ok=False).fault("pre-trained model")
    long = write_lines(tmp_path / "long", ["Wort1", "Wort1 " * 600, *["Wort1"] * 24])
    run.probe("contrastive", "--path", mmt, *files, "--incorrect", long, *argv, ok=False).fault("line 2", "601 tokens")
    short = write_lines(tmp_path / "short", ["word1"])
    run.probe("contrastive", "--path", mmt, *files[:2], "--correct", short, "--incorrect", short, *argv,
          ok=False).fault("--src 26", "--correct 1")  # fmt: skip


@needs_data
def test_commute_with_a_text_only_model(run, tmp_path):
    """CoMMuTE en-de as it is, raw text, the last line without a newline: exactly 50 % for an untrained NMT."""
    commute = DATA / "commute/en-de"
    data = tmp_path / "bin"
    data.mkdir()
    pipeline = TextPipeline(source_lang="en", target_lang="de", bpe="sentencepiece", folder=data)
    texts = {lang: (commute / name).read_text(encoding="utf-8").splitlines()
             for lang, name in (("en", "src.en"), ("de", "correct.de"))}  # fmt: skip
    assert len(texts["en"]) == 300
    words = [pipeline.preprocess(line, lang) for lang, lines in texts.items() for line in lines]
    (data / "bpe.model").write_bytes(learn_sentencepiece(words, vocab_size=800))
    for lang, lines in texts.items():
        write_lines(tmp_path / f"raw/train.{lang}", [pipeline.encode(line, lang) for line in lines])
    run.preprocess("-s", "en", "-t", "de", "--destdir", data, "--trainpref", tmp_path / "raw/train")
    pipeline.save(data)
    run.train(data, tmp_path / "nmt", "--disable-validation")
    done = run.probe("contrastive", "--path", tmp_path / "nmt/checkpoint_last.pt", "--src", commute / "src.en",
                 "--correct", commute / "correct.de", "--incorrect", commute / "incorrect.de", "--images",
                 commute / "img.order", "--format", "json")  # fmt: skip
    for row in done.table()["rows"]:
        assert (row["accuracy"], row["right"], row["ties"], row["lines"]) == (50, 150, 0, 300)
