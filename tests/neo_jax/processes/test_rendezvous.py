"""Processes meet or hear why not: who is missing, who differs, who is there twice; and what else comes to the port is passed over."""

import concurrent.futures
import contextlib
import json
import socket
import time

import pytest

from neo_jax.processes import arrivals
from neo_jax.processes.identity import compare as compare_identities
from neo_jax.processes.messages import MESSAGE_BYTES, MOST_LEVELS, NONCE_BYTES, REFUSED, sealed
from neo_jax.processes.rendezvous import GroupError, Meeting, MissingError, meet

SECRET = "a secret of the tests"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def compare(mine, other) -> list[str]:
    return [] if mine == other else [f"program {mine['program']} -> {other.get('program')}"]


def gather(
    *members: tuple[int, str], processes: int, seconds: float = 20.0, port: int | None = None, secret: str = "", compare=compare
) -> list[str]:
    """What each (index, program) hears: "" for go, else the name of the error and its message."""
    port = port or free_port()

    def one(index: int, program: str) -> str:
        try:
            meet(Meeting(index, processes, "127.0.0.1", port, seconds, secret=secret), {"program": program}, compare)
        except (GroupError, MissingError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(one, *zip(*members, strict=True)))


def test_all_go_on():
    assert gather((2, "a"), (0, "a"), (1, "a"), processes=3) == ["", "", ""]


def test_the_port_is_free_afterwards():
    port = free_port()
    assert gather((0, "a"), (1, "a"), processes=2, port=port) == ["", ""]
    assert gather((0, "a"), (1, "a"), processes=2, port=port) == ["", ""]


def test_the_missing_are_named_in_every_process():
    heard = gather((0, "a"), (2, "a"), processes=4, seconds=1.0)
    assert heard[0] == heard[1]
    assert "MissingError" in heard[0] and "processes 1, 3 of 4 did not reach process 0 at 127.0.0.1" in heard[0]


def test_process_0_missing():
    (heard,) = gather((1, "a"), processes=2, seconds=0.5)
    assert "MissingError: process 1 of 2 did not reach process 0" in heard


def test_one_that_differs_is_named_in_every_process():
    heard = gather((0, "a"), (1, "a"), (2, "b"), processes=3)
    assert len(set(heard)) == 1
    assert "GroupError" in heard[0] and "process 2 on " in heard[0] and "differs from process 0: program a -> b" in heard[0]


@pytest.mark.parametrize(("index", "sentence"), [(1, "two processes are numbered 1"), (7, "numbered 7; 3 processes are 0 to 2")])
def test_a_wrong_number(index, sentence):
    heard = gather((0, "a"), (1, "a"), (index, "a"), processes=3)
    assert len(set(heard)) == 1
    assert "GroupError" in heard[0] and sentence in heard[0]


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        (heard,) = gather((0, "a"), processes=2, port=server.getsockname()[1])
    assert "MissingError" in heard and "cannot listen on port" in heard


def connect(port: int) -> socket.socket:
    """Connects to process 0 as soon as it listens."""
    for _ in range(1000):
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            if connection.getsockname() != connection.getpeername():
                return connection
            connection.close()
        time.sleep(0.01)
    raise TimeoutError("process 0 does not listen")


def received(connection: socket.socket, size: int) -> bytes:
    """The bytes that come, up to a number of them or the end."""
    found = b""
    with contextlib.suppress(ConnectionResetError):  # closed with something unread
        while len(found) < size and (part := connection.recv(size - len(found))):
            found += part
    return found


def report(secret: str, nonce: bytes, process: int = 1, processes: int = 2, host: str = "there", identity: object = None) -> bytes:
    message = {"process": process, "processes": processes, "host": host, "identity": identity or {"program": "a"}}
    ours = b"0" * NONCE_BYTES
    return ours + sealed(secret.encode(), b"report", nonce + ours, message)


class Around:
    """Process 0 waits for one other while a test speaks to its port; then the other comes."""

    def __init__(self, secret: str = "", processes: int = 2, compare=compare):
        self.port, self.secret = free_port(), secret
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._first = self._pool.submit(gather, (0, "a"), processes=processes, port=self.port, secret=secret, compare=compare)

    def connect(self) -> tuple[socket.socket, bytes]:
        """A connection, and the nonce that process 0 sent on it."""
        connection = connect(self.port)
        return connection, received(connection, NONCE_BYTES + 1)[:-1]

    def finish(self) -> list[str]:
        """Lets the other come; returns what both hear."""
        return gather((1, "a"), processes=2, port=self.port, secret=self.secret) + self._first.result()

    def first(self) -> str:
        return self._first.result()[0]


