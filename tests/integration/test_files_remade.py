"""A region store that is made anew while a training reads it."""

from harness import pretraining
from toy import DIM
from vtlm_fairseq.regions.store import RegionStore

REMAKE = """
import glob, time
from stores import make_store
while not glob.glob({folder!r} + "/*.pt"):
    time.sleep(0.1)
make_store({store!r}, {ids!r}, regions=5, feature_dim={dim}, num_classes=7, seed=3)
"""


def test_a_store_remade_under_a_training_ends_it(run, corpus, tmp_path):
    """The new store has the same images in another order: rows that were looked up at the start are others'.

    Workers open it anew in each epoch; without any, the old one stays open and is read to the end.
    """
    mine = corpus.copy(tmp_path / "corpus")
    store = str(mine.store("train"))
    script, folder = tmp_path / "remake.py", str(tmp_path / "run")
    ids = RegionStore([store]).ids()[::-1]
    script.write_text(REMAKE.format(folder=folder, store=store, ids=ids, dim=DIM))
    line = pretraining(mine.data, folder, "--max-update", "900", "--save-interval-updates", "6", "--num-workers",
                       "1", "--keep-interval-updates", "1", "--disable-validation", regions=mine.regions)  # fmt: skip
    trained, remade = run.together([("fairseq_cli.train", line), (str(script), [])], ok=None)
    assert remade.status == 0, remade.output
    trained.fault(store, "was replaced since this command opened it")
