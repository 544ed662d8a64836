"""The house: which room may import which. Arrows go down only, and there is no circle."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

COMMANDS = {
    "neo_jax.train",
    "neo_jax.plan",
    "neo_jax.parity",
    "neo_jax.demo",
    "neo_jax.init",
    "neo_jax.export",
    "neo_jax.chat",
    "neo_jax.evaluate",
    "neo_jax.report",
    "neo_jax.serve",
    "neo_jax.evaluation.golden",
}
COMMANDS |= {
    "data_pipelines.bench",
    "data_pipelines.check",
    "data_pipelines.convert",
    "data_pipelines.inspect",
    "data_pipelines.scenes.__main__",
    "data_pipelines.index.__main__",
    "data_pipelines.beam.__main__",
}
# What each room may import, beside itself. Commands stand above everything.
CONFIG = {"neo_jax.config"}
LOW = CONFIG | {"neo_jax.chips", "neo_jax.exit_codes", "neo_jax.sharding"}
NEO_JAX = {
    "neo_jax.exit_codes": set(),
    "neo_jax.chips": set(),
    "neo_jax.sharding": set(),
    "neo_jax.config": {"neo_jax.exit_codes"},
    "neo_jax.drafting": CONFIG,
    "neo_jax.processes": CONFIG,
    "neo_jax.attention": LOW,
    "neo_jax.model": LOW | {"neo_jax.attention"},
    "neo_jax.runs": LOW | {"neo_jax.processes"},
    "neo_jax.interop": LOW | {"neo_jax.model"},
    "neo_jax.places": LOW | {"neo_jax.model", "neo_jax.runs", "neo_jax.interop"},
    "neo_jax.publishing": LOW | {"neo_jax.runs", "neo_jax.interop", "neo_jax.places"},
    "neo_jax.inference": LOW | {"neo_jax.attention", "neo_jax.model", "neo_jax.places"},
    "neo_jax.serving": LOW | {"neo_jax.inference"},
    "neo_jax.evaluation": LOW | {"neo_jax.model", "neo_jax.inference", "neo_jax.processes", "neo_jax.runs"},
    "neo_jax.training": LOW
    | {f"neo_jax.{room}" for room in ("attention", "model", "processes", "runs", "interop", "places", "inference", "evaluation")},
    "neo_jax.sweeps": LOW | {"neo_jax.runs", "neo_jax.evaluation"},
    "neo_jax.comparison": LOW | {"neo_jax.runs", "neo_jax.evaluation"},
    "neo_jax.planning": LOW | {"neo_jax.attention", "neo_jax.model", "neo_jax.inference", "neo_jax.training"},
}
# What of data_pipelines a room of neo_jax may import: schema and batches alone, but where inputs are opened, questions read or rows planned.
SCHEMA = {f"data_pipelines.{room}" for room in ("schema", "batch", "storage", "failures", "printable")}
REGISTRY = ("neo_jax.config.sections", "data_pipelines.sources")  # the table of formats: its module imports no media library
OPENS_DATA = {
    f"neo_jax.{room}" for room in ("training", "evaluation", "inference", "runs", "planning", "drafting", "publishing", "serving")
}
BASE = {
    "data_pipelines.conditions",
    "data_pipelines.schema",
    "data_pipelines.storage",
    "data_pipelines.progress",
    "data_pipelines.printable",
    "data_pipelines.randomness",
    "data_pipelines.batch",
}
DATA_PIPELINES = {
    "data_pipelines.conditions": set(),
    "data_pipelines.schema": {"data_pipelines.conditions", "data_pipelines.printable", "data_pipelines.storage"},
    "data_pipelines.storage": set(),
    "data_pipelines.progress": set(),
    "data_pipelines.printable": set(),
    "data_pipelines.randomness": set(),
    "data_pipelines.batch": {"data_pipelines.schema"},
    "data_pipelines.failures": BASE,
    "data_pipelines.commands": BASE,
    "data_pipelines.configuration": BASE | {"data_pipelines.failures"},
    "data_pipelines.media": BASE,
    "data_pipelines.text": BASE | {"data_pipelines.media"},
    "data_pipelines.sources": BASE | {"data_pipelines.media", "data_pipelines.text"},
    "data_pipelines.opened": BASE | {"data_pipelines.media", "data_pipelines.text"},
    "data_pipelines.documents": BASE | {"data_pipelines.media", "data_pipelines.text", "data_pipelines.opened"},
    "data_pipelines.planning": BASE,
    "data_pipelines.index": BASE | {f"data_pipelines.{room}" for room in ("documents", "failures", "media", "text", "sources", "planning")},
    "data_pipelines.loading": BASE
    | {f"data_pipelines.{room}" for room in ("documents", "opened", "failures", "media", "text", "sources", "planning", "index")},
    "data_pipelines.survey": BASE | {f"data_pipelines.{room}" for room in ("documents", "media", "text", "sources", "planning", "index")},
    "data_pipelines.inspection": BASE
    | {f"data_pipelines.{room}" for room in ("documents", "failures", "media", "text", "sources", "planning", "index", "loading")},
    "data_pipelines.conversion": BASE | {"data_pipelines.media", "data_pipelines.text", "data_pipelines.sources"},
    "data_pipelines.beam": BASE
    | {f"data_pipelines.{room}" for room in ("configuration", "conversion", "failures", "text", "sources", "index")},
    "data_pipelines.scenes": BASE | {"data_pipelines.media", "data_pipelines.text"},
}


def module_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    return {module_of(path): path for package in ("neo_jax", "data_pipelines") for path in (ROOT / package).rglob("*.py")}


@functools.cache
def imported_by(name: str) -> set[str]:
    """Modules of this repository that a module imports, inside functions too."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names}
    return {module for module in found if module in known and module != name}


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_every_arrow_goes_down():
    wrong = []
    for module in modules():
        if module in {"neo_jax", "data_pipelines"} | COMMANDS:
            continue
        room = room_of(module)
        assert room in NEO_JAX.keys() | DATA_PIPELINES.keys(), f"{module}: a new room or command: give it a place in the tables above"
        for other in imported_by(module):
            target = room_of(other)
            if other in ("neo_jax", "data_pipelines") or target == room:
                continue
            if room in DATA_PIPELINES:
                allowed = target in DATA_PIPELINES[room]
            elif target in DATA_PIPELINES:
                allowed = room in OPENS_DATA or target in SCHEMA or (module, other) == REGISTRY
            else:
                allowed = target in NEO_JAX[room]
            if not allowed:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_no_command_is_imported_but_by_commands():
    users = {module: imported_by(module) & COMMANDS for module in modules() if module not in COMMANDS}
    assert {module: commands for module, commands in users.items() if commands} == {}


def test_there_is_no_circle():
    graph = {module: imported_by(module) for module in modules()}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            pytest.fail(" -> ".join((*path[path.index(module) :], module)))
        if module not in done:
            for other in graph[module]:
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_processes_touches_jax_internals():
    users = {module for module, path in modules().items() if "jax._src" in path.read_text() and room_of(module) != "neo_jax.processes"}
    assert users == set()


def test_files_are_short():
    """A file has one reason to change. Those that are longer for good reason stand here, with the most lines they may have."""
    longer = {"neo_jax/training/trainer.py": 395}
    for path in modules().values():
        name = str(path.relative_to(ROOT))
        assert len(path.read_text().splitlines()) <= longer.get(name, 350), name