NESTED = b'{"process": 1, "processes": 2, "host": "x", "identity": {"configuration": ' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}}\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[1, 2]\n",
        b'{"process": true}\n',
        b"[" * 200_000 + b"\n",
        NESTED,
        b'{"process": 1, "processes": 2}\n',
        b"\n",
        b"\xff" * 200 + b"\n",
        b"",
    ],
)
@pytest.mark.parametrize("secret", ["", SECRET])
def test_what_does_not_belong_is_passed_over(sent, secret, capsys):
    around = Around(secret)
    connection, _ = around.connect()
    with connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert received(connection, 100) in (b"", REFUSED)
    assert around.finish() == ["", ""]
    assert capsys.readouterr().err.startswith("startup check: a connection from 127.0.0.1 was dropped: ")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (NESTED[:-1], f"more than {MOST_LEVELS} levels"),
        (b"[" * 200_000, "other than JSON"),
        (b"[1, 2]", "other than a report"),
        (b'{"process": 1, "processes": 2}', "other than a report"),
        (b'{"process": true, "processes": 2, "host": "x", "identity": {}}', "other than a report"),
        (b'{"process": 9999999999, "processes": 2, "host": "x", "identity": {}}', "other than a report"),
        (b'{"process": ' + b"9" * 5000 + b', "processes": 2, "host": "x", "identity": {}}', "other than JSON"),
    ],
)
def test_sealed_messages_of_another_form_are_passed_over_too(message, reason, capsys, monkeypatch):
    """As anyone can send them where there is no secret."""
    around = Around()
    connection, nonce = around.connect()
    monkeypatch.setattr("neo_jax.processes.messages.json.dumps", lambda _: message.decode())
    with connection:
        connection.sendall(report("", nonce))
        monkeypatch.undo()
        assert received(connection, 100) == b""
    assert around.finish() == ["", ""]
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(("theirs", "ours"), [("another secret of the tests", SECRET), ("", SECRET), (SECRET, "")])
def test_a_wrong_or_missing_secret_is_refused_and_the_others_go_on(theirs, ours, capsys):
    around = Around(ours)
    (heard,) = gather((1, "a"), processes=2, port=around.port, secret=theirs, seconds=1.0)
    assert "MissingError" in heard and "refuses the secret of this process: NEO_JAX_SECRET differs" in heard
    assert around.finish() == ["", ""]
    said = capsys.readouterr().err
    assert "a connection from 127.0.0.1 was dropped: its secret is missing or wrong" in said and "trying on" in said
    assert SECRET not in said + heard and "another secret" not in said + heard


def test_a_process_0_without_the_secret_is_not_obeyed():
    """It says that the configuration differs, which would end this process for good; the process waits for the true one."""
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        heard = pool.submit(gather, (1, "a"), processes=2, port=server.getsockname()[1], secret=SECRET, seconds=1.0)
        connection, _ = server.accept()
        with connection:
            nonce = b"1" * NONCE_BYTES
            connection.sendall(nonce + b"\n")
            theirs = received(connection, NONCE_BYTES)
            connection.sendall(sealed(b"", b"answer", nonce + theirs, {"kind": "GroupError", "message": "stop"}))
            assert SECRET.encode() not in theirs + received(connection, 1 << 16)
        assert "MissingError" in heard.result()[0] and "its secret is missing or wrong" in heard.result()[0]


def test_a_report_that_was_overheard_is_worth_nothing():
    around = Around(SECRET)
    connection, nonce = around.connect()
    overheard = report(SECRET, nonce)
    connection.close()
    connection, _ = around.connect()
    with connection:
        connection.sendall(overheard)
        assert received(connection, 100) == REFUSED
    assert around.finish() == ["", ""]


def test_silent_and_slow_connections_delay_nobody():
    around = Around()
    silent = [around.connect()[0] for _ in range(20)]
    slow, _ = around.connect()
    slow.sendall(b"{")
    started = time.monotonic()
    assert around.finish() == ["", ""]
    assert time.monotonic() - started < 1.5  # one at a time would take the time limit of each
    for connection in [*silent, slow]:
        connection.close()


