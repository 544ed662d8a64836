"""The startup check: before jax connects the processes, each sends its identity to process 0, which answers go, or an error.

jax's own initialisation ends in a native abort if a process is missing, and does not detect that two processes run different programs. Here each
process connects to process 0, gets a nonce, sends one line with its report and waits for one line (messages.py). What is sealed with another
secret than this run's counts as not sent, on both sides: process 0 drops that connection and waits on (arrivals.py), another process tries on.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import errno
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from data_pipelines.printable import printable
from neo_jax.processes.address import family_of
from neo_jax.processes.arrivals import Arrival, Arrivals, answer
from neo_jax.processes.flags import SECRET
from neo_jax.processes.messages import MESSAGE_BYTES, NONCE_BYTES, REFUSED, RefusedError, new_nonce, sealed, unsealed

ANSWER_SECONDS = 10.0  # time limit for each message besides the answer, which comes when all have reported
RETRY_SECONDS = 0.2  # between attempts to reach process 0
REFUSED_SECONDS = 2.0  # the same after it has refused this process
ANSWERED_AT_ONCE = 32
MOST_NUMBER = 1 << 31  # of processes
MOST_MESSAGE = 20_000  # characters of a foreign message that are printed


class GroupError(RuntimeError):
    """Processes disagree on configuration, code or versions, or share an index."""


class MissingError(RuntimeError):
    """Processes were missing at the time limit, or process 0 could not be reached. Trying again may help."""


@dataclasses.dataclass(frozen=True)
class Meeting:
    """The parameters of the startup check.

    Attributes:
      process, processes: index of this process, and number of processes.
      host, port: where the others reach process 0.
      seconds: time that the processes wait for each other.
      bind: the address on which process 0 listens; :: is every interface with IPv4 and IPv6, 0.0.0.0 every one with IPv4.
      secret: of the run; "" for none.
    """

    process: int
    processes: int
    host: str
    port: int
    seconds: float
    bind: str = ""
    secret: str = dataclasses.field(default="", repr=False)


def tell(sentence: str) -> None:
    """Prints a sentence for the user."""
    print(sentence, file=sys.stderr, flush=True)


@dataclasses.dataclass
class _Reported:
    """A process that has connected to process 0 and sent its report."""

    arrival: Arrival
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
    refused: list[Arrival] = []
    secret = meeting.secret.encode()
    with _listen(meeting) as listener:
        arrivals = Arrivals(listener, secret, time.monotonic() + meeting.seconds, tell)
        with contextlib.closing(iter(arrivals)) as reporting:
            while len(arrived) + len(refused) < meeting.processes - 1 and (arrival := next(reporting, None)) is not None:
                report = arrival.report
                if not _is_report(report):
                    arrivals.drop(arrival.connection, arrival.address, "it sent something other than a report")
                    continue
                process, host = report["process"], f"{printable(report['host'][:255])} ({arrival.address})"
                if report["processes"] != meeting.processes:
                    problems.append(
                        f"process {process} on {host} was started as one of {report['processes']} processes, process 0 as one of "
                        f"{meeting.processes}"
                    )
                elif not 0 < process < meeting.processes:
                    problems.append(
                        f"a process on {host} is numbered {process}; {meeting.processes} processes are 0 to {meeting.processes - 1}"
                    )
                elif process in arrived and _is_open(arrived[process].arrival.connection):
                    problems.append(f"two processes are numbered {process}: on {arrived[process].host} and on {host}")
                else:  # new, or started again after its earlier connection was closed
                    arrived[process] = _Reported(arrival, host, report["identity"])
                    continue
                refused.append(arrival)
    for process, other in sorted(arrived.items()):
        if differing := compare(identity, other.identity):
            problems.append(f"process {process} on {other.host} differs from process 0: " + "; ".join(map(printable, differing)))
    if problems:
        problems.append("start every process with the same command from the same code")
    if missing := [process for process in range(1, meeting.processes) if process not in arrived]:
        names = f"process {missing[0]}" if len(missing) == 1 else f"processes {', '.join(map(str, missing))}"
        problems.append(
            f"{names} of {meeting.processes} did not reach process 0 at {meeting.host}:{meeting.port} (it listened on "
            f"{meeting.bind or meeting.host}) within {meeting.seconds:.0f} s: see their output, or whether the port is open to them; "
            "--processes=1 is a run of one process"
        )
    error = None
    if problems:
        kind = MissingError if len(problems) == 1 and missing else GroupError
        error = kind("startup check failed:\n  " + "\n  ".join(problems))
    message = {"go": True} if error is None else {"kind": type(error).__name__, "message": str(error)}
    told = [*(other.arrival for other in arrived.values()), *refused]
    with concurrent.futures.ThreadPoolExecutor(ANSWERED_AT_ONCE) as pool:  # one that does not read keeps no other from its answer
        for arrival in told:
            pool.submit(answer, arrival, secret, message, ANSWER_SECONDS)
    if error is not None:
        raise error


def _report(meeting: Meeting, identity: Mapping[str, Any]) -> None:
    report = {"process": meeting.process, "processes": meeting.processes, "host": socket.gethostname(), "identity": identity}
    deadline = time.monotonic() + meeting.seconds
    reason, told = "it did not answer", False
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((meeting.host, meeting.port), timeout=min(left, ANSWER_SECONDS)) as connection:
                if connection.getsockname() != connection.getpeername():  # a free local port can be connected to itself
                    _heed(_ask(connection, meeting, report))
                    return
        except RefusedError as error:
            reason = str(error)
            if not told:
                told = True
                tell(f"process {meeting.process}: {meeting.host}:{meeting.port} is not process 0 of this run ({reason}); trying on")
            time.sleep(min(REFUSED_SECONDS, max(deadline - time.monotonic(), 0.0)))
        except OSError as error:
            reason = str(error)
        time.sleep(RETRY_SECONDS)
    raise MissingError(
        f"process {meeting.process} of {meeting.processes} did not reach process 0 at {meeting.host}:{meeting.port} within "
        f"{meeting.seconds:.0f} s ({reason}): see that one's output, or whether the port is open"
    )


def _ask(connection: socket.socket, meeting: Meeting, report: Mapping[str, Any]) -> dict[str, Any]:
    """Sends a report and returns process 0's answer. Raises OSError, and RefusedError if another secret was used."""
    secret = meeting.secret.encode()
    theirs = _read_line(connection, NONCE_BYTES + 1, ANSWER_SECONDS)[:-1]
    if len(theirs) != NONCE_BYTES:
        raise RefusedError("it speaks another protocol")
    ours = new_nonce()
    connection.sendall(ours + sealed(secret, b"report", theirs + ours, report))
    line = _read_line(connection, MESSAGE_BYTES, meeting.seconds + ANSWER_SECONDS)
    if line == REFUSED:
        raise RefusedError(f"it refuses the secret of this process: {SECRET} differs, or only one of the two has it")
    return unsealed(secret, b"answer", theirs + ours, line)


