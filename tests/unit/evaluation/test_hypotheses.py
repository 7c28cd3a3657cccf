"""Reading output of fairseq-generate and plain lines."""

import pytest

from stores import fault
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.hypotheses import read_hypotheses


def generated(path, ids, *, order=None, extra=()):
    """Output in which sentence i is ``hyp i`` with score -i and reference ``ref i``."""
    lines = ["2026-01-01 | INFO | fairseq_cli.generate | {'path': 'H-1'}"]
    for i in order or ids:
        lines += [f"S-{i}\tsource {i}", f"T-{i}\tref {i}", f"H-{i}\t-{i}.25\thyp {i}", f"D-{i}\t-{i}.25\thyp {i}"]
        lines += [f"P-{i}\t-0.1 -0.2"]
    lines += [*extra, "Generate test with beam=5: BLEU4 = 1.00"]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_corpus_order_by_number_not_by_text(tmp_path):
    """PITFALLS 11: fairseq prints in length order; 10 comes after 9."""
    read = read_hypotheses(generated(tmp_path / "out", range(12), order=[10, 2, 11, 9, 0, 1, 3, 8, 7, 6, 5, 4]))
    assert read.ids == list(range(12))
    assert read.texts == [f"hyp {i}" for i in range(12)]
    assert read.scores == [-i - 0.25 for i in range(12)]
    assert read.references == [f"ref {i}" for i in range(12)]


def test_a_gap_is_refused_and_the_first_five_are_named(tmp_path):
    """PITFALLS 11: an id below the greatest that is not there."""
    path = generated(tmp_path / "out", [0, 7, 9])
    with pytest.raises(VTLMError) as error:
        read_hypotheses(path)
    message = str(error.value)
    assert message.startswith(f"{path}: 3 hypotheses for 10 sentences") and "\n" not in message
    assert "[1, 2, 3, 4, 5, ...]" in message and "--allow-missing" in message
    read = read_hypotheses(path, allow_missing=True)
    assert (read.ids, read.texts) == ([0, 7, 9], ["hyp 0", "hyp 7", "hyp 9"])
    assert read.missing(11) == [1, 2, 3, 4, 5, 6, 8, 10]


def test_a_missing_end_is_known_by_the_reference_or_by_other_lines(tmp_path):
    """PITFALLS 11: nothing inside the output shows that its last sentences were lost, but the corpus' size does."""
    read = read_hypotheses(generated(tmp_path / "out", range(3)))
    assert read.require(3) == []
    with pytest.raises(VTLMError, match=r"3 hypotheses for 5 sentences; missing: \[3, 4\]"):
        read.require(5)
    assert read.require(5, allow_missing=True) == [3, 4]
    with pytest.raises(VTLMError, match=r"sentence 2 .* 2 sentences"):
        read.require(2, allow_missing=True)
    cut = generated(tmp_path / "cut", range(3), extra=["S-3\tsource 3"])
    with pytest.raises(VTLMError, match=r"3 hypotheses for 4 sentences; missing: \[3\]"):
        read_hypotheses(cut)


def test_duplicates_are_refused_even_where_gaps_are_allowed(tmp_path):
    """PITFALLS 11: two runs in one file, or --nbest."""
    path = generated(tmp_path / "out", range(3), order=[0, 1, 2, 1, 2])
    with pytest.raises(VTLMError, match=r"2 sentences .*\[1, 2\].*--nbest 1"):
        read_hypotheses(path, allow_missing=True)


def test_output_without_hypotheses_is_not_taken_for_plain_lines(tmp_path):
    """Empty ones count."""
    path = tmp_path / "out"
    path.write_text("S-0\ta\nT-0\tb\n", encoding="utf-8")
    assert "no H- lines" in fault(read_hypotheses, path, allow_missing=True)
    path.write_text("H-0\tno score\ttext\n", encoding="utf-8")
    assert "H-0 has no score" in fault(read_hypotheses, path)
    path.write_text("H-1\t-0.5\tb c\nH-0\t-1.0\t\n", encoding="utf-8")
    read = read_hypotheses(path)
    assert read.texts == ["", "b c"]
    assert read.references is None


def test_plain_lines_keep_their_order(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(b"eins zwei\n\ndrei \nvier")
    read = read_hypotheses(path)
    assert read.texts == ["eins zwei", "", "drei", "vier"]
    assert (read.ids, read.scores, read.references) == ([0, 1, 2, 3], None, None)
    assert read.require(4) == []
    for count in (3, 5):
        assert f"4 lines, but the corpus has {count} sentences" in fault(read.require, count, allow_missing=True)
