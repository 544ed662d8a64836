"""Rows of benchmarks: as the official kit reads a tab-separated file, and as it is written."""

import pytest

from data_pipelines.schema import DataError
from neo_jax.evaluation.benchmarks.answers import as_text, read_back
from neo_jax.evaluation.benchmarks.rows import list_of, read_rows


def rows(tmp_path, text, quirks=True):
    (tmp_path / "rows.tsv").write_text(text, encoding="utf-8")
    return read_rows(tmp_path / "rows.tsv", quirks)


def test_cells_as_the_official_kit_reads_them(tmp_path):
    text = "index\tA\tB\tC\tD\tbound\n1\t007\tNone\t1\t1.50\tTrue\n2\t8\tno\t\tnull\tfalse\n"
    one, two = rows(tmp_path, text)
    assert one.options() == {"A": "7", "C": "1.0", "D": "1.5"} and one.text("bound") == "True" and one.key == "1"
    assert two.options() == {"A": "8", "B": "no"} and two.text("bound") == "False"
    one, two = rows(tmp_path, text, quirks=False)
    assert one.options() == {"A": "007", "B": "None", "C": "1", "D": "1.50"}
    assert two.options() == {"A": "8", "B": "no", "D": "null"}


def test_quotes_lines_and_lists(tmp_path):
    (row,) = rows(tmp_path, 'index\tquestion\tcandidates\n0\t"two\nlines, ""so""\tthere"\t[\'a\', \'b "c"\']\n')
    assert row.text("question") == 'two\nlines, "so"\tthere' and row.list("candidates") == ["a", 'b "c"']
    assert list_of('["x", null]', "here") == ["x", "None"]


BROKEN = [
    ("", "has no header"),
    ("index\tA\n", "has a header and no rows"),
    ("index\tA\n1\tx\ty\n", "row 1: has 3 cells, the header 2"),
    ("index\tA\n1\tx\n1\ty\n", "row 2: has the index '1' of"),
    ("A\nx\n", "has no column 'index'"),
]


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_files_that_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        rows(tmp_path, text)


def test_cells_that_are_refused(tmp_path):
    (row,) = rows(tmp_path, "index\tA\tB\n1\tx\t\n")
    with pytest.raises(DataError, match="has no column 'C'; its columns are index, A, B"):
        row.text("C")
    with pytest.raises(DataError, match="the cell 'B' is empty"):
        row.text("B")
    with pytest.raises(DataError, match="'A' is 'x', must be a number"):
        row.number("A")
    with pytest.raises(DataError, match=r"'A' is 'x', must be a list"):
        row.list("A")
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "none.tsv", True)
    (tmp_path / "bad.tsv").write_bytes(b"index\tA\n1\t\xff\n")
    with pytest.raises(DataError, match="is no UTF-8"):
        read_rows(tmp_path / "bad.tsv", True)


@pytest.mark.parametrize(
    ("prediction", "official", "plain"),
    [
        (" B \n", "B", "B"),
        ("B<|im_end|>C", "B", "B"),
        ("", None, ""),
        ("None", None, "None"),
        ("=B", 0, "=B"),
        ("none", "none", "none"),
        ("x" * 40_000, "x" * 32_767, "x" * 40_000),
    ],
)
def test_answers_read_back(prediction, official, plain):
    assert read_back([prediction, "x"], True) == [official, "x"] and read_back([prediction], False) == [plain]
    assert as_text(None) == "nan" and as_text(0) == "0"


def test_answers_that_are_all_numbers_come_back_as_numbers():
    assert read_back(["007", "=B", "3"], True) == [7, 0, 3] and read_back(["1.50", "2"], True) == [1.5, 2.0]
    assert read_back(["4", ""], True) == [4.0, None] and read_back(["True", "false"], True) == [True, False]
    assert read_back(["007", "x"], True) == ["007", "x"] and read_back(["007", "3"], False) == ["007", "3"]
