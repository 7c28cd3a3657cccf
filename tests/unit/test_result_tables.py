"""Tables in each format."""

import csv
import io
import json

import pytest

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.tables import Table

TABLE = Table(
    ["system", "p", "n", "BLEU_x"],
    [["a|b & c", 0.00125, 3, 12.3456], ["größe", None, 10, 7.0]],
    title="50 % of it",
    notes=["oracle regions"],
    precision={"p": 4},
)


def test_text_aligns_words_left_and_numbers_right():
    assert TABLE.render("text").split("\n") == [
        "50 % of it",
        "system        p   n  BLEU_x",
        "---------------------------",
        "a|b & c  0.0013   3   12.35",
        "größe            10    7.00",
        "oracle regions",
    ]


def test_markdown_escapes_bars():
    assert TABLE.render("markdown").split("\n") == [
        "**50 % of it**",
        "",
        "| system | p | n | BLEU_x |",
        "| --- | ---: | ---: | ---: |",
        "| a\\|b & c | 0.0013 | 3 | 12.35 |",
        "| größe |  | 10 | 7.00 |",
        "",
        "* oracle regions",
    ]


def test_latex_escapes_what_tex_would_read():
    assert TABLE.render("latex").split("\n") == [
        "% 50 % of it",
        "% oracle regions",
        r"\begin{tabular}{lrrr}",
        r"\hline",
        r"system & p & n & BLEU\_x \\",
        r"\hline",
        r"a\textbar{}b \& c & 0.0013 & 3 & 12.35 \\",
        r"größe &  & 10 & 7.00 \\",
        r"\hline",
        r"\end{tabular}",
    ]
    one = Table(["x"], [["1 ± 2_{\\}"]]).render("latex")
    assert r"1 $\pm$ 2\_\{\textbackslash{}\} \\" in one


def test_csv_and_json_hold_unrounded_values():
    rows = list(csv.reader(io.StringIO(TABLE.render("csv"))))
    assert rows == [TABLE.columns, ["a|b & c", "0.00125", "3", "12.3456"], ["größe", "", "10", "7.0"]]
    assert json.loads(TABLE.render("json")) == {
        "title": "50 % of it",
        "columns": ["system", "p", "n", "BLEU_x"],
        "rows": [
            {"system": "a|b & c", "p": 0.00125, "n": 3, "BLEU_x": 12.3456},
            {"system": "größe", "p": None, "n": 10, "BLEU_x": 7.0},
        ],
        "notes": ["oracle regions"],
    }


def test_json_of_what_json_cannot_say():
    assert json.loads(Table(["x"], [[float("nan")], [float("inf")]]).render("json"))["rows"] == [{"x": None}] * 2


def test_a_table_without_rows_has_its_head():
    assert Table(["a", "bc"], []).render("text") == "a  bc\n-----"


def test_wrong_shapes_and_formats():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(["a", "b"], [["x"]]).render("csv")
    with pytest.raises(ValueError, match="same name"):
        Table(["a", "a"], []).render("json")
    with pytest.raises(VTLMError, match="--format yaml"):
        TABLE.render("yaml")
