"""The figures of the quickstart's probes from tables made by hand, and the files that the probes read."""

import json
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).resolve().parents[2] / "examples" / "quickstart"
sys.path[:0] = [str(QUICKSTART), str(QUICKSTART.parent)]

import make_data  # noqa: E402
import probes  # noqa: E402

from vtlm_fairseq.errors import VTLMError  # noqa: E402
from vtlm_fairseq.evaluation.probes.contrastive import ContrastiveSet  # noqa: E402


def last_word_rows(tlm: float, vtlm: float, shuffled: float) -> list[dict]:
    both = (("TLM", "none", tlm), ("VTLM", "given", vtlm), ("VTLM", "shuffle", shuffled))
    rows = [{"system": name, "regions": order, "masked": "BOTH", "test": value} for name, order, value in both]
    return [*rows, {"system": "TLM", "regions": "none", "masked": "EN", "test": 99.0}]


@pytest.mark.parametrize(
    ("both", "gain", "taken", "outside"),
    [
        ((5.0, 30.0, 10.0), 25.0, 80.0, []),
        ((5.0, 24.0, 5.0), 19.0, 100.0, ["gain of VTLM 19.000, not >= 20"]),
        ((5.0, 30.0, 10.5), 25.0, 78.0, ["share of the gain that shuffling takes back 78.000, not >= 80"]),
        ((5.0, 30.0, 2.0), 25.0, 112.0, []),
        ((30.0, 5.0, 5.0), -25.0, 0.0, ["gain of VTLM -25.000, not >= 20",
                                        "share of the gain that shuffling takes back 0.000, not >= 80"]),
    ],
)  # fmt: skip
def test_last_word(both, gain, taken, outside):
    """Gain: VTLM minus TLM; taken back: what shuffling loses, as a share of the gain."""
    figures = {figure.name: figure for figure in probes.last_word(last_word_rows(*both))}
    assert figures["gain of VTLM"].value == pytest.approx(gain)
    assert figures["share of the gain that shuffling takes back"].value == pytest.approx(taken)
    assert probes.outside_expected(list(figures.values())) == outside


def test_contrastive_and_incongruent():
    """NMT must have exactly half and no drop; MMT 95 % and a drop that is not chance."""
    rows = [
        {"system": system, "score": score, "accuracy": value}
        for system, value in (("MMT", 95.0), ("NMT", 49.9))
        for score in ("perplexity", "log-probability")
    ]
    assert probes.outside_expected(probes.contrastive(rows)) == ["NMT, contrastive 49.900, not exactly 50"]
    rows = [
        {"system": "MMT", "regions": "given", "BLEU": 90.0, "drop": 0.0, "p": None},
        {"system": "MMT", "regions": "shuffle", "BLEU": 80.0, "drop": 10.0, "p": 0.01},
        {"system": "MMT", "regions": "none", "BLEU": 91.0, "drop": -1.0, "p": 0.0099},
        {"system": "NMT", "regions": "none", "BLEU": 70.0, "drop": 0.0, "p": None},
    ]
    figures = probes.incongruent(rows)
    assert probes.outside_expected(figures) == [
        "MMT, scenes shuffled, p 0.010, not < 0.01",
        "MMT, scenes hidden, drop -1.000, not > 0",
    ]
    shown = probes.table(figures, expected=True)
    assert shown.count("(!)") == 2 and shown.count("BLEU on the test split") == 1
    assert "[" not in probes.table(figures, expected=False)


def test_tables_are_found_between_log_lines(tmp_path):
    tables = {
        "last-word": last_word_rows(1, 50, 1),
        "contrastive": [{"system": "MMT", "score": "perplexity", "accuracy": 100.0}],
        "incongruent": [{"system": "NMT", "regions": "none", "BLEU": 70.0, "drop": 0.0, "p": None}],
        "attention": [{"system": "MMT", "layer": layer, "mass": 0.1 * layer, "uniform": 0.3} for layer in (1, 2)],
    }
    for name, rows in tables.items():
        log = f"a warning {{\n{json.dumps({'rows': rows, 'notes': []}, indent=2)}\nanother\n"
        (tmp_path / f"{name}.json").write_text(probes.extract_json(log), encoding="utf-8")
    figures = probes.read_figures(tmp_path)
    assert [(figure.name, figure.value) for figure in figures[-3:]] == [
        ("MMT, layer 1", pytest.approx(0.1)), ("MMT, layer 2", pytest.approx(0.2)), ("equal weights", 0.3)
    ]  # fmt: skip
    assert len({figure.name for figure in figures}) == len(figures)  # they are keys of results.json
    with pytest.raises(VTLMError, match="printed no table"):
        probes.extract_json("Traceback\n{}\n")


def test_files_of_the_probes(tmp_path):
    """The wrong translation of a line is right for its partner's scene; the last word is the ambiguous noun."""
    data = tmp_path / "data"
    make_data.make_data(data, seed=1, sizes={"train": 270, "valid": 9, "test": 18})
    records = [json.loads(line) for line in (data / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    folder = data / "contrastive"
    files = ContrastiveSet.read(
        src=str(folder / "src.en"),
        correct=str(folder / "correct.de"),
        incorrect=str(folder / "incorrect.de"),
        images=str(folder / "img.order"),
    )
    ambiguous = [record for record in records if record["ambiguous"]]
    assert len(files.source) == len(ambiguous) == 24
    for line, record in enumerate(ambiguous):
        assert (files.source[line], files.correct[line]) == (record["english"], record["german"])
        assert files.incorrect[line] == records[record["partner"]]["german"] != record["german"]
        assert files.images[line] == record["image"]
        assert set(record["wrong"]) & set(files.incorrect[line].split())
    numbers = [int(line) for line in (data / "test_last.lines").read_text(encoding="utf-8").splitlines()]
    assert numbers == [record["line"] + 1 for record in records if record["last"]] and len(numbers) == 8
    for number in numbers:
        assert records[number - 1]["german"].split()[-1] in records[number - 1]["right"]
