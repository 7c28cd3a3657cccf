"""Captions as TSV, JSON lines and line files: what is read, and faults with file and line."""

import gzip
import json

from stores import fault
from vtlm_fairseq.text.caption_files import CaptionFile, Pair


def read(path, columns=None, *, langs=("en", "de"), layout="auto", **more) -> list[Pair]:
    """All pairs of a file."""
    file = CaptionFile(str(path), source_lang=langs[0], target_lang=langs[1], columns=columns, layout=layout, **more)
    pairs = list(file)
    assert list(file) == pairs  # it can be read again
    return pairs


def test_tsv_by_numbers_and_names(tmp_path):
    """By numbers the paper's layout."""
    path = tmp_path / "x.tsv"
    path.write_bytes(b"a.jpg\thttp\tone  man\tein Mann\nb\t\tx y\t\n")
    expected = [Pair("a.jpg", "one  man", "ein Mann", f"{path} line 1"), Pair("b", "x y", "", f"{path} line 2")]
    assert read(path) == expected
    assert [(p.source, p.target) for p in read(path, langs=("de", "en"))][0] == ("ein Mann", "one  man")
    (tmp_path / "x.tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert [p[:3] for p in read(tmp_path / "x.tsv.gz")] == [p[:3] for p in expected]
    path.write_text("caption\tfile\tdeutsch\none\ta\teins\n")
    assert read(path, {"image": "file", "en": "caption", "de": "3"}) == [Pair("a", "one", "eins", f"{path} line 2")]
    assert "line 1: no column 'name', there are caption, file" in fault(
        read, path, {"image": "name", "en": "1", "de": "2"}
    )


def test_json_lines(tmp_path):
    path = tmp_path / "x.jsonl"
    records = [{"id": 7, "a": "one", "b": "eins"}, {"id": "x", "a": "", "b": "z\tw", "more": []}]
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    keys = {"image": "id", "en": "a", "de": "b"}
    assert [p[:3] for p in read(path, keys)] == [("7", "one", "eins"), ("x", "", "z\tw")]
    for line, expected in (
        ("{", "line 3: not JSON"),
        ("[]", "line 3: not a JSON object"),
        ('{"id": 1, "a": "x"}', "line 3: 'b' is missing"),
        ('{"id": 1, "a": "x", "b": 3}', "line 3: 'b' is 3, must be text"),
        ('{"id": "", "a": "x", "b": "y"}', "line 3: no image id"),
    ):
        path.write_text("".join(json.dumps(r) + "\n" for r in records) + line)
        assert f"x.jsonl {expected}" in fault(read, path, keys)


def test_line_files(tmp_path):
    for name, text in (("en", "one\n\nthree\n"), ("de", "eins\nzwei\ndrei"), ("images", "a\nb\na\n")):
        (tmp_path / f"x.{name}").write_text(text)
    expected = [("a", "one", "eins"), ("b", "", "zwei"), ("a", "three", "drei")]
    assert [p[:3] for p in read(tmp_path / "x")] == expected
    (tmp_path / "x.de").write_text("eins\nzwei\n")
    message = fault(read, tmp_path / "x")
    assert message.startswith(f"{tmp_path}/x.de: ends before line 3")
    (tmp_path / "x.images").unlink()
    assert "neither" in fault(read, tmp_path / "x") and "x.images" in fault(read, tmp_path / "x")


def test_faults_of_tsv(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"a\tb\tc\td\na\tb\tc\td\te\n")
    assert "x.tsv line 2: 5 columns between tabs, must be 4" in fault(read, path)
    path.write_bytes(b"a\tb\tc\n")
    assert "x.tsv line 1: 3 columns between tabs, must be at least 4" in fault(read, path)
    path.write_bytes(b"a\tb\tc\td\n \tb\tc\td\n")
    assert "x.tsv line 2: no image id" in fault(read, path)
    assert "--columns does not say where de is" in fault(read, path, {"image": "1", "en": "2"})
    assert "counted from 1" in fault(read, path, {"image": "0", "en": "2", "de": "3"})
    assert "--train" in fault(read, tmp_path / "y.tsv")


def test_csv_and_quoted_tsv(tmp_path):
    """A comma, a quote and a line end inside a field; columns by name in any order, places are lines of the file."""
    path = tmp_path / "x.csv"
    path.write_bytes(b'de,"image",url,en\r\n"ein, ""Mann""",a.jpg,u,"one\nman"\r\nzwei,b,u,two\r\n')
    assert read(path) == [
        Pair("a.jpg", "one\nman", 'ein, "Mann"', f"{path} line 2"),
        Pair("b", "two", "zwei", f"{path} line 4"),
    ]
    assert read(path, {"image": "3", "en": "1", "de": "4"})[2][:3] == ("u", "zwei", "two")  # the first line is a row
    tsv = tmp_path / "x.tsv"
    tsv.write_text('"a"\tu\t"x ""y"""\t"z\tw"\n', newline="")
    assert read(tsv, quoting="minimal")[0][:3] == ("a", 'x "y"', "z\tw")
    path.write_bytes(b'a,u,"x" y,z\n')
    assert read(path, {"image": "1", "en": "3", "de": "4"}, quoting="none")[0].source == '"x" y'
    assert "x.csv line 1: " in (message := fault(read, path, {"image": "1", "en": "3", "de": "4"}))
    assert "--quoting" in message
    path.write_bytes(b'image,en,de\na,x,y\nb,"x,y\nc,x,y\n')
    assert "x.csv line 3: " in fault(read, path)  # the quote that does not close, not the end of the file
    path.write_bytes(b"image,en,en,de\na,x,y,z\n")
    assert "two columns 'en'" in fault(read, path)


def test_quotes_of_csv_in_a_tsv_are_noticed(tmp_path):
    path = tmp_path / "x.tsv"

    def write(*texts):
        path.write_text("".join(f"i\tu\t{text}\tx\n" for text in texts))
        return path

    quoted = ['"a ""b"" c"', '"""b"" c"', '"a, ""b"""']
    message = fault(read, write(*quoted, "plain"))
    assert "--quoting minimal" in message and str(tmp_path) in message
    assert read(path, quoting="none")[0].source == quoted[0]
    assert read(path, quoting="minimal")[0].source == 'a "b" c'
    assert "--quoting minimal" in fault(read, write('"a"', '"b"', '"c"'))
    assert len(read(write('"a"', '"b"', '"c"', "plain"))) == 4  # somebody's words
    assert len(read(write(*quoted, 'the "b" c'))) == 4  # a quote inside is none of CSV


def test_csv_between_semicolons_and_tabs(tmp_path):
    """As spreadsheets write it where numbers have commas; commas where they give all columns."""
    path = tmp_path / "x.csv"
    expected = [("a", "one, two", "eins; zwei")]
    path.write_text('image;en;de\na;one, two;"eins; zwei"\n')
    assert [p[:3] for p in read(path)] == expected
    assert [p[:3] for p in read(path, {"image": "1", "en": "2", "de": "de"})] == expected
    path.write_text("de\timage\ten\neins; zwei\ta\tone, two\n")
    assert [p[:3] for p in read(path)] == expected
    path.write_text('image,en,de,x;y;z\na,"one, two",eins; zwei,\n')
    assert [p[:3] for p in read(path)] == expected
    assert [p[:3] for p in read(path, {"image": "1", "en": "2", "de": "3"})][1:] == expected
    path.write_text("image;en;fr\na;one;un\n")
    assert "no column 'image', there are image;en;fr" in fault(read, path)
    path.write_text("image;en;de\na;one\n")
    assert "line 2: 2 columns between semicolons, must be 3" in fault(read, path)
