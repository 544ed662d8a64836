import pytest

from data_pipelines.conditions import read_condition
from data_pipelines.schema import SourceSettings


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("aspect <= 4", ("aspect", "<=", 4.0)),
        ("side>=224", ("side", ">=", 224.0)),
        ("seconds < 6e2", ("seconds", "<", 600.0)),
        ("column.clip score != 0", ("column.clip score", "!=", 0.0)),
        ("column.language in en, de", ("column.language", "in", ("en", "de"))),
        ("column.source  not  in coyo, laion 400m", ("column.source", "not in", ("coyo", "laion 400m"))),
    ],
)
def test_conditions_are_read(text, parts):
    assert read_condition(text) == parts
    assert read_condition(str(read_condition(text))) == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("aspect", "NAME OPERATOR VALUE"),
        ("aspect =< 4", "NAME OPERATOR VALUE"),
        ("width >= 4", "'width' is nothing that is known of a sample: use one of tokens, images"),
        ("column. >= 4", "'column.' is nothing that is known"),
        ("side >= large", "'large' is no number"),
        ("side >= nan", "no number"),
        ("column.language == en", 'a text is compared with "in": "column.language in en"'),
        ("images in 1, 2", "images is a number"),
    ],
)
def test_what_is_no_condition_is_refused_by_name(text, words):
    problems = dict(SourceSettings("a", "jsonl", "a.jsonl", keep=("images >= 1", text)).problems())
    assert list(problems) == ["keep[1]"] and words in problems["keep[1]"] and repr(text) in problems["keep[1]"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("column.a >= 2", [2, 2.5]),
        ("column.a != 2", [1, 2.5]),
        ("column.a in en, 2", [2, "en"]),
        ("column.a not in en, 2", [1, 2.5, "de", True, "2.5"]),
        ("column.a in true", [True]),
    ],
)
def test_a_row_without_the_column_or_of_another_type_is_not_kept(text, kept):
    values = [1, 2, 2.5, "en", "de", True, "2.5", None, float("nan")]
    kept = [*kept, values[-1]] if "not in" in text else kept  # a text is compared, and "nan" is none of these
    condition = read_condition(text)
    assert [value for value in values if condition.holds_for({"a": value})] == kept
    assert not condition.holds_for({})
