"""Documents of sweeps: what they say of means and intervals, and that those in docs/ablations are what the records give."""

import pathlib

import pytest

from neo_jax.sweeps.document import chart, document, recorded
from neo_jax.sweeps.file import Sweep, SweepRun, read_sweep
from neo_jax.sweeps.folder import Listed, State
from neo_jax.sweeps.outcomes import Outcome

ROOT = pathlib.Path(__file__).parents[3]
DOCUMENTS = sorted((ROOT / "docs" / "ablations").glob("*.jsonl"))


def outcome(index: int, settings: dict, **quantities: float) -> Outcome:
    return Outcome(Listed(index, f"name{index}", settings), State("finished"), 5, 5, 100, 60.0, quantities, 50.0, {}, ())


RUNS = [
    outcome(0, {"run.seed": 0}, heldout=1.0, exact_match=0.5),
    outcome(1, {"a": "<b>", "run.seed": 0}, heldout=1.2, exact_match=0.5),
    outcome(2, {"run.seed": 1}, heldout=2.0, exact_match=0.6),
    outcome(3, {"a": "<b>", "run.seed": 1}, heldout=2.21, exact_match=0.7),
]
SWEEP = Sweep(
    "mine", "Is a better?\n\nRead it.\n\n    python -m x\n", "neo_jax.train", None, tuple(SweepRun(f"name{i}", {}, {}) for i in range(5))
)


def test_it_says_whether_a_difference_is_beyond_chance():
    text = document(SWEEP, "mine.py", RUNS)
    assert text.startswith("# Is a better?\n\nRead it.\n\n```sh\npython -m x\n```\n")
    assert "held-out loss: +0.2050 ± 0.0635 (worse)." in text  # t(0.975, 1) = 12.706 times 0.00707 over the root of 2
    assert "exact match: +0.0500 ± 0.6353 (the interval includes zero: no difference is shown)." in text
    assert "4 of 5 runs" in text and "Not finished: as the configuration." in text


def test_settings_are_data_in_the_chart():
    picture = chart(SWEEP, RUNS)
    assert "<b>" not in picture and "a &lt;b&gt;" in picture
    assert picture.count("<circle") == 4


@pytest.mark.parametrize("records", DOCUMENTS, ids=lambda path: path.stem)
def test_the_documents_are_what_the_records_give(records: pathlib.Path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = f"configs/sweeps/{records.stem}.py"
    sweep = read_sweep(file, pathlib.Path("runs/sweeps"))
    runs = recorded(sweep)
    hint = f"run: python -m neo_jax.sweeps.document {file}"
    assert records.with_suffix(".md").read_text() == document(sweep, file, runs), hint
    assert records.with_suffix(".svg").read_text() == chart(sweep, runs), hint
