"""The loop waits for the devices once a step, and a phase's memory ends with the phase."""

import json
import pathlib
import subprocess
import sys

import pytest

from data_pipelines.batch import BATCHES_AHEAD
from data_pipelines.schema import Interrupted
from neo_jax import config
from neo_jax.processes import exchange
from neo_jax.training import phase_evaluation, trainer
from neo_jax.training.console import Progress
from neo_jax.training.stopping import Preempted
from tests.neo_jax.training.running import ROOT, TIMEOUT, environment_of_runs, write_config
from tests.neo_jax.training.tiny_run import STEPS, tiny_config_dict

pytestmark = pytest.mark.xdist_group("trainer")  # one worker: the watched run is made once, and its programs are those of test_trainer.py

WATCHED = {name: STEPS[name] for name in ("text", "pretrain")}  # the phases of the watched run
# Beside the results of its steps: the table of rates and the held-out losses at its end.
ONCE_A_PHASE = {"optimizer.py:learning_rates", "heldout.py:measure"}


@pytest.fixture(scope="module")
def watched(corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    directory = tmp_path_factory.mktemp("watched") / "run"
    values = {"run__heldout_every": 0, "run__checkpoint_every": 1000, "evaluation__questions": 1, "evaluation__interim_questions": 1}
    file = write_config(corpus, directory, **values, curriculum=tuple(WATCHED))
    program = pathlib.Path(__file__).with_name("watched_run.py")
    done = subprocess.run(
        [sys.executable, str(program), f"--config={file}"],
        cwd=ROOT,
        env=environment_of_runs(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_waits_for_the_devices_once(watched: dict):
    fetches = {name: count for name, count in watched["fetches"].items() if name.split(":")[0] not in ("questions.py", "generate.py")}
    assert fetches.pop("trainer.py:_finish") == sum(WATCHED.values())
    for name in ONCE_A_PHASE:
        assert fetches.pop(name) <= 3 * len(WATCHED), name
    assert fetches.pop("checkpoints.py:save") == len(WATCHED)
    assert fetches == {}, "the loop waits for something else"


def test_a_phases_memory_ends_with_the_phase(watched: dict):
    """Live arrays before each step: the state, the batches, and small ones; nothing of the phase before."""
    assert len(watched["memory"]) == sum(WATCHED.values())
    small = 200_000  # bytes: results of a step, keys of random numbers
    for number, each in enumerate(watched["memory"]):
        assert each["live"] <= each["state"] + (2 + BATCHES_AHEAD) * each["batch"] + small, (number, each)


def spread(corpus: pathlib.Path, directory: pathlib.Path) -> config.Config:
    """The tiny run over the eight devices of the tests."""
    values = tiny_config_dict(corpus, directory)
    for phase in values.phases.values():
        phase.update({"rows_per_step": 8, "mesh": {"data": 8}})
    return config.Config.from_config_dict(values)


def test_stopped_while_indexing_it_saves_nothing_and_claims_nothing(corpus, tmp_path, monkeypatch):
    """SIGTERM: what was measured is kept by the index; the run directory stays free."""

    def opened(settings, process, stop):
        assert not stop()
        running._stop.requested = True
        assert stop()
        raise Interrupted("indexing text stopped")

    monkeypatch.setattr(trainer, "open_run_data", opened)
    running = trainer.Trainer(spread(corpus, tmp_path / "run"), Progress(silent=True))
    with pytest.raises(Preempted, match="before the first step: indexing text stopped"):
        running.run()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]


def test_stopped_while_answering_questions_it_leaves_no_record(corpus, tmp_path, monkeypatch):
    def stop():
        raise Preempted("stopped while answering held-out questions")

    settings = spread(corpus, tmp_path / "run")
    data = trainer.open_run_data(settings)
    with pytest.raises(Preempted):
        phase_evaluation.evaluate_phase(settings, 0, data, {}, lambda: 0.0, Progress(silent=True), stop)
    assert exchange.is_first() and not (tmp_path / "run" / "evaluations").exists()


@pytest.mark.nightly
def test_phases_of_many_samples_are_looked_at_when_they_begin(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.loading.loader.LAID_OUT_AT_ONCE", 0)
    monkeypatch.setattr(trainer, "evaluate_phase", lambda *_: None)
    told = []

    def look(phase, found):
        told.append((phase.name, len(running._data.train.laid_out)))
        if len(told) == 2:
            raise Preempted("the second phase has begun")
        return ()

    monkeypatch.setattr(trainer.losses_of_data, "too_long_lines", look)
    running = trainer.Trainer(spread(corpus, tmp_path / "run"), Progress(silent=True))
    with pytest.raises(Preempted, match="the second phase has begun"):
        running.run()
    assert told == [("text", 1), ("pretrain", 2)]
