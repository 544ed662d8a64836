"""Keys of a configuration that the command line sets: which it reaches, and how mistakes are said."""

from __future__ import annotations

import pathlib

import pytest

from neo_jax.config import ConfigError, parse_command_line

ROOT = pathlib.Path(__file__).parents[3]
DEMO = f"--config={ROOT / 'configs' / 'demo.py'}"


def test_overrides_reach_every_kind_of_key() -> None:
    settings = parse_command_line(
        [
            DEMO,
            "--config.phases.mid_512.steps=7",
            "--config.phases.mid_512.learning_rate=3",
            "--config.phases.mid_512.carry_optimizer=false",
            "--config.phases.mid_512.frames_per_second=(0.5, 2)",
            "--config.phases.mid_512.mixture.video=9",
            "--config.phases.mid_512.mesh.data=-1",
            "--config.model.rope_theta=5e5",
            "-config.run.directory=123",
            '--config.curriculum=("text", "mid_512")',
            "--config.run.seed=1",
            "--config.run.seed=2",
        ]
    )
    text, phase = settings.phases
    assert (phase.steps, phase.learning_rate, phase.carry_optimizer, phase.frames_per_second) == (7, 3.0, False, (0.5, 2.0))
    assert (phase.mixture["video"], phase.mesh.data, settings.model.rope_theta) == (9.0, -1, 5e5)
    assert (settings.run.directory, settings.run.seed) == ("123", 2)
    assert text.steps != 7


def test_an_override_of_one_phase_leaves_the_others_alone() -> None:
    settings = parse_command_line([DEMO, "--config.phases.sft.mixture.video=9"])
    assert [phase.name for phase in settings.phases if phase.mixture.get("video") == 9.0] == ["sft"]


def test_the_argument_reaches_the_file() -> None:
    smoke, whole = parse_command_line([f"{DEMO}:smoke"]), parse_command_line([DEMO])
    assert sum(phase.steps for phase in smoke.phases) <= 20 < sum(phase.steps for phase in whole.phases)
    assert smoke.run.directory != whole.run.directory


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([DEMO, "--config.phases.mid_521.steps=7"], "--config.phases.mid_521.steps: unknown key 'mid_521'; did you mean 'mid_512'?"),
        ([DEMO, "--config.phases.mid_512.step=7"], "--config.phases.mid_512.step: unknown key 'step'; did you mean 'steps'?"),
        ([DEMO, "--config.runn.seed=7"], "--config.runn.seed: unknown key 'runn'; did you mean 'run'?"),
        ([DEMO, "--config.run.seed.x=7"], "--config.run.seed.x: 'x' is below a key that is not a section"),
        ([DEMO, "--config.run=7"], "--config.run: is a section: set one of its keys"),
        ([DEMO, "--config.run.seed=x"], "run.seed: is 'x', must be a whole number"),
        ([DEMO, "--config.phases.sft.mixture.vidoe=1"], "phases.sft.mixture.vidoe: no such source in data.sources"),
        ([DEMO, "--config.run.seed"], "--config.run.seed: not understood"),
        ([DEMO, "--seed=3"], "--seed=3: not understood"),
        ([DEMO, "train"], "train: not understood"),
        ([DEMO, DEMO], "--config is given 2 times"),
        ([], "--config is given 0 times"),
        (["--config=configs/none.py"], "--config=configs/none.py: no such file"),
        ([f"{DEMO}:smoek"], f'{DEMO}:smoek: configs/demo.py takes the argument "smoke" or none'),
        ([f"--config={ROOT / 'configs' / '__init__.py'}"], f"--config={ROOT / 'configs' / '__init__.py'}: "),
    ],
)
def test_command_lines_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command_line(arguments)
    assert caught.value.problems[0].startswith(sentence)


def test_all_misspelt_overrides_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_command_line([DEMO, "--config.run.sed=1", "--config.model.hiden=1"])
    assert len(caught.value.problems) == 2
