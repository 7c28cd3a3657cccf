"""The overfit test: the model learns from regions, and only from those of the right image."""

import numpy as np
import sacrebleu

from harness import CommandLines, write_lines
from vtlm_fairseq.regions.store import RegionStoreWriter


def prepare(run: CommandLines, folder) -> None:
    """16 source sentences, each twice, with different regions and targets; half of the target is in the image."""
    rng = np.random.default_rng(3)
    looks = rng.normal(size=(8, 16))
    source, target = [], []
    with RegionStoreWriter(
        folder / "train.h5", feature_dim=16, class_names=[f"c{k}" for k in range(8)], detector="toy"
    ) as writer:
        for line in range(32):
            noun, kind = line // 2, (line + line // 8) % 8
            source.append(f"a man with thing{noun} and thing{noun % 5}")
            target.append(f"ein Mann mit Ding{noun} farbe{kind} form{kind} art{kind} Ding{noun % 5}")
            labels = np.array([kind, *rng.integers(0, 8, 2)])
            features = np.concatenate([looks[kind][None], rng.normal(size=(2, 16)) * 0.1])
            boxes = np.tile(np.array([0.1, 0.1, 0.9, 0.9]), (3, 1))
            writer.add(f"img{line}", features=features, boxes=boxes, labels=labels)
    write_lines(folder / "raw/train.en", source)
    write_lines(folder / "raw/train.de", target)
    write_lines(folder / "bin/train.images", (f"img{line}" for line in range(32)))
    run.preprocess("-s", "en", "-t", "de", "--destdir", folder / "bin", "--trainpref", folder / "raw/train")


def bleu(result) -> float:
    return sacrebleu.corpus_bleu(result.hypotheses(), [result.references()], tokenize="none", force=True).score


def test_overfit(run, tmp_path):
    """PITFALLS 28: MMT reaches BLEU above 90 on 32 pairs, below 70 with the regions of other images."""
    prepare(run, tmp_path)
    store = tmp_path / "train.h5"
    trained = run.train(tmp_path / "bin", tmp_path, "--lr", "3e-3", "--max-update", "240", "--batch-size", "8",
                        "--dropout", "0", "--attention-dropout", "0", "--disable-validation", "--log-interval", "50",
                        "--save-interval", "999", "--save-interval-updates", "240", regions=store)  # fmt: skip
    assert trained.updates()[-1]["loss"] < 0.1
    argv = ("--gen-subset", "train", "--beam", "5", "--max-len-b", "20")
    right = run.generate(tmp_path / "bin", tmp_path / "checkpoint_last.pt", *argv, regions=store)
    wrong = run.generate(tmp_path / "bin", tmp_path / "checkpoint_last.pt", *argv, "--region-order", "shuffle",
                         regions=store)  # fmt: skip
    assert bleu(right) > 90
    assert bleu(wrong) < 70
    hidden = run.generate(tmp_path / "bin", tmp_path / "checkpoint_last.pt", *argv, "--region-order", "none")
    assert bleu(hidden) < 70
