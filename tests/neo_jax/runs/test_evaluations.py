"""Evaluation records: written and read back; a file that is none is named with its field."""

import json
import re

import pytest

from neo_jax.runs.evaluations import (
    AnswerRecord,
    EvaluationError,
    EvaluationRecord,
    FamilyResult,
    read_evaluation,
    read_evaluations,
    write_evaluation,
)

RECORD = EvaluationRecord(
    "sft", 12.5, (AnswerRecord("count", "a.jsonl:1", "2", "2", "\ud83d half a pair"),), {"count": FamilyResult(1, 1.0, 0.0, 1.0)}
)


def test_a_record_reads_back_as_it_was_written(tmp_path):
    path = tmp_path / "evaluations" / "00-sft.json"
    write_evaluation(path, RECORD)
    assert read_evaluation(path) == RECORD
    empty = EvaluationRecord("text", 1.0, (), {})
    write_evaluation(tmp_path / "evaluations" / "01-text.json", empty)
    assert read_evaluations(tmp_path) == ([RECORD, empty], [])
    assert read_evaluations(tmp_path / "none") == ([], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": None}, "field phase must be a text"),
        ({"seconds": "1"}, "field seconds must be a number from 0"),
        ({"seconds": -1}, "field seconds"),
        ({"seconds": float("nan")}, "field seconds"),
        ({"answers": None}, "field answers must be a list"),
        ({"answers": [[]]}, "answers[0] must be a JSON object"),
        ({"answers": [{"family": "count"}]}, "field answers[0].key must be a text"),
        ({"scores": []}, "scores must be a JSON object"),
        ({"scores": {"count": {"questions": True}}}, "scores['count'].questions must be a whole number"),
        ({"scores": {"count": {"questions": 2, "exact_match": 1.5}}}, "scores['count'].exact_match must be a number from 0 to 1"),
    ],
)
def test_a_file_that_is_no_record_is_named_with_its_field(tmp_path, change, message):
    path = tmp_path / "evaluations" / "00-sft.json"
    write_evaluation(path, RECORD)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EvaluationError, match=re.escape(message)) as raised:
        read_evaluation(path)
    assert "00-sft.json" in str(raised.value)
    assert read_evaluations(tmp_path) == ([], [str(raised.value)])


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "00-sft.json"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"00-sft\.json"):
        read_evaluation(path)
