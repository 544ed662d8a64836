"""Programs compiled for TPUs that are not there. `make test-aot` brings libtpu; `make test` does not come here."""

from __future__ import annotations

import os
import pathlib
import re

import pytest

MAKEFILE = pathlib.Path(__file__).parents[2] / "Makefile"

os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # what is compiled for absent devices cannot be read back


def pytest_configure(config: pytest.Config) -> None:
    try:
        import libtpu  # noqa: F401
    except ImportError:
        version = re.search(r"^LIBTPU := (\S+)", MAKEFILE.read_text(), re.M)
        pytest.exit(f"these tests need libtpu {version[1] if version else ''}: run them as `make test-aot`", returncode=2)


def pytest_terminal_summary(terminalreporter) -> None:
    """Prints the figures that tests recorded with record_property."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")
