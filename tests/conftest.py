"""All tests run on 8 virtual CPU devices, keep what jax compiled for the next run, and may not use the network."""

from __future__ import annotations

import os
import pathlib
import socket

import pytest

DEVICES = 8
CACHE = pathlib.Path(__file__).parents[1] / ".cache" / "jax"

os.environ["JAX_PLATFORMS"] = "cpu"  # jax reads these when it is imported: tests import it after this file
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

_connect = socket.socket.connect


def _connect_locally(self: socket.socket, address: object) -> None:
    host = address[0] if isinstance(address, tuple) else ""
    if self.family in (socket.AF_INET, socket.AF_INET6) and host not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"a test tried to reach {address}: tests need no network")
    _connect(self, address)  # type: ignore[arg-type]


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> None:
    socket.socket.connect = _connect_locally  # type: ignore[method-assign, assignment]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuses a pytest whose node ids pytest-xdist cannot extend by groups (9.2 with 3.8): each worker would make the same runs again."""
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]:
            raise pytest.UsageError(f"{item.nodeid}: its xdist_group has no effect; install the pinned pytest and pytest-xdist")
