"""Process 0 listens on the interface that the coordinator's name leads to, and nowhere else unless asked."""

import concurrent.futures
import os
import socket
import types

import pytest

from neo_jax.config.fields import ConfigError
from neo_jax.processes import address, lifetime
from neo_jax.processes.flags import SECRET, Flags
from neo_jax.processes.rendezvous import Meeting, MissingError, meet
from tests.neo_jax.processes.test_rendezvous import compare, connect, free_port, gather


def resolves(monkeypatch, *answers):
    """Name service that gives these addresses one after the other; None: the name is not known."""
    left = list(answers)

    def getaddrinfo(host, port, **_):
        found = left.pop(0) if len(left) > 1 else left[0]
        if found is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(address.family_of(each), socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    monkeypatch.setattr(address.socket, "getaddrinfo", getaddrinfo)


def test_the_address_of_a_name(monkeypatch):
    said = []
    assert address.own_address("127.0.0.1", 1, said.append) == "127.0.0.1"
    assert address.own_address("::1", 1, said.append) == "::1"
    assert address.own_address("localhost", 1, said.append) == "127.0.0.1" and said == []
    resolves(monkeypatch, ["192.0.2.77", "127.0.0.3"])  # the first belongs to a network for documentation
    assert address.own_address("node07", 1, said.append) == "127.0.0.3"
    assert "node07 leads to 127.0.0.3 on this machine" in said[0] and "--bind=0.0.0.0" in said[0]


def test_a_name_that_is_not_known_yet(monkeypatch):
    said = []
    monkeypatch.setattr(address, "RETRY_SECONDS", 0.01)
    resolves(monkeypatch, None, ["203.0.113.5"], ["127.0.0.1"])
    assert address.own_address("127.0.0.1", 5, said.append) == "127.0.0.1"
    assert len(said) == 1 and "Name or service not known" in said[0]
    resolves(monkeypatch, ["203.0.113.5"])
    with pytest.raises(OSError, match=r"service leads to 203\.0\.113\.5, no address of this machine"):
        address.own_address("service", 0.05, said.append)
    with pytest.raises(MissingError, match=r"service leads to 203\.0\.113\.5.*--bind=ADDRESS"):
        lifetime._bind(Flags(2, 0, "service:1", start_seconds=1), "service")
    assert lifetime._bind(Flags(2, 0, "service:1", bind="0.0.0.0"), "service") == "0.0.0.0"


@pytest.mark.parametrize(("bind", "reachable"), [("127.0.0.1", False), ("", False), ("0.0.0.0", True), ("::", True)])
def test_other_interfaces_are_reached_only_if_asked(bind, reachable):
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(meet, Meeting(0, 2, "127.0.0.1", port, 20.0, bind), {"program": "a"}, compare)
        connect(port).close()
        with socket.socket() as other:
            assert (other.connect_ex(("127.0.0.2", port)) == 0) == reachable
        assert gather((1, "a"), processes=2, port=port) == [""]
        first.result()


def test_addresses_with_ports():
    assert address.with_port("10.0.0.1", 80) == "10.0.0.1:80" and address.with_port("::1", 80) == "[::1]:80"
    assert address.is_loopback("127.0.1.1") and address.is_loopback("::1") and not address.is_loopback("node07")


@pytest.mark.parametrize("bind", ["everywhere", "10.0.0", ""])
def test_bind_is_an_address(bind):
    ((name, problem),) = Flags(bind=bind).problems()
    assert name == "bind" and "must be an address" in problem


def test_a_short_secret_is_refused_and_none_is_handed_on(monkeypatch):
    monkeypatch.setenv(SECRET, "short")
    with pytest.raises(ConfigError, match="NEO_JAX_SECRET has 5 characters") as error:
        lifetime.start(Flags(2, 1, "127.0.0.1:1", start_seconds=1), {})
    assert "short" not in str(error.value) and SECRET not in os.environ
    assert "a long secret" not in repr(Meeting(0, 1, "", 0, 0, secret="a long secret"))


@pytest.mark.parametrize(
    ("flags", "bound"),
    [
        (Flags(2, 0, "localhost:81"), "127.0.0.1:81"),
        (Flags(2, 0, "[::1]:81"), "[::1]:81"),
        (Flags(2, 0, "127.0.0.1:81", bind="0.0.0.0"), "0.0.0.0:81"),
        (Flags(2, 1, "node07:81"), None),
    ],
)
def test_jax_listens_where_the_startup_check_did(flags, bound, monkeypatch):
    asked = {}
    monkeypatch.setenv(SECRET, "a secret of the tests")
    monkeypatch.setattr(lifetime, "meet", lambda meeting, *_: asked.update(meeting=meeting))
    monkeypatch.setattr(lifetime.jax.distributed, "initialize", lambda *_, **options: asked.update(options))
    for name in ("keep_stop_service", "_watch"):
        monkeypatch.setattr(lifetime, name, lambda: None)
    lifetime.start(flags, {})
    assert asked["coordinator_bind_address"] == bound and asked["meeting"].secret == "a secret of the tests"
    assert (asked["meeting"].bind == bound.rpartition(":")[0].strip("[]")) if bound else not asked["meeting"].bind


def test_a_message_of_another_process_does_not_reach_the_terminal(monkeypatch, capsys):
    """It comes through jax's service, which anyone can reach who reaches its port."""
    failed = '{"process": 3, "code": 75, "message": "a\\u001b[2J\\nb"}'
    monkeypatch.setattr(lifetime, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(lifetime, "client_of_run", lambda: types.SimpleNamespace(key_value_try_get=lambda key: failed))
    monkeypatch.setattr(lifetime, "_exit", lambda client, code: lifetime._finished.set())
    try:
        lifetime._watch()
    finally:
        lifetime._finished.clear()
    assert capsys.readouterr().err == "\nprocess 3 ended the run: a\\x1b[2J\nb\n"
