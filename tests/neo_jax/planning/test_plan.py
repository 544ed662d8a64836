"""The command on eight CPU devices in place of hardware: its tables, its JSON, what it refuses."""

import dataclasses
import json
import pathlib

import pytest
from rich.console import Console

from neo_jax import plan
from neo_jax.chips import CHIPS
from neo_jax.config import Config, ConfigError
from neo_jax.config.flags import read_flags
from neo_jax.planning.plan import read_plan, write_plan
from neo_jax.planning.search import candidates, estimate
from neo_jax.planning.show import memory_chart, show
from neo_jax.sharding import mesh_problem
from tests.neo_jax.planning.tiny import CONFIGURATION, EIGHT

pytestmark = pytest.mark.xdist_group("plan")  # one worker: plans are made once

PLANS = pathlib.Path(__file__).parents[3] / "docs" / "plans"


@pytest.fixture(scope="module")
def settings():
    return Config.from_config_dict(CONFIGURATION)


@pytest.fixture(scope="module", autouse=True)
def eight_devices():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "open_hardware", lambda text: EIGHT)
        yield


@pytest.fixture(scope="module")
def made(settings):
    lines = []
    result = plan.make_plan(settings, plan.Flags("h200:1x8"), lines.append, "configs/tiny.py")
    return result, lines


def test_every_phase_is_described(made, settings):
    result, lines = made
    assert [phase.phase for phase in result.phases] == ["frozen", "long"]
    assert sum("compiling for 8 devices" in line for line in lines) == 2
    for phase in result.phases:
        parts = [getattr(phase.memory, part) for part in ("parameters", "optimizer", "batch", "activations")]
        assert phase.memory.peak == sum(parts) and all(part > 0 for part in parts)
        assert phase.fits and not phase.error
        assert 0 < phase.useful_flops < phase.executed_flops
        assert phase.bound.step >= max(phase.bound.compute, phase.bound.memory)
        assert 0 < phase.mfu < 1 and phase.days > 0
        kinds = {(line.kind, *line.axes) for line in phase.collectives}
        assert ("all-gather", "fsdp") in kinds
    frozen, long = result.phases
    assert ("all-gather", "context") in {(line.kind, *line.axes) for line in long.collectives}
    assert frozen.memory.optimizer < long.memory.optimizer and long.busiest_context_shard < 1.1
    assert all(
        phase.evaluation > phase.memory.parameters + phase.memory.optimizer and not phase.evaluation_problem for phase in result.phases
    )
    assert frozen.edge == 0 and long.edge >= long.memory.parameters + long.memory.optimizer


def test_a_plan_comes_back_as_it_was_written(made, tmp_path):
    result, _ = made
    write_plan(tmp_path / "plan.json", result)
    assert read_plan(tmp_path / "plan.json") == result


@pytest.mark.parametrize("path", sorted(PLANS.glob("*.json")), ids=lambda path: path.stem)
def test_the_plans_of_the_documentation_are_read(path):
    """Written again they say the same, apart from the memory of edges and answers where they were made before it was planned."""
    kept, written = json.loads(path.read_text()), read_plan(path).to_json()
    for phase in (*kept["phases"], *written["phases"]):
        phase["memory"].pop("edge", None)
        phase["memory"].pop("evaluation", None)
    assert written == kept


def test_table_and_chart(made, tmp_path):
    result, _ = made
    console = Console(record=True, width=160)
    show(result, console)
    text = console.export_text()
    for word in (
        "peak, GiB",
        "exposed network, s",
        "bounded by",
        "MFU at most",
        "tokens a day",
        "all-gather",
        "compute  = executed FLOPs",
        "8 documents a row",
    ):
        assert word in text, word
    svg = memory_chart(result, CHIPS["h200"])
    assert svg.startswith("<svg") and svg.count("<title>activations</title>") == 2 and "frozen" in svg and "118.2" in svg


def test_equal_programs_are_compiled_once(settings, monkeypatch):
    twice = dataclasses.replace(settings, phases=(settings.phases[0], dataclasses.replace(settings.phases[0], name="again", steps=7)))
    compiled = []
    compile_step = plan.compile_step
    monkeypatch.setattr(plan, "compile_step", lambda *arguments: compiled.append(arguments) or compile_step(*arguments))
    result = plan.make_plan(twice, plan.Flags("h200:1x8"), lambda text: None)
    one, seven = (phase.days for phase in result.phases)
    assert len(compiled) == 1 and seven / 7 == pytest.approx(one / settings.phases[0].steps)


def test_too_little_memory_is_a_result(settings, monkeypatch):
    small = dataclasses.replace(EIGHT, chip=dataclasses.replace(EIGHT.chip, hbm_bytes=1000))
    monkeypatch.setattr(plan, "open_hardware", lambda text: small)
    result = plan.make_plan(settings, plan.Flags("h200:1x8", phases=("frozen",)), lambda text: None)
    assert [phase.fits for phase in result.phases] == [False]


