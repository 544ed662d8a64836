"""Traces of a range of steps and of those after a signal, with names that a reader knows."""

import os
import pathlib
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from neo_jax import config
from neo_jax.model.computation import Computation
from neo_jax.sharding import make_mesh, to_devices
from neo_jax.training import profiling
from neo_jax.training.inputs import accumulated
from neo_jax.training.optimizer import initial_moments
from neo_jax.training.profiling import Profiler
from neo_jax.training.step import TrainState, make_train_step
from tests.neo_jax.tiny_model import batch, model, on_mesh, parameters

SCOPES = ("embed", "patch_embedding", "pre_buffer", "base", "attention", "mlp", "final_norm", "loss", "optimizer")


def traces(directory: pathlib.Path) -> list[str]:
    """Folders of the run's profile/ that hold a trace."""
    return sorted({path.relative_to(directory / profiling.FOLDER).parts[0] for path in directory.rglob("*.xplane.pb")})


def take_steps(profiler: Profiler, steps: range) -> None:
    for number in steps:
        with profiler.step(number):
            jax.block_until_ready(jnp.ones(3) + number)
        profiler.finished(number)


def test_a_range_of_steps_is_traced(tmp_path):
    with Profiler(tmp_path, (3, 4)) as profiler:
        take_steps(profiler, range(1, 4))
        assert traces(tmp_path) == [], "the trace is written once its last step has ended"
        take_steps(profiler, range(4, 7))
    assert traces(tmp_path) == ["00000003"]
    (file,) = tmp_path.rglob("*.xplane.pb")
    assert b"train" in file.read_bytes()


def test_a_run_that_resumes_within_the_range_or_ends_in_it_traces_the_rest(tmp_path):
    with Profiler(tmp_path, (3, 9)) as profiler:
        take_steps(profiler, range(5, 7))
    assert traces(tmp_path) == ["00000005"]


def test_a_signal_traces_the_next_steps(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with Profiler(tmp_path, ()) as profiler:
        take_steps(profiler, range(1, 3))
        os.kill(os.getpid(), signal.SIGUSR1)
        take_steps(profiler, range(3, 3 + profiling.SIGNAL_STEPS))
        assert traces(tmp_path) == ["00000003"]
        take_steps(profiler, range(20, 30))
    assert traces(tmp_path) == ["00000003"]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_trace_that_cannot_be_taken_ends_nothing(tmp_path, monkeypatch, caplog):
    def refuse(folder):
        raise RuntimeError("Profile has already been started")

    monkeypatch.setattr(jax.profiler, "start_trace", refuse)
    with Profiler(tmp_path, (1, 2)) as profiler:
        take_steps(profiler, range(1, 4))
    assert [message for message in caplog.messages if "already been started" in message] == [
        "no trace is taken of steps 1 to 2 (Profile has already been started)"
    ]


@pytest.mark.parametrize("steps", [(5,), (5, 3), (1, 2, 3)])
def test_a_range_that_is_none_is_refused(steps):
    run = config.Run(directory="x", checkpoint_every=1, heldout_every=1, heldout_rows=1, profile_steps=steps)
    assert [key for key, _ in run.problems()] == ["profile_steps"]


def test_the_compiled_step_names_its_parts():
    """The op_name of instructions, which profilers show. Not from the compile cache, whose keys leave names out."""
    settings, rows = model(), batch(2, pixels=True, seed=1)
    enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
            trainable = on_mesh(settings, "neo", parameters(settings, "neo", seed=2))
            state = TrainState(trainable, {}, jax.jit(lambda x: initial_moments(config.Optimizer(), x))(trainable))
            step = make_train_step(settings, Computation("neo"), config.Optimizer(), 4)
            program = step.lower(state, to_devices(accumulated(rows, 1), accumulation_axis=True), np.float32(0.1)).compile()
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
    names = re.findall(r'op_name="([^"]*)"', program.as_text())
    parts = {re.sub(r"^\w+\((.*)\)$", r"\1", part).strip("()") for name in names for part in re.split(r"[/()]", name)}
    assert parts >= set(SCOPES)
    assert any(re.search(r"pre_buffer.*attention", name) for name in names) and any(re.search(r"base.*mlp", name) for name in names)
