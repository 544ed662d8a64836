"""The Containerfile, without a builder: what it copies exists, its Python fits, its install steps get pinned and agreeing requirements."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from launch.targets import jobset

ROOT = pathlib.Path(__file__).parents[2]
TEXT = re.sub(r"\\\n\s*", "", (ROOT / "Containerfile").read_text())
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]


def stages() -> dict[str, list[str]]:
    """The instructions of each stage by its name, those of the stages that it builds on before them."""
    found: dict[str, list[str]] = {}
    for line in LINES:
        if match := re.fullmatch(r"FROM (\S+) AS (\w+)", line):
            name = match[2]
            found[name] = list(found.get(match[1], [line]))
        elif found:
            found[name].append(line)
    return found


def test_python_fits():
    (version,) = re.findall(r"^ARG PYTHON=(\S+)$", TEXT, re.M)
    assert "python:${PYTHON}-slim" in TEXT
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version)
    assert version in (ROOT / "scripts" / "find_python.sh").read_text().split("for version in ")[1].split(";")[0].split()


@pytest.mark.parametrize("target", ["tpu", "cuda"])
def test_a_stage(target):
    lines = stages()[target]
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert copied and all((ROOT / source).exists() for source in copied)
    assert {"neo_jax", "data_pipelines", "launch", "configs"} <= set(copied)
    assert lines[-1] == "USER neo" and f"useradd --uid={jobset.USER} " in TEXT, "a run is not root, and may write to the volume"
    assert f"WORKDIR {jobset.FOLDER}" in lines and f"mkdir {jobset.MOUNT} " in TEXT
    used = {word for line in lines if line.startswith("RUN ") for word in re.findall(r"-r (\S+)", line)}
    assert used - {"requirements-pinned.txt"} <= set(copied)
    assert not re.search(r"^ADD |curl|wget|://", TEXT, re.M), "nothing comes from elsewhere but packages, pinned"


@pytest.mark.parametrize("target", ["tpu", "cuda"])
def test_the_install_step(target, tmp_path):
    """Runs the step with a stand-in for pip that records what it is given."""
    for source in ROOT.glob("requirements*.txt"):
        (tmp_path / source.name).write_text(source.read_text())
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@" >> calls\n')
    (tmp_path / "python").chmod(0o755)
    (step,) = [line.removeprefix("RUN ") for line in stages()[target] if "pip install" in line]
    subprocess.run(["sh", "-ec", step], cwd=tmp_path, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=True)
    install, check = (tmp_path / "calls").read_text().splitlines()
    assert install.startswith("-m pip install --no-deps -r ") and check == "-m pip check"
    files = re.findall(r"-r (\S+)", install)
    lines = [line for name in files for line in (tmp_path / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line) for line in lines)
    versions = dict(line.split("==") for line in lines)
    assert len(versions) == len(set(lines)), "a package is pinned twice, differently"
    if target == "cuda":
        assert versions["jax"] == versions["jaxlib"] == versions["jax-cuda13-plugin"] == versions["jax-cuda13-pjrt"]
    else:
        needs = [Requirement(text) for text in importlib.metadata.requires("jax") if 'extra == "tpu"' in text]
        (libtpu,) = [need for need in needs if need.name == "libtpu"]
        assert versions["jax"] == importlib.metadata.version("jax") and libtpu.specifier.contains(versions["libtpu"])
        assert {need.name for need in needs} <= versions.keys()
