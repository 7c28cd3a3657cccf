"""Positions of regions: never fewer than there are regions."""

from stores import make_store
from toy import CLASSES, DIM


def test_fewer_positions_than_regions(run, corpus, tmp_path):
    """One row would be given to all regions in silence, two would fail in the middle of the first epoch."""
    for rows in ("1", "2", "6"):
        done = run.pretrain(corpus.data, tmp_path / rows, "--region-positions", rows, regions=corpus.regions, ok=False)
        done.fault(f"has images with 7 regions, the model has --region-positions {rows}", "--region-positions 7")
        assert "num_updates" not in done.output
    argv = ("--region-positions", "7", "--max-update", "1", "--disable-validation")
    run.pretrain(corpus.data, tmp_path / "run", *argv, regions=corpus.regions)
    path = tmp_path / "run" / "checkpoint_last.pt"
    run.validate(corpus.data, path, "--regions", corpus.regions)
    more = tmp_path / "more" / "valid.h5"
    make_store(more, sorted(set(corpus.images("valid"))), regions=8, feature_dim=DIM, num_classes=CLASSES)
    refused = run.validate(corpus.data, path, "--regions", tmp_path / "more", ok=False)
    refused.fault("(valid) has images with 8 regions, the model has --region-positions 7", "--max-regions 7")
    run.validate(corpus.data, path, "--regions", tmp_path / "more", "--max-regions", "7")


def test_new_sentences(run, corpus, tmp_path):
    """vtlm-translate looks at the images that it is given; others of the store may have more regions."""
    argv = ("--region-positions", "7", "--max-update", "1", "--disable-validation")
    run.train(corpus.data, tmp_path / "run", *argv, regions=corpus.regions)
    store = tmp_path / "new.h5"
    make_store(store, ["few", "many"], regions=[7, 9], feature_dim=DIM, num_classes=CLASSES)
    path = tmp_path / "run" / "checkpoint_last.pt"
    for second, ok in (("few", True), ("many", False)):
        done = run.translate(path, "--preprocessed", "--regions", store, "--max-len-b", "5",
                             stdin=f"word1 word2\tfew\nword3\t{second}\n", ok=ok)  # fmt: skip
    done.fault(str(store), "has images with 9 regions, the model has --region-positions 7")
