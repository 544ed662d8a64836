"""What the command line can change in a configuration, how flags are read, and what --help says."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import pytest

from configs import demo
from neo_jax import exit_codes
from neo_jax.config import Config, ConfigError, override, parse_command_line
from neo_jax.config.fields import Between, OptionalPath, Positive, Text
from neo_jax.config.flags import Alone, Command, config_arguments, read_flags

ROOT = pathlib.Path(__file__).parents[3]
DEMO = f"--config={ROOT / 'configs' / 'demo.py'}"
COPY = [DEMO, "--config.phases.extra=mid_512", "--config.curriculum=text,extra"]


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_command_line(arguments)
    return caught.value.problems


def phases(*arguments: str) -> dict:
    return {phase.name: phase for phase in parse_command_line([DEMO, *arguments]).phases}


def test_a_space_may_stand_for_the_equals_sign() -> None:
    file = DEMO.partition("=")[2]
    settings = parse_command_line(["--config", file, "--config.run.seed", "3", "--config.phases.text.mesh.data", "-1"])
    assert settings.run.seed == 3 and settings.phases[0].mesh.data == -1


def test_a_flag_without_its_value_is_refused() -> None:
    assert problems("--config")[0].startswith("--config: not understood")
    assert problems(DEMO, "--config.run.seed", "--config.run.directory=x")[0].startswith("--config.run.seed: not understood")


def test_a_curriculum_is_written_with_commas() -> None:
    for text in ("text,sft", "text, sft,", '("text", "sft")', "['text','sft']"):
        assert list(phases(f"--config.curriculum={text}")) == ["text", "sft"]
    assert list(phases("--config.curriculum=sft")) == ["sft"]
    assert phases("--config.phases.sft.frames_per_second=0.5,2")["sft"].frames_per_second == (0.5, 2.0)
    assert problems(DEMO, "--config.curriculum=text,,sft") == ["curriculum[1]: is empty: set it"]


# Wildcards.


def test_a_wildcard_stands_for_all_names() -> None:
    assert {phase.mesh.fsdp for phase in phases("--config.phases.*.mesh.fsdp=2").values()} == {2}
    found = phases("--config.phases.mid_*.steps=9", "--config.phases.*.mixture.te*=0.25")
    assert [name for name, phase in found.items() if phase.steps == 9] == ["mid_256", "mid_512"]
    assert {phase.mixture["text"] for phase in found.values()} == {0.25}
    settings = parse_command_line([DEMO, "--config.data.heldout.*.path=x"])
    assert {source.path for source in settings.data.heldout.values()} == {"x"}


def test_the_last_of_overlapping_settings_holds() -> None:
    found = phases("--config.phases.*.steps=9", "--config.phases.sft.steps=8")
    assert found["sft"].steps == 8 and found["text"].steps == 9
    assert phases("--config.phases.sft.steps=8", "--config.phases.*.steps=9")["sft"].steps == 9


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.phases.nid_*.steps=9", "'nid_*' matches nothing in phases: there are captions, mid_256, mid_512, pretrain, sft, text"),
        (
            "--config.phases.sft.mixture.x*=9",
            "'x*' matches nothing in phases.sft.mixture: there are caption, image, large, multi, text, video",
        ),
        ("--config.phases.*.stepz=3", "unknown key 'stepz'; did you mean 'steps'?"),
        ("--config.phases.*.mesh=3", "is a section: set one of its keys, --config.phases.*.mesh.KEY=3"),
        ("--config.*.seed=3", "* stands for the names of phases and sources, not for '*' of model, tokenizer"),
    ],
)
def test_wildcards_refused_once_and_with_what_there_is(argument: str, sentence: str) -> None:
    (problem,) = problems(DEMO, argument)
    assert problem.startswith(f"{argument.partition('=')[0]}: {sentence}")


def test_wildcards_name_what_a_value_does_to_each_phase() -> None:
    found = problems(DEMO, "--config.phases.*.steps=0")
    assert found == [
        f"phases.{name}.steps: is 0, must be at least 1" for name in ("captions", "mid_256", "mid_512", "pretrain", "sft", "text")
    ]


# New sources and phases.


def test_a_source_is_added() -> None:
    new = ["--config.data.sources.mine.path=my.jsonl", "--config.data.sources.mine.format=jsonl", "--config.phases.text.mixture.mine=2"]
    settings = parse_command_line([DEMO, *new])
    assert settings.data.sources["mine"].path == "my.jsonl" and settings.phases[0].mixture["mine"] == 2.0


def test_what_a_new_section_lacks_is_reported() -> None:
    found = problems(DEMO, "--config.phases.other.context=256", "--config.data.sources.mine.path=x", "--config.curriculum=text,other")
    assert "data.sources.mine.format: missing: set it" in found
    assert "phases.other.steps: missing: set it" in found and not any("context" in problem for problem in found)


def test_a_misspelt_name_is_not_a_new_one() -> None:
    (problem,) = problems(DEMO, "--config.phases.mid_521.steps=7", "--config.phases.mid_521.context=256")
    assert problem.startswith("--config.phases.mid_521.steps: unknown key 'mid_521'; did you mean 'mid_512'? A new one lacks segments, ")


def test_a_phase_is_made_from_another() -> None:
    settings = parse_command_line([*COPY, "--config.phases.extra.steps=5", "--config.phases.mid_512.segments=31"])
    extra = settings.phases[1]
    original = phases()["mid_512"]
    assert dataclasses.replace(extra, name="mid_512", steps=original.steps) == original and extra.steps == 5


def test_a_copy_is_made_before_other_keys_are_set_and_belongs_to_wildcards() -> None:
    settings = parse_command_line([DEMO, "--config.phases.*.steps=9", "--config.phases.extra.segments=17", *COPY[1:]])
    assert (settings.phases[1].steps, settings.phases[1].segments) == (9, 17)


def test_copies_that_cannot_be_made() -> None:
    (problem,) = problems(DEMO, "--config.phases.extra=mid_521", "--config.curriculum=text")
    assert problem.startswith("--config.phases.extra: no 'mid_521' to copy: there are ") and problem.endswith("did you mean 'mid_512'?")
    assert problems(DEMO, "--config.phases.sft=mid_512")[0].startswith("--config.phases.sft: is a section: set one of its keys")


def test_a_new_phase_that_would_not_be_trained_is_refused() -> None:
    (problem,) = problems(DEMO, "--config.phases.extra=mid_512")
    assert problem.startswith("phases.extra: is new and not in the curriculum")
    assert problem.endswith("--config.curriculum=text,pretrain,captions,mid_256,mid_512,sft,extra")


def test_the_same_code_serves_a_sweep() -> None:
    values = json.loads(json.dumps(demo.get_config().to_dict()))
    override(values, {"phases.*.learning_rate": 1e-4, "phases.extra": "sft", "curriculum": "text,extra", "run.seed": 7})
    settings = Config.from_config_dict(values)
    assert [phase.learning_rate for phase in settings.phases] == [1e-4, 1e-4] and settings.run.seed == 7
    with pytest.raises(ConfigError) as caught:
        override(values, {"phases.*.learning_rat": 1e-4, "run.sed": 7})
    assert caught.value.problems == [
        "phases.*.learning_rat: unknown key 'learning_rat'; did you mean 'learning_rate'?",
        "run.sed: unknown key 'sed'; did you mean 'seed'?",
    ]


# Paths.


def test_the_home_folder_sign_stands_for_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text((ROOT / "configs" / "demo.py").read_text())
    paths = (
        "run.directory",
        "run.initial",
        "data.index_folder",
        "tokenizer.path",
        "data.sources.text.path",
        "data.heldout.text.media_root",
    )
    settings = parse_command_line(["--config=~/mine.py", *(f"--config.{key}=~/runs/x" for key in paths)]).resolved()
    for path in paths:
        value = settings
        for key in path.split("."):
            value = value[key]
        assert value == f"{tmp_path}/runs/x", path


def test_a_home_folder_that_nobody_has_is_refused() -> None:
    assert problems(DEMO, "--config.run.directory=~no_such_user/x") == [
        "run.directory: is '~no_such_user/x', but '~no_such_user' is no user's home folder: write the absolute path, or ./~no_such_user/x for a "
        "folder of that name"
    ]


@pytest.mark.parametrize(("name", "part"), [("a[b]c", "[b]"), ("runs[1]/x", "[1]"), ("a\\b", "\\")])
def test_run_directories_that_checkpoints_cannot_be_read_from_are_refused(name: str, part: str) -> None:
    (problem,) = problems(DEMO, f"--config.run.directory={name}")
    assert problem.startswith(f"run.directory: is {name!r}: checkpoints in a folder with {part!r} in its whole path (")


@pytest.mark.parametrize("name", ["a[b", "a]b", "a*b", "a?b", "a{b}c", "a b", "a%b", "a#b", "a:b"])
def test_run_directories_that_look_odd_and_work(name: str) -> None:  # tests/neo_jax/runs/test_checkpoints.py reads and writes there
    assert parse_command_line([DEMO, f"--config.run.directory={name}"]).run.directory == name


# Flags.


@dataclasses.dataclass(frozen=True)
class Flags:
    """Some flags.

    Attributes:
      shape: what it is
        made of.
      row_count: how many rows.
      search: how many are tried (alone: 4).
      names: of parts.
      fast: leaves out a check.
      output: where it is written.
    """

    shape: Text
    row_count: Positive | None = None
    search: Annotated[int, Between(1), Alone(4)] = 0
    names: tuple[Text, ...] = ()
    fast: bool = False
    output: OptionalPath = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.fast and self.search:
            yield "fast", "cannot be had with --search"


COMMAND = Command("tests.flags", "Reads flags.", "FILE --shape=round", (exit_codes.DONE, exit_codes.DATA), operands="FILE...")


def test_flags_of_every_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    arguments = ["a.json", "--shape", "round", "--row-count=3", "--fast", "b.json", "--names=a,b", "--output=~/c"]
    assert read_flags(Flags, arguments, COMMAND) == (Flags("round", 3, 0, ("a", "b"), True, "/home/x/c"), ["a.json", "b.json"])
    assert read_flags(Flags, ["--search", "--shape=x"], COMMAND)[0].search == 4
    assert read_flags(Flags, ["--search", "2", "--shape=x"], COMMAND)[0].search == 2


def test_all_wrong_flags_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_flags(Flags, ["--shap=x", "--row-count=none", "--search=0", "--output=", "--config=x.py"], COMMAND)
    assert caught.value.problems == [
        "--shap=x: not understood; did you mean '--shape'?: write FILE --shape=round; --help shows all flags",
        "--row-count: is 'none', must be a whole number",
        "--search: is 0, must be at least 1",
        "--output: is empty: give it a value, or leave it out",
        "--config=x.py: not understood: write FILE --shape=round; --help shows all flags",
    ]
    for arguments, problem in (
        ([], "--shape is missing: write for example FILE --shape=round"),
        (["--shape=x", "--fast", "--search"], "--fast: cannot be had with --search"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_flags(Flags, arguments, COMMAND)
        assert caught.value.problems == [problem]


def test_help_is_written_from_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_flags(Flags, ["--row-count=wrong", "--help"], COMMAND)
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.startswith("usage: python -m tests.flags FILE... [flags]\n")
    assert re.search(r"--shape=TEXT +what it is made of\. Required\.\n", text)
    for line in ("--row-count=N", "--search[=N]", "--names=A,B", "--fast ", "--output=FILE", "65  data that cannot be used"):
        assert f"\n  {line}" in text, line
    assert text.endswith("example:\n  python -m tests.flags FILE --shape=round\n")


def test_config_arguments_of_a_launched_command() -> None:
    command = ["python", "-m", "neo_jax.train", "--config", "a.py", "--processes=2", "--config.run.seed=3", "-config.run.directory", "x"]
    assert config_arguments(command) == ["--config=a.py", "--config.run.seed=3", "--config.run.directory=x"]


@pytest.mark.parametrize("name", [f"neo_jax.{name}" for name in ("train", "plan", "parity", "demo", "init", "export", "chat", "evaluate")])
def test_every_command_describes_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0 and "exit codes:\n  0 " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["data_pipelines.convert", "data_pipelines.scenes", "neo_jax.demo"])
def test_every_command_answers_help(name: str) -> None:
    result = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0 and f"python -m {name}" in result.stdout and "exit codes:" in result.stdout


def documented(name: str) -> list[list[str]]:
    """The training commands of a document."""
    text = (ROOT / "docs" / name).read_text().replace("\\\n", " ")
    return [shlex.split(line)[3:] for line in text.splitlines() if line.startswith("python -m neo_jax.train ")]


def test_the_example_of_a_new_phase_works(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.chdir(ROOT)
    (command,) = documented("add_a_phase.md")
    settings = parse_command_line(command)
    assert [phase.name for phase in settings.phases] == ["text", "pretrain", "longer"]
    assert (settings.phases[-1].steps, settings.phases[-1].context, settings.phases[-1].mixture["text"]) == (5, 768, 2.0)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "add_a_phase.md").read_text(), re.DOTALL)
    (tmp_path / "longer.py").write_text(code)
    assert parse_command_line([f"--config={tmp_path / 'longer.py'}"]).phases[-1].name == "longer"
