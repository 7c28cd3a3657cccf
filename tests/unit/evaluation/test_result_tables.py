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


def cells(line, separator):
    """Cells of a line of a table, whatever the space around them."""
    return [cell.strip() for cell in line.strip().strip(separator).split(separator)]


def test_text_aligns_words_left_and_numbers_right():
    table = Table(TABLE.columns, [["男", *TABLE.rows[0][1:]], TABLE.rows[1]], "50 % of it", TABLE.notes, {"p": 4})
    title, head, rule, one, other, note = table.render("text").split("\n")
    assert (title, note) == ("50 % of it", "oracle regions")
    assert head.split() == TABLE.columns and set(rule) == {"-", " "}
    assert one.split() == ["男", "0.0013", "3", "12.35"] and other.split() == ["größe", "10", "7.00"]
    assert one.startswith("男 ") and len(one) + 1 == len(other) == len(head)  # two columns of a terminal wide
    head, rule = Table(["a", "bc"], []).render("text").split("\n")
    assert head.split() == ["a", "bc"] and set(rule) == {"-", " "}


def test_markdown_escapes_bars():
    title, _, head, rule, one, other, _, note = TABLE.render("markdown").split("\n")
    assert (title, note) == ("**50 % of it**", "* oracle regions")
    assert cells(head, "|") == TABLE.columns
    assert [cell.endswith("-:") for cell in cells(rule, "|")] == [False, True, True, True]
    assert "a\\|b & c" in one and cells(one.replace("\\|", "/"), "|")[1:] == ["0.0013", "3", "12.35"]
    assert cells(other, "|") == ["größe", "", "10", "7.00"]


def test_latex_escapes_what_tex_would_read():
    made = TABLE.render("latex").split("\n")
    assert made[:3] == ["% 50 % of it", "% oracle regions", r"\begin{tabular}{lrrr}"]
    rows = [cells(line.removesuffix(r"\\"), " & ") for line in made if line.endswith(r"\\")]
    assert rows == [
        ["system", "p", "n", r"BLEU\_x"],
        [r"a\textbar{}b \& c", "0.0013", "3", "12.35"],
        ["größe", "", "10", "7.00"],
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
    assert json.loads(Table(["x"], [[float("nan")], [float("inf")]]).render("json"))["rows"] == [{"x": None}] * 2


def test_wrong_shapes_and_formats():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table(["a", "b"], [["x"]]).render("csv")
    with pytest.raises(ValueError, match="same name"):
        Table(["a", "a"], []).render("json")
    with pytest.raises(VTLMError, match="--format yaml"):
        TABLE.render("yaml")
