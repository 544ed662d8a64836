"""What processes agree on through jax's services."""

import types

import pytest
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost as orbax_multihost

from neo_jax.processes import exchange


@pytest.fixture
def service(monkeypatch):
    """A preemption service that notes what it is asked, in a process that is connected to others."""
    asked = []
    service = types.SimpleNamespace(reached_sync_point=lambda number: asked.append(number) or number == 3, asked=asked)
    state = exchange.jax_distributed.global_state
    monkeypatch.setattr(state, "client", object())
    monkeypatch.setattr(state, "preemption_sync_manager", service)
    monkeypatch.setattr(exchange, "_stop_service", None)
    return service


def test_orbax_asks_nothing_of_the_service_that_tells_of_sigterm(service):
    """It would be asked for steps, while training asks for calls: an answer given to the one is lost to the other."""
    assert orbax_multihost.reached_preemption(3) and service.asked == [3], "so it was"
    exchange.keep_stop_service()
    assert not orbax_multihost.reached_preemption(3) and service.asked == [3]
    with pytest.raises(RuntimeError):
        multihost_utils.reached_preemption_sync_point(3)
    assert [exchange.stop_agreed(number) for number in (2, 3, 4)] == [False, True, False]
    exchange.return_stop_service()
    assert exchange.jax_distributed.global_state.preemption_sync_manager is service