def _heed(message: Mapping[str, Any]) -> None:
    """Returns if process 0 says go, raises its error if it says why not."""
    if message.get("go") is True:
        return
    if not isinstance(message.get("message"), str):
        raise RefusedError("its answer is not understood")
    kind = MissingError if message.get("kind") == "MissingError" else GroupError
    raise kind(printable(message["message"][:MOST_MESSAGE], keep="\n"))


def _listen(meeting: Meeting) -> socket.socket:
    address = meeting.bind or meeting.host
    try:
        return socket.create_server(
            (address, meeting.port), family=family_of(address), backlog=max(meeting.processes, 64), dualstack_ipv6=address == "::"
        )
    except OSError as error:
        advice = (
            "another run may use it; choose one with --coordinator=HOST:PORT or the variable JAX_COORDINATOR_PORT"
            if error.errno == errno.EADDRINUSE
            else "--bind=ADDRESS names an address of this machine, --bind=0.0.0.0 is all of them"
        )
        raise MissingError(f"process 0 cannot listen on port {meeting.port} of {address} ({error}): {advice}") from None


def _read_line(connection: socket.socket, most: int, seconds: float) -> bytes:
    """Returns a line with its end. Raises OSError if it is too long, comes too slowly, or the connection is closed within it."""
    received = bytearray()
    deadline = time.monotonic() + seconds
    while not received.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or len(received) > most:
            raise OSError("it did not answer" if left <= 0 else "its answer is too long")
        connection.settimeout(left)
        part = connection.recv(1 << 16)
        if not part:
            raise OSError("it closed the connection")
        received += part
    return bytes(received)


def _is_report(message: Mapping[str, Any]) -> bool:
    return (
        all(type(message.get(name)) is int and abs(message[name]) < MOST_NUMBER for name in ("process", "processes"))
        and isinstance(message.get("host"), str)
        and isinstance(message.get("identity"), dict)
    )


def _is_open(connection: socket.socket) -> bool:
    """Returns whether the other side still waits for its answer."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
