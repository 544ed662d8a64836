"""The repository as a whole: imports without TensorFlow and network, complete and pinned requirements, commands that find Python."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from neo_jax.config import Config, ConfigError, parse_command_line
from neo_jax.sweeps.file import read_sweep

ROOT = pathlib.Path(__file__).parents[1]
REQUIREMENTS = tuple(f"requirements{name}.txt" for name in ("", "-dev", "-cloud", "-serve", "-search", "-tracking", "-beam"))
PACKAGES = ("neo_jax", "data_pipelines", "launch", "configs")
CONFIGURATIONS = {"ablation": ("",), "demo": ("", "smoke"), "neo_ov_2b": ("", "laptop"), "neo_ov_9b": ("", "laptop")}
SWEEPS = ("encoder", "learning_rate", "loss_weighting", "mask", "pre_buffer", "progressive", "rope", "scale", "stages")

# Modules that import Apache Beam, which has an environment of its own: tests/beam imports them.
BEAM = {f"data_pipelines.beam.{name}" for name in ("convert", "files", "index", "run", "workers")}

IMPORT_EVERYTHING = """
import importlib, pkgutil, socket, sys
sys.modules["tensorflow"] = None  # importing it fails
def refuse(self, address):
    raise OSError(f"the network was used at import: {address}")
socket.socket.connect = refuse
passed_over = set(sys.argv[1].split())
for name in sys.argv[2:]:
    module = importlib.import_module(name)
    print(name)
    for inner in pkgutil.walk_packages(module.__path__, name + ".") if hasattr(module, "__path__") else ():
        if inner.name in passed_over:
            continue
        importlib.import_module(inner.name)
        print(inner.name)
