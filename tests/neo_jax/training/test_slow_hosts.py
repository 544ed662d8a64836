"""A process whose rows come late is named once; usual differences are not."""

import json

import pytest

from neo_jax.processes import exchange
from neo_jax.training import slow_hosts
from neo_jax.training.slow_hosts import MIN_STEPS, SlowHosts, slowest


@pytest.mark.parametrize(
    ("waits", "seconds", "found"),
    [
        ((0.0, 0.3), 0.5, 1),
        ((0.3, 0.0, 0.01, 0.02), 0.5, 0),
        ((0.0, 0.04), 0.5, None),  # under a tenth of the step
        ((0.2, 0.3, 0.25), 0.5, None),  # all wait
        ((0.4,), 0.5, None),  # alone
    ],
)
def test_the_slowest_is_far_from_usual(waits, seconds, found):
    assert slowest(waits, seconds) == found


def test_it_is_named_once_and_recorded(tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(slow_hosts.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(exchange, "gather", lambda mine: [mine, ["far\x1b[31m", 0.5]])
    hosts = SlowHosts(tmp_path)
    said = [hosts.step_ended(0.01, step, "mid", step % 2 == 0) for step in range(1, 12)]
    assert not any(said[:MIN_STEPS]) and len([lines for lines in said if lines]) == 1
    (sentence,) = next(lines for lines in said if lines)
    assert sentence.startswith("process 1 on ") and "waits 0.50 s of a step's 1.00 s" in sentence and "\x1b" not in sentence
    (incident,) = [json.loads(line) for line in (tmp_path / "incidents.jsonl").read_text().splitlines()]
    assert incident["kind"] == "slow process" and incident["reason"] == sentence
