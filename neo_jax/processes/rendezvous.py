"""The startup check: before jax connects the processes, each sends its identity to process 0, which answers go, or an error.

jax's own initialisation ends in a native abort if a process is missing, and does not detect that two processes run different programs. Here each
process connects to process 0, sends one line of JSON and waits for one line of JSON. Input is not trusted: its size is limited and its form checked,
and a connection that sends anything else is closed and ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import select
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

MESSAGE_BYTES = 4 << 20  # size limit of a line
READ_SECONDS = 10.0  # time limit for a line
ARRIVAL_SECONDS = 2.0  # time limit for the report of a new connection; short, because the other processes wait meanwhile
RETRY_SECONDS = 0.2  # between attempts to reach process 0
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class GroupError(RuntimeError):
    """Processes disagree on configuration, code or versions, or share an index."""


class MissingError(RuntimeError):
    """Processes were missing at the time limit, or process 0 could not be reached. Trying again may help."""


@dataclasses.dataclass(frozen=True)
class Meeting:
    """The parameters of the startup check.

    Attributes:
      process, processes: index of this process, and number of processes.
      host, port: where process 0 listens.
      seconds: time that the processes wait for each other.
    """

    process: int
    processes: int
    host: str
    port: int
    seconds: float


@dataclasses.dataclass
class _Reported:
    """A process that has connected to process 0 and sent its report."""

    connection: socket.socket
    host: str
    identity: Mapping[str, Any]


def meet(meeting: Meeting, identity: Mapping[str, Any], compare: Callable[[Mapping[str, Any], Mapping[str, Any]], list[str]]) -> None:
    """Waits until all processes have reported to process 0 and their identities are equal.

    Args:
      identity: identity of this process, as JSON.
      compare: given process 0's identity and another's, returns the differences, a few words each. The other's may be any JSON dictionary.

    Raises:
      GroupError, MissingError: as their docstrings say; raised in every process that can be reached, with the same message.
    """
    if meeting.process:
        _report(meeting, identity)
    else:
        _receive_all(meeting, identity, compare)


def _receive_all(meeting: Meeting, identity: Mapping[str, Any], compare: Callable[..., list[str]]) -> None:
    arrived: dict[int, _Reported] = {}
    problems: list[str] = []
    refused: list[socket.socket] = []
    deadline = time.monotonic() + meeting.seconds
    with _listen(meeting) as listener:
        while len(arrived) + len(refused) < meeting.processes - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection, address = listener.accept()
            except TimeoutError:
                break
            message = _read(connection, min(ARRIVAL_SECONDS, max(left, RETRY_SECONDS)))
            if message is None or not _is_report(message):
                connection.close()
                continue
            process, host = message["process"], f"{str(message['host'])[:255]} ({address[0]})"
            if message["processes"] != meeting.processes:
                problems.append(
                    f"process {process} on {host} was started as one of {message['processes']} processes, process 0 as one of {meeting.processes}"
                )
            elif not 0 < process < meeting.processes:
                problems.append(
                    f"a process on {host} is numbered {process}; {meeting.processes} processes are 0 to {meeting.processes - 1}"
                )
            elif process in arrived and _is_open(arrived[process].connection):
                problems.append(f"two processes are numbered {process}: on {arrived[process].host} and on {host}")
            else:  # new, or started again after its earlier connection was closed
                arrived[process] = _Reported(connection, host, message["identity"])
                continue
            refused.append(connection)
    for process, other in sorted(arrived.items()):
        if differing := compare(identity, other.identity):
            problems.append(f"process {process} on {other.host} differs from process 0: " + "; ".join(differing))
    if problems:
        problems.append("start every process with the same command from the same code")
    if missing := [process for process in range(1, meeting.processes) if process not in arrived]:
        names = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(map(str, missing))}"
        problems.append(
            f"{names} of {meeting.processes} did not reach process 0 at {meeting.host}:{meeting.port} within {meeting.seconds:.0f} s: see their "
            "output, or whether the port is open to them; --processes=1 is a run of one process"
        )
    error = None
    if problems:
        kind = MissingError if len(problems) == 1 and missing else GroupError
        error = kind("startup check failed:\n  " + "\n  ".join(problems))
    answer = {"go": True} if error is None else {"kind": type(error).__name__, "message": str(error)}
    for connection in [*(other.connection for other in arrived.values()), *refused]:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(READ_SECONDS)
            connection.sendall(_line(answer))
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)  # waits until the other side has closed: then the port is free at once
    if error is not None:
        raise error


def _report(meeting: Meeting, identity: Mapping[str, Any]) -> None:
    report = {"process": meeting.process, "processes": meeting.processes, "host": socket.gethostname(), "identity": identity}
    deadline = time.monotonic() + meeting.seconds
    reason = "it did not answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((meeting.host, meeting.port), timeout=min(left, READ_SECONDS)) as connection:
                if connection.getsockname() != connection.getpeername():  # a free local port can be connected to itself
                    connection.sendall(_line(report))
                    answer = _read(connection, meeting.seconds + READ_SECONDS)
                    if answer is not None and answer.get("go") is True:
                        return
                    if answer is not None and isinstance(answer.get("message"), str):
                        raise (MissingError if answer.get("kind") == "MissingError" else GroupError)(answer["message"])
        except OSError as error:
            reason = str(error)
        time.sleep(RETRY_SECONDS)
    raise MissingError(
        f"process {meeting.process} of {meeting.processes} did not reach process 0 at {meeting.host}:{meeting.port} within "
        f"{meeting.seconds:.0f} s ({reason}): see that one's output, or whether the port is open"
    )


def _listen(meeting: Meeting) -> socket.socket:
    host = meeting.host if meeting.host in LOOPBACK else ""
    both = not host and socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both or host == "::1" else socket.AF_INET
        return socket.create_server((host, meeting.port), family=family, backlog=meeting.processes, dualstack_ipv6=both)
    except OSError as error:
        raise MissingError(
            f"process 0 cannot listen on port {meeting.port} ({error}): another run may use it; choose one with --coordinator=HOST:PORT or the "
            "variable JAX_COORDINATOR_PORT"
        ) from None


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _read(connection: socket.socket, seconds: float) -> dict[str, Any] | None:
    """Returns the JSON dictionary that a connection sends as one line; None if it sends anything else, too much, or too slowly."""
    received = bytearray()
    deadline = time.monotonic() + seconds
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or len(received) > MESSAGE_BYTES:
            return None
        connection.settimeout(left)
        try:
            part = connection.recv(1 << 16)
        except OSError:
            return None
        if not part:
            return None
        received += part
    try:
        message = json.loads(received)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _is_report(message: Mapping[str, Any]) -> bool:
    return (
        type(message.get("process")) is int
        and type(message.get("processes")) is int
        and isinstance(message.get("host"), str)
        and isinstance(message.get("identity"), dict)
    )


def _is_open(connection: socket.socket) -> bool:
    """Returns whether the other side still waits for its answer."""
    return not select.select([connection], [], [], 0)[0]
