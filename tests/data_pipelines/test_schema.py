from data_pipelines.schema import SourceSettings


def test_one_s_own_data_is_shown_faithfully_and_an_unknown_policy_is_a_problem():
    assert SourceSettings("a", "jsonl", "a.jsonl").pictures == "faithful"
    assert not list(SourceSettings("a", "jsonl", "a.jsonl", pictures="reference").problems())
    problems = list(SourceSettings("a", "jsonl", "a.jsonl", pictures="exact").problems())
    assert problems == [("pictures", "is 'exact', must be one of faithful, reference")]