"""


def source_files() -> list[pathlib.Path]:
    """The modules of the packages; of configs/ those that belong to the project, for users keep their own there."""
    modules = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    ours = {"configs": {"__init__", *CONFIGURATIONS}, "sweeps": {"__init__", *SWEEPS}}
    return [path for path in modules if "configs" not in path.parts or path.stem in ours[path.parts[-2]]]


@functools.cache
def imports(path: pathlib.Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in names}


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return {normalised(name): version for name, _, version in (line.partition("==") for line in lines)}


@functools.cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed_by(requirements: list[str]) -> set[str]:
    """Distributions that these requirements bring with them, by the metadata of what is installed."""
    waiting = [Requirement(requirement) for requirement in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (normalised(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for child in map(Requirement, importlib.metadata.requires(requirement.name) or []):
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in ["", *requirement.extras]):
                waiting.append(child)
    return {name for name, _ in seen}


def test_every_module_imports_without_tensorflow_and_network() -> None:
    names = [*(package for package in PACKAGES if package != "configs"), *(f"configs.{name}" for name in CONFIGURATIONS)]
    names += [f"configs.sweeps.{name}" for name in SWEEPS]
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING, " ".join(BEAM), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in source_files() if path.name != "__init__.py"}
    assert expected - BEAM <= set(result.stdout.split())


def test_the_pipeline_knows_nothing_of_jax() -> None:
    foreign = {"jax", "jaxlib", "flax", "optax", "orbax", "neo_jax"}
    found = {str(path): imports(path) & foreign for path in source_files() if "data_pipelines" in path.parts}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("name", ["tensorflow", "torch", "pickle", "cloudpickle", "dill"])
def test_not_imported_anywhere(name: str) -> None:
    assert [str(path) for path in source_files() if name in imports(path)] == []


def test_arrays_are_never_loaded_with_pickle() -> None:
    calls = [
        f"{path}:{node.value.lineno}"
        for path in source_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert calls == []


def test_requirements_are_pinned_and_name_no_place() -> None:
    for file in REQUIREMENTS:
        for line in (ROOT / file).read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line), line
    for path in [*ROOT.glob("requirements*.txt"), ROOT / "Makefile", *(ROOT / "scripts").iterdir(), ROOT / "pyproject.toml"]:
        assert "://" not in path.read_text(), path


def test_requirements_hold_no_tensorflow() -> None:
    heavy = {"tensorflow", "tensorflow-cpu", "tf-keras", "keras", "tensorboard", "torch"}
    for file in REQUIREMENTS:
        assert not heavy & pins(file).keys()


def test_requirements_are_complete_and_without_surplus() -> None:
    runtime = needed_by(project()["dependencies"])
    assert pins("requirements.txt").keys() == runtime
    extras = project()["optional-dependencies"]
    dev, cloud, serve = (pins(f"requirements-{name}.txt") for name in ("dev", "cloud", "serve"))
    assert dev.keys() == needed_by(extras["dev"]) - runtime
    assert cloud.keys() == needed_by(extras["cloud"]) - runtime
    assert (
        serve.keys() == needed_by(extras["serve"]) - runtime and serve.items() <= cloud.items()
    )  # the tests' environment has them by that
    assert {name: version for name, version in cloud.items() if dev.get(name, version) != version} == {}  # one environment holds both


def test_the_pins_lie_within_the_ranges_of_the_package() -> None:
    versions = pins("requirements.txt") | pins("requirements-dev.txt") | pins("requirements-cloud.txt")
    extras = project()["optional-dependencies"]
    for text in project()["dependencies"] + extras["dev"] + extras["cloud"] + extras["serve"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(versions[normalised(requirement.name)]), text


def test_every_import_is_a_dependency() -> None:
    provided = importlib.metadata.packages_distributions()
    extras = project()["optional-dependencies"]
    declared = {normalised(Requirement(text).name) for text in project()["dependencies"] + extras["cloud"] + extras["serve"]}
    declared_elsewhere = {"apache_beam", "mlflow", "optuna", "wandb"}  # requirements-beam.txt, -tracking.txt, -search.txt
    used = set().union(*(imports(path) for path in source_files())) - set(sys.stdlib_module_names) - set(PACKAGES) - declared_elsewhere
    assert {name for name in used if not declared & {normalised(distribution) for distribution in provided.get(name, [])}} == set()


def test_the_package_allows_the_older_jax_and_has_its_extras() -> None:
    (jax,) = [Requirement(text) for text in project()["dependencies"] if Requirement(text).name == "jax"]
    assert jax.specifier.contains("0.11.2") and not jax.specifier.contains("0.11.1")
    assert project()["optional-dependencies"].keys() == {"tpu", "cuda", "cloud", "serve", "search", "tracking", "tensorboard", "dev"}
    assert project()["requires-python"] == ">=3.12"


def test_every_configuration_is_listed_here() -> None:
    """Those of the project: what users keep beside them is theirs."""
    assert CONFIGURATIONS.keys() <= {path.stem for path in (ROOT / "configs").glob("*.py")}
    modules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["modules"]
    assert modules == [f"configs.{name}" for name in CONFIGURATIONS]
    for folder, names in (("configs", set(CONFIGURATIONS)), ("configs/sweeps", set(SWEEPS))):
        tracked = subprocess.run(["git", "ls-files", f":(glob){folder}/*.py"], cwd=ROOT, capture_output=True, text=True, check=False)
        if tracked.returncode == 0 and tracked.stdout:  # not in an unpacked archive
            assert {pathlib.Path(line).stem for line in tracked.stdout.splitlines()} - {"__init__"} == names


def test_a_configuration_of_ones_own_breaks_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in ("configs", "configs/sweeps"):
        (tmp_path / folder / "mine.py").write_text("import torch, no_such_package; raise SystemExit( 'not today' )\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    test_every_module_imports_without_tensorflow_and_network()
    test_every_import_is_a_dependency()
    test_not_imported_anywhere("torch")
    test_every_configuration_is_listed_here()


def test_linters_pass_over_configurations_of_ones_own(tmp_path: pathlib.Path) -> None:
    for command in (
        ["git", "init", "-q"],
        ["git", "-c", "user.name=x", "-c", "user.email=x@y", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.py").write_text("x=1")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    for path in [ROOT / "Makefile", *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    printed = subprocess.run(["make", "-n", "lint"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    for tool in ("ruff format --check .", "ruff check ."):
        assert re.search(rf"{re.escape(tool)} .*--(extend-)?exclude configs/mine\.py", printed), printed


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name, arguments in CONFIGURATIONS.items() for argument in arguments])
def test_every_configuration_resolves(name: str, argument: str) -> None:
    path = ROOT / "configs" / f"{name}.py"
    settings = parse_command_line([f"--config={path}:{argument}"])
    assert isinstance(settings, Config) and settings.phases
    assert f"python -m neo_jax.train --config=configs/{name}.py" in path.read_text()  # its command stands in its docstring
    with pytest.raises(ConfigError, match="no_such_argument"):
        parse_command_line([f"--config={path}:no_such_argument"])


def test_every_sweep_is_listed_here_and_resolves() -> None:
    assert set(SWEEPS) <= {path.stem for path in (ROOT / "configs/sweeps").glob("*.py")}
    for name in SWEEPS:
        path = ROOT / "configs/sweeps" / f"{name}.py"
        found = read_sweep(str(path), pathlib.Path("runs/sweeps"))
        assert found.question.partition("\n")[0].endswith("?")
        assert f"python -m launch.sweep run configs/sweeps/{name}.py" in path.read_text()


def test_guesses_and_sources_are_marked() -> None:
    text = (ROOT / "configs" / "neo_ov_2b.py").read_text()
    for key in ("context", "max_pixels", "frames", "steps", "rows_per_step", "learning_rate", "minimum_ratio"):
        for line in re.findall(rf"^ +{key}=.*$", text, re.MULTILINE):
            assert re.search(r"# .*\[(paper|NEO paper|scripts|SenseNova-U1|guess)\]", line), line


def find_python(folder: pathlib.Path, **environment: str) -> subprocess.CompletedProcess[str]:
    script = ROOT / "scripts" / "find_python.sh"
    (folder / "home").mkdir(exist_ok=True)
    return subprocess.run(
        ["/bin/bash", str(script)],
        env={"PATH": str(folder), "HOME": str(folder / "home")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def write_command(path: pathlib.Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def test_a_python_that_does_not_run_is_passed_over(tmp_path: pathlib.Path) -> None:
    (tmp_path / "ls").symlink_to("/bin/ls")
    write_command(tmp_path / "python3.13", "echo 'command not found' >&2; exit 127")
    result = find_python(tmp_path)
    assert result.returncode == 1 and result.stdout == ""
    assert "No Python 3.12, 3.13 or 3.14 was found" in result.stderr and "make PYTHON=" in result.stderr
    installed = tmp_path / "home" / ".pyenv" / "versions" / "3.12.9" / "bin" / "python"
    write_command(installed, f'exec "{sys.executable}" "$@"')
    assert find_python(tmp_path).stdout.strip() == str(installed)
    write_command(tmp_path / "python3.12", f'exec "{sys.executable}" "$@"')
    assert find_python(tmp_path).stdout.strip() == str(tmp_path / "python3.12")


def test_the_python_that_is_named_is_used_or_refused(tmp_path: pathlib.Path) -> None:
    assert find_python(tmp_path, PYTHON=sys.executable).stdout.strip() == sys.executable
    refused = find_python(tmp_path, PYTHON="/no/such/python")
    assert refused.returncode == 1 and "PYTHON=/no/such/python does not run" in refused.stderr


def test_another_jax_has_its_own_environment() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))} | {"PYTHON_JAX": ""}
    commands = [
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        for arguments in (["test", "PYTHON_JAX=0.11.2"], ["test"])
    ]
    assert ".venv-jax-0.11.2/bin/python -m pytest" in commands[0] and ".venv/bin/python -m pytest" in commands[1]


def test_continuous_integration_runs_the_tests() -> None:
    path = ROOT / ".ci" / "run"
    assert os.access(path, os.X_OK) and "make test" in path.read_text()
    assert "Apache License" in (ROOT / "LICENSE").read_text() and "Version 2.0" in (ROOT / "LICENSE").read_text()


RUNS_TEXT = {"eval", "exec", "compile", "__import__", "run_path", "run_module", "import_module", "system", "popen", "mktemp", "extractall"}
# Configuration files and sweeps are programs of their user (docs/security.md); the archive's members are checked below.
MAY_RUN = {
    ("neo_jax/config/command_line.py", "run_path"),
    ("neo_jax/sweeps/file.py", "run_path"),
    ("data_pipelines/configuration.py", "run_path"),
    ("data_pipelines/beam/files.py", "extractall"),
}


def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, name of the function, call) of each call in the packages, those of benchmarks/ and drills/ included."""
    found = []
    for path in [*source_files(), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "drills").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                # re.compile and the compile() of jax's lowered programs are other functions
                if name != "compile" or isinstance(node.func, ast.Name):
                    found.append((str(path.relative_to(ROOT)), name, node))
    return found


def test_no_file_is_run_as_code() -> None:
    assert {(path, name) for path, name, _ in calls() if name in RUNS_TEXT} == MAY_RUN
    for path, name, call in calls():
        values = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "load" and ast.unparse(call.func) in ("np.load", "numpy.load"):
            assert values.get("allow_pickle") == "False", path
        if name == "extractall":
            assert values.get("filter") == "'data'", path
        assert values.get("shell", "False") == "False", path


def test_yaml_is_only_written() -> None:
    used = {node.attr for path in source_files() for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name) and node.value.id == "yaml"}  # fmt: skip
    assert used == {"safe_dump"}


@pytest.mark.parametrize("name", ["marshal", "shelve", "jinja2", "zipimport", "code"])
def test_no_reader_that_runs_code_is_imported(name: str) -> None:
    assert [str(path) for path in source_files() if name in imports(path)] == []
