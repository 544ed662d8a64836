"""What of the data is not trained on stands on the console."""

import collections
import dataclasses
import types

import numpy as np
import pytest

from configs.demo import get_config
from data_pipelines.planning.advice import Advice
from data_pipelines.planning.forecast import Forecast
from data_pipelines.planning.too_long import FILTERED, NEVER_FITS, find_too_long
from neo_jax.config import Config
from neo_jax.training.losses_of_data import (
    FailureLines,
    converted_lines,
    epoch_lines,
    excluded_lines,
    ignored_lines,
    share,
    too_long_lines,
    underfilled_lines,
)


def index(name, count, **counters):
    filled = {key: collections.Counter(counters.get(key, {})) for key in ("unusable", "conversions")}

    class Index(types.SimpleNamespace):
        def __len__(self):
            return count

    return Index(name=name, log=f"{name}.unusable.jsonl", **filled)


def test_what_the_index_excludes():
    found = list(excluded_lines([index("a", 40, unusable={"missing_file": 29, "no_answer": 1}), index("b", 9)]))
    assert found == ["a: 30 of 40 (75%) samples cannot be used (29 missing_file, 1 no_answer): a.unusable.jsonl"]


def test_keys_that_are_not_read():
    sources = [
        types.SimpleNamespace(name=name, ignored=collections.Counter(keys)) for name, keys in (("a", {"url": 3, "id": 9}), ("b", {}))
    ]
    assert list(ignored_lines(sources)) == ["a: keys of its rows that are not read: id (9 rows), url (3 rows)"]


def test_what_is_converted():
    assert list(converted_lines([index("a", 40, conversions={"orientation": 3}), index("b", 9)])) == [
        "a: pictures that are converted by the source's `pictures` policy: 3 orientation"
    ]


def test_what_is_too_long_for_a_phase_and_by_which_budget():
    phase = dataclasses.replace(Config.from_config_dict(get_config()).phases[0], context=128)
    lengths = np.array([[300, 0, 0, 1], [129, 0, 0, 1], [NEVER_FITS] * 4])
    budget = np.array([128, 10, 10, 10])
    found = {
        "text": find_too_long(np.concatenate([lengths, np.ones((37, 4), int)]), np.arange(40), budget),
        "caption": find_too_long(np.ones((7, 4), int), np.arange(7), budget),
    }
    assert list(too_long_lines(phase, found)) == [
        "text: 3 of 40 (8%) samples of text do not fit a row (2 exceed context 128, the longest needs 300; 1 are of a kind that the phase does "
        "not take): skipped.jsonl"
    ]


def test_budgets_that_leave_rows_empty():
    phases = Config.from_config_dict(get_config()).phases[:3]
    advice = [
        Advice(0.634, 0.991, (8192, 4096, 512, 4), (8192, 6656, 512, 11)),
        None,
        Advice(0.8, 0.99, (8192, 4096, 64, 40), (8192, 4096, 96, 40)),
    ]
    lines = [line for phase, each in zip(phases, advice, strict=True) for line in underfilled_lines(phase, each)]
    assert lines == [
        "text: about 63% of the context will be filled, since visual_tokens 4096 and segments 4 are used up first; with visual_tokens 6656 and "
        "segments 11 about 99% would be, for 7.5 MiB more pixels a row",
        "captions: about 80% of the context will be filled, since images 64 is used up first; with images 96 about 99% would be, at no cost",
    ]


def test_what_keep_leaves_out():
    lengths = np.array([[30, 0, 0, 1], [FILTERED] * 4, [FILTERED] * 4, [30, 0, 0, 1]])
    found = find_too_long(lengths, np.arange(4), np.array([128, 0, 0, 8]))
    (line,) = too_long_lines(Config.from_config_dict(get_config()).phases[0], {"web": found})
    assert line == "text: 2 of 4 (50%) samples of web are left out by its `keep`"


def test_epochs_of_sources():
    phases = [types.SimpleNamespace(name="first"), types.SimpleNamespace(name="second")]
    forecast = Forecast(({"web": 0.5, "own": 1.0}, {"web": 1.26, "own": 2.0}), ((), ("own",)), None)
    sources = [
        types.SimpleNamespace(name=name, settings=types.SimpleNamespace(max_epochs=epochs)) for name, epochs in (("web", 0), ("own", 2))
    ]
    assert list(epoch_lines(phases, forecast, sources)) == [
        "epochs of each source by the end of the run, about: web 1.3, own 2",
        "own is used up in phase second (max_epochs 2); from there on other sources take its share",
    ]


def test_failures_are_told_of_once():
    lines = FailureLines()
    assert list(lines.new({("a", "truncated"): 2}, 100)) == [
        "a: 2 of 100 (2%) samples tried so far failed while reading (truncated): skipped.jsonl"
    ]
    assert list(lines.new({("a", "truncated"): 2}, 200)) == []
    assert len(list(lines.new({("a", "truncated"): 3, ("b", "bad_text"): 1}, 300))) == 2


@pytest.mark.parametrize(
    ("count", "total", "text"), [(1, 1000, "0.1%"), (9999, 10_000, "99.99%"), (0, 5, "0%"), (5, 5, "100%"), (1, 3, "33%")]
)
def test_a_share_is_never_rounded_to_nothing_or_all(count, total, text):
    assert share(count, total) == f"{count} of {total} ({text})"
