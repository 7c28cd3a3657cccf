"""Saving, resuming, selecting, averaging and loading checkpoints."""

import filecmp
import sys

import pytest
import torch

from harness import ROOT, shell
from vtlm_fairseq.text.pipeline import TextPipeline

BLEU = ("--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 15}', "--best-checkpoint-metric", "bleu",
        "--maximize-best-checkpoint-metric")  # fmt: skip


def test_life_of_a_model_selected_by_bleu(run, corpus, vtlm, tmp_path):
    """PITFALLS 29: save, resume, fine-tune, average and generate with torch's restricted loading left on."""
    argv = ("--pretrained", vtlm, *BLEU, "--lr", "3e-3")
    first = run.train(corpus.data, tmp_path / "a", *argv, "--max-update", "12", regions=corpus.regions)
    resumed = run.train(corpus.data, tmp_path / "a", *argv, "--max-update", "30", regions=corpus.regions)
    bleu = [record["bleu"] for trained in (first, resumed) for record in trained.validations()]
    assert len(resumed.validations()) >= 3
    assert [int(u["num_updates"]) for u in resumed.updates()] == list(range(13, 31))
    best, last = tmp_path / "a/checkpoint_best.pt", tmp_path / "a/checkpoint_last.pt"
    before = [path.read_bytes() for path in (best, last)]
    again = run.train(corpus.data, tmp_path / "a", *argv, "--max-update", "30", regions=corpus.regions)
    assert not again.updates() and [path.read_bytes() for path in (best, last)] == before
    again = run.train(corpus.data, tmp_path / "c", *argv, "--restore-file", last, "--max-update", "30",
                      regions=corpus.regions, ok=False)  # fmt: skip
    again.fault(str(last), "--reset-optimizer")  # nothing would be written
    assert torch.load(best, weights_only=True)["extra_state"]["best"] == max(bleu)

    tuned = run.train(corpus.data, tmp_path / "b", "--finetune-from-model", best, *BLEU, regions=corpus.regions)
    assert tuned.updates()[0]["loss"] < first.updates()[0]["loss"]
    average = tmp_path / "average.pt"
    run.convert("average", best, tmp_path / "b/checkpoint_last.pt", "--out", average)
    for path in (best, tmp_path / "b/checkpoint_last.pt", average):
        decoded = run.generate(corpus.data, path, "--max-len-b", "15", regions=corpus.regions)
        assert decoded.ids() == list(range(13))
    selected = [v for v in first.validations() + resumed.validations() if v["bleu"] == max(bleu)][-1]
    validated = run.validate(corpus.data, best, task="multimodal_translation").validations()[-1]
    assert validated["loss"] == pytest.approx(selected["loss"], abs=2e-3)


def test_checkpoints_hold_plain_python(vtlm, tlm, mmt, nmt):
    """PITFALLS 29: nothing but argparse.Namespace is allow-listed, and these load without it too."""
    code = (
        "import torch; before = set(torch.serialization.get_safe_globals()); "
        "import vtlm_fairseq; vtlm_fairseq.register(); "
        "print(set(torch.serialization.get_safe_globals()) - before)"
    )
    allowed = shell(sys.executable, "-c", code, cwd=ROOT)
    assert allowed.output.splitlines()[-1] == "{<class 'argparse.Namespace'>}"
    for path in (vtlm, tlm, mmt, nmt):
        assert "model" in torch.load(path, weights_only=True)


def test_average_of_a_checkpoint_with_itself(run, corpus, mmt, tmp_path):
    """PITFALLS 31: with ``--half`` a file that decodes."""
    run.convert("average", mmt, "--out", tmp_path / "half.pt", "--half")
    assert (tmp_path / "half.pt").stat().st_size < mmt.stat().st_size / 3
    decoded = run.generate(corpus.data, tmp_path / "half.pt", "--max-len-b", "5", regions=corpus.regions)
    assert decoded.ids() == list(range(13))


@pytest.mark.parametrize("model", ["vtlm", "mmt", "nmt"])
def test_folder_is_complete(corpus, request, model):
    """Dictionaries lie beside the checkpoints (BPE model and text.json: see test_raw_text)."""
    folder = request.getfixturevalue(model).parent
    for lang in ("en", "de"):
        assert filecmp.cmp(folder / f"dict.{lang}.txt", corpus.data / f"dict.{lang}.txt", shallow=False)


def test_no_save_writes_nothing(run, corpus, tmp_path):
    """Neither into the folder of data, nor into ``--save-dir``."""
    before = sorted(path.name for path in corpus.data.iterdir())
    run.pretrain(corpus.data, tmp_path, "--no-save")
    assert sorted(path.name for path in corpus.data.iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_a_best_bleu_of_other_text(run, corpus, tmp_path):
    """The best of a checkpoint that compared something else, as those that do not say, does not count."""
    data = corpus.copy(tmp_path / "corpus").data
    TextPipeline("en", "de", steps=("tokenise",)).save(data)
    argv = (*BLEU, "--save-dir", tmp_path / "a", "--max-update")
    assert "--eval-bleu compares running text" in run.train(data, tmp_path / "a", *argv, "1").output
    path = tmp_path / "a" / "checkpoint_last.pt"
    for kept in (True, False):
        state = torch.load(path, weights_only=True)
        state["extra_state"]["best"] = 99.0
        if not kept:
            del state["task_state"]["bleu_of"]
        torch.save(state, path)
        updates = int(state["optimizer_history"][-1]["num_updates"]) + 1
        resumed = run.train(data, tmp_path / "a", *argv, updates)
        assert ("the best checkpoint is counted anew" in resumed.output) != kept
        assert (torch.load(path, weights_only=True)["extra_state"]["best"] == 99.0) == kept
