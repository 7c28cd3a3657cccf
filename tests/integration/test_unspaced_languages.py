"""English to Chinese, from raw captions with Latin words and numbers in them to scores."""

import json
import random

import pytest
import sacrebleu

from harness import ROOT, write_lines
from stores import make_store

WHO = (("A man", "一个男人"), ("Two women", "两个女人"), ("The boy's dog", "男孩的狗"))
THINGS = (("an iPhone 12", "iPhone 12手机"), ("a red T-shirt", "红色的T恤"), ("a ball", "球"))
TEST = ("--beam", "1", "--max-len-b", "30")


def captions(count: int, seed: int) -> list[tuple[str, str, str]]:
    """Image id, English and Chinese."""
    rng, lines = random.Random(seed), []
    for number in range(count):
        (who, shei), (thing, dongxi), year = rng.choice(WHO), rng.choice(THINGS), rng.randint(10, 12)
        lines.append((f"img{number}", f"{who} with {thing} in 20{year}.", f"{shei}在20{year}年拿着{dongxi}。"))
    return lines


@pytest.fixture(scope="module")
def chinese(run, tmp_path_factory):
    """Raw captions, their folder, regions and a model that was fine-tuned from a pre-trained one."""
    folder = tmp_path_factory.mktemp("zh")
    files = {"train": captions(48, 0), "valid": captions(6, 1), "test": captions(9, 2)}
    for split, lines in files.items():
        write_lines(folder / f"{split}.tsv", ("\t".join(line) for line in lines))
        make_store(folder / f"regions/{split}.h5", [line[0] for line in lines], regions=3)
    run(ROOT / "preprocess/prepare_captions.py", "--train", folder / "train.tsv", "--valid", folder / "valid.tsv",
        "--test", f"test={folder / 'test.tsv'}", "--columns", "image=1,en=2,zh=3", "--target-lang", "zh",
        "--vocab-size", 110, "--workers", 1, "--out", folder / "bin")  # fmt: skip
    write_lines(folder / "test.zh", (line[2] for line in files["test"]))
    run.pretrain(folder / "bin", folder / "vtlm", "--max-update", "6", "--lr", "3e-3", regions=folder / "regions")
    trained = run.train(
        *(folder / "bin", folder / "mmt", "--pretrained", folder / "vtlm/checkpoint_last.pt", "--lr", "5e-3"),
        *("--max-update", "90", "--validate-interval", "100", "--validate-interval-updates", "90"),
        *("--eval-bleu", "--eval-bleu-args", '{"beam": 1, "max_len_b": 30}'),
        regions=folder / "regions",
    )
    return folder, files, trained


def test_from_raw_captions_to_scores(run, chinese):
    """Translations are Chinese without blanks, and their BLEU is sacreBLEU's own."""
    folder, files, trained = chinese
    steps = json.loads((folder / "mmt/text.json").read_text(encoding="utf-8"))["steps"]
    assert steps == ["lowercase", "normalise", "tokenise", "escape", "characters"]
    words = (folder / "bin/references/test.zh").read_text(encoding="utf-8").splitlines()
    assert " ".join(words).count("在 20") == 9 and "t 恤" in " ".join(words)

    argv = ("--regions", folder / "regions/test.h5", *TEST)
    stdin = "".join(f"{english}\t{image}\n" for image, english, _ in files["test"])
    running = run.translate(folder / "mmt", *argv, stdin=stdin)
    hypotheses = running.output.splitlines()[-9:]
    assert all(" " not in line.replace("iphone 12", "") and "在20" in line for line in hypotheses)
    raw = (folder / "test.zh").read_text(encoding="utf-8").splitlines()
    own = sacrebleu.corpus_bleu(hypotheses, [raw], tokenize="zh", lowercase=True).score
    assert own > 40

    score = ("vtlm_fairseq.cli.score", folder / "mmt/test.txt", "--raw-ref", folder / "test.zh", "--lang", "zh")
    write_lines(folder / "mmt/test.txt", hypotheses)
    run(*score, ok=False).fault("running text", "--no-detokenize", "--steps none")
    scored = run(*score, "--steps", "none", "--format", "json")
    assert json.loads(scored.output)["rows"][0]["score"] > 30

    tokens = run.translate(folder / "mmt", *argv, "--no-detokenize", stdin=stdin).output.splitlines()[-9:]
    assert all("在 20" in line for line in tokens)
    write_lines(folder / "mmt/test.txt", tokens)
    scored = run("vtlm_fairseq.cli.score", folder / "mmt/test.txt", "--raw-ref", folder / "test.zh", "--ref",
                 folder / "bin/references/test.zh", "--format", "json")  # fmt: skip
    figures = {row["measure"]: row["score"] for row in json.loads(scored.output)["rows"]}
    assert figures["BLEU zh"] == pytest.approx(own, abs=0.01)
    assert figures["BLEU"] == pytest.approx(own, abs=3)  # of the characters that the model writes


def test_validation_scores_as_vtlm_score_does(chinese):
    """13a, fairseq's choice, would count sentences as words."""
    folder, files, trained = chinese
    assert "sacreBLEU's words (zh)" in trained.output
    assert trained.validations()[-1]["bleu"] > 40
