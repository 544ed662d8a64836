"""The whole training step of 2B and 9B compiled for 256 chips: where every parameter lies, and what is sent.

Golden: golden/*.json beside this file. Where a change is meant, look at the difference and take it over:

    PYTHONPATH=.cache/libtpu-VERSION UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/aot/test_step.py
"""

import json
import math
import os
import pathlib

import pytest

from neo_jax.chips import GIB
from neo_jax.config import Config
from neo_jax.config.command_line import load
from neo_jax.planning.devices import open_hardware
from neo_jax.planning.programs import compile_step
from neo_jax.sharding import make_mesh
from neo_jax.training.curriculum import abstract_state

GOLDEN = pathlib.Path(__file__).parent / "golden"
MESHES = {"neo_ov_2b": {"fsdp": 16, "context": 2, "tensor": 1}, "neo_ov_9b": {"fsdp": 32, "context": 2, "tensor": 4}}


def settings_of(name: str) -> Config:
    values = load(f"configs/{name}.py")
    phase = values["phases"]["mid_16k"]
    phase["mesh"] = {"data": -1} | MESHES[name]
    return Config.from_config_dict(values | {"phases": {"mid_16k": phase}, "curriculum": ("mid_16k",)})


def compare(name: str, found: dict) -> None:
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(path.read_text())
    differing = {key: (expected.get(key), found.get(key)) for key in expected | found if expected.get(key) != found.get(key)}
    lines = [f"{key}: was {before}, is {after}" for key, (before, after) in differing.items()]
    assert not differing, f"{path} differs; if that is meant, update it (see above):\n" + "\n".join(lines)


@pytest.mark.parametrize("name", MESHES)
def test_sharding_of_every_parameter(name):
    settings = settings_of(name)
    hardware = open_hardware("v5p:4x8x8")
    phase = settings.phases[0]
    mesh = make_mesh(data=-1, **MESHES[name], devices=hardware.devices)
    state = abstract_state(settings, phase, mesh)
    found = {key: f"{x.shape} {tuple(x.sharding.spec)}" for key, x in sorted(state.parameters.items())}
    moments = {key: (moment.mu.sharding.spec, moment.nu.sharding.spec) for key, moment in state.moments.items()}
    assert all(specs == (state.trainable[key].sharding.spec,) * 2 for key, specs in moments.items())
    for key, x in state.parameters.items():  # nothing large lies whole anywhere
        assert x.size < 1 << 20 or math.prod(x.sharding.shard_shape(x.shape)) * MESHES[name]["fsdp"] <= x.size, key
    compare(f"{name}_shardings.json", found)


@pytest.mark.parametrize("name", MESHES)
def test_collectives_of_the_step(name, record_property):
    settings = settings_of(name)
    program = compile_step(settings, settings.phases[0], open_hardware("v5p:4x8x8"))
    assert not program.error
    record_property(f"{name} on 256 v5p, trace, lower, compile", " ".join(f"{seconds:.1f} s" for seconds in program.seconds))
    record_property(f"{name} on 256 v5p, peak", f"{program.memory.peak / GIB:.2f} GiB")
    found: dict[str, int] = {}
    for each in program.collectives:
        key = f"{each.kind} over {' and '.join(each.axes)}, {each.shape}{', asynchronous' if each.asynchronous else ''}"
        found[key] = found.get(key, 0) + each.count
    compare(f"{name}_collectives.json", dict(sorted(found.items())))
