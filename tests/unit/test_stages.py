"""The stages of Table 1's runner, with commands of no weight: what is run again, what a failure shows, mending."""

import io
import os

import pytest
import recipes  # noqa: F401  (puts the examples on the path)
import stages
import torch

from vtlm_fairseq.errors import VTLMError


def run(out, *stages_: stages.Stage, screen: io.StringIO | None = None) -> tuple[dict[str, float], str]:
    """Seconds of each stage, and the screen."""
    screen = screen or io.StringIO()
    runner = stages.Runner(out, stages_, root=stages.ROOT, environment=dict(os.environ), screen=screen)
    return runner.run(), screen.getvalue()


def stage(name: str, code: str, **options) -> stages.Stage:
    return stages.Stage(name=name, title=name, command=("-S", "-c", code), outputs=(name,), **options)


def touch(name: str, text: str = "") -> str:
    return f"open({name!r}, 'a').write({text!r})"


@pytest.mark.slow
def test_a_finished_stage_is_not_run_again_a_changed_one_and_what_needs_it_is(tmp_path):
    first, other = stage("a", touch("a", "1")), stage("c", touch("c", "3"))
    second = stage("b", "open('b', 'w').write(open('a').read() + '2')", needs=("a",))
    assert run(tmp_path, first, second, other)[0].keys() == {"a", "b", "c"}
    assert run(tmp_path, first, second, other)[1].count("done before") == 3
    changed = stage("a", touch("a", "one"))
    assert run(tmp_path, changed, second, other)[1].count("done before") == 1
    assert [(tmp_path / name).read_text() for name in "abc"] == ["one", "one2", "3"]
    (tmp_path / "b").unlink()
    assert run(tmp_path, changed, second, other)[1].count("done before") == 2
    assert (tmp_path / "b").exists()


@pytest.mark.slow
def test_failure_shows_the_last_lines_of_the_log_and_the_next_call_goes_on_there(tmp_path, capsys):
    failing = "for i in range(1, 31): print('line', i)\n" + touch("b", "half") + "\nraise SystemExit(7)"
    screen = io.StringIO()
    first, last = stage("a", touch("a")), stage("c", touch("c"))
    with pytest.raises(VTLMError, match=r"stage 'b' ended with exit status 7.*logs/b\.log"):
        run(tmp_path, first, stage("b", failing), last, screen=screen)
    shown = [line.strip() for line in screen.getvalue().splitlines() if line.startswith("    ")]
    assert shown == [f"line {i}" for i in range(11, 31)]
    assert not (tmp_path / "c").exists()
    _, text = run(tmp_path, first, stage("b", touch("b", "whole")), last)
    assert text.count("done before") == 1 and (tmp_path / "b").read_text() == "whole"


@pytest.mark.slow
def test_seconds_of_a_stage_are_those_of_all_its_runs(tmp_path):
    """A stage that can goes on from what an unfinished run of the same command left."""
    code = (
        "import os, time; second = os.path.exists('a'); open('a', 'a').write('x'); time.sleep(0 if second else 0.7)\n"
        "print('last', flush=True); raise SystemExit(0 if second else 1)"
    )
    one = stage("a", code, recover=lambda: None)
    with pytest.raises(VTLMError, match="exit status 1"):
        run(tmp_path, one)
    assert 0.7 <= run(tmp_path, one)[0]["a"] < 60
    assert (tmp_path / "a").read_text() == "xx"


def test_cut_off_last_checkpoint_is_replaced_by_the_newest_whole_one(tmp_path):
    def save(name: str, updates: int) -> bytes:
        torch.save({"model": {}, "optimizer_history": [{"num_updates": updates}]}, tmp_path / name)
        return (tmp_path / name).read_bytes()

    save("checkpoint_1_10.pt", 10)
    newest = save("checkpoint_2_20.pt", 20)
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes(newest[:100])
    stages.mend_last_checkpoint(tmp_path)
    assert last.read_bytes() == newest
    for path in tmp_path.glob("*.pt"):
        path.write_bytes(b"cut")
    stages.mend_last_checkpoint(tmp_path)
    assert not last.exists()