def test_silent_connections_are_dropped(monkeypatch, capsys):
    monkeypatch.setattr(arrivals, "REPORT_SECONDS", 0.3)
    around = Around()
    connection, _ = around.connect()
    with connection:
        assert received(connection, 1) == b""
    slow, _ = around.connect()
    with slow, contextlib.suppress(ConnectionError):
        for _ in range(100):  # each byte within the limit, all together not
            slow.sendall(b"{")
            time.sleep(0.05)
        pytest.fail("a slow connection was kept")
    assert around.finish() == ["", ""]
    assert capsys.readouterr().err.count("it sent no report within") == 2


def test_the_number_of_waiting_connections_is_bounded(monkeypatch, capsys):
    monkeypatch.setattr(arrivals, "MOST_WAITING", 5)
    around = Around()
    connections = [around.connect()[0] for _ in range(8)]
    for connection in connections[:3]:
        assert received(connection, 1) == b""
    for connection in connections[3:]:
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert around.finish() == ["", ""]
    assert "5 others wait" in capsys.readouterr().err
    for connection in connections:
        connection.close()


def test_a_long_message_is_dropped_before_its_end(capsys):
    around = Around()
    connection, _ = around.connect()
    with connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"x" * (2 * MESSAGE_BYTES))
        assert received(connection, 1) == b""
    assert around.finish() == ["", ""]
    assert "it sent more than 4 MiB" in capsys.readouterr().err


def test_few_dropped_connections_are_named(monkeypatch, capsys):
    monkeypatch.setattr(arrivals, "MOST_NAMED", 3)
    around = Around()
    for _ in range(6):
        connection, _ = around.connect()
        with connection:
            connection.sendall(b"x" * 100 + b"\n")
            received(connection, 100)
    assert around.finish() == ["", ""]
    said = capsys.readouterr().err
    assert said.count("was dropped") == 3 and "further ones are not named" in said


def test_names_of_a_forged_peer_do_not_reach_the_terminal():
    """Escape sequences and line ends in a host name and in an identity are shown as text, in every process."""
    evil = "\x1b]0;owned\x07\n\u202e"
    around = Around(compare=compare_identities)
    connection, nonce = around.connect()
    with connection:
        connection.sendall(
            report("", nonce, host=evil, identity={"configuration": {evil: evil}, "files": {evil: 1}, "versions": {evil: 2}})
        )
        sent = received(connection, 1 << 20)
    heard = around.first()
    assert "GroupError" in heard and "\\x1b]0;owned\\x07\\n\\u202e" in heard
    for text in (heard, json.loads(sent[64:])["message"]):
        assert all(each.isprintable() for line in text.split("\n") for each in line), text
    assert len(heard.splitlines()) == 3


def test_what_a_forged_process_0_says_does_not_reach_the_terminal():
    with socket.create_server(("127.0.0.1", 0)) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        heard = pool.submit(gather, (1, "a"), processes=2, port=server.getsockname()[1])
        connection, _ = server.accept()
        with connection:
            nonce = b"1" * NONCE_BYTES
            connection.sendall(nonce + b"\n")
            theirs = received(connection, NONCE_BYTES)
            connection.sendall(sealed(b"", b"answer", nonce + theirs, {"kind": "GroupError", "message": "a\n\x1b[2J" + "x" * 50_000}))
            received(connection, 1 << 16)
    (text,) = heard.result()
    assert "a\n\\x1b[2J" in text and "\x1b" not in text and len(text) < 21_000


@pytest.mark.parametrize(
    "identity",
    [
        {"configuration": {"run": 3, "data": [], "curriculum": {}}, "files": [], "versions": 7},
        {"configuration": {"run": {"overrides": 3}}, "files": {"a": {}}},
        {"configuration": {"": None}},
    ],
)
def test_an_identity_of_any_form_is_compared(identity):
    mine = {"configuration": {"run": {"overrides": [], "seed": 0}, "data": {"sources": {}}}, "files": {"a": "0"}, "versions": {"jax": "1"}}
    assert any(kind.startswith("configuration (") for kind in compare_identities(mine, identity))