@pytest.mark.nightly
def test_search_ranks_what_it_compiled(settings, tmp_path):
    searched = plan.make_plan(settings, plan.Flags("h200:1x8", phases=("frozen",), search=2), lambda text: None)
    write_plan(tmp_path / "plan.json", searched)
    assert read_plan(tmp_path / "plan.json") == searched
    (phase,) = searched.phases
    assert len(phase.candidates) == 2
    speeds = [candidate.tokens_per_day for candidate in phase.candidates]
    assert speeds == sorted(speeds, reverse=True) and phase.tokens_per_day == speeds[0]


def test_candidates_are_legal_and_ranked(settings):
    phase = settings.phases[1]
    found = candidates(settings, phase, EIGHT, 10**9, 10**9)
    assert len(found) > 20
    for each in found:
        mesh = each.phase.mesh
        assert mesh_problem(mesh.data, mesh.fsdp, mesh.context, mesh.tensor, 8) is None
        assert each.phase.rows_per_step % (mesh.data * mesh.fsdp * each.phase.accumulate) == 0 and phase.context % mesh.context == 0
        dataclasses.replace(each.phase)  # checks nothing, but a configuration would:
        assert not list(each.phase.problems())
    limit = 0.95 * EIGHT.chip.hbm_bytes
    fitting = [each.seconds_per_token for each in found if each.memory <= limit]
    assert fitting == sorted(fitting) and all(each.memory > limit for each in found[len(fitting) :])


def test_the_estimate_moves_the_right_way(settings):
    def of(**changes):
        mesh = {"data": 1, "fsdp": 8, "context": 1, "tensor": 1} | changes.pop("mesh", {})
        phase = dataclasses.replace(settings.phases[1], mesh=type(settings.phases[1].mesh)(**mesh), **changes)
        return estimate(settings.model, phase, EIGHT, 10**9, 10**9)

    assert of(remat="none").memory > of(remat="attention").memory > of(remat="full").memory
    assert of(remat="none").seconds_per_token < of(remat="full").seconds_per_token
    assert of(mesh={"data": 8, "fsdp": 1}).memory > of().memory
    assert of(rows_per_step=32, accumulate=4).memory < of(rows_per_step=32).memory


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--hardware is missing: write for example --config=configs/neo_ov_2b.py --hardware=v5p:4x4x4"),
        (["--hardware=v5p:2x2x2", "--phase=sft"], "--phase=sft: not understood; did you mean '--phases'?"),
        (["--hardware=v5p:2x2x2", "--documents=0"], "--documents: is 0, must be at least 1"),
        (["--hardware=v5p:2x2x2", "--json="], "--json: is empty"),
    ],
)
def test_flags(arguments, sentence):
    with pytest.raises(ConfigError) as error:
        read_flags(plan.Flags, arguments, plan.COMMAND)
    assert sentence in str(error.value)


def test_a_phase_or_a_mesh_that_does_not_fit_is_refused(settings):
    with pytest.raises(ConfigError, match=r"no phase 'frzen' in the curriculum .frozen, long.; did you mean 'frozen'"):
        plan.make_plan(settings, plan.Flags("h200:1x8", phases=("frzen",)), lambda text: None)
    wrong = dataclasses.replace(settings.phases[0], mesh=dataclasses.replace(settings.phases[0].mesh, fsdp=16))
    with pytest.raises(ConfigError, match=r"phases.frozen.mesh: .* does not make 8 devices.*; data 1 x fsdp 8"):
        plan.make_plan(dataclasses.replace(settings, phases=(wrong,)), plan.Flags("h200:1x8"), lambda text: None)


def test_the_command_says_what_is_wrong(capsys, monkeypatch):
    assert plan.main(["--config=configs/demo.py"]) == 78
    assert "--hardware is missing" in capsys.readouterr().err
    assert plan.main(["--config=configs/demo.py", "--hardware=h200:1x8", "--json=nowhere/plan.json"]) == 78
    assert "nowhere/plan.json: its folder does not exist" in capsys.readouterr().err
    fits = ["--phases=text", "--config.phases.text.mesh.data=8", "--config.phases.text.rows_per_step=8"]
    others = [f"--config.phases.{name}.mesh.data=-1" for name in ("pretrain", "captions", "mid_256")]
    assert plan.main(["--config=configs/demo.py", "--hardware=h200:1x8", *fits, *others, "--config.phases.text.attention=tpu"]) == 78
    assert 'attention "tpu" cannot be used here' in capsys.readouterr().err
    monkeypatch.undo()
    assert plan.main(["--config=configs/nowhere.py", "--hardware=v5p:2x2x2"]) == 78
    assert "no such file configs/nowhere.py" in capsys.readouterr().err
